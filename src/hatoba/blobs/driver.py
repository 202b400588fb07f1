"""What hatoba asks of a place that keeps bytes: the `BlobDriver` protocol and its contract in words.

`testing.driver_contract` is the same contract as tests. Keys are relative paths with `/`, made by `layout` alone.

A key's bytes change in three ways only. `publish` moves a finished upload or staged file onto it, as one step;
`write_link` replaces a small file, as one step; `remove` ends it. A reader that is open keeps the bytes it opened.
What is durable is said at each method: a *durable* change survives power loss when the call returns.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from hatoba.errors import InsufficientStorage


class KeyMissing(Exception):
    """Nothing lies at the key. Never leaves the registry package."""


class KeyBusy(Exception):
    """Another request, of this or of another process, is writing or closing the upload at the key."""


class OutOfSpace(InsufficientStorage):
    """The disk or quota is full. Answered as what it is, at whatever step it is met."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What lies at a key, a symbolic link not followed. `identity` differs once anything was put there or written."""

    kind: Literal["file", "symlink", "folder", "other"]
    size: int
    identity: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Child:
    """What lies directly in a folder."""

    name: str
    is_folder: bool


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of a listing: its size in bytes (-1: no regular file) and when it was last written."""

    key: str
    size: int
    written_at: datetime


class BlobReader(Protocol):
    """An open blob. `size` in bytes, as of opening; `path` is that of a local file, for others to send; or None."""

    size: int
    path: str | None

    async def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes at `offset`; fewer only at the end. Positional: readers share no state."""

    def close(self) -> None:
        """Free it; may be called twice."""


class BlobWriter(Protocol):
    """Exclusive use of one upload's bytes, from `BlobDriver.append` until the context ends."""

    async def truncate(self, size: int) -> None:
        """Cut back to `size` bytes: what lies beyond was never acknowledged. KeyMissing if there are fewer."""

    async def room(self) -> int | None:
        """How many bytes more may be written; None where nobody can say. A reserve stays, so that deleting works."""

    async def write(self, offset: int, chunks: Sequence[bytes]) -> None:
        """Put `chunks` one after the other at `offset`. After any error the upload is lost for good."""

    async def sync(self) -> None:
        """Make everything written durable."""

    async def seal(self) -> int:
        """End writing for good: read-only from here, no writable descriptor left. Returns the size in bytes."""

    async def read(self, offset: int, length: int) -> bytes:
        """Read back, to hash what another process wrote."""


class BlobDriver(Protocol):
    """A place for bytes. `stat`, `inspect`, `open`, `publish` and `set_aside` never suspend on local drivers."""

    async def stat(self, key: str) -> int | None:
        """The size at `key` in bytes, None when nothing (or no file) is there."""

    async def inspect(self, key: str) -> Entry | None:
        """What lies at `key`, of whatever kind; None when nothing does."""

    async def open(self, key: str) -> BlobReader:
        """Open for reading; raises KeyMissing, or Unavailable when out of descriptors or the disk fails."""

    async def read(self, key: str, limit: int) -> bytes:
        """The whole content of a small file; raises KeyMissing. Over `limit` bytes it is cut there."""

    async def create(self, key: str) -> None:
        """Begin an empty upload at `key`, parents included. Not durable: an upload of nothing is nothing."""

    def append(self, key: str) -> AbstractAsyncContextManager[BlobWriter]:
        """Take the upload at `key` exclusively, over all processes; raises KeyMissing, KeyBusy at once."""

    async def stage(self, content: bytes) -> str:
        """Keep `content` durably under a new temporary key, which is returned, ready to `publish`."""

    async def prepare(self, key: str) -> None:
        """Make the folders that `publish` needs, durably."""

    async def publish(self, source: str, key: str) -> None:
        """Move `source` onto `key` as one durable step, replacing what is there. Runs inside a write transaction."""

    async def set_aside(self, key: str, name: str) -> str:
        """Take what lies at `key` out of the tree, durably, and keep it as `name`; the key that it has then.

        Runs inside a write transaction. Raises KeyMissing when nothing is there.
        """

    async def remove(self, key: str) -> None:
        """End the key; nothing happens when it is not there. Empty parents of uploads go too. Not durable."""

    async def write_link(self, key: str, content: bytes) -> None:
        """Replace the small file at `key` as one step, parents included. Not durable before `sync_links`."""

    async def make_folder(self, key: str) -> None:
        """Make a folder (nothing on a store without folders). Not durable before `sync_links`."""

    async def remove_tree(self, key: str) -> None:
        """End every key under the folder `key`. Not durable before `sync_links`."""

    async def sync_links(self, keys: Sequence[str]) -> None:
        """Make earlier `write_link`, `make_folder`, `remove` and `remove_tree` of these keys durable."""

    def walk(self, prefix: str) -> AsyncIterator[str]:
        """All keys under `prefix` in no order; never looks into hatoba's own folder.

        What cannot be read is passed over, and its error raised at the end: Unavailable, or KeyMissing.
        """

    async def children(self, folder: str) -> list[Child]:
        """What lies directly in `folder`, in no order; nothing where there is none."""

    async def listing(self, prefix: str) -> list[Listed]:
        """All files under `prefix`, in no order: `walk` with sizes and times, in one piece. Looks where it is told."""

    async def read_each(self, keys: Sequence[str], limit: int) -> list[bytes | None]:
        """The content of many small files, in the order of `keys`; None for what is not there. Cut at `limit` bytes."""

    async def changed_at(self, key: str) -> datetime | None:
        """When anything was last added to or taken from the nearest folder at or above `key`; None if nobody knows."""

    async def stale(self, seconds: float) -> int:
        """Remove temporary files older than `seconds`, left by a crash; how many went."""

    def close(self) -> None:
        """Stop the driver's threads; everything handed out is closed by then."""


def ancestors(key: str) -> Iterator[str]:
    """The folders above `key`, nearest first, without the root."""
    while "/" in key:
        key = key.rpartition("/")[0]
        yield key
