"""SQLite through apsw, as several processes share it safely; the only module that imports apsw.

One reading connection on the loop thread, one writing connection on a writer thread, one for scans. Rules and
reasons: docs/architecture.md, "SQLite". Nobody opens the database's files in any other way.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import os
import queue
import re
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar, cast
from urllib.parse import quote

import apsw

from hatoba.cancellation import outlast
from hatoba.db.engine import (
    Reader,
    Row,
    Transaction,
    check_applied,
    check_known,
    from_micros,
    migrations,
    now,
    to_micros,
)
from hatoba.durable import make_durably
from hatoba.errors import InsufficientStorage, StartError, Unavailable
from hatoba.metrics.catalogue import WRITE, WRITE_WAIT
from hatoba.metrics.cells import Histogram, Recorder
from hatoba.oci.digest import Digest
from hatoba.oci.reference import natural_key

T = TypeVar("T")
_OLDEST = "3.51.3"  # 3.7.0 to 3.51.2 can corrupt a WAL that several processes write
_WAIT_SECONDS = 30.0
_WAL_BYTES = 64 * 1024 * 1024
_BUSY_MILLISECONDS = 30_000
_MOST_DEFECTS = 100
_SHARED_FILESYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse")
_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")  # how /proc/self/mountinfo writes a space
_RETRY = (("Retry-After", "5"),)
_ALONE = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
_SYNCHRONOUS = {"NORMAL": 1, "FULL": 2}


class Sqlite:
    """`Database` on the file `path`. `locks` is the folder of the write locks, shared by all processes.

    With `existing` nothing is made, and what can only be read is read. `alone` promises that no other process opens it:
    it may lie where several machines could.
    """

    def __init__(  # noqa: PLR0913  where it lies and who else opens it
        self,
        path: Path,
        locks: Path,
        migrations_folder: str,
        synchronous: Literal["NORMAL", "FULL"],
        *,
        existing: bool = False,
        alone: bool = False,
        recorder: Recorder | None = None,
    ) -> None:
        check_library()
        if not alone:
            check_filesystem(path)
        if not existing:
            make_durably(path.parent)
            locks.mkdir(parents=True, exist_ok=True)
        self._existing = existing
        self._path = path
        self._folder = migrations_folder
        self._synchronous: Literal["NORMAL", "FULL"] = synchronous
        with _translated():
            self._reader = self._connect(writing=False)
        self._version = self._reader.cursor()
        recorder = recorder or Recorder.unshared()
        self._writer = _Writer(
            lambda: self._connect(writing=True),
            path,
            locks / f"write-{path.stem}",
            waits=recorder.histogram(WRITE_WAIT, migrations_folder),
            writes=recorder.histogram(WRITE, migrations_folder),
        )
        self._scans = ThreadPoolExecutor(1, thread_name_prefix="hatoba-scan")
        self._scan_connection: apsw.Connection | None = None

    async def one(self, sql: str, **parameters: object) -> Row | None:
        """See `Reader.one`."""
        with _translated():
            return _one(self._reader, sql, parameters)

    async def all(self, sql: str, **parameters: object) -> list[Row]:
        """See `Reader.all`."""
        with _translated():
            return _all(self._reader, sql, parameters)

    async def write(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """See `Database.write`."""
        return cast("T", await self._writer.submit(work))

    async def scan(self, work: Callable[[Reader], Awaitable[T]]) -> T:
        """See `Database.scan`."""
        return await asyncio.get_running_loop().run_in_executor(self._scans, self._scan, work)

    async def copy_to(self, path: Path) -> None:
        """See `Database.copy_to`. In one step: SQLite begins anew whenever somebody writes between two."""
        await asyncio.get_running_loop().run_in_executor(self._scans, self._copy_to, path)

    async def made_at(self) -> datetime:
        """See `Database.made_at`: when its first migration ran."""
        row = await self.one("SELECT min(applied_at) FROM migrations") if await self._applied() else None
        return from_micros(row[0] if row else 0)

    async def check(self) -> list[str]:
        """See `Database.check`."""
        return await asyncio.get_running_loop().run_in_executor(self._scans, self._check)

    def version(self) -> object:
        """See `Database.version`: the connection's data_version, which its own kind of work, reading, never changes."""
        with _translated():
            return self._version.execute("PRAGMA data_version").fetchall()[0][0]

    async def migrate(self) -> None:
        """See `Database.migrate`. Each step is one transaction with its own entry: an interrupted one starts again."""
        known = migrations(self._folder)
        ours = installed_version("hatoba")
        await self.write(_prepare)
        check_known(await self._applied(), known, ours)
        for step in known:

            async def apply(transaction: Transaction, step: Any = step) -> None:
                if await transaction.one("SELECT 1 FROM migrations WHERE number = :number", number=step.number):
                    return
                await transaction.run(step.sql)
                await transaction.run(
                    "INSERT INTO migrations (number, name, hatoba, applied_at) VALUES (:number, :name, :ours, :now)",
                    number=step.number,
                    name=step.name,
                    ours=ours,
                    now=now(),
                )

            await self.write(apply)

    async def check_schema(self) -> None:
        """See `Database.check_schema`."""
        check_applied(await self._applied(), migrations(self._folder), installed_version("hatoba"))

    def close(self) -> None:
        """See `Database.close`."""
        self._writer.close()
        self._scans.shutdown(wait=True)
        if self._scan_connection is not None:
            self._scan_connection.close()
        self._version.close(True)
        self._reader.close()

    async def _applied(self) -> list[tuple[int, str]]:
        if not await self.one("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'migrations'"):
            return []
        rows = await self.all("SELECT number, hatoba FROM migrations ORDER BY number")
        return [(int(row[0]), str(row[1])) for row in rows]

    def _scanning(self) -> apsw.Connection:
        if self._scan_connection is None:
            self._scan_connection = self._connect(writing=False)
        return self._scan_connection

    def _copy_to(self, path: Path) -> None:
        with _translated():
            target = apsw.Connection(str(path))
            try:
                target.pragma("synchronous", _SYNCHRONOUS["FULL"])
                with target.backup("main", self._scanning(), "main") as copying:
                    copying.step()
            finally:
                target.close()

    def _check(self) -> list[str]:
        with _translated():
            connection = self._scanning()
            try:
                rows = connection.execute(f"PRAGMA integrity_check({_MOST_DEFECTS})").fetchall()
                found = [str(text) for (text,) in rows if text != "ok"]
                broken = connection.execute("PRAGMA foreign_key_check")
                for table, row, parent, _ in itertools.islice(broken, _MOST_DEFECTS - len(found)):
                    found.append(f"row {row} of {table} names a row of {parent} that is not there")
            except apsw.CorruptError as error:
                return [str(error)]
            return found

    def _scan(self, work: Callable[[Reader], Awaitable[T]]) -> T:
        with _translated():
            connection = self._scanning()
            connection.execute("BEGIN")
            try:
                return _drive(work(_Session(connection)))
            finally:
                connection.execute("ROLLBACK")

    def _connect(self, *, writing: bool) -> apsw.Connection:
        wanted = {"synchronous": _SYNCHRONOUS[self._synchronous], "foreign_keys": 1, "query_only": int(not writing)}
        if not self._existing:
            made = apsw.Connection(str(self._path))
            return _prepared(made, {"journal_mode": "wal", **wanted})
        # SQLite wants its index beside the file. Where we may not write it can make none; and one that is made by who
        # may not write the file is not the server's to write. Without a WAL nobody has the database open, and whoever
        # opens it now writes to a WAL first: the file alone is all there is.
        alone = f"file:{quote(str(self._path.absolute()))}?immutable=1"
        if not writing and not os.access(self._path, os.W_OK) and not self._has_wal():
            return _prepared(apsw.Connection(alone, flags=_ALONE), wanted)
        try:
            return _prepared(apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE), wanted)
        except (apsw.CantOpenError, apsw.ReadOnlyError):
            if writing or self._has_wal():
                raise
            return _prepared(apsw.Connection(alone, flags=_ALONE), wanted)

    def _has_wal(self) -> bool:
        try:
            os.stat(f"{self._path}-wal")  # noqa: PTH116  never opened, as in `_checkpoint`
        except FileNotFoundError:
            return False
        except OSError:
            return True  # for all that can be seen
        return True


