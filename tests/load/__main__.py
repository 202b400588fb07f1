"""`make load`: 64 clients push and 256 pull for a minute, beside 2,000 connections that do nothing.

No request may fail, each pull has the right bytes, and no worker may grow: its memory at the end is at most 1.15 times
that after a quarter of the time, and 150 MiB. A run of less than a minute judges requests alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from abuse.footprint import rss_kib
from fuzz.cases import Case
from fuzz.serving import Registry, problems_at_the_end, serving
from fuzz.vocabulary import digest_of
from fuzz.wire import Answer, Closed, Connection

MOST_PER_CENT = 115
MOST_KIB = 150 * 1024
A_MINUTE = 60
_KEPT = 16  # images that are pulled
_LAYERS = (4_000, 64_000, 64_000, 1_000_000)
_MANIFEST = b"application/vnd.oci.image.manifest.v1+json"
_TYPE = [(b"content-type", _MANIFEST)]


@dataclass
class Load:
    """What is sent, to whom, until when."""

    port: int
    until: float = 0.0
    done: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    images: list[tuple[bytes, dict[str, bytes]]] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.until

    async def ask(self, connection: Connection, case: Case, status: int) -> Answer:
        """One request; anything but `status` is an error of the run."""
        await connection.send(case.raw)
        answer = await connection.read(case.method)
        if answer.status != status:
            raise AssertionError(f"{case.method} {case.target!r}: {answer.status} {answer.body[:200]!r}")
        return answer

    async def push(self, connection: Connection, name: str, rng: random.Random) -> tuple[bytes, dict[str, bytes]]:
        """An image as Docker pushes one: streamed layers, then the manifest."""
        blobs = {}
        for size in (200, rng.choice(_LAYERS)):
            body = rng.randbytes(size)
            blobs[digest_of(body)] = body
            location = await self._begin(connection, name)
            await self.ask(connection, Case("PATCH", location, body=body, chunked=True), 202)
            await self.ask(connection, Case("PUT", location + f"?digest={digest_of(body)}".encode(), body=b""), 201)
        config, layer = ({"mediaType": "x/y", "digest": each, "size": len(blobs[each])} for each in blobs)
        manifest = {"schemaVersion": 2, "mediaType": _MANIFEST.decode(), "config": config, "layers": [layer]}
        body = json.dumps(manifest).encode()
        tag = f"/v2/{name}/manifests/v{rng.randrange(50)}".encode()
        await self.ask(connection, Case("PUT", tag, _TYPE, body), 201)
        return body, blobs

    async def _begin(self, connection: Connection, name: str) -> bytes:
        answer = await self.ask(connection, Case("POST", f"/v2/{name}/blobs/uploads/".encode(), body=b""), 202)
        return (answer.get("location") or "").encode()

    async def pull(self, connection: Connection, rng: random.Random) -> None:
        """Manifest by digest, and every blob; all of it compared."""
        manifest, blobs = rng.choice(self.images)
        found = [(f"/v2/load/kept/manifests/{digest_of(manifest)}", manifest)]
        found += [(f"/v2/load/kept/blobs/{digest}", body) for digest, body in blobs.items()]
        for path, body in found:
            answer = await self.ask(connection, Case("GET", path.encode()), 200)
            if answer.body != body:
                raise AssertionError(f"{path}: other bytes")

    async def client(self, kind: str, number: int) -> None:
        """One that pushes or pulls on its own connection until the time is over."""
        rng = random.Random(f"{kind} {number}")
        try:
            connection = await Connection.open(self.port)
            while not self.over:
                if kind == "pushes":
                    await self.push(connection, f"load/{number}", rng)
                else:
                    await self.pull(connection, rng)
                self.done[kind] += 1
            await connection.close()
        except Exception as error:  # noqa: BLE001  any error fails the run
            self.errors.append(f"{kind} {number}: {error!r}")

    async def idle(self, number: int) -> None:
        """One that asks once and then does nothing. The server ends it after a while: it comes again."""
        while not self.over:
            try:
                connection = await Connection.open(self.port)
                await self.ask(connection, Case("GET", b"/v2/"), 200)
                self.done["idle connections"] += 1
            except Exception as error:  # noqa: BLE001  any error fails the run
                self.errors.append(f"idle {number}: {error!r}")
                return
            with contextlib.suppress(Closed):
                await connection.rest(max(0.0, self.until - time.monotonic()))
            await connection.close()


async def work(registry: Registry, options: argparse.Namespace) -> tuple[Load, list[list[int]]]:
    """Everything at once; the memory of each worker after a quarter of the time and at its end."""
    load = Load(registry.port)
    first = await Connection.open(registry.port)
    rng = random.Random(0)
    load.images = [await load.push(first, "load/kept", rng) for _ in range(_KEPT)]
    await first.close()
    began = time.monotonic()
    load.until = began + options.seconds
    idle = [asyncio.ensure_future(load.idle(number)) for number in range(options.idle)]
    clients = [asyncio.ensure_future(load.client("pushes", number)) for number in range(options.pushers)]
    clients += [asyncio.ensure_future(load.client("pulls", number)) for number in range(options.pullers)]
    memory = []
    for moment in (options.seconds / 4, options.seconds):
        await asyncio.sleep(began + moment - time.monotonic())
        memory.append([rss_kib(pid) for pid in registry.workers])
    await asyncio.gather(*clients, *idle)
    return load, memory


def growth(memory: list[list[int]]) -> list[str]:
    """What takes more than it may, in words."""
    found = []
    for number, (early, late) in enumerate(zip(*memory, strict=True), 1):
        if late * 100 > MOST_PER_CENT * early:
            found.append(f"worker {number} grew from {early} to {late} KiB")
        if late > MOST_KIB:
            found.append(f"worker {number} has {late} KiB, more than {MOST_KIB}")
    return found


def main() -> None:
    """Load it, say how it went, exit 1 for an error or growth."""
    parser = argparse.ArgumentParser(prog="load", description=__doc__)
    parser.add_argument("--seconds", type=float, default=A_MINUTE)
    parser.add_argument("--pushers", type=int, default=64)
    parser.add_argument("--pullers", type=int, default=256)
    parser.add_argument("--idle", type=int, default=2000, help="connections that do nothing")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with (
        tempfile.TemporaryDirectory(prefix="hatoba-load-") as folder,
        serving(Path(folder), sign_in=False) as registry,
    ):
        load, memory = asyncio.run(work(registry, options))
        problems = load.errors + (growth(memory) if options.seconds >= A_MINUTE else [])
        problems += problems_at_the_end(registry)
    told = ", ".join(f"{number} {kind}" for kind, number in load.done.items())
    at = f"second {options.seconds / 4:.0f}", f"second {options.seconds:.0f}"
    shown = "; ".join(
        f"worker {number}: {early // 1024} MiB at {at[0]}, {late // 1024} at {at[1]}"
        for number, (early, late) in enumerate(zip(*memory, strict=True), 1)
    )
    print(f"load: {options.pushers} pushers, {options.pullers} pullers, {options.idle} idle, {options.seconds:.0f} s: "
          f"{told}, {len(load.errors)} errors; {shown}")  # fmt: skip
    sys.exit("\n".join(problems[:20]) or None)


if __name__ == "__main__":
    main()
