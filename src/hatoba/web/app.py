"""The ASGI root: sends each request where it belongs, and every answer out in the same way.

/v2/ is the protocol, /healthz is for probes. Owns what is common to all answers: the version header that Docker's
clients look for, configured headers, the access line, and what happens when something fails half-way.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import structlog

from hatoba.auth.access import Miss
from hatoba.errors import NotFound, RegistryError, SizeInvalid, Unsupported
from hatoba.oci.reference import parse_name
from hatoba.registry.ports import BodyInterrupted
from hatoba.telemetry import AccessLog
from hatoba.web import errors
from hatoba.web.measuring import Measuring
from hatoba.web.messages import ClientGone, Receive, Request, Response, Scope, Send
from hatoba.web.sending import CLIENT_GONE, BlobSender, Cut, RawHeaders, send_response
from hatoba.web.v2 import routes
from hatoba.web.v2.base import Answer, BlobAnswer, Registry

_DRAIN_BYTES = 64 * 1024
_LINGER_SECONDS = 5.0
_VERSION = (b"docker-distribution-api-version", b"registry/2.0")

Ready = Callable[[], Awaitable[list[str]]]


class Tree(Protocol):
    """Docker's tree, as `operations.follow` reads it. Once `known`, nobody need ask."""

    known: bool

    async def admit(self) -> None:
        """Raise Unavailable while a new folder is being read."""

    async def compare(self, repository: str) -> None:
        """Before a repository is asked for: take over what others changed in it."""

    async def settled(self) -> None:
        """Wait until all repositories were compared, but not for long."""


