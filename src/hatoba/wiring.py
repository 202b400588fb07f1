"""Settings -> running parts. The only module that names concrete drivers and engines; opens and closes in order.

Nothing may be open when workers are forked: the parent prepares (`prepare`) and closes, each worker opens its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog

from hatoba.auth.access import Access, Anonymous, BasicAccess
from hatoba.auth.guesses import Guesses
from hatoba.auth.htpasswd import Htpasswd
from hatoba.blobs import layout
from hatoba.blobs.driver import BlobDriver
from hatoba.blobs.filesystem import Filesystem
from hatoba.blobs.memory import Memory
from hatoba.config.load import is_loopback
from hatoba.config.settings import Settings
from hatoba.config.values import printable
from hatoba.db.sqlite import DatabaseFailed, Sqlite
from hatoba.errors import ConfigError, HatobaError, RegistryError, StartError, Unavailable
from hatoba.operations import backup_folder
from hatoba.operations.backup import Backup, Destination
from hatoba.operations.follow import follow_links
from hatoba.operations.heal import heal_missing
from hatoba.operations.mirror import Mirror
from hatoba.operations.purge import purge_uploads
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
from hatoba.web.proxies import Proxies
from hatoba.web.v2.base import Options, Registry

_STDOUT = 1
_OVERDUE = timedelta(minutes=1)


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
    except Unavailable as error:
        raise StartError(f"the databases in {_own(root)} cannot be used: {error.__cause__ or error}") from error
    if settings.auth.htpasswd is not None:
        with contextlib.closing(Htpasswd(settings.auth.htpasswd.path)) as htpasswd:
            htpasswd.load()


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[App]:
    """A worker's whole life: opens everything, gives the application, closes in the opposite order."""
    async with contextlib.AsyncExitStack() as stack:
        root = root_of(settings)
        driver: BlobDriver
        if root is None:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hatoba-")))
            driver = stack.enter_context(contextlib.closing(Memory()))
        else:
            driver = stack.enter_context(contextlib.closing(Filesystem(root)))
        database = stack.enter_context(contextlib.closing(_metadata(settings, root)))
        sessions = stack.enter_context(contextlib.closing(_sessions(settings, root)))
        await database.migrate()
        await sessions.migrate()
        mirror = stack.enter_context(contextlib.closing(Mirror(database, driver, _own(root) / "locks")))
        answers = Answers(database)
        blobs = Blobs(database, driver, mirror, answers)
        uploads = Uploads(sessions, database, driver, mirror, blobs, settings.hatoba.limits.uploads)
        stack.enter_context(contextlib.closing(uploads))
        registry = Registry(
            access=_access(settings, stack),
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
        access_log = _access_log(settings, stack)
        app = App(
            registry,
            lambda: _problems(mirror),
            access_log,
            settings.http.headers,
            settings.hatoba.limits.stalltimeout.total_seconds(),
        )
        purging = settings.storage.maintenance.uploadpurging
        stack.push_async_callback(_last_settle, mirror)
        await stack.enter_async_context(_background(mirror.run()))
        await stack.enter_async_context(_background(follow_links(database, driver, mirror, _own(root) / "locks")))
        await stack.enter_async_context(_background(heal_missing(database, driver, _own(root) / "locks")))
        if purging.enabled:
            await stack.enter_async_context(
                _background(purge_uploads(uploads, driver, purging.age, purging.interval, dry_run=purging.dryrun))
            )
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
async def opened(settings: Settings, *, writing: bool) -> AsyncIterator[Rules]:
    """A command's whole life, beside a server or without one; at the end of `writing` links are durable.

    Makes nothing and migrates nothing; `metadata_owner` was asked first. Raises HatobaError naming what is in the way.
    """
    async with _stored(settings, writing=writing) as (database, driver, mirror):
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
        mirror = stack.enter_context(contextlib.closing(Mirror(database, driver, _own(root) / "locks")))
        yield database, driver, mirror
        if writing:
            await _last_settle(mirror)


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


async def _problems(mirror: Mirror) -> list[str]:
    """Why the registry is not ready; nothing that a probe by strangers should not read."""
    try:
        overdue = await mirror.pending(_OVERDUE)
    except RegistryError:
        return ["the database does not answer"]
    return [f"{overdue} link files cannot be written"] if overdue else []


def _own(root: Path) -> Path:
    return root / "hatoba"


def _metadata(settings: Settings, root: Path, *, existing: bool = False) -> Sqlite:
    path = settings.hatoba.database.path or _own(root) / "metadata.db"
    return Sqlite(path, _own(root) / "locks", "metadata", "FULL", existing=existing)


def _sessions(settings: Settings, root: Path, *, existing: bool = False) -> Sqlite:
    return Sqlite(_sessions_path(settings, root), _own(root) / "locks", "uploads", "NORMAL", existing=existing)


def _sessions_path(settings: Settings, root: Path) -> Path:
    # Beside the other, which may have been moved to a disk that SQLite can use.
    told = settings.hatoba.database.path
    return told.with_name(f"{told.stem}-uploads.db") if told else _own(root) / "uploads.db"


def _access(settings: Settings, stack: contextlib.AsyncExitStack) -> Access:
    if settings.auth.htpasswd is None:
        return Anonymous()
    htpasswd = stack.enter_context(contextlib.closing(Htpasswd(settings.auth.htpasswd.path)))
    return BasicAccess(htpasswd, settings.auth.htpasswd.realm, Guesses())


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
