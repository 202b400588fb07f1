"""Stands between hatoba and the disk: every change of a file or folder below one root passes a handler first.

The calls of `os` are replaced, and SQLite gets a VFS of ours for its default; hatoba itself has no hook. Not seen:
files that Python opens by `io.open` (locks, which hold nothing), SQLite's shared memory (made anew after a crash), and
what other processes do.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from hatoba.blobs import filesystem

CHANGES = frozenset({"create", "mkdir", "write", "truncate", "chmod", "rename", "unlink", "rmdir", "sync"})
READS = frozenset({"read", "stat", "open", "list"})
_REAL = {name: getattr(os, name) for name in (
    "open", "mkdir", "rmdir", "unlink", "rename", "replace", "ftruncate", "fchmod", "fsync", "fdatasync", "write",
    "pwrite", "pwritev", "pread", "stat", "scandir",
)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Operation:
    """One call. `kind` is of CHANGES or READS; `number` is an offset, a size or a mode; `target` is a rename's.

    `data_only` is fdatasync, which makes no mode durable. `sqlite` says that SQLite asked for it.
    """

    kind: str
    path: str
    number: int = 0
    payload: bytes = b""
    target: str = ""
    data_only: bool = False
    sqlite: bool = False


# Called with the operation and what does it; a write's is called with the bytes to write.
Handler = Callable[[Operation, Callable[..., Any]], Any]


class Interception:
    """While `handler` is set, operations below `root` go through it. One a process: forked ones inherit it."""

    def __init__(self) -> None:
        self.root = ""
        self.handler: Handler | None = None
        for name in _REAL:
            if hasattr(self, f"_{name}"):
                setattr(os, name, getattr(self, f"_{name}"))
        os.replace = os.rename
        filesystem.open = self._python_open  # type: ignore[attr-defined]
        self._vfs = _Files(self)
        apsw.Connection = _Connection  # type: ignore[misc]

    def watch(self, root: str, handler: Handler | None) -> None:
        """From now on; None ends it."""
        self.root, self.handler = root, handler

    def pass_on(self, operation: Operation, real: Callable[..., Any]) -> Any:
        """What the handler makes of it, if it is below the root."""
        inside = operation.path == self.root or operation.path.startswith(f"{self.root}/")
        if self.handler is not None and inside:
            return self.handler(operation, real)
        return real(operation.payload) if operation.kind == "write" else real()

    def _of(self, descriptor: int) -> str:
        """The path of an open file now: it follows renames."""
        return os.readlink(f"/proc/self/fd/{descriptor}") if self.handler is not None else ""

    def _open(self, path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        def real() -> int:
            return _REAL["open"](path, flags, mode, **options)

        if self.handler is None:
            return real()
        named = os.fspath(path)
        made = flags & os.O_CREAT and not os.path.lexists(named)
        return self.pass_on(Operation("create" if made else "open", named, mode if made else 0), real)

    def _mkdir(self, path: Any, mode: int = 0o777, **options: Any) -> None:
        self.pass_on(Operation("mkdir", os.fspath(path)), lambda: _REAL["mkdir"](path, mode, **options))

    def _rmdir(self, path: Any, **options: Any) -> None:
        self.pass_on(Operation("rmdir", os.fspath(path)), lambda: _REAL["rmdir"](path, **options))

    def _unlink(self, path: Any, **options: Any) -> None:
        self.pass_on(Operation("unlink", os.fspath(path)), lambda: _REAL["unlink"](path, **options))

    def _rename(self, source: Any, target: Any, **options: Any) -> None:
        asked = Operation("rename", os.fspath(source), target=os.fspath(target))
        self.pass_on(asked, lambda: _REAL["rename"](source, target, **options))

    def _ftruncate(self, descriptor: int, size: int) -> None:
        asked = Operation("truncate", self._of(descriptor), size)
        self.pass_on(asked, lambda: _REAL["ftruncate"](descriptor, size))

    def _fchmod(self, descriptor: int, mode: int) -> None:
        self.pass_on(Operation("chmod", self._of(descriptor), mode), lambda: _REAL["fchmod"](descriptor, mode))

    def _fsync(self, descriptor: int) -> None:
        # Asked for and not done, here and below: no case takes the power of this machine, and real disks are slow.
        self.pass_on(Operation("sync", self._of(descriptor)), lambda: os.fstat(descriptor))

    def _fdatasync(self, descriptor: int) -> None:
        asked = Operation("sync", self._of(descriptor), data_only=True)
        self.pass_on(asked, lambda: os.fstat(descriptor))

    def _write(self, descriptor: int, content: Any) -> int:
        if self.handler is None or not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return _REAL["write"](descriptor, content)
        asked = Operation("write", self._of(descriptor), os.lseek(descriptor, 0, os.SEEK_CUR), bytes(content))
        return self.pass_on(asked, lambda part: _REAL["write"](descriptor, part))

    def _pwrite(self, descriptor: int, content: Any, offset: int) -> int:
        asked = Operation("write", self._of(descriptor), offset, bytes(content))
        return self.pass_on(asked, lambda part: _REAL["pwrite"](descriptor, part, offset))

    def _pwritev(self, descriptor: int, buffers: Any, offset: int) -> int:
        return self._pwrite(descriptor, b"".join(buffers), offset)

    def _pread(self, descriptor: int, length: int, offset: int) -> bytes:
        asked = Operation("read", self._of(descriptor), offset)
        return self.pass_on(asked, lambda: _REAL["pread"](descriptor, length, offset))

    def _stat(self, path: Any, **options: Any) -> os.stat_result:
        if self.handler is None or not isinstance(path, str | os.PathLike):
            return _REAL["stat"](path, **options)
        return self.pass_on(Operation("stat", str(os.fspath(path))), lambda: _REAL["stat"](path, **options))

    def _scandir(self, path: Any = ".") -> Any:
        if self.handler is None or not isinstance(path, str | os.PathLike):
            return _REAL["scandir"](path)
        return self.pass_on(Operation("list", str(os.fspath(path))), lambda: _REAL["scandir"](path))

    def _python_open(self, path: str, mode: str) -> io.BufferedWriter:
        assert mode == "xb", "the driver opens files for writing in this way alone"
        return io.BufferedWriter(_Raw(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)))  # type: ignore[arg-type]


class _Raw(io.RawIOBase):
    """A file whose writes go through `os.write`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        return os.write(self._descriptor, content)

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)


