"""end-4, end-5, end-6, end-13, end-14: every way to push a blob, and every way to do it wrong."""

from __future__ import annotations

import os

import httpx
import pytest


def closing(location: str, digest: str) -> str:
    return str(httpx.URL(location).copy_merge_params({"digest": digest}))


def part(first: int, body: bytes) -> dict[str, object]:
    headers = {"content-range": f"{first}-{first + len(body) - 1}", "content-type": "application/octet-stream"}
    return {"content": body, "headers": headers}


async def pieces(*parts: bytes):
    for piece in parts:
        yield piece


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
    answer = await wire("PUT", closing(await wire.start(), kit.digest_of(body)), content=body, headers=kit.OCTETS)
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
        answer = await wire("PATCH", location, **part(sent, chunk))
        sent += len(chunk)
        assert answer.status_code == 202
        assert answer.headers["range"] == f"0-{sent - 1}"
        location = answer.headers["location"]
    body = b"".join(chunks)
    answer = await wire("PUT", closing(location, kit.digest_of(body)), content=b"")
    assert answer.status_code == 201
    assert (await wire("GET", wire.blob_path(kit.digest_of(body)))).content == body


async def test_last_chunk_rides_in_the_put(wire, kit):
    body = os.urandom(300)
    answer = await wire("PATCH", await wire.start(), **part(0, body[:200]))
    answer = await wire("PUT", closing(answer.headers["location"], kit.digest_of(body)), **part(200, body[200:]))
    assert answer.status_code == 201
    assert (await wire("GET", wire.blob_path(kit.digest_of(body)))).content == body


async def test_streamed_patch_without_length(wire, kit):
    body = os.urandom(300_000)
    stream = pieces(body[:10], b"", body[10:200_000], body[200_000:])
    answer = await wire("PATCH", await wire.start(), content=stream, headers=kit.OCTETS)
    assert answer.status_code == 202
    assert answer.headers["range"] == "0-299999"
    answer = await wire("PUT", closing(answer.headers["location"], kit.digest_of(body)))
    assert answer.status_code == 201


async def test_streamed_patches_append(wire, kit):
    location = await wire.start()
    for piece in (b"one", b"two"):
        location = (await wire("PATCH", location, content=pieces(piece), headers=kit.OCTETS)).headers["location"]
    assert (await wire("PUT", closing(location, kit.digest_of(b"onetwo")))).status_code == 201


async def test_status(wire):
    location = await wire.start()
    answer = await wire("GET", location)
    assert (answer.status_code, answer.headers["range"], answer.content) == (204, "0-0", b"")
    answer = await wire("PATCH", location, **part(0, b"12345"))
    answer = await wire("GET", answer.headers["location"])
    assert (answer.status_code, answer.headers["range"]) == (204, "0-4")
    assert answer.headers["location"]
    assert answer.headers["docker-upload-uuid"]


@pytest.mark.parametrize("first", [1, 4, 6, 100])
async def test_chunk_out_of_order(wire, kit, first):
    answer = await wire("PATCH", await wire.start(), **part(0, b"12345"))
    location = answer.headers["location"]
    answer = await wire("PATCH", location, **part(first, b"xyz"))
    kit.check_error(answer, 416, "RANGE_INVALID")
    assert answer.headers["range"] == "0-4"
    answer = await wire("GET", location)
    assert answer.headers["range"] == "0-4"
    answer = await wire("PATCH", answer.headers["location"], **part(5, b"678"))
    assert answer.headers["range"] == "0-7"
    assert (await wire("PUT", closing(answer.headers["location"], kit.digest_of(b"12345678")))).status_code == 201


async def test_first_chunk_from_the_middle(wire, kit):
    kit.check_error(await wire("PATCH", await wire.start(), **part(3, b"abc")), 416, "RANGE_INVALID")


async def test_repeated_chunk(wire, kit):
    location = await wire.start()
    assert (await wire("PATCH", location, **part(0, b"abc"))).status_code == 202
    kit.check_error(await wire("PATCH", location, **part(0, b"abc")), 416, "RANGE_INVALID")


async def test_closing_chunk_out_of_order(wire, kit):
    location = (await wire("PATCH", await wire.start(), **part(0, b"abc"))).headers["location"]
    answer = await wire("PUT", closing(location, kit.digest_of(b"abcdef")), **part(4, b"def"))
    kit.check_error(answer, 416, "RANGE_INVALID")
    answer = await wire("PUT", closing(location, kit.digest_of(b"abcdef")), **part(3, b"def"))
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
    answer = await wire("PATCH", location, content=pieces(b"abc"), headers=headers)
    kit.check_error(answer, 400, "SIZE_INVALID")
    assert (await wire("GET", location)).headers["range"] == "0-0"
    assert (await wire("PATCH", location, **part(0, b"abc"))).status_code == 202


