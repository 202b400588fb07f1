"""Settings -> running parts. The only module that names concrete drivers and engines; opens and closes in order.

Nothing may be open when workers are forked: the parent prepares (`prepare`) and closes, each worker opens its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from hatoba.auth.access import Access, Anonymous, BasicAccess
from hatoba.auth.guesses import Guesses
from hatoba.auth.htpasswd import Htpasswd
from hatoba.blobs import layout
from hatoba.blobs.driver import BlobDriver
from hatoba.blobs.filesystem import Filesystem
from hatoba.blobs.measured import Measured
from hatoba.blobs.memory import Memory
from hatoba.config.load import is_loopback
from hatoba.config.settings import Settings
from hatoba.config.values import printable
from hatoba.db import tree
from hatoba.db.engine import now
from hatoba.db.sqlite import DatabaseFailed, Sqlite, damage
from hatoba.errors import ConfigError, HatobaError, RegistryError, StartError, Unavailable
from hatoba.metrics.catalogue import CPU, LOOP_DELAY
from hatoba.metrics.cells import Board, Recorder
from hatoba.oci.reference import RepositoryName
from hatoba.operations import backup_folder
from hatoba.operations.adoption import Read
from hatoba.operations.backup import Backup, Destination
from hatoba.operations.follow import Following, read_tree
from hatoba.operations.heal import heal_missing
from hatoba.operations.mirror import Mirror
from hatoba.operations.progress import Show
from hatoba.operations.purge import purge_uploads
from hatoba.operations.readiness import Readiness
from hatoba.operations.storage_watch import StorageWatch
from hatoba.operations.survey import Survey, watch_process
from hatoba.operations.tree import Report
from hatoba.operations.verify import Verification
from hatoba.registry.answers import Answers
from hatoba.registry.blobs import Blobs
from hatoba.registry.manifests import Manifests
from hatoba.registry.referrers import Referrers
from hatoba.registry.repositories import Repositories
from hatoba.registry.tags import Tags
from hatoba.registry.uploads import Uploads
from hatoba.registry.validation import Validation
from hatoba.telemetry import AccessLog
from hatoba.web.app import App
from hatoba.web.budget import Budget
from hatoba.web.measuring import Measuring
from hatoba.web.proxies import Proxies
from hatoba.web.v2.base import Options, Registry

_STDOUT = 1


def root_of(settings: Settings) -> Path | None:
    """The data folder; None when everything is kept in memory."""
    return settings.storage.filesystem.rootdirectory if settings.storage.filesystem else None


def delete_enabled(settings: Settings) -> bool:
    """Whether clients may delete: as written, else where users sign in or nobody else can reach the port."""
    written = settings.storage.delete.enabled
    return (settings.auth.configured or is_loopback(settings.http.addr)) if written is None else written


def relative_urls(settings: Settings) -> bool:
    """Whether Location is answered with a path: unless it was switched off."""
    return settings.http.relativeurls is not False


def metadata_path(settings: Settings) -> Path | None:
    """The metadata database; None when it goes with the process."""
    root = root_of(settings)
    return settings.hatoba.database.path or (None if root is None else _own(root) / "metadata.db")


def places_written(settings: Settings) -> list[Path]:
    """What a server writes to, each as far as it is there yet; nothing while there is no data folder."""
    root, metadata = root_of(settings), metadata_path(settings)
    if root is None or metadata is None or not os.path.isdir(root):  # noqa: PTH112  False also where we may not look
        return []
    wanted = [metadata, _own(root)]
    if not settings.storage.maintenance.readonly.enabled:
        wanted += [root / layout.REPOSITORIES, root / layout.BLOBS]
    return [next(path for path in (one, *one.parents) if os.path.exists(path)) for one in wanted]  # noqa: PTH110


async def prepare(settings: Settings) -> None:
    """Before the workers start: folders made, databases brought up to date, everything closed again.

    Raises StartError, ConfigError.
    """
    root = root_of(settings)
    if root is None:
        return
    try:
        with (
            contextlib.closing(_metadata(settings, root)) as database,
            contextlib.closing(_sessions(settings, root)) as sessions,
        ):
            await database.migrate()
            await sessions.migrate()
            await database.write(tree.doubt)
    except Unavailable as error:
        words = f"the databases in {_own(root)} cannot be used: {error.__cause__ or error}"
        with contextlib.suppress(DatabaseFailed):
            if damage(metadata_path(settings) or root) is not None:
                words += "; `hatoba import` sets the broken one aside and builds it anew from the folder"
        raise StartError(words) from error
    if settings.auth.htpasswd is not None:
        with contextlib.closing(Htpasswd(settings.auth.htpasswd.path)) as htpasswd:
            htpasswd.load()


@dataclass(frozen=True, slots=True)
class DebugPort:
    """The debug port that the parent opened: a socket that listens, and where workers count if anybody asks."""

    listener: socket.socket
    board: Board | None


@contextlib.asynccontextmanager
async def running(settings: Settings, debug: DebugPort | None = None) -> AsyncIterator[App]:
    """A worker's whole life: opens everything, gives the application, closes in the opposite order."""
    async with contextlib.AsyncExitStack() as stack:
        root = root_of(settings)
        recorder = None if debug is None or debug.board is None else debug.board.claim()
        driver: BlobDriver
        if root is None:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hatoba-")))
            driver = stack.enter_context(contextlib.closing(Memory()))
        else:
            driver = stack.enter_context(contextlib.closing(Filesystem(root)))
        if recorder is not None:
            driver = Measured(driver, settings.storage.driver, recorder)
        database = stack.enter_context(contextlib.closing(_metadata(settings, root, recorder=recorder)))
        sessions = stack.enter_context(contextlib.closing(_sessions(settings, root, recorder=recorder)))
        await database.migrate()
        await sessions.migrate()
        mirror = stack.enter_context(contextlib.closing(Mirror(database, driver, _own(root) / "locks")))
        following = Following(database, driver, mirror, _own(root) / "locks")
        await following.open()
        answers = Answers(database)
        blobs = Blobs(database, driver, mirror, answers)
        uploads = Uploads(sessions, database, driver, mirror, blobs, settings.hatoba.limits.uploads)
        stack.enter_context(contextlib.closing(uploads))
        registry = Registry(
            access=_access(settings, stack, recorder),
            manifests=Manifests(database, driver, mirror, answers, blobs, _validation(settings)),
            blobs=blobs,
            uploads=uploads,
            tags=Tags(database, mirror),
            repositories=Repositories(database),
            referrers=Referrers(database),
            options=_options(settings),
            proxies=Proxies(settings.hatoba.trustedproxies),
            budget=Budget(settings.hatoba.limits.manifest),
        )
        readiness = Readiness(mirror, following, await _watched(settings, stack))
        access_log = _access_log(settings, stack)
        app = App(
            registry,
            following,
            readiness.sentences,
            access_log,
            settings.http.headers,
            settings.hatoba.limits.stalltimeout.total_seconds(),
            None if recorder is None else Measuring(recorder),
        )
        if recorder is not None:
            await stack.enter_async_context(
                _background(watch_process(recorder.histogram(LOOP_DELAY), recorder.counter(CPU)))
            )
        purging = settings.storage.maintenance.uploadpurging
        stack.push_async_callback(_last_settle, mirror)
        await stack.enter_async_context(_background(mirror.run()))
        await stack.enter_async_context(_background(following.run()))
        await stack.enter_async_context(_background(heal_missing(database, driver, _own(root) / "locks")))
        if purging.enabled:
            await stack.enter_async_context(
                _background(purge_uploads(uploads, driver, purging.age, purging.interval, dry_run=purging.dryrun))
            )
        if debug is not None:
            survey = Survey(database, sessions, root_of(settings), debug.board.workers if debug.board else list)
            await _open_debug_port(debug, settings, stack, readiness, survey)
        yield app


