"""Files of a local disk, with errors told as the driver tells them. For `filesystem` alone.

Plain functions that may wait for the disk: they run on the driver's threads, but beneath what never suspends.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from hatoba.blobs.driver import KeyMissing, OutOfSpace
from hatoba.errors import Unavailable

MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
READ_ONLY = 0o444
WRITABLE = 0o644
_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Let OSError come out as KeyMissing, OutOfSpace or Unavailable; FileExistsError comes out as it is."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno in MISSING:
            raise KeyMissing(error.filename) from error
        if error.errno in _FULL:
            raise OutOfSpace from error
        raise Unavailable(f"the registry's disk fails: {os.strerror(error.errno or 0)}") from error


def make_folders(path: str) -> None:
    """The folder at `path` and those above it; raises Unavailable when a file stands in the way."""
    try:
        os.makedirs(path, exist_ok=True)
    except FileExistsError as error:  # also where the disk cannot say what is there
        raise Unavailable("a file stands where a folder should be") from error


def open_for_reading(path: str) -> int:
    """A descriptor; raises KeyMissing, Unavailable."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in MISSING:
            raise KeyMissing(path) from None
        raise Unavailable(f"a file cannot be opened: {os.strerror(error.errno or 0)}") from error


def pread(descriptor: int, length: int, offset: int) -> bytes:
    """Up to `length` bytes from `offset` on; raises KeyMissing for a folder, Unavailable."""
    try:
        return os.pread(descriptor, length, offset)
    except IsADirectoryError:
        raise KeyMissing from None
    except OSError as error:
        raise Unavailable(f"a file cannot be read: {os.strerror(error.errno or 0)}") from error


def pwrite_all(descriptor: int, content: bytes, offset: int) -> None:
    """Write all of `content`, however many calls that takes; raises OSError."""
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def read(path: str, limit: int) -> bytes:
    """The first `limit` bytes of a file; raises KeyMissing, Unavailable."""
    descriptor = open_for_reading(path)
    try:
        return pread(descriptor, limit, 0)
    finally:
        os.close(descriptor)


def read_each(paths: list[str], limit: int) -> list[bytes | None]:
    """As `read`, with None for a file that is not there."""
    found: list[bytes | None] = []
    for path in paths:
        try:
            found.append(read(path, limit))
        except KeyMissing:
            found.append(None)
    return found


def create(path: str) -> None:
    """Make an empty file and the folders for it; raises FileExistsError."""
    with translated():
        make_folders(os.path.dirname(path))
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, WRITABLE))


def write_durably(path: str, content: bytes) -> None:
    """Make a file, read-only, with this content, and fsync it, but not its folder. An error leaves no file."""
    with translated():
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, WRITABLE)
            try:
                pwrite_all(descriptor, content, 0)
                os.fchmod(descriptor, READ_ONLY)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise


def fsync_path(path: str) -> None:
    """Fsync a file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(path: str) -> None:
    """Fsync what a folder holds: names, not content."""
    descriptor = os.open(path or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: str) -> None:
    """Remove a file that may be gone, and the folder of an upload session that is empty then."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
        os.unlink(path)
    folder = os.path.dirname(path)
    if os.path.basename(os.path.dirname(folder)) == "_uploads":
        with contextlib.suppress(OSError):  # not empty: startedat or hash states are still there
            os.rmdir(folder)
