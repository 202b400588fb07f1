"""A request and an answer, as thin as speed allows: plain ASGI underneath, parsed on demand."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from hatoba.errors import RegistryError, SizeInvalid
from hatoba.web.budget import Share

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[str, str]]

_STALLS_A_BODY = 10  # a body in memory may take so many stall time-outs in all, or a trickle would hold it for ever
_DRAIN_SECONDS = 1.0  # for a short body that was announced and does not come: the answer need not wait for it


class ClientGone(Exception):
    """The client closed the connection, or sent nothing for the stall time-out (`stalled`)."""

    def __init__(self, *, stalled: bool) -> None:
        super().__init__("stalled" if stalled else "gone")
        self.stalled = stalled


class BodyTooLarge(Exception):
    """The body is over the limit it was read with."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer that fits in memory. Header names in lower case."""

    status: int
    headers: Headers = field(default_factory=list)
    body: bytes = b""


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


class Request:
    """One request. `user` is None for anonymous; `address` is the client's, whatever proxies stand between.

    `pattern`, `action` and `repository` are set by the router, for the log and for metrics. `prefixed`: the path began
    with `http.prefix`, which `path` is without.

    `cut_short`: the answer goes out before the body was read. `received_bytes` of the body have been read and
    `sent_bytes` of the answer's have gone out.
    """

    def __init__(self, scope: Scope, receive: Receive, stall_seconds: float) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.address = ""
        self.user: str | None = None
        self.pattern = ""
        self.action = ""
        self.repository = ""
        self.prefixed = False
        self.body_read = False
        self.cut_short = False
        self.stalled = False
        self.sent_bytes = 0
        self.received_bytes = 0
        self._receive = receive
        self._stall_seconds = stall_seconds
        self._query: list[tuple[str, str]] | None = None

    def header(self, name: str) -> str | None:
        """A header's value; `name` in lower case."""
        value = self.headers.get(name.encode("latin-1"))
        return None if value is None else value.decode("latin-1")

    def header_all(self, name: str) -> list[str]:
        """The values of a header that may come in several lines; `name` in lower case."""
        wanted = name.encode("latin-1")
        return [value.decode("latin-1") for key, value in self.scope["headers"] if key == wanted]

    def query_all(self, name: str) -> list[str]:
        """Every value of a query parameter, in order."""
        if self._query is None:
            text = self.scope["query_string"].decode("latin-1")
            self._query = parse_qsl(text, keep_blank_values=True, errors="replace")
        return [value for key, value in self._query if key == name]

    def query(self, name: str) -> str | None:
        """The first value of a query parameter."""
        values = self.query_all(name)
        return values[0] if values else None

    @property
    def has_body(self) -> bool:
        """Whether the client announced a body (RFC 9112, 6)."""
        return b"content-length" in self.headers or b"transfer-encoding" in self.headers

    @property
    def length_bytes(self) -> int | None:
        """The announced length of the body; raises SizeInvalid when it is no number."""
        value = self.headers.get(b"content-length")
        if value is None:
            return None
        if not value.isdigit():
            raise SizeInvalid("Content-Length is no number")
        return int(value)

    async def stream(self) -> AsyncIterator[bytes]:
        """The body as it arrives; raises ClientGone."""
        more = not self.body_read
        while more:
            try:
                async with asyncio.timeout(self._stall_seconds):
                    message = await self._receive()
            except TimeoutError:
                self.stalled = True
                raise ClientGone(stalled=True) from None
            if message["type"] != "http.request":
                self.body_read = True  # there will be no more of it
                raise ClientGone(stalled=False)
            more = message.get("more_body", False)
            self.body_read = not more
            body = message.get("body", b"")
            self.received_bytes += len(body)
            yield body

    async def body(self, limit: int, share: Share) -> bytes:
        """The whole body, held in `share`; raises BodyTooLarge over `limit` bytes, ClientGone, TooManyRequests."""
        announced = self.length_bytes
        if announced is not None and announced > limit:
            raise BodyTooLarge
        body = bytearray()  # not a list: a client may send bytes one by one, and each would be an object of 50
        end = time.monotonic() + _STALLS_A_BODY * self._stall_seconds
        async for part in self.stream():
            if len(body) + len(part) > limit:
                raise BodyTooLarge
            share.grow(len(body) + len(part))
            if time.monotonic() > end:
                self.stalled = True
                raise ClientGone(stalled=True)
            body += part
        return bytes(body)

    async def drain(self, limit: int) -> bool:
        """Read and drop what is left of a short body, so that the connection can be used again.

        False if it is long: then the body is `cut_short`, and `linger` after the answer.
        """
        self.cut_short = not self.body_read and not await self._drain(limit)
        return not self.cut_short

    async def _drain(self, limit: int) -> bool:
        if self.stalled:
            return False
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                return await self._read_rest(limit)
        except TimeoutError:
            return False

    async def _read_rest(self, limit: int) -> bool:
        try:
            announced = self.length_bytes
            if announced is not None and announced > limit:
                return False
            size = 0
            async for part in self.stream():
                size += len(part)
                if size > limit:
                    return False
        except (ClientGone, RegistryError):
            return False
        return True

    async def linger(self, seconds: float) -> None:
        """After an early answer: read and drop what the client still sends, until it is done or `seconds` are over.

        Closing a connection with bytes unread resets it, and the reset destroys the answer on its way (RFC 9112, 9.6):
        Docker then says "broken pipe" instead of what was wrong.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.body_read:
                    message = await self._receive()
                    self.body_read = message["type"] != "http.request" or not message.get("more_body", False)

    def let_go(self) -> None:
        """Nothing more is read. granian keeps the connection as long as anybody has its `receive`.

        An exception that its own frames hold keeps them, and so this request, until Python looks for cycles: in an idle
        worker never. A connection whose body stalled stayed open for ever that way.
        """
        self._receive = _nothing

    async def left(self) -> None:
        """Wait until the client has closed the connection; what still comes of the body is dropped.

        It also returns when the whole answer is out, which is all that an ASGI server tells by that message.
        """
        while (await self._receive())["type"] == "http.request":
            pass
