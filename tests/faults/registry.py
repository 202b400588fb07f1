"""hatoba as `serve` wires it, in this process: the lock, preparing, and one or more workers on one folder.

The HTTP server is left out; requests go to the ASGI application. flock and SQLite keep workers in one process apart as
they do processes. What works in the background runs when it is asked to, so that a case can be run again.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog

from faults.workload import Answer, Ask
from hatoba import server
from hatoba.config.load import load
from hatoba.config.settings import Settings
from hatoba.operations import follow, mirror
from hatoba.wiring import parts, serving


@dataclass(frozen=True, slots=True)
class Place:
    """Where a registry keeps what; all below one disk, in folders that it has to make."""

    disk: Path
    apart: bool = False  # the databases lie elsewhere

    @property
    def root(self) -> Path:
        return self.disk / "srv" / "registry"

    @property
    def htpasswd(self) -> Path:
        return self.disk / "etc" / "registry" / "htpasswd"

    def settings(self) -> Settings:
        options: dict[str, object] = {
            "storage.filesystem.rootdirectory": str(self.root), "http.addr": "127.0.0.1:5000",
            "log.accesslog.disabled": True, "storage.delete.enabled": True,
        }  # fmt: skip
        if self.apart:
            options["hatoba.database.path"] = str(self.disk / "var" / "databases" / "metadata.db")
        return load(None, {}, options).settings


class Defect(Exception):
    """Something is not as it must be."""


@dataclass
class Registry:
    """An opened hatoba; `apps` are its workers."""

    place: Place
    apps: list[Any] = field(default_factory=list)
    logged: list[dict[str, Any]] = field(default_factory=list)

    @property
    def uploads(self) -> Any:
        return self.apps[0]._registry.uploads

    @property
    def database(self) -> Any:
        return self.uploads._database

    def keep_line(self, _logger: object, _name: str, event: dict[str, Any]) -> dict[str, Any]:
        """Take a line of the log."""
        if event.get("exc_info") is True:
            event["exc_info"] = traceback.format_exc()
        self.logged.append(event)
        raise structlog.DropEvent

    async def ask(self, ask: Ask, worker: int = 0) -> Answer:
        """Send a request to a worker."""
        path, _, query = ask.target.partition("?")
        length = [(b"content-length", str(len(ask.body)).encode())] if ask.parts else []
        headers = [(name.encode(), value.encode()) for name, value in ask.headers.items()]
        scope = {
            "type": "http", "method": ask.method, "path": path, "query_string": query.encode(),
            "headers": length + headers, "client": None,
        }  # fmt: skip
        parts = list(ask.parts) or [b""]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if not parts:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.apps[worker % len(self.apps)](scope, receive, send)
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        body = b"".join(message["body"] for message in sent[1:])
        return Answer(sent[0]["status"], found, body)

    async def settle(self) -> int:
        """Write the links that are marked and make them durable; how many marks are left."""
        for app in self.apps:
            links = app._registry.uploads._links
            await links.catch_up()
            await links.settle()
        return int(await self.uploads._links.pending(timedelta(0)))

    async def follow(self) -> None:
        """The walk that a start begins."""
        await self.apps[0]._tree._walk()

    async def purge(self) -> None:
        """What is done every day with upload sessions and temporary files."""
        await self.uploads.purge(timedelta(days=7))
        await self.uploads.purge_files(timedelta(days=7))
        await self.uploads._driver.stale(24 * 3600.0)


async def _nothing(*_arguments: object) -> None:
    return None


@contextlib.asynccontextmanager
async def opened(place: Place, workers: int = 1) -> AsyncIterator[Registry]:
    """The registry as after `hatoba serve`."""
    mirror._SETTLE_SECONDS = 1e6
    follow.Following.run = _nothing  # type: ignore[assignment]
    registry = Registry(place)
    structlog.configure(processors=[registry.keep_line])
    settings = place.settings()
    with server.only_server(parts.root_of(settings)):
        await serving.prepare(settings)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(workers):
                registry.apps.append(await stack.enter_async_context(serving.running(settings)))
            yield registry
