"""The debug port, as Docker's registry has it: `/debug/health` and `/metrics`, without sign-in, off unless configured.

Every worker answers at one socket that the parent opened, so a worker that is replaced or hangs leaves the port to the
others. It takes small GETs alone, a few at a time and each for a few seconds: a flood gets no more of a worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import structlog

from hatoba.metrics import catalogue
from hatoba.metrics.catalogue import Metric
from hatoba.metrics.cells import Series
from hatoba.web import exposition

_HEAD_BYTES = 8192
_SECONDS = 5.0
_LAST_SECONDS = 1.0
_ACCEPTED_SECONDS = 0.02  # until asyncio has made a task of ours of what it accepted
_MOST_CONNECTIONS = 16
_SURVEY_SECONDS = 10.0
_GAP_SECONDS = 0.2  # the text takes 10 ms of a thread: five of them a second are nothing to a worker

Answers = Callable[[], Awaitable[tuple[int, str, bytes]]]
Problems = Callable[[], Awaitable[Mapping[str, str]]]


class Metrics:
    """The text of `/metrics`. `totals` gives what was counted, `survey` the rest, `problems` why it is not ready."""

    def __init__(
        self,
        totals: Callable[[], Mapping[Metric, list[Series]]],
        survey: Callable[[], Awaitable[dict[Metric, float]]],
        problems: Problems,
    ) -> None:
        self._totals = totals
        self._survey = survey
        self._problems = problems
        self._turn = asyncio.Lock()
        self._surveyed: dict[Metric, float] = {}
        self._survey_due = 0.0
        self._next = 0.0

    async def text(self) -> bytes:
        """The counts of now; what takes a survey is up to ten seconds old. One after the other, however many ask."""
        async with self._turn:
            await asyncio.sleep(self._next - time.monotonic())
            if time.monotonic() >= self._survey_due:
                self._surveyed = await self._survey()
                self._survey_due = time.monotonic() + _SURVEY_SECONDS
            self._surveyed[catalogue.READY] = 0.0 if await self._problems() else 1.0
            text = await asyncio.to_thread(self._render)
            self._next = time.monotonic() + _GAP_SECONDS
            return text

    async def answer(self) -> tuple[int, str, bytes]:
        """Status, Content-Type and body of a GET."""
        return 200, exposition.CONTENT_TYPE, await self.text()

    def _render(self) -> bytes:
        return exposition.render(self._totals(), self._surveyed)


class DebugServer:
    """Answers at `listener`, which is listening already. Without `metrics` there is only `/debug/health`."""

    def __init__(self, listener: socket.socket, problems: Problems, metrics: Metrics | None, path: str) -> None:
        self._listener = listener
        self._problems = problems
        self._answers: dict[str, Answers] = {"/debug/health": self._health}
        if metrics is not None:
            self._answers[path] = metrics.answer
        self._open: set[asyncio.Task[Any]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer while the context lasts."""
        server = await asyncio.start_server(self._connected, sock=self._listener, limit=_HEAD_BYTES)
        try:
            yield
        finally:
            server.close()
            await self._end()

    async def _end(self) -> None:
        """Let who was accepted have an answer: whoever replaces this worker would be no reason to miss one."""
        await asyncio.sleep(_ACCEPTED_SECONDS)
        if self._open:
            await asyncio.wait(tuple(self._open), timeout=_LAST_SECONDS)
        for task in tuple(self._open):
            task.cancel()
        if self._open:
            await asyncio.wait(tuple(self._open))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._open) >= _MOST_CONNECTIONS:
            writer.transport.abort()
            return
        self._open.add(task)
        try:
            async with asyncio.timeout(_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._answer(head))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # nobody is there to be told, or it is no business of theirs
        except Exception:  # noqa: BLE001  as in `app`
            structlog.stdlib.get_logger("hatoba.debug").exception("defect at the debug port")
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def _answer(self, head: bytes) -> bytes:
        """The whole answer to a request, of which only the first line counts."""
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0].decode("latin-1")
        answer = self._answers.get(path)
        if answer is None:
            return _response(method, 404, "text/plain; charset=utf-8", b"404 page not found\n")
        if method not in {b"GET", b"HEAD"}:
            return _response(method, 405, "text/plain; charset=utf-8", b"only GET and HEAD\n", "Allow: GET, HEAD\r\n")
        return _response(method, *await answer())

    async def _health(self) -> tuple[int, str, bytes]:
        problems = await self._problems()
        body = json.dumps(dict(problems), separators=(",", ":")).encode()
        return 503 if problems else 200, "application/json; charset=utf-8", body


def _response(method: bytes, status: int, content_type: str, body: bytes, more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n{more}\r\n"
    )
    return head.encode("ascii") + (b"" if method == b"HEAD" else body)
