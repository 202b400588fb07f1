"""end-4, end-5, end-6, end-13, end-14: every way to push a blob, and every way to do it wrong."""

from __future__ import annotations

import os

import httpx
import pytest


async def test_start(wire):
    answer = await wire("POST", wire.uploads_path(), content=b"")
    assert answer.status_code == 202
    assert answer.headers["range"] == "0-0"
    assert answer.headers["docker-upload-uuid"] in answer.headers["location"]
    assert answer.headers["content-length"] == "0"


async def test_location_is_a_path(opened):
    wire = await opened()
    assert (await wire.start()).startswith(f"/v2/{wire.repository}/blobs/uploads/")


async def test_post_then_put(wire, kit):
    body = os.urandom(5000)
    answer = await wire("PUT", kit.closing(await wire.start(), kit.digest_of(body)), content=body, headers=kit.OCTETS)
    assert answer.status_code == 201
    assert answer.headers["docker-content-digest"] == kit.digest_of(body)
    assert httpx.URL(answer.headers["location"]).path == wire.blob_path(kit.digest_of(body))
    assert (await wire("GET", answer.headers["location"])).content == body


async def test_single_post(wire, kit):
    body = os.urandom(5000)
    answer = await wire("POST", f"{wire.uploads_path()}?digest={kit.digest_of(body)}", content=body, headers=kit.OCTETS)
    assert answer.status_code == 201
    assert httpx.URL(answer.headers["location"]).path == wire.blob_path(kit.digest_of(body))
    assert (await wire("GET", answer.headers["location"])).content == body


async def test_single_post_without_a_body_is_the_empty_blob(wire, kit):
    answer = await wire("POST", f"{wire.uploads_path()}?digest={kit.digest_of(b'')}", content=b"")
    assert answer.status_code == 201


async def test_single_post_with_another_digest(wire, kit):
    digest = kit.digest_of(b"other")
    answer = await wire("POST", f"{wire.uploads_path()}?digest={digest}", content=b"this", headers=kit.OCTETS)
    kit.check_error(answer, 400, "DIGEST_INVALID")
    assert (await wire("HEAD", wire.blob_path(digest))).status_code == 404


async def test_chunks_with_ranges(wire, kit):
    chunks = [os.urandom(100), os.urandom(1), os.urandom(3000)]
    location, sent = await wire.start(), 0
    for chunk in chunks:
        answer = await wire("PATCH", location, **kit.part(sent, chunk))
        sent += len(chunk)
        assert answer.status_code == 202
        assert answer.headers["range"] == f"0-{sent - 1}"
        location = answer.headers["location"]
    body = b"".join(chunks)
    answer = await wire("PUT", kit.closing(location, kit.digest_of(body)), content=b"")
    assert answer.status_code == 201
    assert (await wire("GET", wire.blob_path(kit.digest_of(body)))).content == body


async def test_last_chunk_rides_in_the_put(wire, kit):
    body = os.urandom(300)
    answer = await wire("PATCH", await wire.start(), **kit.part(0, body[:200]))
    answer = await wire(
        "PUT", kit.closing(answer.headers["location"], kit.digest_of(body)), **kit.part(200, body[200:])
    )
    assert answer.status_code == 201
    assert (await wire("GET", wire.blob_path(kit.digest_of(body)))).content == body


async def test_streamed_patch_without_length(wire, kit):
    body = os.urandom(300_000)
    stream = kit.pieces(body[:10], b"", body[10:200_000], body[200_000:])
    answer = await wire("PATCH", await wire.start(), content=stream, headers=kit.OCTETS)
    assert answer.status_code == 202
    assert answer.headers["range"] == "0-299999"
    answer = await wire("PUT", kit.closing(answer.headers["location"], kit.digest_of(body)))
    assert answer.status_code == 201


async def test_streamed_patches_append(wire, kit):
    location = await wire.start()
    for piece in (b"one", b"two"):
        location = (await wire("PATCH", location, content=kit.pieces(piece), headers=kit.OCTETS)).headers["location"]
    assert (await wire("PUT", kit.closing(location, kit.digest_of(b"onetwo")))).status_code == 201


async def test_status(wire, kit):
    location = await wire.start()
    answer = await wire("GET", location)
    assert (answer.status_code, answer.headers["range"], answer.content) == (204, "0-0", b"")
    answer = await wire("PATCH", location, **kit.part(0, b"12345"))
    answer = await wire("GET", answer.headers["location"])
    assert (answer.status_code, answer.headers["range"]) == (204, "0-4")
    assert answer.headers["location"]
    assert answer.headers["docker-upload-uuid"]