@dataclass(frozen=True, slots=True)
class Rules:
    """What a command works with."""

    repositories: Repositories
    tags: Tags
    manifests: Manifests


def metadata_owner(settings: Settings) -> tuple[int, int]:
    """The uid and gid that the metadata database belongs to.

    Raises ConfigError when there is no folder, HatobaError when there is no registry in it.
    """
    root, path = _places(settings)
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise HatobaError(f"no registry in {printable(root)}: there is no {printable(path)}") from None
    except OSError as error:
        raise HatobaError(f"{printable(path)} cannot be read by uid {os.geteuid()}: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise HatobaError(f"no registry in {printable(root)}: {printable(path)} is no file")
    return found.st_uid, found.st_gid


@contextlib.asynccontextmanager
async def opened(settings: Settings, *, changing: RepositoryName | None) -> AsyncIterator[Rules]:
    """A command's whole life, beside a server or without one; what it changes is in the repository `changing`.

    That one is compared with Docker's tree first: no change of another registry is undone that hatoba has not seen yet.
    At the end its links are durable.
    Makes nothing and migrates nothing; `metadata_owner` was asked first. Raises HatobaError naming what is in the way.
    """
    root, _ = _places(settings)
    async with _stored(settings, writing=changing is not None) as (database, driver, mirror):
        if changing is not None:
            await Following(database, driver, mirror, _own(root) / "locks").take_over(changing)
        answers = Answers(database)
        blobs = Blobs(database, driver, mirror, answers)
        yield Rules(
            repositories=Repositories(database),
            tags=Tags(database, mirror),
            manifests=Manifests(database, driver, mirror, answers, blobs, _validation(settings)),
        )


@contextlib.asynccontextmanager
async def verification(settings: Settings) -> AsyncIterator[Verification]:
    """As `opened` for writing, for a check of everything that is there."""
    root, _ = _places(settings)
    async with contextlib.AsyncExitStack() as stack:
        database, driver, mirror = await stack.enter_async_context(_stored(settings, writing=True))
        sessions = None
        if _sessions_path(settings, root).exists():  # a backup has none
            stack.enter_context(_explained(_sessions_path(settings, root)))
            sessions = stack.enter_context(contextlib.closing(_sessions(settings, root, existing=True)))
            await sessions.check_schema()
        yield Verification(database, sessions, driver, mirror, _own(root))


@contextlib.asynccontextmanager
async def backup(settings: Settings, folder: Path, *, hard_links: bool) -> AsyncIterator[Backup]:
    """A backup into `folder`, which it has for itself until the end. Raises HatobaError, ConfigError."""
    root, path = _places(settings)
    locks = _own(folder) / "locks"
    with contextlib.ExitStack() as stack:
        with _explained(path):
            database = stack.enter_context(contextlib.closing(_metadata(settings, root, existing=True)))
            await database.check_schema()
            made_at = await database.made_at()
        stack.enter_context(backup_folder.claimed(folder, root, made_at))
        driver = stack.enter_context(contextlib.closing(_writable(folder, _own(folder) / "metadata.db", at_once=True)))
        destination = Destination(
            folder,
            driver,
            lambda copy: Sqlite(copy, locks, "metadata", "FULL", existing=True, alone=True),
            lambda copy: Mirror(copy, driver, locks),
        )
        try:
            yield Backup(database, root, destination, hard_links=hard_links)
        except DatabaseFailed as error:
            raise HatobaError(
                f"a database of {printable(root)} or {printable(folder)} fails: {error.reason}"
            ) from error


def elsewhere(settings: Settings) -> list[Path]:
    """Files that a registry is configured with and that do not lie in its data folder where a backup looks."""
    root, htpasswd = root_of(settings), settings.auth.htpasswd
    if root is None or htpasswd is None or htpasswd.path.absolute() == (_own(root) / "htpasswd").absolute():
        return []
    return [htpasswd.path]


@contextlib.asynccontextmanager
async def _stored(settings: Settings, *, writing: bool) -> AsyncIterator[tuple[Sqlite, BlobDriver, Mirror]]:
    """Rows, bytes and links of a registry that is there; at the end of `writing` links are durable."""
    root, path = _places(settings)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_explained(path))
        driver: BlobDriver
        database = stack.enter_context(contextlib.closing(_metadata(settings, root, existing=True)))
        await database.check_schema()
        if writing:
            driver = stack.enter_context(contextlib.closing(_writable(root, path)))
        else:
            driver = stack.enter_context(contextlib.closing(Memory()))  # listings ask rows alone
        # It compares one repository at most: what others did to the rest since the last server is still to be found.
        links = Mirror(database, driver, _own(root) / "locks", sees=False)
        mirror = stack.enter_context(contextlib.closing(links))
        yield database, driver, mirror
        if writing:
            await _last_settle(mirror)