class _Files(apsw.VFS):
    """SQLite's default from now on."""

    def __init__(self, interception: Interception) -> None:
        self._interception = interception
        super().__init__("faults", "unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # noqa: N802
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        asked = Operation("open" if os.path.lexists(path) else "create", path, 0o644, sqlite=True)
        return self._interception.pass_on(asked, lambda: _File(self._interception, name, path, flags))

    def xDelete(self, name: str, sync_folder: bool) -> None:  # noqa: FBT001, N802
        asked = Operation("unlink", name, sqlite=True)
        self._interception.pass_on(asked, lambda: super(_Files, self).xDelete(name, sync_folder))
        if sync_folder:
            self._interception.pass_on(Operation("sync", str(Path(name).parent), sqlite=True), lambda: None)


class _Connection(apsw.Connection):
    """SQLite closes a database also where it cannot write its WAL back; apsw would raise what our VFS raised."""

    def close(self, force: bool = False) -> None:  # noqa: FBT001, FBT002
        with contextlib.suppress(apsw.Error):
            super().close(force)


class _File(apsw.VFSFile):
    """One file of SQLite's."""

    def __init__(self, interception: Interception, name: Any, path: str, flags: list[int]) -> None:
        self._interception = interception
        self._path = path
        # SQLite's unix VFS fsyncs the folder of a journal or WAL that it opened for making, at the first sync of it.
        journal = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL
        self._sync_folder = bool(flags[0] & apsw.SQLITE_OPEN_CREATE and flags[0] & journal)
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        asked = Operation("write", self._path, offset, bytes(data), sqlite=True)
        self._interception.pass_on(asked, lambda part: super(_File, self).xWrite(part, offset))

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        asked = Operation("read", self._path, offset, sqlite=True)
        return self._interception.pass_on(asked, lambda: super(_File, self).xRead(amount, offset))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        asked = Operation("truncate", self._path, size, sqlite=True)
        self._interception.pass_on(asked, lambda: super(_File, self).xTruncate(size))

    def xSync(self, _flags: int) -> None:  # noqa: N802
        asked = Operation("sync", self._path, sqlite=True)
        self._interception.pass_on(asked, lambda: None)
        if self._sync_folder:
            self._sync_folder = False
            self._interception.pass_on(Operation("sync", str(Path(self._path).parent), sqlite=True), lambda: None)