@pytest.mark.parametrize("first", [1, 4, 6, 100])
async def test_chunk_out_of_order(wire, kit, first):
    answer = await wire("PATCH", await wire.start(), **kit.part(0, b"12345"))
    location = answer.headers["location"]
    answer = await wire("PATCH", location, **kit.part(first, b"xyz"))
    kit.check_error(answer, 416, "RANGE_INVALID")
    assert answer.headers["range"] == "0-4"
    answer = await wire("GET", location)
    assert answer.headers["range"] == "0-4"
    answer = await wire("PATCH", answer.headers["location"], **kit.part(5, b"678"))
    assert answer.headers["range"] == "0-7"
    assert (await wire("PUT", kit.closing(answer.headers["location"], kit.digest_of(b"12345678")))).status_code == 201


async def test_first_chunk_from_the_middle(wire, kit):
    kit.check_error(await wire("PATCH", await wire.start(), **kit.part(3, b"abc")), 416, "RANGE_INVALID")


async def test_repeated_chunk(wire, kit):
    location = await wire.start()
    assert (await wire("PATCH", location, **kit.part(0, b"abc"))).status_code == 202
    kit.check_error(await wire("PATCH", location, **kit.part(0, b"abc")), 416, "RANGE_INVALID")


async def test_closing_chunk_out_of_order(wire, kit):
    location = (await wire("PATCH", await wire.start(), **kit.part(0, b"abc"))).headers["location"]
    answer = await wire("PUT", kit.closing(location, kit.digest_of(b"abcdef")), **kit.part(4, b"def"))
    kit.check_error(answer, 416, "RANGE_INVALID")
    answer = await wire("PUT", kit.closing(location, kit.digest_of(b"abcdef")), **kit.part(3, b"def"))
    assert answer.status_code == 201


@pytest.mark.parametrize("sent", ["abc", "1", "5-2", "-5", "0-", "bytes", "0-99999999999999999999"])
async def test_content_range_that_is_none(wire, sent):
    headers = {"content-range": sent, "content-type": "application/octet-stream"}
    answer = await wire("PATCH", await wire.start(), content=b"abc", headers=headers)
    assert answer.status_code in {400, 416}
    assert answer.json()["errors"]


async def test_range_and_length_disagree(wire, kit):
    location = await wire.start()
    headers = {"content-range": "0-9", "content-type": "application/octet-stream"}
    answer = await wire("PATCH", location, content=b"abc", headers=headers)
    kit.check_error(answer, 400, "SIZE_INVALID")
    answer = await wire("PATCH", location, content=kit.pieces(b"abc"), headers=headers)
    kit.check_error(answer, 400, "SIZE_INVALID")
    assert (await wire("GET", location)).headers["range"] == "0-0"
    assert (await wire("PATCH", location, **kit.part(0, b"abc"))).status_code == 202


async def test_old_locations_go_on_working(wire, kit):
    first = await wire.start()
    assert (await wire("PATCH", first, content=b"abc", headers=kit.OCTETS)).status_code == 202
    assert (await wire("GET", first)).headers["range"] == "0-2"
    assert (await wire("PATCH", first, content=b"def", headers=kit.OCTETS)).status_code == 202
    assert (await wire("PUT", kit.closing(first, kit.digest_of(b"abcdef")))).status_code == 201


async def test_query_of_the_client_is_kept(wire, kit):
    location = str(httpx.URL(await wire.start()).copy_merge_params({"extra": "1"}))
    assert (await wire("PUT", kit.closing(location, kit.digest_of(b"q")), content=b"q")).status_code == 201


async def test_digest_mismatch_at_the_end(wire, kit):
    answer = await wire("PUT", kit.closing(await wire.start(), kit.digest_of(b"a")), content=b"b", headers=kit.OCTETS)
    kit.check_error(answer, 400, "DIGEST_INVALID")
    assert (await wire("HEAD", wire.blob_path(kit.digest_of(b"b")))).status_code == 404


@pytest.mark.parametrize("digest", ["sha256:bad", "md5:d41d8cd98f00b204e9800998ecf8427e", "", "x"])
async def test_bad_digest_at_the_end(wire, kit, digest):
    answer = await wire("PUT", kit.closing(await wire.start(), digest), content=b"b", headers=kit.OCTETS)
    kit.check_error(answer, 400, "DIGEST_INVALID")


async def test_no_digest_at_the_end(wire, kit):
    kit.check_error(await wire("PUT", await wire.start(), content=b"b", headers=kit.OCTETS), 400, "DIGEST_INVALID")


