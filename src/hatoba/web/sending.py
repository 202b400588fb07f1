"""Putting an answer on the wire: small ones at once, blobs by the server's own file sending where it can.

Once an answer has begun there is no second one: what fails then is logged and the connection cut.
"""

from __future__ import annotations

import asyncio
import resource
from collections import deque

import structlog

from hatoba.errors import RegistryError
from hatoba.registry.blobs import OpenBlob
from hatoba.web.messages import Request, Response, Send
from hatoba.web.v2.base import BlobAnswer

RawHeaders = list[tuple[bytes, bytes]]
_BLOCK_BYTES = 512 * 1024
_LINGER_SECONDS = 30.0
_MOST_LINGERING = 4096
_NO_LENGTH = {204, 304}


class Cut(Exception):
    """Ends a connection whose answer cannot be finished; the server closes it on any exception."""


async def send_response(request: Request, send: Send, answer: Response, headers: RawHeaders) -> int:
    """Send an answer that fits in memory; the bytes of its body."""
    known = any(name == b"content-length" for name, _ in headers)
    if not known and answer.status not in _NO_LENGTH:
        headers.append((b"content-length", b"%d" % len(answer.body)))
    body = b"" if request.method == "HEAD" else answer.body
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
    return len(body)


class BlobSender:
    """Sends blobs; one per worker, used on the loop thread.

    granian opens the path of a `pathsend` some time after `send` returned, and nothing tells when it has: `receive`
    reports the end at once. A descriptor closed by then is a bare 404 to the client. So descriptors that were handed
    over linger, and when many do, blobs are streamed instead.
    """

    def __init__(self, most: int = _MOST_LINGERING, linger_seconds: float = _LINGER_SECONDS) -> None:
        # A part of what the process may open, so that clients who come and go at once leave enough for the others.
        self._most = min(most, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8)
        self._linger_seconds = linger_seconds
        self._lingering: deque[tuple[float, OpenBlob]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def send(self, request: Request, send: Send, answer: BlobAnswer, headers: RawHeaders) -> int:
        """Send a blob or a range of it and see to its reader's end; the bytes of the body."""
        headers.append((b"content-length", b"%d" % answer.length))
        lingers = False
        try:
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            descriptor = answer.blob.reader.fileno()
            if descriptor is not None and self._can_hand_over(request, answer):
                lingers = True
                # By number, not by name: when the server opens it the name may be gone.
                await send({"type": "http.response.pathsend", "path": f"/proc/self/fd/{descriptor}"})
            else:
                await _stream(send, answer)
        finally:
            if lingers:
                self._linger(answer.blob)
            else:
                answer.blob.reader.close()
        return answer.length

    def close(self) -> None:
        """Close every descriptor; no transfer may begin any more."""
        if self._timer is not None:
            self._timer.cancel()
        while self._lingering:
            self._lingering.popleft()[1].reader.close()

    def _can_hand_over(self, request: Request, answer: BlobAnswer) -> bool:
        # Up to one block a read is cheaper than the server's own open and reads.
        whole = answer.length == answer.blob.size and answer.length > _BLOCK_BYTES
        offered = "http.response.pathsend" in (request.scope.get("extensions") or {})
        return whole and offered and len(self._lingering) < self._most

    def _linger(self, blob: OpenBlob) -> None:
        loop = asyncio.get_running_loop()
        self._lingering.append((loop.time() + self._linger_seconds, blob))
        if self._timer is None:
            self._timer = loop.call_later(self._linger_seconds, self._sweep)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._lingering and self._lingering[0][0] <= loop.time():
            self._lingering.popleft()[1].reader.close()
        if self._lingering:
            self._timer = loop.call_at(self._lingering[0][0], self._sweep)


async def _stream(send: Send, answer: BlobAnswer) -> None:
    position, end = answer.first, answer.first + answer.length
    if position == end:
        await send({"type": "http.response.body", "body": b""})
    while position < end:
        try:
            block = await answer.blob.reader.read(position, min(_BLOCK_BYTES, end - position))
        except RegistryError as error:
            block = b""
            structlog.stdlib.get_logger("hatoba.web").error("reading a blob failed", reason=error.message)
        if not block:
            raise Cut
        position += len(block)
        await send({"type": "http.response.body", "body": block, "more_body": position < end})
