"""end-2: pulling blobs, ranges, conditions."""

from __future__ import annotations

import os

import pytest


async def test_get(wire):
    blob = await wire.push_blob(os.urandom(1000))
    answer = await wire("GET", wire.blob_path(blob.digest))
    assert answer.status_code == 200
    assert answer.content == blob.body
    assert answer.headers["docker-content-digest"] == blob.digest
    assert answer.headers["content-length"] == "1000"
    assert answer.headers["etag"] == f'"{blob.digest}"'
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["cache-control"] == "max-age=31536000"


async def test_head(wire):
    blob = await wire.push_blob(os.urandom(1000))
    answer = await wire("HEAD", wire.blob_path(blob.digest))
    assert answer.status_code == 200
    assert answer.content == b""
    assert answer.headers["content-length"] == "1000"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["docker-content-digest"] == blob.digest
    assert answer.headers["etag"] == f'"{blob.digest}"'


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_colon_may_be_escaped(wire, method):
    blob = await wire.push_blob(os.urandom(10))
    answer = await wire(method, wire.blob_path(blob.digest.replace(":", "%3A")))
    assert (answer.status_code, answer.headers["docker-content-digest"]) == (200, blob.digest)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_unknown(wire, kit, method):
    await wire.push_blob(b"something")
    answer = await wire(method, wire.blob_path(kit.digest_of(b"never pushed")))
    assert answer.status_code == 404
    if method == "GET":
        kit.check_error(answer, 404, "BLOB_UNKNOWN")


async def test_unknown_repository(wire, kit):
    kit.check_error(await wire("GET", wire.blob_path(kit.digest_of(b"x"))), 404, "BLOB_UNKNOWN")


async def test_blob_of_another_repository_is_unknown(wire, kit):
    other = wire.fresh()
    blob = await wire.push_blob(os.urandom(10), other)
    kit.check_error(await wire("GET", wire.blob_path(blob.digest)), 404, "BLOB_UNKNOWN")


@pytest.mark.parametrize(
    "digest", ["sha256:totallywrong", "sha256:" + "A" * 64, "md5:" + "a" * 32, "nocolon", "sha256:" + "a" * 63]
)
async def test_bad_digest(wire, digest, kit):
    answer = await wire("GET", wire.blob_path(digest))
    assert answer.status_code in {400, 404}
    assert kit.code_of(answer) in {"DIGEST_INVALID", "BLOB_UNKNOWN"}


@pytest.mark.parametrize("size", [0, 1, 65_536, 600_000, 3_000_000])
async def test_sizes(wire, size):
    blob = await wire.push_blob(os.urandom(size))
    answer = await wire("GET", wire.blob_path(blob.digest))
    assert answer.content == blob.body
    assert answer.headers["content-length"] == str(size)


@pytest.mark.parametrize(
    ("sent", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-9", 0, 9),
        ("bytes=10-19", 10, 19),
        ("bytes=990-", 990, 999),
        ("bytes=-1", 999, 999),
        ("bytes=-10", 990, 999),
        ("bytes=-5000", 0, 999),
        ("bytes=500-5000", 500, 999),
        ("bytes=0-", 0, 999),
        ("bytes=0-999", 0, 999),
        ("bytes=999-999", 999, 999),
        ("bytes=-1000", 0, 999),
        ("bytes=0-99999999999999999999", 0, 999),
        ("bytes=-99999999999999999999", 0, 999),
    ],
)
async def test_range(wire, sent, first, last):
    blob = await wire.push_blob(os.urandom(1000))
    answer = await wire("GET", wire.blob_path(blob.digest), headers={"range": sent})
    assert answer.status_code == 206
    assert answer.headers["content-range"] in {f"bytes {first}-{last}/1000", f"bytes {first}-{last}/*"}
    assert answer.headers["content-length"] == str(last - first + 1)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["docker-content-digest"] == blob.digest
    assert answer.headers["etag"] == f'"{blob.digest}"'
    assert answer.content == blob.body[first : last + 1]


@pytest.mark.parametrize(
    "sent",
    ["bytes=500-0", "bytes=5000-10000", "bytes=1000-", "bytes=1000-1000", "bytes=-0", "bytes=99999999999999999999-"],
)
async def test_range_outside(wire, kit, sent):
    blob = await wire.push_blob(os.urandom(1000))
    answer = await wire("GET", wire.blob_path(blob.digest), headers={"range": sent})
    kit.check_error(answer, 416, "RANGE_INVALID")
    assert answer.headers["content-range"] == "bytes */1000"
    assert (await wire("GET", wire.blob_path(blob.digest))).content == blob.body


async def test_several_ranges_give_all_or_these(wire):
    blob = await wire.push_blob(os.urandom(1000))
    answer = await wire("GET", wire.blob_path(blob.digest), headers={"range": "bytes=0-1,500-600"})
    assert answer.status_code in {200, 206}
    if answer.status_code == 200:
        assert answer.content == blob.body
    else:
        assert answer.headers["content-type"].startswith("multipart/byteranges")
        assert blob.body[500:601] in answer.content


async def test_ranges_make_the_whole(wire):
    blob = await wire.push_blob(os.urandom(1_000_001))
    found = b""
    while len(found) < len(blob.body):
        sent = f"bytes={len(found)}-{len(found) + 299_999}"
        found += (await wire("GET", wire.blob_path(blob.digest), headers={"range": sent})).content
    assert found == blob.body


async def test_range_counts_for_get_alone(wire):
    blob = await wire.push_blob(os.urandom(1000))
    answer = await wire("HEAD", wire.blob_path(blob.digest), headers={"range": "bytes=0-9"})
    assert (answer.status_code, answer.headers["content-length"]) == (200, "1000")