class _Session:
    """`Transaction` on a connection; its coroutines never suspend."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    async def one(self, sql: str, **parameters: object) -> Row | None:
        return _one(self._connection, sql, parameters)

    async def all(self, sql: str, **parameters: object) -> list[Row]:
        return _all(self._connection, sql, parameters)

    async def run(self, sql: str, **parameters: object) -> int:
        self._connection.execute(sql, _adapted(parameters)).fetchall()
        return self._connection.changes()


class _Job:
    def __init__(self, work: Callable[[Transaction], Awaitable[Any]]) -> None:
        self.work = work
        self.result: Future[Any] = Future()
        self.asked = time.perf_counter()


class _Writer:
    """The writer thread: flock, BEGIN IMMEDIATE, work, COMMIT, unlock, one job after the other.

    The flock makes the writers of all processes wait in a queue in the kernel; SQLite's own busy handler polls, and let
    one of eight writers through once in five seconds in a trial.
    """

    def __init__(
        self,
        connect: Callable[[], apsw.Connection],
        path: Path,
        lock: Path,
        *,
        waits: Histogram,
        writes: Histogram,
    ) -> None:
        self._connect = connect
        self._waits = waits
        self._writes = writes
        self._wal = f"{path}-wal"
        self._lock = lock
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def submit(self, work: Callable[[Transaction], Awaitable[Any]]) -> Any:
        if self._thread is None:
            self._thread = threading.Thread(target=self._main, name=f"hatoba-{self._lock.name}", daemon=True)
            self._thread.start()
        job = _Job(work)
        self._jobs.put(job)
        waiting = asyncio.wrap_future(job.result)
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                return await asyncio.shield(waiting)
        except (asyncio.CancelledError, TimeoutError) as stopped:
            if job.result.cancel():
                if isinstance(stopped, TimeoutError):
                    raise Unavailable("the database is busy", headers=_RETRY) from None
                raise
            # The work has begun: what it protects (a locked upload, a staged file) must outlive it.
            if await outlast(waiting) or isinstance(stopped, asyncio.CancelledError):
                raise asyncio.CancelledError from None
            return waiting.result()

    def close(self) -> None:
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _main(self) -> None:
        connection: apsw.Connection | None = None
        lock: BinaryIO | None = None
        while (job := self._jobs.get()) is not None:
            try:
                lock = lock or self._open_lock()
                fcntl.flock(lock, fcntl.LOCK_EX)
                begun = time.perf_counter()
                self._waits.observe(begun - job.asked)
                try:
                    if not job.result.set_running_or_notify_cancel():
                        continue
                    with _translated():
                        connection = connection or self._connect()
                        result = self._transact(connection, job.work)
                    self._writes.observe(time.perf_counter() - begun)
                    job.result.set_result(result)
                    self._checkpoint(connection)
                finally:
                    fcntl.flock(lock, fcntl.LOCK_UN)
            except BaseException as error:  # noqa: BLE001  the waiting request raises it
                if not job.result.done():
                    job.result.set_exception(error)
            del job
        if connection is not None:
            connection.close()
        if lock is not None:
            lock.close()

    def _open_lock(self) -> BinaryIO:
        try:
            return self._lock.open("ab")
        except OSError as error:
            raise DatabaseFailed(str(error)) from error

    def _transact(self, connection: apsw.Connection, work: Callable[[Transaction], Awaitable[Any]]) -> Any:
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = _drive(work(_Session(connection)))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return result

    def _checkpoint(self, connection: apsw.Connection) -> None:
        # stat, never open: an open and close in this process would drop SQLite's POSIX locks.
        with contextlib.suppress(FileNotFoundError, apsw.BusyError):
            if os.stat(self._wal).st_size <= _WAL_BYTES:  # noqa: PTH116  on every commit
                return
            # Without patience: it would wait for the readers of old snapshots, and every writer for it. A later
            # commit tries again.
            connection.set_busy_timeout(0)
            try:
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            finally:
                connection.set_busy_timeout(_BUSY_MILLISECONDS)


def check_library() -> None:
    """Refuse a SQLite that can corrupt what several processes write."""
    found = apsw.sqlite_lib_version()
    if tuple(map(int, found.split("."))) < tuple(map(int, _OLDEST.split("."))):
        raise StartError(
            f"SQLite {found} can corrupt a database that several processes write: {_OLDEST} or newer is needed"
        )


def damage(path: Path) -> str | None:
    """What is wrong with the database in the file; None when it is whole, empty or not there. Looks at every page.

    Raises DatabaseFailed when that cannot be found out.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        return None
    with _translated():
        connection = None
        try:
            connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
            connection.set_busy_timeout(_BUSY_MILLISECONDS)
            found = str(connection.pragma("quick_check"))
        except (apsw.CorruptError, apsw.NotADBError) as error:
            return str(error)
        finally:
            if connection is not None:
                connection.close()
    return None if found == "ok" else found.partition("\n")[0]