async def test_closing_twice(wire, kit):
    where = kit.closing(await wire.start(), kit.digest_of(b"twice"))
    assert (await wire("PUT", where, content=b"twice")).status_code == 201
    assert (await wire("PUT", where)).status_code == 201
    other = kit.closing(where, kit.digest_of(b"never"))
    kit.check_error(await wire("PUT", other), 404, "BLOB_UPLOAD_UNKNOWN")


async def test_cancel(wire, kit):
    location = await wire.start()
    await wire("PATCH", location, content=b"abc", headers=kit.OCTETS)
    answer = await wire("DELETE", location)
    assert (answer.status_code, answer.content) == (204, b"")
    for method in ("GET", "PATCH", "DELETE"):
        assert (await wire(method, location)).status_code == 404
    kit.check_error(await wire("PUT", kit.closing(location, kit.digest_of(b"abc"))), 404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
@pytest.mark.parametrize("name", ["00000000-0000-0000-0000-000000000000", "nonsense", "..", "%2e%2e", "a" * 300])
async def test_unknown_session(wire, method, name):
    answer = await wire(method, f"{wire.uploads_path()}{name}")
    assert answer.status_code in {404, 405}


async def test_session_of_another_repository(wire, kit):
    location = await wire.start()
    other = wire.fresh()
    moved = location.replace(wire.repository, other)
    answer = await wire("GET", moved)
    assert answer.status_code == 404
    assert kit.code_of(answer) in {"BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID"}


@pytest.mark.parametrize("how", ["post", "query", "put"])
async def test_sha512(wire, kit, how):
    body = os.urandom(2000)
    digest = kit.digest_of(body, "sha512")
    if how == "post":
        answer = await wire("POST", f"{wire.uploads_path()}?digest={digest}", content=body, headers=kit.OCTETS)
    else:
        location = await wire.start(query="?digest-algorithm=sha512" if how == "query" else "")
        location = (await wire("PATCH", location, content=body, headers=kit.OCTETS)).headers["location"]
        answer = await wire("PUT", kit.closing(location, digest))
    assert answer.status_code == 201
    assert answer.headers["docker-content-digest"] == digest
    answer = await wire("GET", wire.blob_path(digest))
    assert answer.content == body
    assert answer.headers["docker-content-digest"] == digest


async def test_sha256_in_a_session_announced_as_sha512(wire, kit):
    location = await wire.start(query="?digest-algorithm=sha512")
    assert (await wire("PUT", kit.closing(location, kit.digest_of(b"x")), content=b"x")).status_code == 201


async def test_unknown_algorithm(wire, kit):
    answer = await wire("POST", wire.uploads_path() + "?digest-algorithm=md5")
    kit.check_error(answer, 400, "DIGEST_INVALID")


async def test_same_blob_again(wire, kit):
    body = os.urandom(100)
    for _ in range(3):
        await wire.push_blob(body)
    assert (await wire("GET", wire.blob_path(kit.digest_of(body)))).content == body


async def test_bad_name(wire, kit):
    kit.check_error(await wire("POST", "/v2/Upper/blobs/uploads/"), 400, "NAME_INVALID")


# --- every way to push, with every size that may be special


@pytest.mark.parametrize("size", [0, 1, 5000, 1_500_000])
@pytest.mark.parametrize("way", ["put", "put streamed", "patch", "patch streamed", "chunks", "post", "post streamed"])
async def test_ways(wire, kit, way, size):
    body = os.urandom(size)
    digest = kit.digest_of(body)
    sent = kit.pieces(body[: size // 2], body[size // 2 :]) if "streamed" in way else body
    if way.startswith("post"):
        answer = await wire("POST", f"{wire.uploads_path()}?digest={digest}", content=sent, headers=kit.OCTETS)
    elif way.startswith("put"):
        answer = await wire("PUT", kit.closing(await wire.start(), digest), content=sent, headers=kit.OCTETS)
    else:
        location, half = await wire.start(), size // 2
        chunks = [body[:half], body[half:]] if way == "chunks" else [sent]
        for first, chunk in zip((0, half), chunks, strict=False):
            sending = kit.part(first, chunk) if way == "chunks" and chunk else {"content": chunk, "headers": kit.OCTETS}
            answer = await wire("PATCH", location, **sending)
            end = first + len(chunk) if way == "chunks" else size
            location = kit.check_session(answer, 202, f"0-{max(end - 1, 0)}")
        answer = await wire("PUT", kit.closing(location, digest), content=b"")
    await kit.check_blob(wire, answer, digest, body)


async def test_many_small_chunks(wire, kit):
    body = os.urandom(60)
    location = await wire.start()
    for number in range(len(body)):
        answer = await wire("PATCH", location, **kit.part(number, body[number : number + 1]))
        location = kit.check_session(answer, 202, f"0-{number}")
    await kit.check_blob(wire, await wire("PUT", kit.closing(location, kit.digest_of(body))), kit.digest_of(body), body)


async def test_streams_and_ranges_mixed(wire, kit):
    location = await wire.start()
    location = kit.check_session(await wire("PATCH", location, **kit.part(0, b"aa")), 202, "0-1")
    location = kit.check_session(
        await wire("PATCH", location, content=kit.pieces(b"bb"), headers=kit.OCTETS), 202, "0-3"
    )
    location = kit.check_session(await wire("PATCH", location, **kit.part(4, b"cc")), 202, "0-5")
    answer = await wire("PUT", kit.closing(location, kit.digest_of(b"aabbccdd")), content=b"dd", headers=kit.OCTETS)
    await kit.check_blob(wire, answer, kit.digest_of(b"aabbccdd"), b"aabbccdd")


async def test_last_chunk_streamed_in_the_put(wire, kit):
    location = kit.check_session(await wire("PATCH", await wire.start(), **kit.part(0, b"abc")), 202, "0-2")
    headers = {"content-range": "3-5", **kit.OCTETS}
    answer = await wire(
        "PUT", kit.closing(location, kit.digest_of(b"abcdef")), content=kit.pieces(b"d", b"ef"), headers=headers
    )
    await kit.check_blob(wire, answer, kit.digest_of(b"abcdef"), b"abcdef")


async def test_whole_blob_in_the_put_with_a_range(wire, kit):
    answer = await wire("PUT", kit.closing(await wire.start(), kit.digest_of(b"abcdef")), **kit.part(0, b"abcdef"))
    await kit.check_blob(wire, answer, kit.digest_of(b"abcdef"), b"abcdef")


@pytest.mark.parametrize("escape", [str, lambda digest: digest.replace(":", "%3A")], ids=["plain", "escaped"])
@pytest.mark.parametrize("way", ["post", "put"])
async def test_digest_in_the_query(wire, kit, escape, way):
    body = os.urandom(9)
    digest = kit.digest_of(body)
    if way == "post":
        answer = await wire("POST", f"{wire.uploads_path()}?digest={escape(digest)}", content=body)
    else:
        location = await wire.start()
        joiner = "&" if "?" in location else "?"
        answer = await wire("PUT", f"{location}{joiner}digest={escape(digest)}", content=body)
    await kit.check_blob(wire, answer, digest, body)


# --- digests that do not fit


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("way", ["post", "put", "patch"])
async def test_mismatch(wire, kit, algorithm, way):
    wrong = kit.digest_of(b"something else", algorithm)
    if way == "post":
        answer = await wire("POST", f"{wire.uploads_path()}?digest={wrong}", content=b"body", headers=kit.OCTETS)
    else:
        location = await wire.start()
        if way == "patch":
            location = (await wire("PATCH", location, content=b"body", headers=kit.OCTETS)).headers["location"]
        content = b"" if way == "patch" else b"body"
        answer = await wire("PUT", kit.closing(location, wrong), content=content, headers=kit.OCTETS)
    kit.check_error(answer, 400, "DIGEST_INVALID")
    for digest in (wrong, kit.digest_of(b"body", algorithm)):
        assert (await wire("HEAD", wire.blob_path(digest))).status_code == 404


@pytest.mark.parametrize(
    "digest", ["", "x", "sha256:", "sha256:bad", "sha256:" + "A" * 64, "sha256:" + "a" * 65, "md5:" + "a" * 32,
               "blake3:" + "a" * 64, "sha512:" + "a" * 64, "SHA256:" + "a" * 64, "sha256:" + "a" * 64 + "\n"],
)  # fmt: skip
async def test_bad_digest_in_a_single_post(wire, kit, digest):
    answer = await wire("POST", wire.uploads_path(), params={"digest": digest}, content=b"body", headers=kit.OCTETS)
    kit.check_error(answer, 400, "DIGEST_INVALID")


async def test_sha512_in_chunks(wire, kit):
    body = os.urandom(999)
    location = await wire.start(query="?digest-algorithm=sha512")
    for first in (0, 333, 666):
        answer = await wire("PATCH", location, **kit.part(first, body[first : first + 333]))
        location = kit.check_session(answer, 202, f"0-{first + 332}")
    digest = kit.digest_of(body, "sha512")
    await kit.check_blob(wire, await wire("PUT", kit.closing(location, digest)), digest, body)
    answer = await wire("HEAD", wire.blob_path(digest))
    assert (answer.headers["docker-content-digest"], answer.headers["content-length"]) == (digest, "999")
