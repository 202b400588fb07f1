"""What bad clients, bad networks and bad luck do to a registry, each as one function; all raise AssertionError.

Sessions that a vanished client left open are cancelled as a client would: purging goes by age, and takes days.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from fuzz import bodies, vocabulary
from fuzz.cases import Case
from fuzz.wire import Answer, Closed, Connection

BIG_BYTES = 32 * 1024 * 1024
NAME = "abused/app"
UPLOADS = f"/v2/{NAME}/blobs/uploads/"


@dataclass(frozen=True, slots=True)
class Target:
    """Where the registry is, and how hard to try: 1.0 is what the issue asks."""

    port: int
    scale: float

    def times(self, number: int) -> range:
        return range(max(2, round(number * self.scale)))


async def ask(target: Target, method: str, path: str, body: bytes | None = None) -> Answer:
    """One good request on a connection of its own."""
    connection = await Connection.open(target.port)
    try:
        await connection.send(Case(method, path.encode(), body=body).raw)
        return await connection.read(method)
    finally:
        await connection.close()


async def begin(target: Target) -> str:
    """A new session; its path."""
    answer = await ask(target, "POST", UPLOADS, b"")
    assert answer.status == 202, answer
    return answer.get("location") or ""


async def cancel(target: Target, session: str) -> None:
    """End a session, once nobody holds it any more; it may have ended by itself."""
    for _ in range(200):
        answer = await ask(target, "DELETE", session)
        if answer.status != 429:
            assert answer.status in {204, 404}, answer
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{session} stays in use")


async def leave(connection: Connection, how: int) -> None:
    """End a connection in one of the ways that there are: RST, FIN at once, FIN and listen."""
    if how == 0:
        connection.reset()
    elif how == 1:
        await connection.close()
    else:
        connection.finish()
        received = await connection.rest(10)
        assert b" 50" not in received[:13], received
        await connection.close()


def begun(method: str, path: str, length: int | None, part: bytes) -> bytes:
    """A request whose body has begun; without a length it is chunked, and breaks off within a chunk."""
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\n".encode()
    if length is None:
        return head + b"transfer-encoding: chunked\r\n\r\n%x\r\n%s" % (len(part) + 7, part)
    return head + b"content-length: %d\r\n\r\n%s" % (length, part)


async def vanish(target: Target) -> None:
    """Gone in the middle of each kind of body."""

    async def one(number: int) -> None:
        rng = random.Random(number)
        part = rng.randbytes(rng.choice((0, 1, 5000, 300_000)))
        session = await begin(target)
        absent = vocabulary.absent(rng)
        method, path = (
            ("PATCH", session),
            ("PUT", f"{session}?digest={absent}"),
            ("POST", f"{UPLOADS}?digest={absent}"),
            ("PUT", f"/v2/{NAME}/manifests/v1"),
        )[number % 4]
        connection = await Connection.open(target.port)
        await connection.send(begun(method, path, rng.choice((None, len(part) + 1, 50_000_000)), part))
        if rng.random() < 0.5:
            await asyncio.sleep(rng.random() / 5)
        await leave(connection, rng.randrange(3))
        if rng.random() < 0.5 and method == "PATCH":
            answer = await ask(target, "GET", session)
            assert answer.status == 204, answer
        await cancel(target, session)

    await _at_once(one, target.times(240), 24)


async def wrong_length(target: Target) -> None:
    """More bytes than announced are no part of the body; fewer than its range says are refused."""

    async def one(number: int) -> None:
        content = random.Random(number).randbytes(1000)
        digest = vocabulary.digest_of(content[:400])
        connection = await Connection.open(target.port)
        await connection.send(begun("POST", f"{UPLOADS}?digest={digest}", 400, content))
        answer = await connection.read("POST")
        assert answer.status == 201, answer
        await connection.rest(5)
        await connection.close()
        session = await begin(target)
        case = Case("PATCH", session.encode(), [(b"content-range", b"0-999")], content[:500], chunked=bool(number % 2))
        connection = await Connection.open(target.port)
        await connection.send(case.raw)
        assert (await connection.read("PATCH")).status == 400
        await connection.close()
        await cancel(target, session)

    await _at_once(one, target.times(60), 10)


async def two_on_one(target: Target) -> None:
    """While one client writes, another is told to wait, and what is finished is whole."""

    async def one(number: int) -> None:
        content = random.Random(f"two {number}").randbytes(400_000)
        session, first, second = await _held(target, content)
        assert second.get("retry-after"), second
        case = Case("PATCH", session.encode(), [(b"content-range", b"0-4")], b"other")
        third = await Connection.open(target.port)
        await third.send(case.raw)
        answer = await third.read("PATCH")
        assert answer.status == 416, answer
        assert (answer.get("range") or "").startswith("0-"), answer
        await third.close()
        assert (await ask(target, "DELETE", session)).status == 429
        await first.send(content[200_000:])
        assert (await first.read("PATCH")).status == 202
        await first.close()
        digest = vocabulary.digest_of(content)
        assert (await ask(target, "PUT", f"{session}?digest={digest}", b"")).status == 201
        assert (await ask(target, "GET", f"/v2/{NAME}/blobs/{digest}")).body == content

    await _at_once(one, target.times(20), 5)


async def _held(target: Target, content: bytes) -> tuple[str, Connection, Answer]:
    """A session that a client is writing half of `content` to, and what another was told that would close it."""
    for pause in (0.05, 0.5, 2, 5):
        session = await begin(target)
        first = await Connection.open(target.port)
        await first.send(begun("PATCH", session, len(content), content[: len(content) // 2]))
        await asyncio.sleep(pause)
        second = await ask(target, "PUT", f"{session}?digest={vocabulary.digest_of(b'')}", b"")
        if second.status == 429:
            return session, first, second
        await first.close()  # the second one was faster: it closed the session
    raise AssertionError(f"the second client is not told to wait: {second}")


async def one_digest(target: Target) -> None:
    """1,000 clients push one blob at once: all succeed."""
    content = os.urandom(20_000)
    digest = vocabulary.digest_of(content)
    ready = asyncio.Event()
    times = target.times(1000)

    async def one(number: int) -> int:
        path = f"/v2/abused/parallel{number % 7}/blobs/uploads/"
        connection = await Connection.open(target.port)
        await connection.send(Case("POST", path.encode(), body=b"").raw)
        location = (await connection.read("POST")).get("location")
        await ready.wait()
        await connection.send(Case("PUT", f"{location}?digest={digest}".encode(), body=content).raw)
        status = (await connection.read("PUT")).status
        await connection.close()
        return status

    clients = [asyncio.ensure_future(one(number)) for number in times]
    await asyncio.sleep(1)
    ready.set()
    statuses = await asyncio.gather(*clients)
    assert set(statuses) == {201}, {status: statuses.count(status) for status in set(statuses)}
    for number in range(min(7, len(times))):
        assert (await ask(target, "GET", f"/v2/abused/parallel{number}/blobs/{digest}")).body == content


async def wrong_digest(target: Target) -> None:
    """Content that is not what its digest says."""

    async def one(number: int) -> None:
        rng = random.Random(number)
        content = rng.randbytes(100_000)
        session = await begin(target)
        for method, path in (("PUT", session), ("POST", UPLOADS)):
            answer = await ask(target, method, f"{path}?digest={vocabulary.absent(rng)}", content)
            assert answer.status == 400, answer
        assert (await ask(target, "GET", session)).status == 404

    await _at_once(one, target.times(100), 10)


async def drip(target: Target) -> None:
    """Bytes one by one, in the head and in the body; some give up, some come to the end."""

    async def one(number: int) -> None:
        content = random.Random(f"drip {number}").randbytes(60)
        digest = vocabulary.digest_of(content)
        raw = Case("POST", f"{UPLOADS}?digest={digest}".encode(), body=content, chunked=number % 2 == 0).raw
        end = len(raw) if number % 3 else len(raw) - 20
        connection = await Connection.open(target.port)
        for place in range(end):
            await connection.send(raw[place : place + 1])
            await asyncio.sleep(0.005)
        if end == len(raw):
            assert (await connection.read("POST")).status == 201
            await connection.close()
        else:
            await leave(connection, number % 2)

    times = target.times(60)
    await _at_once(one, times, len(times))


async def stop_reading(target: Target) -> None:
    """Readers of a big blob that take a little, stand still, and go."""
    content = random.Random(0).randbytes(BIG_BYTES)
    digest = vocabulary.digest_of(content)
    assert (await ask(target, "POST", f"{UPLOADS}?digest={digest}", content)).status == 201

    async def one(number: int) -> None:
        case = Case("GET", f"/v2/{NAME}/blobs/{digest}".encode(), [(b"range", b"bytes=1-")] if number % 2 else [])
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port, limit=4096)
        writer.write(case.raw)
        assert b" 20" in await reader.read(64)
        await asyncio.sleep(0.5)
        await leave(Connection(reader, writer), number // 2 % 2)

    await _at_once(one, target.times(60), 20)


async def come_and_go(target: Target) -> None:
    """Connections that are opened and closed: at once, after one request, or with half a request."""

    async def one(number: int) -> None:
        connection = await Connection.open(target.port)
        if number % 3 == 1:
            await connection.send(b"GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await connection.read("GET")).status == 200
        elif number % 3 == 2:
            await connection.send(b"GET /v2/ HTTP/1.1\r\nhost")
        await leave(connection, number % 2)

    await _at_once(one, target.times(4000), 50)


async def flood_headers(target: Target) -> None:
    """Heads that do not end."""

    async def one(number: int) -> None:
        connection = await Connection.open(target.port)
        await connection.send(b"GET /v2/ HTTP/1.1\r\n")
        lines = b"x: y\r\n" * 1300 if number % 2 else b"z" * 8000
        for _ in range(60):
            await connection.send(lines)
        with contextlib.suppress(Closed):
            assert (await connection.read("GET")).status in {400, 431}
        await connection.close()

    await _at_once(one, target.times(200), 20)


async def unfinished_manifests(target: Target) -> None:
    """Many large manifests that never come to an end, at once."""
    ready = asyncio.Event()

    async def one(number: int) -> None:
        connection = await Connection.open(target.port)
        path = f"/v2/{NAME}/manifests/v{number}"
        await connection.send(begun("PUT", path, 4_000_000, b"{" + b" " * 400_000))
        await ready.wait()
        await leave(connection, number % 2)

    clients = [asyncio.ensure_future(one(number)) for number in target.times(300)]
    await asyncio.sleep(2)
    assert (await ask(target, "GET", "/v2/")).status == 200
    ready.set()
    await asyncio.gather(*clients)


async def bad_manifests(target: Target) -> None:
    """What is no manifest, in quantity."""

    async def one(number: int) -> None:
        answer = await ask(target, "PUT", f"/v2/{NAME}/manifests/v1", bodies.impossible(random.Random(number)))
        assert answer.status == 400, answer

    await _at_once(one, target.times(500), 10)


ATTACKS: tuple[Callable[[Target], Awaitable[None]], ...] = (
    vanish, wrong_length, two_on_one, one_digest, wrong_digest, drip, stop_reading, come_and_go, flood_headers,
    unfinished_manifests, bad_manifests,
)  # fmt: skip


async def _at_once(one: Callable[[int], Awaitable[None]], numbers: Sequence[int], together: int) -> None:
    """Do it for every number, `together` at a time."""
    left = iter(numbers)

    async def some() -> None:
        for number in left:
            await one(number)

    await asyncio.gather(*(some() for _ in range(together)))
