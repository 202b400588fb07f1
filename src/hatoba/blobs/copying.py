"""Copies files of one local tree into another: as hard links, as clones that share blocks, or byte for byte.

For blobs, whose content never changes and is compared with its digest on the way. Plain calls that may wait for the
disk: they run on threads.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hatoba.oci.digest import Digest, hasher

_CLONE = 0x40049409  # FICLONE of Linux: XFS, Btrfs, bcachefs, ZFS; NFS 4.2
_BLOCK_BYTES = 4 * 1024 * 1024
_READ_ONLY = 0o444
_ABSENT = {errno.ENOENT, errno.ENOTDIR}
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP}


class StoppedError(Exception):
    """`Copier.stop` was called."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to be copied: its key, and what its content must be."""

    key: str
    digest: Digest
    size: int


@dataclass(slots=True)
class Copied:
    """How many files were copied, of how many bytes; those `cloned` and `linked` share them with the source."""

    files: int = 0
    bytes: int = 0
    cloned: int = 0
    linked: int = 0


class Copier:
    """Copies files of the tree `source` into the tree `target`, through its folder `hatoba/tmp`.

    `advance` hears of every block, on the thread that copies.
    """

    def __init__(self, source: Path, target: Path, advance: Callable[[int], None], *, hard_links: bool) -> None:
        self._source = source
        self._target = target
        self._advance = advance
        self._hard_links = hard_links
        self._stopped = threading.Event()
        self.copied = Copied()

    def stop(self) -> None:
        """Let the batch that runs end with StoppedError at its next block."""
        self._stopped.set()

    def batch(self, files: Sequence[Wanted]) -> list[tuple[Wanted, str]]:
        """Copy these; gives those that cannot be copied, and why. Raises OSError when `target` cannot be written.

        No copy has its name before its bytes are durable; the names are durable after the next `sync`.
        """
        lost = []
        named = []
        for file in files:
            temporary = self._target / "hatoba" / "tmp" / file.digest.encoded
            if (why := self._copy(file, temporary)) is not None:
                lost.append((file, why))
            else:
                named.append((temporary, self._target / file.key))
        if named:
            sync(self._target)
        for temporary, path in named:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(path)
        return lost

    def _copy(self, file: Wanted, temporary: Path) -> str | None:
        source = self._source / file.key
        try:
            reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            return "there is no file" if error.errno in _ABSENT else error.strerror
        try:
            found = os.fstat(reading)
            if not stat.S_ISREG(found.st_mode):
                return "there is no file"
            if found.st_size != file.size:
                return f"its file has {found.st_size} bytes instead of {file.size}"
            temporary.unlink(missing_ok=True)
            if self._hard_links and _link(source, temporary):
                self.copied.linked += 1
                self._advance(file.size)
            elif (why := self._copy_bytes(file, reading, temporary)) is not None:
                return why
        finally:
            os.close(reading)
        self.copied.files += 1
        self.copied.bytes += file.size
        return None

    def _copy_bytes(self, file: Wanted, reading: int, temporary: Path) -> str | None:
        writing = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        whole = False
        try:
            if _clone(reading, writing):
                self.copied.cloned += 1
                self._advance(file.size)
            else:
                try:
                    found = self._copy_blocks(reading, writing, file.digest.algorithm)
                except _UnreadableError as error:
                    return str(error)
                if found != file.digest.encoded:
                    return f"its file's content is {file.digest.algorithm}:{found}"
            os.fchmod(writing, _READ_ONLY)
            whole = True
        finally:
            os.close(writing)
            if not whole:
                temporary.unlink()
        return None

    def _copy_blocks(self, reading: int, writing: int, algorithm: str) -> str:
        """The hex digest of what was copied."""
        live = hasher(algorithm)
        while not self._stopped.is_set():
            try:
                block = os.read(reading, _BLOCK_BYTES)
            except OSError as error:
                raise _UnreadableError(error.strerror) from None
            if not block:
                return live.hexdigest()
            live.update(block)
            _write(writing, block)
            self._advance(len(block))
        raise StoppedError


class _UnreadableError(Exception):
    """A block of the source cannot be read."""


def sync(folder: Path) -> None:
    """Make everything durable that was written to the file system of `folder`, at once; raises OSError.

    A fsync of each of many small files keeps a disk busy for far longer.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "syncfs"):  # elsewhere than on Linux
            os.sync()
        elif libc.syncfs(descriptor):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    finally:
        os.close(descriptor)


def replace(path: Path, content: bytes, mode: int) -> None:
    """Let the small file at `path` be these bytes with this mode, as one durable step."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _write(descriptor, content)
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    rename(temporary, path)


def rename(source: Path, target: Path) -> None:
    """Move `source` onto `target`, as one durable step."""
    source.replace(target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _clone(reading: int, writing: int) -> bool:
    """Let the copy share the blocks of the file, at once and unread; False where the disk cannot."""
    try:
        fcntl.ioctl(writing, _CLONE, reading)
    except OSError:
        return False
    return True


def _link(source: Path, target: Path) -> bool:
    """Give `source` a second name, `target`; False where that cannot be, as on another file system."""
    if source.is_symlink():  # the link, not its file, would get the name
        return False
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    return True