async def test_old_locations_go_on_working(wire, kit):
    first = await wire.start()
    assert (await wire("PATCH", first, content=b"abc", headers=kit.OCTETS)).status_code == 202
    assert (await wire("GET", first)).headers["range"] == "0-2"
    assert (await wire("PATCH", first, content=b"def", headers=kit.OCTETS)).status_code == 202
    assert (await wire("PUT", closing(first, kit.digest_of(b"abcdef")))).status_code == 201


async def test_query_of_the_client_is_kept(wire, kit):
    location = str(httpx.URL(await wire.start()).copy_merge_params({"extra": "1"}))
    assert (await wire("PUT", closing(location, kit.digest_of(b"q")), content=b"q")).status_code == 201


async def test_digest_mismatch_at_the_end(wire, kit):
    answer = await wire("PUT", closing(await wire.start(), kit.digest_of(b"a")), content=b"b", headers=kit.OCTETS)
    kit.check_error(answer, 400, "DIGEST_INVALID")
    assert (await wire("HEAD", wire.blob_path(kit.digest_of(b"b")))).status_code == 404


@pytest.mark.parametrize("digest", ["sha256:bad", "md5:d41d8cd98f00b204e9800998ecf8427e", "", "x"])
async def test_bad_digest_at_the_end(wire, kit, digest):
    answer = await wire("PUT", closing(await wire.start(), digest), content=b"b", headers=kit.OCTETS)
    kit.check_error(answer, 400, "DIGEST_INVALID")


async def test_no_digest_at_the_end(wire, kit):
    kit.check_error(await wire("PUT", await wire.start(), content=b"b", headers=kit.OCTETS), 400, "DIGEST_INVALID")


async def test_closing_twice(wire, kit):
    where = closing(await wire.start(), kit.digest_of(b"twice"))
    assert (await wire("PUT", where, content=b"twice")).status_code == 201
    assert (await wire("PUT", where)).status_code == 201
    other = closing(where, kit.digest_of(b"never"))
    kit.check_error(await wire("PUT", other), 404, "BLOB_UPLOAD_UNKNOWN")


async def test_cancel(wire, kit):
    location = await wire.start()
    await wire("PATCH", location, content=b"abc", headers=kit.OCTETS)
    answer = await wire("DELETE", location)
    assert (answer.status_code, answer.content) == (204, b"")
    for method in ("GET", "PATCH", "DELETE"):
        assert (await wire(method, location)).status_code == 404
    kit.check_error(await wire("PUT", closing(location, kit.digest_of(b"abc"))), 404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
@pytest.mark.parametrize("name", ["00000000-0000-0000-0000-000000000000", "nonsense", "..", "%2e%2e", "a" * 300])
async def test_unknown_session(wire, method, name):
    answer = await wire(method, f"{wire.uploads_path()}{name}")
    assert answer.status_code in {404, 405}


async def test_session_of_another_repository(wire, kit):
    location = await wire.start()
    other = wire.fresh()
    moved = location.replace(wire.repository, other)
    kit.check_error(await wire("GET", moved), 404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize("how", ["post", "query", "put"])
async def test_sha512(wire, kit, how):
    body = os.urandom(2000)
    digest = kit.digest_of(body, "sha512")
    if how == "post":
        answer = await wire("POST", f"{wire.uploads_path()}?digest={digest}", content=body, headers=kit.OCTETS)
    else:
        location = await wire.start(query="?digest-algorithm=sha512" if how == "query" else "")
        location = (await wire("PATCH", location, content=body, headers=kit.OCTETS)).headers["location"]
        answer = await wire("PUT", closing(location, digest))
    assert answer.status_code == 201
    assert answer.headers["docker-content-digest"] == digest
    answer = await wire("GET", wire.blob_path(digest))
    assert answer.content == body
    assert answer.headers["docker-content-digest"] == digest


async def test_sha256_in_a_session_announced_as_sha512(wire, kit):
    location = await wire.start(query="?digest-algorithm=sha512")
    assert (await wire("PUT", closing(location, kit.digest_of(b"x")), content=b"x")).status_code == 201


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
