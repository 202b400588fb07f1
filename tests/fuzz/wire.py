"""HTTP by hand: requests as bytes, answers parsed without mercy. A client library would repair what is to be seen."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from dataclasses import dataclass, field

ANSWER_SECONDS = 60.0
_LIMIT = 1024 * 1024
_HEAD = re.compile(rb"HTTP/1\.[01] [1-5][0-9]{2} [\t -~]*\r\n(?:[!#-'*+.0-9A-Z^-z|~-]+:[\t -~\x80-\xff]*\r\n)*\r\n")


class NotHTTP(Exception):
    """What came is no answer; the message says why and holds the bytes."""


class Closed(Exception):
    """The server closed the connection instead of answering."""


@dataclass(slots=True)
class Answer:
    """An answer as it came. Header names in lower case."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key == name]

    def get(self, name: str) -> str | None:
        """The first value of a header."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def closes(self) -> bool:
        """Whether the connection ends with it."""
        return (self.get("connection") or "").lower() == "close"


class Connection:
    """A connection to the registry under test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=_LIMIT))

    async def send(self, raw: bytes) -> None:
        """Send bytes; a connection that is closed meanwhile is found out by reading."""
        if self._writer.transport.is_closing():
            return
        with contextlib.suppress(ConnectionError):
            self._writer.write(raw)
            await self._writer.drain()

    async def read(self, method: str) -> Answer:
        """The next answer, 1xx aside. Raises Closed, NotHTTP, TimeoutError."""
        async with asyncio.timeout(ANSWER_SECONDS):
            while True:
                head = await self._head()
                answer = parse_head(head)
                if not 100 <= answer.status < 200:
                    answer.body = await self._body(method, answer, head)
                    return answer

    async def _head(self) -> bytes:
        try:
            return await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise NotHTTP(f"the answer broke off: {error.partial[:500]!r}") from None
            raise Closed from None
        except ConnectionError:
            raise Closed from None
        except asyncio.LimitOverrunError:
            raise NotHTTP("an endless head") from None

    async def _body(self, method: str, answer: Answer, head: bytes) -> bytes:
        if method == "HEAD" or answer.status in {204, 304}:
            return b""
        lengths = answer.all("content-length")
        if len(lengths) != 1 or not lengths[0].isdigit() or answer.get("transfer-encoding"):
            raise NotHTTP(f"not one Content-Length: {head[:500]!r}")
        try:
            return await self._reader.readexactly(int(lengths[0]))
        except (asyncio.IncompleteReadError, ConnectionError):
            raise NotHTTP(f"the body broke off: {head[:500]!r}") from None

    async def rest(self, seconds: float) -> bytes:
        """What still comes until the server closes, or for `seconds`."""
        parts: list[bytes] = []
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(seconds):
                while part := await self._reader.read(65_536):
                    parts.append(part)
        return b"".join(parts)

    def finish(self) -> None:
        """FIN: say that nothing more comes."""
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.write_eof()

    def reset(self) -> None:
        """RST: vanish as a crashed client does."""
        transport = self._writer.transport
        with contextlib.suppress(OSError, AttributeError):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def parse_head(head: bytes) -> Answer:
    """A status line and headers; raises NotHTTP."""
    if not _HEAD.fullmatch(head):
        raise NotHTTP(f"not the head of an answer: {head[:500]!r}")
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return Answer(int(first[9:12]), [(name.lower(), value.strip()) for name, _, value in pairs])


def parse_all(received: bytes, methods: list[str]) -> list[Answer]:
    """The answers in what a closed connection gave; raises NotHTTP. An answer that broke off at the end counts not."""
    answers: list[Answer] = []
    while received:
        head, end, rest = received.partition(b"\r\n\r\n")
        if not end:
            if not b"HTTP/1.1 ".startswith(received[:9]) and not received.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")):
                raise NotHTTP(f"not an answer: {received[:500]!r}")
            break
        answer = parse_head(head + end)
        if not 100 <= answer.status < 200:
            method = methods[len(answers)] if len(answers) < len(methods) else "GET"
            bare = method == "HEAD" or answer.status in {204, 304}
            length = 0 if bare else int(answer.get("content-length") or 0)
            answer.body, rest = rest[:length], rest[length:]
            answers.append(answer)
        received = rest
    return answers
