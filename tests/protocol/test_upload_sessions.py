"""end-5, end-13, end-14: the life of an upload session: its order, its status, its end, and other sessions."""

from __future__ import annotations

import asyncio
import os

import pytest


async def test_answers_of_a_session(wire, kit):
    answer = await wire("POST", wire.uploads_path(), content=b"")
    session = answer.headers["docker-upload-uuid"]
    location = kit.check_session(answer, 202, "0-0")
    location = kit.check_session(await wire("GET", location), 204, "0-0")
    answer = await wire("PATCH", location, content=b"", headers=kit.OCTETS)
    location = kit.check_session(answer, 202, "0-0")
    answer = await wire("PATCH", location, content=b"a", headers=kit.OCTETS)
    location = kit.check_session(answer, 202, "0-0")
    answer = await wire("PATCH", location, content=b"bc", headers=kit.OCTETS)
    location = kit.check_session(answer, 202, "0-2")
    answer = await wire("GET", location)
    kit.check_session(answer, 204, "0-2")
    assert answer.headers["docker-upload-uuid"] == session


async def test_sessions_are_apart(wire, kit):
    locations = [await wire.start() for _ in range(3)]
    assert len(set(locations)) == 3
    for number, location in enumerate(locations):
        body = f"session {number}".encode()
        locations[number] = (await wire("PATCH", location, content=body, headers=kit.OCTETS)).headers["location"]
    for number, location in reversed(list(enumerate(locations))):
        body = f"session {number}".encode()
        await kit.check_blob(
            wire, await wire("PUT", kit.closing(location, kit.digest_of(body))), kit.digest_of(body), body
        )


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_closed_session_is_unknown(wire, kit, method):
    location = await wire.start()
    assert (await wire("PUT", kit.closing(location, kit.digest_of(b"x")), content=b"x")).status_code == 201
    kit.check_error(await wire(method, location), 404, "BLOB_UPLOAD_UNKNOWN")


async def test_resume_by_status(wire, kit):
    """What a client does after a 416: ask where the session stands, go on from there."""
    body = os.urandom(1000)
    location = await wire.start()
    location = (await wire("PATCH", location, **kit.part(0, body[:400]))).headers["location"]
    kit.check_error(await wire("PATCH", location, **kit.part(700, body[700:])), 416, "RANGE_INVALID")
    answer = await wire("GET", location)
    sent = int(answer.headers["range"].removeprefix("0-")) + 1
    assert sent == 400
    answer = await wire("PATCH", answer.headers["location"], **kit.part(sent, body[sent:]))
    location = kit.check_session(answer, 202, "0-999")
    await kit.check_blob(wire, await wire("PUT", kit.closing(location, kit.digest_of(body))), kit.digest_of(body), body)


@pytest.mark.parametrize("first", [0, 2, 4, 1000])
async def test_closing_chunk_out_of_order_keeps_the_session(wire, kit, first):
    location = kit.check_session(await wire("PATCH", await wire.start(), **kit.part(0, b"abc")), 202, "0-2")
    answer = await wire("PUT", kit.closing(location, kit.digest_of(b"abcdef")), **kit.part(first, b"def"))
    kit.check_error(answer, 416, "RANGE_INVALID")
    assert (await wire("HEAD", wire.blob_path(kit.digest_of(b"abcdef")))).status_code == 404
    location = kit.check_session(await wire("GET", location), 204, "0-2")
    answer = await wire("PUT", kit.closing(location, kit.digest_of(b"abcdef")), **kit.part(3, b"def"))
    await kit.check_blob(wire, answer, kit.digest_of(b"abcdef"), b"abcdef")


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("content_range", ["3-3", "3-4", "3-6", "3-100"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_chunk_of_another_size_than_its_range(wire, kit, method, content_range, streamed):
    location = kit.check_session(await wire("PATCH", await wire.start(), **kit.part(0, b"abc")), 202, "0-2")
    where = kit.closing(location, kit.digest_of(b"abcdef")) if method == "PUT" else location
    headers = {"content-range": content_range, **kit.OCTETS}
    answer = await wire(method, where, content=kit.pieces(b"de", b"f") if streamed else b"def", headers=headers)
    assert answer.status_code in {400, 416}
    assert kit.code_of(answer) in {"SIZE_INVALID", "RANGE_INVALID"}
    location = kit.check_session(await wire("GET", location), 204, "0-2")
    answer = await wire("PUT", kit.closing(location, kit.digest_of(b"abcdef")), **kit.part(3, b"def"))
    await kit.check_blob(wire, answer, kit.digest_of(b"abcdef"), b"abcdef")


async def test_range_without_a_body(wire, kit):
    location = await wire.start()
    answer = await wire("PATCH", location, content=b"", headers={"content-range": "0-9", **kit.OCTETS})
    assert answer.status_code in {400, 416}
    kit.check_session(await wire("GET", location), 204, "0-0")


async def test_two_chunks_at_once(wire, kit):
    """One of two that begin at the same byte is taken, the other told 416; nothing is mixed."""
    location = await wire.start()
    bodies = [b"a" * 50_000, b"b" * 50_000]
    answers = await asyncio.gather(*(wire("PATCH", location, **kit.part(0, body)) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [202, 416]
    taken = bodies[[answer.status_code for answer in answers].index(202)]
    await kit.check_blob(
        wire, await wire("PUT", kit.closing(location, kit.digest_of(taken))), kit.digest_of(taken), taken
    )


async def test_one_blob_from_many_clients_at_once(wire, kit):
    body = os.urandom(100_000)
    blob = kit.Content(body)
    await asyncio.gather(*(wire.push_blob(blob) for _ in range(8)))
    assert (await wire("GET", wire.blob_path(blob.digest))).content == body


async def test_cancelled_session_leaves_nothing(wire, kit):
    location = await wire.start()
    answer = await wire("PATCH", location, content=b"abc", headers=kit.OCTETS)
    location = answer.headers["location"]
    assert (await wire("DELETE", location)).status_code == 204
    assert (await wire("HEAD", wire.blob_path(kit.digest_of(b"abc")))).status_code == 404
    kit.check_error(await wire("DELETE", location), 404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize("method", ["PATCH", "PUT", "DELETE"])
async def test_session_is_safe_from_other_repositories(wire, kit, method):
    location = await wire.start()
    moved = location.replace(wire.repository, wire.fresh())
    where = kit.closing(moved, kit.digest_of(b"x")) if method == "PUT" else moved
    answer = await wire(method, where, content=b"x")
    assert answer.status_code == 404
    assert kit.code_of(answer) in {"BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID"}
    kit.check_session(await wire("GET", location), 204, "0-0")
