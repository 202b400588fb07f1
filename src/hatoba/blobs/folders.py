"""Folders of a local disk: what lies in them, with sizes and times, and ending them. For `filesystem` alone.

Plain functions that may wait for the disk: they run on the driver's threads. A folder that is not there is empty.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

from hatoba.blobs.driver import Child, Listed

_NOWHERE = {errno.ENOENT, errno.ELOOP}  # gone since, or a link to nothing or to itself


def entries(path: str) -> list[tuple[str, bool]]:
    """(name, whether it is a folder) of what lies at `path`; a symbolic link is no folder."""
    try:
        with os.scandir(path) as found:
            return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
    except (FileNotFoundError, NotADirectoryError):
        return []


def children(path: str) -> list[Child]:
    """What lies at `path`. Folders are followed through symbolic links, as Docker's registry does, but not up again."""
    try:
        with os.scandir(path) as found:
            return [Child(_text(entry.name), _is_folder(entry)) for entry in found]
    except (FileNotFoundError, NotADirectoryError):
        return []


def listed(path: str, key: str) -> list[Listed]:
    """All files beneath `path`, whose key is `key`; links are followed as by `children`."""
    found: list[Listed] = []
    pending = [(path, key)]
    while pending:
        path, key = pending.pop()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(path) as inside:
            for entry in inside:
                if _is_folder(entry):
                    pending.append((entry.path, f"{key}/{entry.name}"))
                elif (met := _met(entry)) is not None:
                    size = met.st_size if stat.S_ISREG(met.st_mode) else -1
                    found.append(Listed(_text(f"{key}/{entry.name}"), size, _moment(met.st_mtime_ns)))
    return found


def _met(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError as error:
        if error.errno in _NOWHERE:
            return None
        raise


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or a link to one that it does not lie in: such links would make a walk that never ends."""
    try:
        if entry.is_symlink() and any(os.path.samefile(entry.path, above) for above in Path(entry.path).parents):
            return False
        return entry.is_dir()
    except OSError as error:
        if error.errno in _NOWHERE:
            return False
        raise


def changed_at(path: str, top: str) -> datetime | None:
    """When the nearest folder at or above `path`, not above `top`, was last changed; None when not even `top` is."""
    while len(path) >= len(top):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            met = os.stat(path)
            if stat.S_ISDIR(met.st_mode):
                return _moment(met.st_mtime_ns)
        path = os.path.dirname(path)
    return None


def remove_tree(path: str) -> None:
    """End the folder and all in it."""
    pending, emptied = [path], []
    while pending:
        folder = pending.pop()
        emptied.append(folder)
        for name, is_folder in entries(folder):
            if is_folder:
                pending.append(f"{folder}/{name}")
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{folder}/{name}")
    for folder in reversed(emptied):  # those inside came after those around them
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.rmdir(folder)


def remove_older(folder: str, cutoff: float) -> int:
    """End files of `folder` last written before `cutoff`; how many went."""
    removed = 0
    for name, is_folder in entries(folder):
        path = f"{folder}/{name}"
        with contextlib.suppress(FileNotFoundError):
            if not is_folder and os.stat(path).st_mtime < cutoff:
                os.unlink(path)
                removed += 1
    return removed


def _text(name: str) -> str:
    # Bytes that are no UTF-8 come as lone surrogates, which neither a log nor a database takes.
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _moment(nanoseconds: int) -> datetime:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    try:
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)
    except (ValueError, OverflowError, OSError):  # a disk may say the year 30,000
        return datetime.fromtimestamp(0, UTC)
