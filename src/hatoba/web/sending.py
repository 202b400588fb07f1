"""Putting an answer on the wire: small ones at once, blobs by the server's own file sending where it can.

Once an answer has begun there is no second one: what fails then is logged and the connection cut.
"""

from __future__ import annotations

import asyncio

import structlog

from hatoba.errors import RegistryError, Unavailable
from hatoba.web.messages import Request, Response, Send
from hatoba.web.v2.base import BlobAnswer

RawHeaders = list[tuple[bytes, bytes]]
_BLOCK_BYTES = 512 * 1024
_UNWATCHED_BYTES = 4 * _BLOCK_BYTES  # to watch out for a client that leaves costs as much as to send a block
_NO_LENGTH = {204, 304}

CLIENT_GONE = 499  # for the log alone, as nginx has it: nobody is there to be told


class Cut(Exception):
    """The answer cannot be finished: it ends here, short of its announced length, and so does the connection.

    `status` is for the log, the client has been told another.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


async def send_response(request: Request, send: Send, answer: Response, headers: RawHeaders) -> None:
    """Send an answer that fits in memory."""
    known = any(name == b"content-length" for name, _ in headers)
    if not known and answer.status not in _NO_LENGTH:
        headers.append((b"content-length", b"%d" % len(answer.body)))
    body = b"" if request.method == "HEAD" else answer.body
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
    request.sent_bytes = len(body)


async def send_blob(
    request: Request, send: Send, answer: BlobAnswer, headers: RawHeaders, stall_seconds: float
) -> None:
    """Send a blob or a range of it; raises Cut, also when nothing goes out for `stall_seconds`.

    A whole blob is the server's to send, by its path: the descriptor that is open here could be closed, and its number
    be another file's, by the time the server opens it, which it does after `send` has returned.
    """
    headers.append((b"content-length", b"%d" % answer.length))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    path = _path_to_hand_over(request, answer)
    if path is not None:
        await send({"type": "http.response.pathsend", "path": path})
        request.sent_bytes = answer.length  # as far as anybody can tell
    else:
        await _stream(request, send, answer, stall_seconds)


def _path_to_hand_over(request: Request, answer: BlobAnswer) -> str | None:
    # Up to one block a read is cheaper than the server's own open and reads.
    whole = answer.length == answer.blob.size and answer.length > _BLOCK_BYTES
    offered = "http.response.pathsend" in (request.scope.get("extensions") or {})
    return answer.blob.reader.path if whole and offered else None


async def _stream(request: Request, send: Send, answer: BlobAnswer, stall_seconds: float) -> None:
    await _send_block(request, send, answer, stall_seconds)
    while request.sent_bytes < min(answer.length, _UNWATCHED_BYTES):
        await _send_block(request, send, answer, stall_seconds)
    if request.sent_bytes < answer.length:
        await _stream_watching(request, send, answer, stall_seconds)


async def _stream_watching(request: Request, send: Send, answer: BlobAnswer, stall_seconds: float) -> None:
    # Only `receive` tells that the client has left: granian's `send` then takes what it gets, and drops it.
    left = asyncio.get_running_loop().create_task(request.left())
    try:
        while request.sent_bytes < answer.length:
            if left.done():
                raise Cut(CLIENT_GONE)
            await _send_block(request, send, answer, stall_seconds)
    finally:
        left.cancel()


async def _send_block(request: Request, send: Send, answer: BlobAnswer, stall_seconds: float) -> None:
    """Read and send the next block, an empty one if the answer is empty; raises Cut."""
    position = request.sent_bytes
    wanted = min(_BLOCK_BYTES, answer.length - position)
    try:
        block = await answer.blob.reader.read(answer.first + position, wanted) if wanted else b""
    except RegistryError as error:
        structlog.stdlib.get_logger("hatoba.web").error("reading a blob failed", reason=error.message)
        raise Cut(error.status) from None
    if wanted and not block:
        raise Cut(Unavailable.status)
    more = position + len(block) < answer.length
    try:
        # It returns when there is room for the next block: a client that reads slowly makes it wait.
        async with asyncio.timeout(stall_seconds):
            await send({"type": "http.response.body", "body": block, "more_body": more})
    except TimeoutError:
        raise Cut(CLIENT_GONE) from None
    request.sent_bytes = position + len(block)