class App:
    """hatoba as an ASGI application. `ready` gives the reasons why it is not, none when it is."""

    def __init__(  # noqa: PLR0913, PLR0917  what every answer needs
        self,
        registry: Registry,
        tree: Tree,
        ready: Ready,
        access_log: AccessLog | None,
        headers: Mapping[str, Sequence[str]],
        stall_seconds: float,
        measuring: Measuring | None = None,
    ) -> None:
        self._registry = registry
        self._tree = tree
        self._measuring = measuring
        self._ready = ready
        self._access_log = access_log
        self._stall_seconds = stall_seconds
        self._blobs = BlobSender(stall_seconds)
        self._common = [_VERSION]
        self._common += [(k.lower().encode(), value.encode()) for k, values in headers.items() for value in values]
        self._numbers = itertools.count(1)
        self._log = structlog.stdlib.get_logger("hatoba.web")

    def retire(self) -> None:
        """Keep no connection for a next request from now on: another worker is to have that."""
        self._common.append((b"connection", b"close"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; anything but HTTP is no business of ours."""
        if scope["type"] != "http":
            return
        started = time.perf_counter()
        request = Request(scope, receive, self._stall_seconds)
        request.address = self._registry.proxies.client(request)
        request_id = self._registry.proxies.request_id(request) or f"{os.getpid():x}-{next(self._numbers):x}"
        status = CLIENT_GONE
        try:
            answer = await self._answer(request, request_id)
            if answer is not None:
                status = answer.status
            else:
                # Mostly nobody hears it. But a body that is no HTTP looks like this too, and so does a client that
                # closed its own side alone; without an answer granian would tell them 500.
                answer = errors.render(SizeInvalid("the body broke off", headers=(("Connection", "close"),)))
            try:
                await self._send(request, send, answer)
            except RegistryError as error:
                answer = self._failed(error, request_id)
                status = answer.status
                await self._send(request, send, answer)
        except Cut as cut:
            # Returning is enough: granian closes a connection whose answer is shorter than it was announced.
            status = cut.status
        finally:
            seconds = time.perf_counter() - started
            if self._measuring is not None and request.pattern:
                self._measuring.end(request, status, seconds)
            if self._access_log is not None:
                self._write_line(request, request_id, status, seconds)
        if request.cut_short:
            await request.linger(_LINGER_SECONDS)
        request.let_go()

    async def _answer(self, request: Request, request_id: str) -> Answer | None:
        """The answer, also for everything that went wrong; None when the client is gone."""
        try:
            return await self._route(request)
        except RegistryError as error:
            return self._failed(error, request_id)
        except (BodyInterrupted, ClientGone) as interrupted:
            gone = interrupted if isinstance(interrupted, ClientGone) else interrupted.__cause__
            if isinstance(gone, ClientGone) and gone.stalled:
                return Response(408, [("connection", "close")])
            return None
        except Exception:  # noqa: BLE001  the last line of defence: the log has it, the client a number
            self._log.exception("defect while answering a request", request=request_id, path=request.path[:255])
            return errors.render_unknown(request_id)

    def _failed(self, error: RegistryError, request_id: str) -> Response:
        if error.__cause__ is not None:
            self._log.error(error.message, request=request_id, reason=str(error.__cause__))
        return errors.render(error)

    async def _route(self, request: Request) -> Answer:
        prefix = self._registry.options.prefix
        if prefix and request.path.startswith(f"{prefix}/"):
            request.path, request.prefixed = request.path.removeprefix(prefix), True
        path = request.path
        if path == "/v2" or path.startswith("/v2/"):
            return await self._protocol(request)
        if path == "/healthz/live":
            return _text(200, "ok")
        if path in {"/healthz", "/healthz/ready"}:
            problems = await self._ready()
            return _text(503, "; ".join(problems)) if problems else _text(200, "ok")
        if path == "/":
            if request.method not in {"GET", "HEAD"}:
                raise Unsupported
            return _text(200, "hatoba")
        raise NotFound(detail={"path": path[:255]})

    async def _protocol(self, request: Request) -> Answer:
        if request.method == "OPTIONS":
            return routes.preflight(request.path)
        if request.path == "/v2":
            return Response(301, [("location", self._registry.address(request, "/v2/"))])
        target = routes.locate(request)
        request.pattern = target.pattern
        if self._measuring is not None:
            self._measuring.begin(target.pattern)
        if not self._tree.known:
            await self._tree.admit()
        route = routes.choose(request, target)
        request.action = route.action
        name = parse_name(target.name) if target.name else None
        request.repository = name or ""
        await self._authorize(request, route.action, name)
        if not self._tree.known:
            await self._follow(name, route.pattern)
        return await routes.dispatch(self._registry, request, route, target)

    async def _follow(self, name: str | None, pattern: str) -> None:
        if name is not None:
            await self._tree.compare(name)
        elif pattern == routes.CATALOG:
            await self._tree.settled()

    async def _authorize(self, request: Request, action: str, repository: str | None) -> None:
        sent = request.header("authorization")
        known = self._registry.access.cached(sent, request.address)
        if known is Miss.MISS:
            known = await self._registry.access.authorize(sent, action, repository, request.address)
        request.user = known if isinstance(known, str) else None

    async def _send(self, request: Request, send: Send, answer: Answer) -> None:
        """Send the answer; raises Cut, or RegistryError when a blob cannot be read and nothing has gone out yet."""
        headers = list(self._common)
        headers += [(name.encode(), value.encode("utf-8", "replace")) for name, value in answer.headers]
        if isinstance(answer, BlobAnswer):
            with contextlib.closing(answer.blob.reader):
                if request.has_body:  # whoever asks for a blob sends none, or almost never
                    await _take_body(request, headers)
                await self._blobs.send(request, send, answer, headers)
            return
        await _take_body(request, headers)
        await send_response(request, send, answer, headers)

    def _write_line(self, request: Request, request_id: str, status: int, seconds: float) -> None:
        fields: dict[str, str | int | float] = {
            "id": request_id,
            "user": request.user or "-",
            "client": request.address,
            "method": request.method[:16],
            "repository": request.repository or "-",
            "action": request.action or "-",
            "path": request.path[:512],
            "status": status,
            "bytes": request.sent_bytes,
            "ms": round(seconds * 1000, 1),
        }
        if self._access_log is not None:
            self._access_log.add(fields)


async def _take_body(request: Request, headers: RawHeaders) -> None:
    if not await request.drain(_DRAIN_BYTES):
        # A long body that nobody reads: answer at once, and close when the client has had time to hear it.
        headers.append((b"connection", b"close"))


def _text(status: int, text: str) -> Response:
    return Response(status, [("content-type", "text/plain; charset=utf-8")], f"{text}\n".encode())
