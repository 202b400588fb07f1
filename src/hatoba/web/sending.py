"""Putting an answer on the wire: small ones at once, blobs by the server's own file sending where it can.

Once an answer has begun there is no second one: what fails then is logged and the connection cut.
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from hatoba.errors import RegistryError
from hatoba.web.messages import Request, Response, Send
from hatoba.web.v2.base import BlobAnswer

RawHeaders = list[tuple[bytes, bytes]]
_BLOCK_BYTES = 512 * 1024
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


async def send_blob(request: Request, send: Send, answer: BlobAnswer, headers: RawHeaders) -> int:
    """Send a blob or a range of it and close its reader; the bytes of the body."""
    reader = answer.blob.reader
    headers.append((b"content-length", b"%d" % answer.length))
    try:
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        descriptor = reader.fileno()
        whole = answer.length == answer.blob.size and answer.length > 0
        if whole and descriptor is not None and _can_send_files(request):
            # By number, not by name: the server opens the path after `send` returned, when a name may be gone.
            await send({"type": "http.response.pathsend", "path": f"/proc/self/fd/{descriptor}"})
            await _sent(request)
        else:
            await _stream(send, answer)
    finally:
        reader.close()
    return answer.length


def _can_send_files(request: Request) -> bool:
    return "http.response.pathsend" in (request.scope.get("extensions") or {})


async def _sent(request: Request) -> None:
    """Wait for the end of the transfer: the descriptor must stay open until then."""
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return


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
        with contextlib.suppress(asyncio.InvalidStateError):
            await send({"type": "http.response.body", "body": block, "more_body": position < end})
