"""The driver that keeps bytes in this process: `storage: inmemory`, and a quick second implementation for the tests.

One worker only, gone when it ends. Same contract as a disk, so nothing above can tell.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

from hatoba.blobs.driver import BlobReader, BlobWriter, Child, Entry, KeyBusy, KeyMissing, Listed

_STAGED = "hatoba/tmp/"
_ASIDE = "hatoba/aside/"


class Memory:
    """`BlobDriver` on a dict. Transactions publish from a thread of theirs, so nothing iterates the dict itself."""

    def __init__(self) -> None:
        self._content: dict[str, bytearray] = {}
        self._staged_at: dict[str, float] = {}
        self._busy: set[str] = set()
        self._opened_at = datetime.now(UTC)
        self._written_at: dict[str, datetime] = {}

    async def stat(self, key: str) -> int | None:
        """See `BlobDriver.stat`."""
        found = self._content.get(key)
        return None if found is None else len(found)

    async def inspect(self, key: str) -> Entry | None:
        """See `BlobDriver.inspect`."""
        found = self._content.get(key)
        return None if found is None else Entry("file", len(found), (id(found), len(found)))

    async def open(self, key: str) -> BlobReader:
        """See `BlobDriver.open`."""
        return _MemoryReader(self._at(key))

    async def read(self, key: str, limit: int) -> bytes:
        """See `BlobDriver.read`."""
        return bytes(self._at(key)[:limit])

    async def create(self, key: str) -> None:
        """See `BlobDriver.create`."""
        if key in self._content:
            raise FileExistsError(key)
        self._content[key] = bytearray()

    @contextlib.asynccontextmanager
    async def append(self, key: str) -> AsyncIterator[BlobWriter]:
        """See `BlobDriver.append`."""
        content = self._at(key)
        if key in self._busy:
            raise KeyBusy(key)
        self._busy.add(key)
        try:
            yield _MemoryWriter(key, content)
        finally:
            self._busy.discard(key)

    async def stage(self, content: bytes) -> str:
        """See `BlobDriver.stage`."""
        key = f"{_STAGED}{uuid.uuid4().hex}"
        self._content[key] = bytearray(content)
        self._staged_at[key] = time.time()
        return key

    async def prepare(self, key: str) -> None:
        """See `BlobDriver.prepare`."""

    async def publish(self, source: str, key: str) -> None:
        """See `BlobDriver.publish`."""
        self._at(source)
        self._content[key] = self._content.pop(source)
        self._written_at[key] = datetime.now(UTC)
        self._staged_at.pop(source, None)

    async def set_aside(self, key: str, name: str) -> str:
        """See `BlobDriver.set_aside`."""
        self._at(key)
        self._content[f"{_ASIDE}{name}"] = self._content.pop(key)
        return f"{_ASIDE}{name}"

    async def remove(self, key: str) -> None:
        """See `BlobDriver.remove`."""
        self._content.pop(key, None)
        self._staged_at.pop(key, None)
        self._written_at.pop(key, None)

    async def write_link(self, key: str, content: bytes) -> None:
        """See `BlobDriver.write_link`."""
        self._content[key] = bytearray(content)
        self._written_at[key] = datetime.now(UTC)

    async def make_folder(self, key: str) -> None:
        """See `BlobDriver.make_folder`."""

    async def remove_tree(self, key: str) -> None:
        """See `BlobDriver.remove_tree`."""
        for found in [name for name in list(self._content) if name.startswith(f"{key}/")]:
            await self.remove(found)

    async def sync_links(self, keys: Sequence[str]) -> None:
        """See `BlobDriver.sync_links`."""

    async def walk(self, prefix: str) -> AsyncIterator[str]:
        """See `BlobDriver.walk`."""
        inside = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        for key in list(self._content):
            if key.startswith(inside) and not key.startswith("hatoba/"):
                yield key

    async def children(self, folder: str) -> list[Child]:
        """See `BlobDriver.children`. Folders without a file are none here."""
        inside = f"{folder}/" if folder else ""
        names = {key.removeprefix(inside).partition("/")[:2] for key in list(self._content) if key.startswith(inside)}
        return [Child(name, bool(more)) for name, more in names]

    async def listing(self, prefix: str) -> list[Listed]:
        """See `BlobDriver.listing`."""
        return [
            Listed(key, len(content), self._written_at.get(key, self._opened_at))
            for key, content in list(self._content.items())
            if key.startswith(f"{prefix}/")
        ]

    async def read_each(self, keys: Sequence[str], limit: int) -> list[bytes | None]:
        """See `BlobDriver.read_each`."""
        return [bytes(self._content[key][:limit]) if key in self._content else None for key in keys]

    async def changed_at(self, key: str) -> datetime | None:
        """See `BlobDriver.changed_at`: there are no folders."""
        del key
        return None

    async def stale(self, seconds: float) -> int:
        """See `BlobDriver.stale`."""
        old = [key for key, at in list(self._staged_at.items()) if at < time.time() - seconds]
        for key in old:
            await self.remove(key)
        return len(old)

    def close(self) -> None:
        """See `BlobDriver.close`."""

    def _at(self, key: str) -> bytearray:
        try:
            return self._content[key]
        except KeyError:
            raise KeyMissing(key) from None


class _MemoryReader:
    def __init__(self, content: bytearray) -> None:
        self.size = len(content)
        self.path: str | None = None
        self._content = content

    async def read(self, offset: int, length: int) -> bytes:
        return bytes(self._content[offset : offset + length])

    def close(self) -> None:
        pass


class _MemoryWriter:
    def __init__(self, key: str, content: bytearray) -> None:
        self._key = key
        self._content = content
        self._sealed = False

    async def truncate(self, size: int) -> None:
        if len(self._content) < size:
            raise KeyMissing(self._key)
        if len(self._content) > size:
            self._writable()
            del self._content[size:]

    async def room(self) -> int | None:
        return None

    async def write(self, offset: int, chunks: Sequence[bytes]) -> None:
        self._writable()
        joined = b"".join(chunks)
        if joined:
            self._content.extend(bytes(max(0, offset - len(self._content))))  # a hole reads as zeros, as on a disk
            self._content[offset : offset + len(joined)] = joined

    async def sync(self) -> None:
        pass

    async def seal(self) -> int:
        self._sealed = True
        return len(self._content)

    async def read(self, offset: int, length: int) -> bytes:
        return bytes(self._content[offset : offset + length])

    def _writable(self) -> None:
        if self._sealed:
            raise ValueError("the upload is sealed")
