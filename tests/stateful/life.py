"""A hatoba that can die at any step: `test_registry_machine` drives it over stdin and stdout.

This program forks one child a life. The child opens hatoba on a folder and answers requests; told to crash at step n
it kills itself with SIGKILL right before its n-th change of the disk (writes: half-way), as `kill -9` would. Messages
are JSON with a length before it; what a child did not read is its successor's.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import os
import signal
import struct
import sys
from datetime import timedelta
from typing import Any

from hatoba.config.load import load
from hatoba.db import sqlite
from hatoba.operations import follow, mirror
from hatoba.wiring import serving

CHANGES = ("rename", "unlink", "rmdir", "makedirs", "ftruncate", "fchmod", "fsync", "fdatasync", "pwrite")


OUT = os.dup(1)  # what hatoba logs must not get between the messages
os.dup2(2, 1)


def receive() -> dict[str, Any] | None:
    head = _read(4)
    return json.loads(_read(struct.unpack(">I", head)[0])) if head else None


def _read(length: int) -> bytes:
    found = b""
    while len(found) < length and (part := os.read(0, length - len(found))):
        found += part
    return found


def send(message: dict[str, Any]) -> None:
    content = json.dumps(message, ensure_ascii=False).encode()
    content = struct.pack(">I", len(content)) + content
    while content:
        content = content[os.write(OUT, content) :]


class Death:
    """Counts changes of the disk, and ends the process before the one it is armed for."""

    def __init__(self) -> None:
        self.left = 0
        for name in CHANGES:
            setattr(os, name, self._before(getattr(os, name)))
        os.pwritev = self._torn(os.pwritev)
        sqlite._drive = self._after(sqlite._drive)  # before COMMIT
        sqlite._Writer._transact = self._after(sqlite._Writer._transact)  # behind it

    def step(self) -> bool:
        self.left -= 1
        return self.left == 0

    def _before(self, real):
        @functools.wraps(real)
        def call(*arguments, **options):
            if self.step():
                die()
            return real(*arguments, **options)

        return call

    def _after(self, real):
        @functools.wraps(real)
        def call(*arguments):
            result = real(*arguments)
            if self.step():
                die()
            return result

        return call

    def _torn(self, real):
        @functools.wraps(real)
        def call(descriptor, buffers, offset):
            if self.step():
                whole = b"".join(buffers)
                real(descriptor, [whole[: len(whole) // 2]], offset)
                die()
            return real(descriptor, buffers, offset)

        return call


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Life:
    """An opened hatoba."""

    def __init__(self, app, death: Death) -> None:
        self._app = app
        self._death = death
        uploads = app._registry.uploads
        self._mirror = uploads._links
        self._database = uploads._database
        self._driver = uploads._driver

    async def do(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._death.left = asked.get("crash") or 0
        try:
            if "die" in asked:
                die()
            if "observe" in asked:
                return {"state": await self._observe(asked["observe"])}
            if "settle" in asked:
                return {"pending": await self._settle()}
            return await self.request(asked["method"], asked["path"], asked.get("body", ""))
        finally:
            self._death.left = 0

    async def _settle(self) -> int:
        await self._mirror.catch_up()
        await self._mirror.settle()
        await follow.read_tree(self._database, self._driver, self._mirror, _never, _never, patient=False)
        return await self._mirror.pending(timedelta(0))

    async def request(self, method: str, path: str, body: str = "") -> dict[str, Any]:
        """One request; bodies are latin-1 text on the way."""
        path, _, query = path.partition("?")
        scope = {
            "type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": [],
            "client": None,
        }  # fmt: skip
        sent: list[dict[str, Any]] = []

        async def take() -> dict[str, Any]:
            return {"type": "http.request", "body": body.encode("latin-1"), "more_body": False}

        async def give(message: dict[str, Any]) -> None:
            sent.append(message)

        await self._app(scope, take, give)
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        content = b"".join(message.get("body", b"") for message in sent[1:])
        return {"status": sent[0]["status"], "headers": headers, "body": content.decode("latin-1")}

    async def _observe(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What a client sees of these repositories; of the digests, those that are there with the right bytes."""
        catalog = json.loads((await self.request("GET", "/v2/_catalog"))["body"])["repositories"]
        found: dict[str, Any] = {"catalog": catalog}
        for name in asked["repositories"]:
            listed = await self.request("GET", f"/v2/{name}/tags/list")
            tags = json.loads(listed["body"])["tags"] if listed["status"] == 200 else []
            found[name] = {
                "tags": {tag: await self._digest(f"/v2/{name}/manifests/{tag}") for tag in tags},
                "manifests": [d for d in asked["manifests"] if await self._digest(f"/v2/{name}/manifests/{d}") == d],
                "blobs": [d for d in asked["blobs"] if await self._digest(f"/v2/{name}/blobs/{d}") == d],
                "referrers": {d: await self._referrers(name, d) for d in asked["manifests"]},
            }
        return found

    async def _digest(self, path: str) -> str | None:
        answer = await self.request("GET", path)
        if answer["status"] == 404:
            return None
        assert answer["status"] == 200, answer
        return f"sha256:{hashlib.sha256(answer['body'].encode('latin-1')).hexdigest()}"

    async def _referrers(self, name: str, digest: str) -> list[str]:
        answer = await self.request("GET", f"/v2/{name}/referrers/{digest}")
        return sorted(entry["digest"] for entry in json.loads(answer["body"])["manifests"])


async def live(root: str) -> None:
    death = Death()
    options = {"storage.filesystem.rootdirectory": root, "http.addr": "127.0.0.1:5000", "log.accesslog.disabled": True}
    async with serving.running(load(None, {}, options).settings) as app:
        life = Life(app, death)
        send({"ready": os.getpid()})
        while (asked := await asyncio.to_thread(receive)) is not None and "end" not in asked:
            send(await life.do(asked))


async def _nothing(*_arguments) -> None:
    return None


def _never(*_arguments) -> None:
    return None


def main() -> None:
    mirror._SETTLE_SECONDS = 3600.0  # only when asked: a step must come at the same place each time
    follow.Following.run = _nothing
    while (asked := receive()) is not None:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                asyncio.run(live(asked["open"]))
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        send({"ended": os.waitstatus_to_exitcode(status)})


if __name__ == "__main__":
    main()
