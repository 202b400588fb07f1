"""Copies one file of a local disk to another place: a hard link, a clone that shares its blocks, or byte for byte.

For blobs, whose content never changes. Plain calls that may wait for the disk: they run on threads. A copy is durable
and read-only before it gets its name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from hatoba.oci.digest import hasher

_CLONE = 0x40049409  # FICLONE of Linux: XFS, Btrfs, bcachefs, ZFS; NFS 4.2
_BLOCK_BYTES = 4 * 1024 * 1024
_READ_ONLY = 0o444


class FileCopy:
    """A copy of `source` on its way to the new file `target`, of so many bytes at a time; raises OSError."""

    def __init__(self, source: str, target: str, algorithm: str) -> None:
        self._hasher = hasher(algorithm)
        self._source = source
        self._target = target
        self._reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.size = os.fstat(self._reading).st_size
            self._writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except BaseException:
            os.close(self._reading)
            raise

    def clone(self) -> bool:
        """Let the copy share the blocks of the file, at once and unread; False where the disk cannot."""
        try:
            fcntl.ioctl(self._writing, _CLONE, self._reading)
        except OSError:
            return False
        return True

    def step(self) -> int:
        """Copy the next block; its bytes, 0 at the end."""
        with _named(self._source):
            block = os.read(self._reading, _BLOCK_BYTES)
        self._hasher.update(block)
        with _named(self._target):
            _write(self._writing, block)
        return len(block)

    def finish(self) -> str:
        """Make the copy durable; the hex digest of what `step` copied."""
        with _named(self._target):
            os.fchmod(self._writing, _READ_ONLY)
            os.fsync(self._writing)
        return self._hasher.hexdigest()

    def close(self, *, keep: bool) -> None:
        """End it; without `keep` the copy goes."""
        os.close(self._reading)
        os.close(self._writing)
        if not keep:
            Path(self._target).unlink()


def link(source: str, target: str) -> bool:
    """Give `source` a second name, `target`; False where that cannot be, as on another file system."""
    try:
        os.link(source, target, follow_symlinks=True)
    except OSError as error:
        if error.errno in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOTSUP}:
            return False
        raise
    return True


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


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Let an error of a descriptor say which file it is."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