def folder_owner(settings: Settings) -> tuple[int, int]:
    """The uid and gid that own what hatoba has in the data folder, or the folder, where it has nothing yet.

    Raises ConfigError when there is no folder, HatobaError when there are no repositories in it.
    """
    root, path = _places(settings)
    if not (root / layout.REPOSITORIES).is_dir():
        raise HatobaError(f"nothing to import: there is no {printable(root / layout.REPOSITORIES)}")
    found = next(each for each in (path, _own(root), root) if each.exists()).stat()
    return found.st_uid, found.st_gid


def set_aside(settings: Settings) -> Path | None:
    """Give a metadata database that is broken another name, beside the old one, which is returned.

    Raises HatobaError when it cannot be looked at. Nobody else may have it open.
    """
    _, path = _places(settings)
    with _explained(path):
        reason = damage(path)
    if reason is None:
        return None
    structlog.stdlib.get_logger("hatoba").warning("the database is broken", path=str(path), reason=reason)
    aside = path.with_name(f"{path.name}.broken-{now():%Y%m%dT%H%M%SZ}")
    for suffix in ("-wal", "-shm", ""):  # together, so that programs that repair find what belongs together
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


async def import_tree(settings: Settings, report: Report, show: Show) -> Read:
    """Read the data folder into the metadata database, which is made if it is not there. Nobody else may serve it.

    Raises HatobaError naming what is in the way.
    """
    root, path = _places(settings)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_explained(path))
        driver = stack.enter_context(contextlib.closing(_writable(root, path)))
        database = stack.enter_context(contextlib.closing(_metadata(settings, root)))
        await database.migrate()
        mirror = stack.enter_context(contextlib.closing(Mirror(database, driver, _own(root) / "locks")))
        await mirror.catch_up()
        try:
            read = await read_tree(database, driver, mirror, report, show, patient=False)
        except DatabaseFailed:
            raise
        except RegistryError as error:
            why = printable(str(error.__cause__ or error.message))
            raise HatobaError(f"{printable(root)} cannot be read by uid {os.geteuid()}: {why}") from error
        await _last_settle(mirror)
        return read