@pytest.mark.parametrize("sent", ["bytes", "lines=1-2", "bytes=a-b", "bytes=-", "bytes=1", "bytes=", ""])
async def test_range_that_is_none_gives_everything(wire, sent):
    blob = await wire.push_blob(os.urandom(1000))
    answer = await wire("GET", wire.blob_path(blob.digest), headers={"range": sent})
    assert (answer.status_code, answer.content) == (200, blob.body)


async def test_range_of_nothing(wire):
    blob = await wire.push_blob(b"")
    answer = await wire("GET", wire.blob_path(blob.digest), headers={"range": "bytes=0-0"})
    assert answer.status_code == 416


async def test_if_range(wire):
    blob = await wire.push_blob(os.urandom(100))
    headers = {"range": "bytes=0-9", "if-range": f'"{blob.digest}"'}
    assert (await wire("GET", wire.blob_path(blob.digest), headers=headers)).status_code == 206
    for other in ('"another"', f'W/"{blob.digest}"', "Tue, 24 Nov 2026 09:00:00 GMT"):
        headers["if-range"] = other
        answer = await wire("GET", wire.blob_path(blob.digest), headers=headers)
        assert (answer.status_code, answer.content) == (200, blob.body)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_if_none_match(wire, method):
    blob = await wire.push_blob(os.urandom(100))
    for sent in (f'"{blob.digest}"', f'"x", "{blob.digest}"', f'W/"{blob.digest}"', "*"):
        answer = await wire(method, wire.blob_path(blob.digest), headers={"if-none-match": sent})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == f'"{blob.digest}"'
    answer = await wire(method, wire.blob_path(blob.digest), headers={"if-none-match": '"another"'})
    assert answer.status_code == 200


async def test_if_none_match_comes_before_range(wire):
    blob = await wire.push_blob(os.urandom(100))
    for sent in ("bytes=0-9", "bytes=5000-"):
        headers = {"if-none-match": f'"{blob.digest}"', "range": sent}
        assert (await wire("GET", wire.blob_path(blob.digest), headers=headers)).status_code == 304


async def test_if_none_match_in_two_lines(wire):
    blob = await wire.push_blob(os.urandom(100))
    headers = [("if-none-match", f'"{blob.digest}"'), ("if-none-match", '"another"')]
    assert (await wire("GET", wire.blob_path(blob.digest), headers=headers)).status_code == 304


async def test_if_none_match_of_an_unknown_blob(wire, kit):
    digest = kit.digest_of(b"unknown")
    answer = await wire("GET", wire.blob_path(digest), headers={"if-none-match": f'"{digest}"'})
    assert answer.status_code == 404


async def test_never_compressed(wire):
    blob = await wire.push_blob(b"a" * 10_000)
    answer = await wire("GET", wire.blob_path(blob.digest), headers={"accept-encoding": "gzip, br"})
    assert "content-encoding" not in answer.headers
    assert answer.headers["content-length"] == "10000"


async def test_namespace_of_a_mirror_is_accepted(wire):
    blob = await wire.push_blob(os.urandom(10))
    assert (await wire("GET", wire.blob_path(blob.digest) + "?ns=docker.io")).status_code == 200


# --- a row is not enough to say that a blob exists: its file counts


@pytest.fixture(params=["removed", "cut", "longer"])
async def damaged(opened, tmp_path, request):
    """A registry that holds a blob whose file somebody else has harmed, and that blob."""
    wire = await opened()
    blob = await wire.push_blob(os.urandom(100))
    assert (await wire("HEAD", wire.blob_path(blob.digest))).status_code == 200
    (file,) = (path for path in tmp_path.rglob("data") if path.is_file() and path.read_bytes() == blob.body)
    file.chmod(0o644)
    if request.param == "cut":
        file.write_bytes(blob.body[:50])
    elif request.param == "longer":
        file.write_bytes(blob.body + b"x")
    else:
        file.unlink()
    return wire, blob


@pytest.mark.parametrize("headers", [{}, {"range": "bytes=0-9"}, {"if-none-match": "*"}], ids=["", "range", "cached"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_damaged_file_is_unknown(damaged, kit, method, headers):
    wire, blob = damaged
    answer = await wire(method, wire.blob_path(blob.digest), headers=headers)
    assert answer.status_code == 404
    if method == "GET":
        kit.check_error(answer, 404, "BLOB_UNKNOWN")


async def test_damaged_file_is_neither_mounted_nor_referenced(damaged, kit):
    wire, blob = damaged
    answer = await wire("POST", f"{wire.uploads_path(wire.fresh())}?mount={blob.digest}&from={wire.repository}")
    assert answer.status_code == 202
    config = await wire.push_blob(kit.Content(kit.random_json(), kit.OCI_CONFIG))
    answer = await wire.push_manifest(kit.manifest_of(config, [kit.Content(blob.body, kit.OCI_LAYER)]), "t")
    kit.check_error(answer, 400, "MANIFEST_BLOB_UNKNOWN")
    assert kit.missing(answer) == [blob.digest]


async def test_damaged_file_is_healed_by_its_next_push(damaged):
    wire, blob = damaged
    assert (await wire("GET", wire.blob_path(blob.digest))).status_code == 404
    await wire.push_blob(blob.body)
    assert (await wire("GET", wire.blob_path(blob.digest))).content == blob.body


async def test_damaged_file_is_healed_without_being_noticed_first(damaged):
    wire, blob = damaged
    await wire.push_blob(blob.body)
    assert (await wire("GET", wire.blob_path(blob.digest))).content == blob.body