def check_filesystem(path: Path, mounts: str = "/proc/self/mountinfo") -> None:
    """Refuse a WAL on file systems that several machines share: their locks and shared memory do not hold."""
    where = path.absolute().resolve()
    best, kind = "", ""
    with contextlib.suppress(OSError):
        # Bytes: a mount point may hold anything but NUL, and the kernel escapes only space, tab, newline and backslash.
        for line in filter(None, Path(mounts).read_bytes().split(b"\n")):
            fields, _, rest = line.partition(b" - ")
            mount = os.fsdecode(_OCTAL.sub(lambda code: bytes([int(code[1], 8)]), fields.split(b" ")[4]))
            if len(mount) >= len(best) and where.is_relative_to(mount):
                best, kind = mount, os.fsdecode(rest.split(b" ")[0])
    if kind.partition(".")[0] in _SHARED_FILESYSTEMS:
        raise StartError(
            f"{path} lies on {kind} (mounted at {best}), where SQLite's locks do not hold: "
            "put the database on a local disk with hatoba.database.path"
        )


def _natural_key(*arguments: Any) -> str:
    return natural_key(str(arguments[0]))


def _prepared(connection: apsw.Connection, wanted: Mapping[str, str | int]) -> apsw.Connection:
    """The connection with these settings, each read back; `synchronous` is where SQLite first reads the file."""
    try:
        connection.set_busy_timeout(_BUSY_MILLISECONDS)
        connection.create_scalar_function("natural_key", _natural_key, 1, deterministic=True)  # a migration asks it
        for name, value in wanted.items():
            if connection.pragma(name) != value:
                connection.pragma(name, value)
            if (found := connection.pragma(name)) != value:
                raise StartError(f"the database does not take PRAGMA {name} = {value}: it says {found}")
    except BaseException:
        connection.close()
        raise
    return connection


