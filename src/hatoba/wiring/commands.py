"""What a command opens, beside a server or without one, and closes again.

Owns who it has to be for that, and the words when something is in the way; makes no registry but for an import.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from hatoba.blobs import layout
from hatoba.blobs.driver import BlobDriver
from hatoba.blobs.filesystem import Filesystem
from hatoba.blobs.memory import Memory
from hatoba.config.settings import Settings
from hatoba.config.values import printable
from hatoba.db import tree
from hatoba.db.engine import now
from hatoba.db.sqlite import DatabaseFailed, Sqlite, damage
from hatoba.errors import ConfigError, HatobaError, RegistryError, StartError
from hatoba.oci.reference import RepositoryName
from hatoba.operations import backup_folder
from hatoba.operations.adoption import Read
from hatoba.operations.backup import Backup, Destination
from hatoba.operations.follow import Following, read_tree
from hatoba.operations.mirror import Mirror
from hatoba.operations.progress import Show
from hatoba.operations.tree import TellProblem
from hatoba.operations.verify import Verification
from hatoba.registry.answers import Answers
from hatoba.registry.blobs import Blobs
from hatoba.registry.manifests import Manifests
from hatoba.registry.repositories import Repositories
from hatoba.registry.tags import Tags
from hatoba.wiring import parts


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


def folder_owner(settings: Settings) -> tuple[int, int]:
    """The uid and gid that own what hatoba has in the data folder, or the folder, where it has nothing yet.

    Raises ConfigError when there is no folder, HatobaError when there are no repositories in it.
    """
    root, path = _places(settings)
    if not (root / layout.REPOSITORIES).is_dir():
        raise HatobaError(f"nothing to import: there is no {printable(root / layout.REPOSITORIES)}")
    found = next(each for each in (path, parts.own(root), root) if each.exists()).stat()
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
            await Following(database, driver, mirror, parts.locks(root)).take_over(changing)
        answers = Answers(database)
        blobs = Blobs(database, driver, mirror, answers)
        yield Rules(
            repositories=Repositories(database),
            tags=Tags(database, mirror),
            manifests=Manifests(database, driver, mirror, answers, blobs, parts.validation(settings)),
        )


@contextlib.asynccontextmanager
async def verification(settings: Settings) -> AsyncIterator[Verification]:
    """As `opened` for writing, for a check of everything that is there."""
    root, _ = _places(settings)
    async with contextlib.AsyncExitStack() as stack:
        database, driver, mirror = await stack.enter_async_context(_stored(settings, writing=True))
        await _refuse_unread(database, root)
        sessions = None
        if parts.sessions_path(settings, root).exists():  # a backup has none
            stack.enter_context(_explained(parts.sessions_path(settings, root)))
            sessions = stack.enter_context(contextlib.closing(parts.open_sessions(settings, root, existing=True)))
            await sessions.check_schema()
        yield Verification(database, sessions, driver, mirror, parts.own(root))


@contextlib.asynccontextmanager
async def backup(settings: Settings, folder: Path, *, hard_links: bool) -> AsyncIterator[Backup]:
    """A backup into `folder`, which it has for itself until the end. Raises HatobaError, ConfigError."""
    root, path = _places(settings)
    locks = parts.locks(folder)
    with contextlib.ExitStack() as stack:
        with _explained(path):
            database = stack.enter_context(contextlib.closing(parts.open_metadata(settings, root, existing=True)))
            await database.check_schema()
            await _refuse_unread(database, root)
            made_at = await database.made_at()
        claim = stack.enter_context(backup_folder.claimed(folder, root, made_at))
        driver = stack.enter_context(
            contextlib.closing(_writable(folder, parts.own(folder) / "metadata.db", at_once=True))
        )
        destination = Destination(
            folder,
            claim,
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
    root, htpasswd = parts.root_of(settings), settings.auth.htpasswd
    if root is None or htpasswd is None or htpasswd.path.absolute() == (parts.own(root) / "htpasswd").absolute():
        return []
    return [htpasswd.path]


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


async def import_tree(settings: Settings, report: TellProblem, show: Show) -> Read:
    """Read the data folder into the metadata database, which is made if it is not there. Nobody else may serve it.

    Raises HatobaError naming what is in the way.
    """
    root, path = _places(settings)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_explained(path))
        driver = stack.enter_context(contextlib.closing(_writable(root, path)))
        database = stack.enter_context(contextlib.closing(parts.open_metadata(settings, root)))
        await database.migrate()
        mirror = stack.enter_context(contextlib.closing(Mirror(database, driver, parts.locks(root))))
        await mirror.catch_up()
        try:
            read = await read_tree(database, driver, mirror, report, show, patient=False)
        except DatabaseFailed:
            raise
        except RegistryError as error:
            why = printable(str(error.__cause__ or error.message))
            raise HatobaError(f"{printable(root)} cannot be read by uid {os.geteuid()}: {why}") from error
        await parts.last_settle(mirror)
        return read


@contextlib.asynccontextmanager
async def _stored(settings: Settings, *, writing: bool) -> AsyncIterator[tuple[Sqlite, BlobDriver, Mirror]]:
    """Rows, bytes and links of a registry that is there; at the end of `writing` links are durable."""
    root, path = _places(settings)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_explained(path))
        driver: BlobDriver
        database = stack.enter_context(contextlib.closing(parts.open_metadata(settings, root, existing=True)))
        await database.check_schema()
        if writing:
            driver = stack.enter_context(contextlib.closing(_writable(root, path)))
        else:
            driver = stack.enter_context(contextlib.closing(Memory()))  # listings ask rows alone
        # It compares one repository at most: what others did to the rest since the last server is still to be found.
        links = Mirror(database, driver, parts.locks(root), sees=False)
        mirror = stack.enter_context(contextlib.closing(links))
        yield database, driver, mirror
        if writing:
            await parts.last_settle(mirror)


async def _refuse_unread(database: Sqlite, root: Path) -> None:
    """Raise HatobaError while rows do not tell of all that lies there: a backup would lack it, a check mistake it."""
    known = await tree.find(database)
    if known is not None and known.state == "unread":
        raise HatobaError(f"{printable(root)} has not been read in yet: wait for `hatoba serve`, which does that")


def _places(settings: Settings) -> tuple[Path, Path]:
    """The data folder and the metadata database; raises ConfigError when they go with the process."""
    root, path = parts.root_of(settings), parts.metadata_path(settings)
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
    for path in (database, database.parent, parts.own(root), parts.locks(root), root / layout.REPOSITORIES):
        if os.access(path, os.F_OK) and not os.access(path, os.W_OK):
            raise HatobaError(f"{printable(path)} cannot be written by uid {os.geteuid()}")
    try:
        return Filesystem(root, at_once=at_once)
    except OSError as error:
        where = printable(error.filename or root)
        raise HatobaError(f"{where} cannot be used by uid {os.geteuid()}: {error.strerror}") from None
