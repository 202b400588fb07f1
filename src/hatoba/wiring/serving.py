"""A server's parts: what is made ready before its workers start, and a worker's whole life.

Nothing may be open when workers are forked: the parent prepares (`prepare`) and closes, each worker opens its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from hatoba.auth.access import Access, Anonymous, BasicAccess
from hatoba.auth.guesses import Guesses
from hatoba.auth.htpasswd import Htpasswd
from hatoba.blobs.driver import BlobDriver
from hatoba.blobs.filesystem import Filesystem
from hatoba.blobs.measured import Measured
from hatoba.blobs.memory import Memory
from hatoba.config.load import is_loopback
from hatoba.config.settings import Settings
from hatoba.db import tree
from hatoba.db.sqlite import DatabaseFailed, damage
from hatoba.errors import StartError, Unavailable
from hatoba.metrics.catalogue import CPU, LOOP_DELAY
from hatoba.metrics.cells import Board, Recorder
from hatoba.operations.follow import Following
from hatoba.operations.heal import heal_missing
from hatoba.operations.mirror import Mirror
from hatoba.operations.purge import purge_uploads
from hatoba.operations.readiness import Readiness
from hatoba.operations.storage_watch import StorageWatch
from hatoba.operations.survey import Survey, watch_process
from hatoba.registry.answers import Answers
from hatoba.registry.blobs import Blobs
from hatoba.registry.manifests import Manifests
from hatoba.registry.referrers import Referrers
from hatoba.registry.repositories import Repositories
from hatoba.registry.tags import Tags
from hatoba.registry.uploads import Uploads
from hatoba.telemetry import AccessLog
from hatoba.web.app import App
from hatoba.web.budget import Budget
from hatoba.web.measuring import Measuring
from hatoba.web.proxies import Proxies
from hatoba.web.v2.base import Options, Registry
from hatoba.wiring import parts

_STDOUT = 1


def delete_enabled(settings: Settings) -> bool:
    """Whether clients may delete: as written, else where users sign in or nobody else can reach the port."""
    written = settings.storage.delete.enabled
    return (settings.auth.configured or is_loopback(settings.http.addr)) if written is None else written


def relative_urls(settings: Settings) -> bool:
    """Whether Location is answered with a path: unless it was switched off."""
    return settings.http.relativeurls is not False


async def prepare(settings: Settings) -> None:
    """Before the workers start: folders made, databases brought up to date, everything closed again.

    Raises StartError, ConfigError.
    """
    root = parts.root_of(settings)
    if root is None:
        return
    try:
        with (
            contextlib.closing(parts.open_metadata(settings, root)) as database,
            contextlib.closing(parts.open_sessions(settings, root)) as sessions,
        ):
            await database.migrate()
            await sessions.migrate()
            await database.write(tree.doubt)
    except Unavailable as error:
        words = f"the databases in {parts.own(root)} cannot be used: {error.__cause__ or error}"
        with contextlib.suppress(DatabaseFailed):
            if damage(parts.metadata_path(settings) or root) is not None:
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
        root = parts.root_of(settings)
        recorder = None if debug is None or debug.board is None else debug.board.claim()
        driver: BlobDriver
        if root is None:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hatoba-")))
            driver = stack.enter_context(contextlib.closing(Memory()))
        else:
            driver = stack.enter_context(contextlib.closing(Filesystem(root)))
        if recorder is not None:
            driver = Measured(driver, settings.storage.driver, recorder)
        database = stack.enter_context(contextlib.closing(parts.open_metadata(settings, root, recorder=recorder)))
        sessions = stack.enter_context(contextlib.closing(parts.open_sessions(settings, root, recorder=recorder)))
        await database.migrate()
        await sessions.migrate()
        mirror = stack.enter_context(contextlib.closing(Mirror(database, driver, parts.locks(root))))
        following = Following(database, driver, mirror, parts.locks(root))
        await following.open()
        answers = Answers(database)
        blobs = Blobs(database, driver, mirror, answers)
        uploads = Uploads(sessions, database, driver, mirror, blobs, settings.hatoba.limits.uploads)
        stack.enter_context(contextlib.closing(uploads))
        registry = Registry(
            access=_access(settings, stack, recorder),
            manifests=Manifests(database, driver, mirror, answers, blobs, parts.validation(settings)),
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
        stack.push_async_callback(parts.last_settle, mirror)
        await stack.enter_async_context(_background(mirror.run()))
        await stack.enter_async_context(_background(following.run()))
        await stack.enter_async_context(_background(heal_missing(database, driver, parts.locks(root))))
        if purging.enabled:
            await stack.enter_async_context(
                _background(purge_uploads(uploads, driver, purging.age, purging.interval, dry_run=purging.dryrun))
            )
        if debug is not None:
            survey = Survey(database, sessions, parts.root_of(settings), debug.board.workers if debug.board else list)
            await _open_debug_port(debug, settings, stack, readiness, survey)
        yield app


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


async def _watched(settings: Settings, stack: contextlib.AsyncExitStack) -> StorageWatch | None:
    root, wanted = parts.root_of(settings), settings.health.storagedriver
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


def _access(settings: Settings, stack: contextlib.AsyncExitStack, recorder: Recorder | None) -> Access:
    if settings.auth.htpasswd is None:
        return Anonymous()
    htpasswd = stack.enter_context(contextlib.closing(Htpasswd(settings.auth.htpasswd.path)))
    return BasicAccess(htpasswd, settings.auth.htpasswd.realm, Guesses(), recorder=recorder)


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
