"""What requests leave behind in a worker when they end badly: no task, no descriptor, no thread's work.

The processes as a whole are measured in tests/e2e/test_abuse.py; from outside nobody can count tasks.
"""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from hatoba.wiring import serving

NAME = "left/behind"
UPLOADS = f"/v2/{NAME}/blobs/uploads/"
BIG = 3 * 1024 * 1024


class Client:
    """Speaks ASGI to the application as granian does: a body in parts, then maybe the news that the client is gone."""

    def __init__(self, app) -> None:
        self.app = app
        self.location = ""

    async def ask(
        self, method: str, path: str, parts=(b"",), *, gone: bool = False, takes: int = 1 << 30, **headers
    ) -> int:
        """Send `parts`, and vanish if `gone`; of the answer only `takes` messages are taken. Its status, 0 for none."""
        messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        messages[-1]["more_body"] = gone
        taken: list[dict] = []

        async def receive() -> dict:
            await asyncio.sleep(0)
            if messages:
                return messages.pop(0)
            if not gone:
                await asyncio.sleep(3600)
            return {"type": "http.disconnect"}

        async def send(message: dict) -> None:
            taken.append(message)
            if len(taken) > takes:
                await asyncio.sleep(3600)

        path, _, query = path.partition("?")
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1), "scheme": "http", "extensions": {},
        }  # fmt: skip
        await self.app(scope, receive, send)
        for name, value in taken[0]["headers"] if taken else ():
            if name == b"location":
                self.location = value.decode()
        return taken[0]["status"] if taken else 0


@pytest.fixture
async def worker(kit, tmp_path):
    async with serving.running(kit.settings(tmp_path)) as app:
        yield Client(app)


async def abuse(client: Client, kit, rounds: int) -> None:
    """Each way in which a request can end badly."""
    rng = random.Random(1)  # noqa: S311
    blob = rng.randbytes(BIG)
    digest, absent = kit.digest_of(blob), kit.ABSENT
    assert await client.ask("POST", f"{UPLOADS}?digest={digest}", [blob]) == 201
    for number in range(rounds):
        parts = [rng.randbytes(rng.choice((0, 1, 100_000, 600_000))) for _ in range(3)]
        assert await client.ask("POST", UPLOADS) == 202
        session = client.location
        await client.ask("PATCH", session, parts, gone=True)
        assert await client.ask("PATCH", session, [b"x"], content_range="9-9", content_length="1") == 416
        await client.ask("PUT", f"{session}?digest={absent}", parts, gone=True)
        assert await client.ask("PUT", f"{session}?digest={absent}", parts) == 400
        await client.ask("POST", f"{UPLOADS}?digest={absent}", parts, gone=True)
        assert await client.ask("PUT", f"/v2/{NAME}/manifests/v1", [b"{"] * 100) == 400
        await client.ask("PUT", f"/v2/{NAME}/manifests/v1", [b"{"] * 100, gone=True)
        await client.ask("GET", f"/v2/{NAME}/blobs/{digest}", gone=True)
        assert await client.ask("PUT", "/v2/Bad/manifests/v1", parts, gone=True) == 400
        await cancelled(client, number, session, digest, parts)


async def cancelled(client: Client, number: int, session: str, digest: str, parts: list[bytes]) -> None:
    """The server ends the request itself: at a shutdown, or when it has had enough."""
    ways = [
        client.ask("GET", f"/v2/{NAME}/blobs/{digest}", takes=1 + number % 3),
        client.ask("POST", f"{UPLOADS}?digest={digest}", [*parts, b""], takes=0),
        client.ask("PATCH", session, [*parts, b""], takes=0),
    ]
    tasks = [asyncio.ensure_future(way) for way in ways]
    await asyncio.sleep(0.002 * (number % 10))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def names() -> list[str]:
    return sorted(getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks())


async def test_no_task_and_no_descriptor_stays(worker, kit):
    await abuse(worker, kit, 3)
    await asyncio.sleep(0.2)
    tasks, descriptors = names(), len(os.listdir("/proc/self/fd"))
    await abuse(worker, kit, 30)
    for _ in range(200):
        if names() == tasks and len(os.listdir("/proc/self/fd")) <= descriptors:
            break
        await asyncio.sleep(0.05)
    assert names() == tasks
    assert len(os.listdir("/proc/self/fd")) <= descriptors


async def test_a_task_that_stays_is_seen():
    before = names()
    stays = asyncio.ensure_future(asyncio.sleep(3600))
    assert names() != before
    stays.cancel()
