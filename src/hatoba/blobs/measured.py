"""Any driver, with the time that each of its actions takes, named as Docker's registry names them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime

from hatoba.blobs.driver import BlobDriver, BlobReader, BlobWriter, Child, Entry, Listed
from hatoba.metrics.catalogue import ACTIONS, STORAGE_ACTION
from hatoba.metrics.cells import Histogram, Recorder


class Measured:
    """`BlobDriver` that passes everything on to `driver`, whose kind is `name`."""

    def __init__(self, driver: BlobDriver, name: str, recorder: Recorder) -> None:
        self._driver = driver
        self._actions = {action: recorder.histogram(STORAGE_ACTION, name, action) for action in ACTIONS}

    async def stat(self, key: str) -> int | None:
        """See `BlobDriver.stat`."""
        with self._timed("Stat"):
            return await self._driver.stat(key)

    async def inspect(self, key: str) -> Entry | None:
        """See `BlobDriver.inspect`."""
        with self._timed("Stat"):
            return await self._driver.inspect(key)

    async def open(self, key: str) -> BlobReader:
        """See `BlobDriver.open`."""
        with self._timed("Reader"):
            return await self._driver.open(key)

    async def read(self, key: str, limit: int) -> bytes:
        """See `BlobDriver.read`."""
        with self._timed("GetContent"):
            return await self._driver.read(key, limit)

    async def create(self, key: str) -> None:
        """See `BlobDriver.create`."""
        with self._timed("PutContent"):
            await self._driver.create(key)

    @asynccontextmanager
    async def append(self, key: str) -> AsyncIterator[BlobWriter]:
        """See `BlobDriver.append`."""
        async with AsyncExitStack() as stack:
            with self._timed("Writer"):
                writer = await stack.enter_async_context(self._driver.append(key))
            yield _Writer(writer, self._actions)

    async def stage(self, content: bytes) -> str:
        """See `BlobDriver.stage`."""
        with self._timed("PutContent"):
            return await self._driver.stage(content)

    async def prepare(self, key: str) -> None:
        """See `BlobDriver.prepare`."""
        with self._timed("Prepare"):
            await self._driver.prepare(key)

    async def publish(self, source: str, key: str) -> None:
        """See `BlobDriver.publish`."""
        with self._timed("Move"):
            await self._driver.publish(source, key)

    async def set_aside(self, key: str, name: str) -> str:
        """See `BlobDriver.set_aside`."""
        with self._timed("Move"):
            return await self._driver.set_aside(key, name)

    async def remove(self, key: str) -> None:
        """See `BlobDriver.remove`."""
        with self._timed("Delete"):
            await self._driver.remove(key)

    async def write_link(self, key: str, content: bytes) -> None:
        """See `BlobDriver.write_link`."""
        with self._timed("PutContent"):
            await self._driver.write_link(key, content)

    async def make_folder(self, key: str) -> None:
        """See `BlobDriver.make_folder`."""
        await self._driver.make_folder(key)

    async def remove_tree(self, key: str) -> None:
        """See `BlobDriver.remove_tree`."""
        with self._timed("Delete"):
            await self._driver.remove_tree(key)

    async def sync_links(self, keys: Sequence[str]) -> None:
        """See `BlobDriver.sync_links`."""
        with self._timed("SyncLinks"):
            await self._driver.sync_links(keys)

    def walk(self, prefix: str) -> AsyncIterator[str]:
        """See `BlobDriver.walk`."""
        return self._driver.walk(prefix)

    async def children(self, folder: str) -> list[Child]:
        """See `BlobDriver.children`."""
        with self._timed("List"):
            return await self._driver.children(folder)

    async def listing(self, prefix: str) -> list[Listed]:
        """See `BlobDriver.listing`."""
        with self._timed("List"):
            return await self._driver.listing(prefix)

    async def read_each(self, keys: Sequence[str], limit: int) -> list[bytes | None]:
        """See `BlobDriver.read_each`."""
        with self._timed("GetContent"):
            return await self._driver.read_each(keys, limit)

    async def changed_at(self, key: str) -> datetime | None:
        """See `BlobDriver.changed_at`."""
        with self._timed("Stat"):
            return await self._driver.changed_at(key)

    async def stale(self, seconds: float) -> int:
        """See `BlobDriver.stale`."""
        return await self._driver.stale(seconds)

    def close(self) -> None:
        """See `BlobDriver.close`."""
        self._driver.close()

    def _timed(self, action: str) -> _Timed:
        return _Timed(self._actions[action])


class _Writer:
    """`BlobWriter` that passes everything on, and measures where it waits for the disk."""

    def __init__(self, writer: BlobWriter, actions: Mapping[str, Histogram]) -> None:
        self._writer = writer
        self._actions = actions

    async def truncate(self, size: int) -> None:
        """See `BlobWriter.truncate`."""
        await self._writer.truncate(size)

    async def room(self) -> int | None:
        """See `BlobWriter.room`."""
        return await self._writer.room()

    async def write(self, offset: int, chunks: Sequence[bytes]) -> None:
        """See `BlobWriter.write`."""
        with _Timed(self._actions["Write"]):
            await self._writer.write(offset, chunks)

    async def sync(self) -> None:
        """See `BlobWriter.sync`."""
        with _Timed(self._actions["Sync"]):
            await self._writer.sync()

    async def seal(self) -> int:
        """See `BlobWriter.seal`."""
        return await self._writer.seal()

    async def read(self, offset: int, length: int) -> bytes:
        """See `BlobWriter.read`."""
        return await self._writer.read(offset, length)


class _Timed:
    """Measures what happens within, whatever comes of it."""

    __slots__ = ("_histogram", "_started")

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._started = time.perf_counter()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._histogram.observe(time.perf_counter() - self._started)