async def _prepare(transaction: Transaction) -> None:
    await transaction.run(
        "CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, "
        "hatoba TEXT NOT NULL, applied_at INTEGER NOT NULL) STRICT"
    )


def _drive(work: Awaitable[T]) -> T:
    """Run a coroutine that never suspends to its end, without a loop."""
    coroutine = cast("Coroutine[Any, Any, T]", work)
    try:
        coroutine.send(None)
    except StopIteration as done:
        return cast("T", done.value)
    coroutine.close()
    raise RuntimeError("the work of a transaction may await nothing that suspends")


def _adapt(value: object) -> Any:
    if value is None or isinstance(value, str | bytes) or type(value) is int:
        return value
    if isinstance(value, Digest):
        return str(value)
    if isinstance(value, datetime):
        return to_micros(value)
    raise TypeError(f"{type(value).__name__} is no type of a database parameter")


def _adapted(parameters: dict[str, object]) -> dict[str, Any]:
    return {name: _adapt(value) for name, value in parameters.items()}


def _all(connection: apsw.Connection, sql: str, parameters: dict[str, object]) -> list[Row]:
    return connection.execute(sql, _adapted(parameters)).fetchall()


def _one(connection: apsw.Connection, sql: str, parameters: dict[str, object]) -> Row | None:
    # To the end, not to the first row: an open cursor would freeze data_version, and with it the caches.
    rows = connection.execute(sql, _adapted(parameters)).fetchall()
    return rows[0] if rows else None


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except apsw.FullError as error:
        raise InsufficientStorage from error
    except (apsw.BusyError, apsw.LockedError) as error:
        raise Unavailable("the database is busy", headers=_RETRY) from error
    except (apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError, apsw.CorruptError, apsw.NotADBError) as error:
        raise DatabaseFailed(str(error)) from error


class DatabaseFailed(Unavailable):
    """The database cannot be read or written; the client hears no more than that, the log has the reason."""

    def __init__(self, reason: str) -> None:
        super().__init__("the registry's database fails", headers=_RETRY)
        self.reason = reason