def _places(settings: Settings) -> tuple[Path, Path]:
    """The data folder and the metadata database; raises ConfigError when they go with the process."""
    root, path = root_of(settings), metadata_path(settings)
    if root is None or path is None:
        raise ConfigError("storage.inmemory exists only inside the server: a command has nothing to open")
    return root, path


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What a client hears only as a failure is told to the operator: which file, as whom, and why."""
    try:
        yield
    except DatabaseFailed as error:
        raise HatobaError(f"{printable(path)} cannot be used by uid {os.geteuid()}: {error.reason}") from error
    except StartError as error:
        raise HatobaError(f"{printable(path)}: {error.message}") from error


def _writable(root: Path, database: Path, *, at_once: bool = False) -> Filesystem:
    """The driver, when all that a command changes may be written; else HatobaError: SQLite would name no file."""
    for path in (database, database.parent, _own(root), _own(root) / "locks", root / layout.REPOSITORIES):
        if os.access(path, os.F_OK) and not os.access(path, os.W_OK):
            raise HatobaError(f"{printable(path)} cannot be written by uid {os.geteuid()}")
    try:
        return Filesystem(root, at_once=at_once)
    except OSError as error:
        where = printable(error.filename or root)
        raise HatobaError(f"{where} cannot be used by uid {os.geteuid()}: {error.strerror}") from None


@contextlib.asynccontextmanager
async def _background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` until the context ends; a defect in it is logged, not hidden."""
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(_report)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        structlog.stdlib.get_logger("hatoba").error(
            "a background task ended", task=repr(task.get_coro()), exc_info=error
        )


