"""Taking in the bytes of an upload: receiving, hashing and writing overlap, block by block.

Owns the pipeline and the live hashers. Whoever uses it holds the upload's lock and decides what the bytes mean.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from hatoba.blobs.driver import BlobReader, BlobWriter
from hatoba.cancellation import outlast
from hatoba.oci.digest import Hasher, hasher

_BLOCK_BYTES = 1024 * 1024
_BLOCK_CHUNKS = 512  # a client that sends single bytes must not grow a list without bound
_HASH_INLINE_BYTES = 32 * 1024  # cheaper than handing it to a thread
_READ_BACK_BYTES = 4 * 1024 * 1024


class Intake:
    """Writes a body at `offset` of an upload and keeps `hasher_` true to every byte of it.

    While one block is hashed and written (two threads; both release the GIL) the next is received: never more than two
    blocks are in memory.
    """

    def __init__(self, writer: BlobWriter, hasher_: Hasher | None, offset: int, pool: ThreadPoolExecutor) -> None:
        self.offset = offset
        self._writer = writer
        self._hasher = hasher_
        self._pool = pool
        self._chunks: list[bytes] = []
        self._held_bytes = 0
        self._running: asyncio.Task[None] | None = None

    async def add(self, chunk: bytes) -> None:
        """Take more bytes; raises what writing an earlier block raised."""
        if chunk:
            self._chunks.append(chunk)
            self._held_bytes += len(chunk)
            if self._held_bytes >= _BLOCK_BYTES or len(self._chunks) >= _BLOCK_CHUNKS:
                await self._start_block()

    async def finish(self) -> None:
        """Write what is left and wait for all of it; `offset` is then the end."""
        if self._chunks:
            await self._start_block()
        await self._wait()

    async def stop(self) -> None:
        """Wait for the block under way, whatever becomes of it; nothing touches the writer afterwards."""
        if self._running is not None:
            await outlast(self._running)

    async def _start_block(self) -> None:
        await self._wait()
        chunks, self._chunks, self._held_bytes = self._chunks, [], 0
        self._running = asyncio.get_running_loop().create_task(self._take(chunks))

    async def _wait(self) -> None:
        running = self._running
        if running is not None:
            await asyncio.shield(running)
            self._running = None

    async def _take(self, chunks: Sequence[bytes]) -> None:
        length = sum(map(len, chunks))
        if self._hasher is None or length <= _HASH_INLINE_BYTES:
            _update(self._hasher, chunks)
            await self._writer.write(self.offset, chunks)
        else:
            hashing = asyncio.get_running_loop().run_in_executor(self._pool, _update, self._hasher, chunks)
            try:
                await self._writer.write(self.offset, chunks)
            finally:
                await hashing
        self.offset += length


class LiveHashers:
    """Hash states between the requests of an upload, by (upload, offset): hashlib's cannot be stored.

    Bounded in number and idle time; what is dropped costs one read of the file at the closing request.
    """

    def __init__(self, most: int = 1024, idle_seconds: float = 600.0) -> None:
        self._most = most
        self._idle_seconds = idle_seconds
        self._kept: OrderedDict[str, tuple[int, Hasher, float]] = OrderedDict()

    def take(self, upload_id: str, offset: int, algorithm: str) -> Hasher | None:
        """The hasher that has seen exactly the first `offset` bytes; a new one at the start; else None."""
        kept = self._kept.pop(upload_id, None)
        if offset == 0:
            return hasher(algorithm)
        if kept is None or kept[0] != offset or time.monotonic() - kept[2] > self._idle_seconds:
            return None
        return kept[1]

    def keep(self, upload_id: str, offset: int, live: Hasher) -> None:
        """Remember `live`, which has seen the first `offset` bytes."""
        self._kept[upload_id] = (offset, live, time.monotonic())
        self._kept.move_to_end(upload_id)
        oldest = next(iter(self._kept.values()))
        if len(self._kept) > self._most or time.monotonic() - oldest[2] > self._idle_seconds:
            self._kept.popitem(last=False)

    def forget(self, upload_id: str) -> None:
        """The upload ended."""
        self._kept.pop(upload_id, None)


async def read_back(
    source: BlobReader | BlobWriter,
    size: int,
    algorithm: str,
    pool: ThreadPoolExecutor | None = None,
    pace: Callable[[int], Awaitable[None]] | None = None,
) -> str:
    """The hex digest of the first `size` bytes of a blob or an upload, read from where they lie.

    Hashed on `pool`, or the loop's own. `pace` is awaited after every block with its bytes: whoever it is may be slow.
    """
    found = hasher(algorithm)
    loop = asyncio.get_running_loop()
    offset = 0
    while offset < size:
        block = await source.read(offset, min(_READ_BACK_BYTES, size - offset))
        if not block:
            break  # shorter than its row: the digest differs, and the caller looks at the size
        if len(block) <= _HASH_INLINE_BYTES:
            found.update(block)
        else:
            await loop.run_in_executor(pool, _update, found, (block,))
        offset += len(block)
        if pace is not None:
            await pace(len(block))
    return found.hexdigest()


def _update(live: Hasher | None, chunks: Sequence[bytes]) -> None:
    if live is not None:
        for chunk in chunks:
            live.update(chunk)
