"""The driver for a folder on a local disk, in distribution's layout: `BlobDriver` on POSIX calls.

Owns descriptors, fsync order and the flock on uploads. Its temporary files lie in `<root>/hatoba/tmp`, where Docker's
registry never looks, so that no unfinished file is ever seen in the shared tree. It never opens anything else there.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import stat
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

from hatoba.blobs import copying, files, folders
from hatoba.blobs.driver import BlobReader, BlobWriter, Child, Entry, KeyBusy, KeyMissing, Listed, OutOfSpace, ancestors
from hatoba.cancellation import in_thread, outlast
from hatoba.errors import Unavailable

_P = ParamSpec("_P")
_T = TypeVar("_T")

OWN_FOLDER = "hatoba"
_THREADS = 16
_IOV_MAX = 512  # Linux takes 1,024 pieces in one pwritev; half of it is as fast
_WRITE_BACK_BYTES = 64 * 1024 * 1024  # start the disk early: a final fdatasync of gigabytes would stall the answer
_RESERVE_BYTES = 64 * 1024 * 1024  # uploads leave it free: a database that cannot write cannot delete either


class Filesystem:
    """`BlobDriver` on the folder `root`; opening it makes only hatoba's own folder for temporary files.

    With `at_once` links are made durable by one sync of the whole file system: for a million of them in a row.
    """

    def __init__(self, root: Path, *, at_once: bool = False) -> None:
        self._at_once = at_once
        self._root = root
        self._temporary = root / OWN_FOLDER / "tmp"
        self._temporary.mkdir(parents=True, exist_ok=True)
        # Apart, so that pulls do not wait for a disk that syncs slowly.
        self._reads = ThreadPoolExecutor(_THREADS, thread_name_prefix="hatoba-read")
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="hatoba-disk")
        self._durable: set[str] = set()

    async def stat(self, key: str) -> int | None:
        """See `BlobDriver.stat`."""
        try:
            found = os.stat(self._path(key))
        except OSError as error:
            if error.errno in files.MISSING:
                return None
            raise Unavailable(f"the registry's disk fails: {os.strerror(error.errno or 0)}") from error
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    async def inspect(self, key: str) -> Entry | None:
        """See `BlobDriver.inspect`."""
        try:
            found = os.lstat(self._path(key))
        except OSError as error:
            if error.errno in files.MISSING:
                return None
            raise Unavailable(f"the registry's disk fails: {os.strerror(error.errno or 0)}") from error
        identity = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)
        return Entry(_kind(found.st_mode), found.st_size, identity)

    async def open(self, key: str) -> BlobReader:
        """See `BlobDriver.open`."""
        path = self._path(key)
        descriptor = files.open_for_reading(path)
        try:
            with files.translated():
                found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise KeyMissing(key)
        except BaseException:
            os.close(descriptor)
            raise
        return _FileReader(path, descriptor, found.st_size, self._reads)

    async def read(self, key: str, limit: int) -> bytes:
        """See `BlobDriver.read`."""
        return await self._run(files.read, self._path(key), limit)

    async def create(self, key: str) -> None:
        """See `BlobDriver.create`."""
        await self._run(files.create, self._path(key))

    @contextlib.asynccontextmanager
    async def append(self, key: str) -> AsyncIterator[BlobWriter]:
        """See `BlobDriver.append`."""
        writer = _FileWriter(self._path(key), self._pool)
        try:
            await self._run(writer.lock)
            yield writer
        finally:
            try:
                await writer.stop()
            finally:
                await self._run(writer.close)

    async def stage(self, content: bytes) -> str:
        """See `BlobDriver.stage`."""
        name = uuid.uuid4().hex
        await self._run(files.write_durably, str(self._temporary / name), content)
        return f"{OWN_FOLDER}/tmp/{name}"  # noqa: S108  a folder of ours, not the system's

    async def prepare(self, key: str) -> None:
        """See `BlobDriver.prepare`."""
        await self._run(self._make_folders_durably, key)

    async def publish(self, source: str, key: str) -> None:
        """See `BlobDriver.publish`."""
        target = self._path(key)
        with files.translated():
            os.rename(self._path(source), target)
            files.fsync_folder(os.path.dirname(target))

    async def set_aside(self, key: str, name: str) -> str:
        """See `BlobDriver.set_aside`."""
        aside = f"{OWN_FOLDER}/aside/{name}"
        with files.translated():
            os.makedirs(self._path(os.path.dirname(aside)), exist_ok=True)
            os.rename(self._path(key), self._path(aside))
            files.fsync_folder(self._path(os.path.dirname(aside)))
            files.fsync_folder(self._path(OWN_FOLDER))
            files.fsync_folder(os.path.dirname(self._path(key)))
        return aside

    async def remove(self, key: str) -> None:
        """See `BlobDriver.remove`."""
        await self._run(files.remove, self._path(key))

    async def write_link(self, key: str, content: bytes) -> None:
        """See `BlobDriver.write_link`."""
        await self._run(self._write_link, key, content)

    async def make_folder(self, key: str) -> None:
        """See `BlobDriver.make_folder`."""
        await self._run(files.make_folders, self._path(key))

    async def remove_tree(self, key: str) -> None:
        """See `BlobDriver.remove_tree`."""
        await self._run(folders.remove_tree, self._path(key))

    async def sync_links(self, keys: Sequence[str]) -> None:
        """See `BlobDriver.sync_links`."""
        await self._run(self._sync_links, tuple(keys))

    async def walk(self, prefix: str) -> AsyncIterator[str]:
        """See `BlobDriver.walk`."""
        prefix = prefix.strip("/")
        pending = [] if prefix.partition("/")[0] == OWN_FOLDER else [prefix]
        failed: Exception | None = None
        while pending:
            folder = pending.pop()
            try:
                found = await self._run(folders.entries, self._path(folder))
            except (KeyMissing, Unavailable) as error:  # missing: its path is too long
                failed = failed or error
                continue
            for name, is_folder in found:
                key = f"{folder}/{name}" if folder else name
                if not is_folder:
                    yield key
                elif key != OWN_FOLDER:
                    pending.append(key)
        if failed is not None:
            raise failed

    async def children(self, folder: str) -> list[Child]:
        """See `BlobDriver.children`."""
        return await self._run(folders.children, self._path(folder))

    async def listing(self, prefix: str) -> list[Listed]:
        """See `BlobDriver.listing`."""
        return await self._run(folders.listed, self._path(prefix), prefix)

    async def read_each(self, keys: Sequence[str], limit: int) -> list[bytes | None]:
        """See `BlobDriver.read_each`."""
        return await self._run(files.read_each, [self._path(key) for key in keys], limit)

    async def changed_at(self, key: str) -> datetime | None:
        """See `BlobDriver.changed_at`."""
        return await self._run(folders.changed_at, self._path(key), str(self._root))

    async def stale(self, seconds: float) -> int:
        """See `BlobDriver.stale`."""
        return await self._run(folders.remove_older, str(self._temporary), time.time() - seconds)

    def close(self) -> None:
        """See `BlobDriver.close`."""
        self._reads.shutdown(wait=True)
        self._pool.shutdown(wait=True)

    async def _run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with files.translated():
            return await in_thread(self._pool, function, *args, **kwargs)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _make_folders_durably(self, key: str) -> None:
        # A folder is durable when its parent is fsynced. The blob's own is always fsynced into its parent, even if it
        # was there: the push that made it may not have come to its fsync. Those above are never removed: once will do.
        above = list(ancestors(key))
        with files.translated():
            files.make_folders(self._path(above[0]))
            for position, folder in enumerate(above):
                if position and folder in self._durable:
                    continue
                files.fsync_folder(os.path.dirname(self._path(folder)))
                if position:
                    self._durable.add(folder)

    def _write_link(self, key: str, content: bytes) -> None:
        # Docker's registry beside us may remove an empty folder in between; and to who clears up after a crash our file
        # looks old when the clock was set forward.
        with files.translated():
            for _ in range(3):
                with contextlib.suppress(FileNotFoundError):
                    self._replace(self._path(key), content)
                    return
            raise Unavailable("a folder of the repository's tree goes away as soon as it is made")

    def _replace(self, path: str, content: bytes) -> None:
        temporary = str(self._temporary / uuid.uuid4().hex)
        try:
            with open(temporary, "xb") as file:
                file.write(content)
            files.make_folders(os.path.dirname(path))
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def _sync_links(self, keys: tuple[str, ...]) -> None:
        if self._at_once:
            copying.sync(self._root)
            return
        above: set[str] = set()
        with files.translated():
            for key in keys:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    files.fsync_path(self._path(key))
                above.update(ancestors(key))
            for folder in sorted(above, key=len, reverse=True):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    files.fsync_folder(self._path(folder))


def _kind(mode: int) -> Literal["file", "symlink", "folder", "other"]:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISLNK(mode):
        return "symlink"
    return "folder" if stat.S_ISDIR(mode) else "other"


class _FileReader:
    """One descriptor; the reads are positional, so a request may have several under way."""

    def __init__(self, path: str, descriptor: int, size: int, pool: ThreadPoolExecutor) -> None:
        self.path: str | None = path
        self.size = size
        self._descriptor: int | None = descriptor
        self._pool = pool

    async def read(self, offset: int, length: int) -> bytes:
        descriptor = self._descriptor
        if descriptor is None:
            raise ValueError("the reader is closed")
        return await in_thread(self._pool, files.pread, descriptor, length, offset)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class _FileWriter:
    """The lock (a read-only descriptor) and, while writing, a writable one; both closed on the pool after the last use.

    The lock outlives the writable descriptor: the file is renamed onto the blob's key while nobody can write to it
    and nobody else can take it.
    """

    def __init__(self, path: str, pool: ThreadPoolExecutor) -> None:
        self._path = path
        self._pool = pool
        self._lock: int | None = None
        self._file: int | None = None
        self._sealed = False
        self._written_back = 0
        self._early: asyncio.Future[None] | None = None

    def lock(self) -> None:
        """Take the flock; raises KeyMissing, KeyBusy. A folder, or a file renamed or removed meanwhile, is missing."""
        descriptor = files.open_for_reading(self._path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            there = os.stat(self._path)
            ours = os.fstat(descriptor)
            if not stat.S_ISREG(ours.st_mode) or (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
                raise FileNotFoundError(errno.ENOENT, "no file, or replaced meanwhile", self._path)
        except BlockingIOError:
            os.close(descriptor)
            raise KeyBusy(self._path) from None
        except BaseException:
            os.close(descriptor)
            raise
        self._lock = descriptor

    async def truncate(self, size: int) -> None:
        await in_thread(self._pool, self._truncate, size)
        self._written_back = size

    async def room(self) -> int | None:
        return await in_thread(self._pool, self._room)

    async def write(self, offset: int, chunks: Sequence[bytes]) -> None:
        await in_thread(self._pool, self._pwrite, offset, chunks)
        if offset - self._written_back >= _WRITE_BACK_BYTES and (self._early is None or self._early.done()):
            await self._check_early()
            self._written_back = offset
            self._early = asyncio.ensure_future(in_thread(self._pool, self._fdatasync))

    async def sync(self) -> None:
        await self._check_early()
        await in_thread(self._pool, self._fdatasync)

    async def seal(self) -> int:
        await self._check_early()
        return await in_thread(self._pool, self._seal)

    async def read(self, offset: int, length: int) -> bytes:
        return await in_thread(self._pool, files.pread, self._locked(), length, offset)

    async def stop(self) -> None:
        """Wait for an early sync that a cancelled or failed request left behind."""
        if self._early is not None and await outlast(self._early):
            raise asyncio.CancelledError

    def close(self) -> None:
        """Close both descriptors; runs on the pool when every write and sync has ended."""
        file, self._file = self._file, None
        lock, self._lock = self._lock, None
        for descriptor in (file, lock):
            if descriptor is not None:
                os.close(descriptor)

    async def _check_early(self) -> None:
        # The kernel reports a failed write-back once, maybe to this call: its error must not be lost.
        early, self._early = self._early, None
        if early is not None:
            await early

    def _locked(self) -> int:
        if self._lock is None:
            raise ValueError("the upload is not locked")
        return self._lock

    def _writable(self) -> int:
        if self._sealed:
            raise ValueError("the upload is sealed")
        if self._file is None:
            with files.translated():
                # A closing request that failed after `seal` left the file read-only; this one goes on with it.
                os.fchmod(self._locked(), files.WRITABLE)
                self._file = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        return self._file

    def _truncate(self, size: int) -> None:
        found = os.fstat(self._locked()).st_size
        if found < size:
            raise KeyMissing(self._path)
        if found > size:
            with files.translated():
                os.ftruncate(self._writable(), size)

    def _room(self) -> int:
        with files.translated():
            found = os.fstatvfs(self._locked())
        return max(0, found.f_bavail * found.f_frsize - _RESERVE_BYTES)

    def _pwrite(self, offset: int, chunks: Sequence[bytes]) -> None:
        descriptor = self._writable()
        if self._room() < sum(map(len, chunks)):
            raise OutOfSpace("the disk is full but for the reserve")
        with files.translated():
            for start in range(0, len(chunks), _IOV_MAX):
                batch = chunks[start : start + _IOV_MAX]
                length = sum(map(len, batch))
                written = os.pwritev(descriptor, batch, offset)
                if written < length:
                    files.pwrite_all(descriptor, b"".join(batch)[written:], offset + written)
                offset += length

    def _fdatasync(self) -> None:
        if self._file is not None:
            with files.translated():
                os.fdatasync(self._file)

    def _seal(self) -> int:
        lock = self._locked()
        self._sealed = True
        with files.translated():
            os.fchmod(lock, files.READ_ONLY)
            if self._file is not None:
                os.fsync(self._file)
                os.close(self._file)
                self._file = None
            else:
                os.fsync(lock)
        return os.fstat(lock).st_size