async def _last_settle(mirror: Mirror) -> None:
    with contextlib.suppress(RegistryError):  # what is not settled now is settled at the next start
        await mirror.settle()


async def _watched(settings: Settings, stack: contextlib.AsyncExitStack) -> StorageWatch | None:
    root, wanted = root_of(settings), settings.health.storagedriver
    if root is None or not wanted.enabled:
        return None
    watch = StorageWatch(root, wanted.interval.total_seconds(), wanted.threshold)
    stack.callback(watch.close)
    await stack.enter_async_context(_background(watch.run()))
    return watch


async def _open_debug_port(
    debug: DebugPort,
    settings: Settings,
    stack: contextlib.AsyncExitStack,
    readiness: Readiness,
    survey: Survey,
) -> None:
    # Here, not above: prometheus-client takes as long to import as all of the registry's rules, and few want it.
    from hatoba.web.debug import DebugServer, Metrics  # noqa: PLC0415

    metrics = None if debug.board is None else Metrics(debug.board.totals, survey.take, readiness.problems)
    server = DebugServer(debug.listener, readiness.problems, metrics, settings.http.debug.prometheus.path)
    await stack.enter_async_context(server.running())


def _own(root: Path) -> Path:
    return root / "hatoba"


def _metadata(settings: Settings, root: Path, *, existing: bool = False, recorder: Recorder | None = None) -> Sqlite:
    path = settings.hatoba.database.path or _own(root) / "metadata.db"
    return Sqlite(path, _own(root) / "locks", "metadata", "FULL", existing=existing, recorder=recorder)


def _sessions(settings: Settings, root: Path, *, existing: bool = False, recorder: Recorder | None = None) -> Sqlite:
    path = _sessions_path(settings, root)
    return Sqlite(path, _own(root) / "locks", "uploads", "NORMAL", existing=existing, recorder=recorder)


def _sessions_path(settings: Settings, root: Path) -> Path:
    # Beside the other, which may have been moved to a disk that SQLite can use.
    told = settings.hatoba.database.path
    return told.with_name(f"{told.stem}-uploads.db") if told else _own(root) / "uploads.db"


def _access(settings: Settings, stack: contextlib.AsyncExitStack, recorder: Recorder | None) -> Access:
    if settings.auth.htpasswd is None:
        return Anonymous()
    htpasswd = stack.enter_context(contextlib.closing(Htpasswd(settings.auth.htpasswd.path)))
    return BasicAccess(htpasswd, settings.auth.htpasswd.realm, Guesses(), recorder=recorder)


def _validation(settings: Settings) -> Validation:
    asked = settings.validation
    if not asked.active:
        return Validation(frozenset())
    urls, indexes = asked.manifests.urls, asked.manifests.indexes
    platforms = {
        "all": None,
        "none": frozenset[tuple[str, str]](),
        "list": frozenset((platform.os, platform.architecture) for platform in indexes.platformlist) or None,
    }
    return Validation(platforms[indexes.platforms], tuple(urls.allow), tuple(urls.deny))


def _options(settings: Settings) -> Options:
    return Options(
        delete_enabled=delete_enabled(settings),
        manifest_bytes=settings.hatoba.limits.manifest,
        most_tags=settings.tags.maxtags,
        most_repositories=settings.catalog.maxentries,
        host=settings.http.host.rstrip("/"),
        prefix=settings.http.prefix.rstrip("/"),
        readonly=settings.storage.maintenance.readonly.enabled,
        relative_urls=relative_urls(settings),
    )


def _access_log(settings: Settings, stack: contextlib.AsyncExitStack) -> AccessLog | None:
    if settings.log.accesslog.disabled:
        return None
    log = AccessLog(_STDOUT, as_json=settings.log.formatter != "text")
    stack.callback(log.flush)
    return log
