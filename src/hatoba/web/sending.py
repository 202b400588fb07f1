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
# A client that reads slowly makes us and granian hold five blocks: many of them are sent small ones, at half the speed.
_SMALL_BLOCK_BYTES = 64 * 1024
_FEW_STREAMS = 16
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


class BlobSender:
    """Sends blobs; one per worker, used on the loop thread. Cuts an answer of which nothing goes out for so long."""

    def __init__(self, stall_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self._streams = 0

    async def send(self, request: Request, send: Send, answer: BlobAnswer, headers: RawHeaders) -> None:
        """Send a blob or a range of it; raises Cut, or RegistryError when nothing has gone out yet.

        A whole blob is the server's to send, by its path: the descriptor that is open here could be closed, and its
        number be another file's, by the time the server opens it, which it does after `send` has returned.
        """
        headers.append((b"content-length", b"%d" % answer.length))
        start = {"type": "http.response.start", "status": answer.status, "headers": headers}
        path = _path_to_hand_over(request, answer)
        if path is not None:
            await send(start)
            await send({"type": "http.response.pathsend", "path": path})
            request.sent_bytes = answer.length  # as far as anybody can tell
            return
        self._streams += 1
        try:
            first = await self._read(request, answer)  # before the answer begins, which could then not say what failed
            await send(start)
            await self._stream(request, send, answer, first)
        finally:
            self._streams -= 1

    async def _stream(self, request: Request, send: Send, answer: BlobAnswer, block: bytes) -> None:
        left: asyncio.Task[None] | None = None
        try:
            while True:
                await self._send_block(request, send, answer, block)
                if request.sent_bytes == answer.length:
                    return
                if left is None and request.sent_bytes >= _UNWATCHED_BYTES:
                    # Only `receive` tells that the client has left: `send` then takes what it gets, and drops it.
                    left = asyncio.get_running_loop().create_task(request.left())
                if left is not None and left.done():
                    raise Cut(CLIENT_GONE)
                try:
                    block = await self._read(request, answer)
                except RegistryError as error:
                    structlog.stdlib.get_logger("hatoba.web").error(
                        "reading a blob failed", reason=str(error.__cause__ or error.message)
                    )
                    raise Cut(error.status) from None
        finally:
            if left is not None:
                left.cancel()

    async def _read(self, request: Request, answer: BlobAnswer) -> bytes:
        """The next block, an empty one if the answer is empty; raises Unavailable."""
        position = request.sent_bytes
        large = self._streams <= _FEW_STREAMS or answer.length <= _BLOCK_BYTES
        wanted = min(_BLOCK_BYTES if large else _SMALL_BLOCK_BYTES, answer.length - position)
        block = await answer.blob.reader.read(answer.first + position, wanted) if wanted else b""
        if wanted and not block:
            raise Unavailable("the blob cannot be read") from EOFError(f"{answer.blob.digest} became shorter")
        return block

    async def _send_block(self, request: Request, send: Send, answer: BlobAnswer, block: bytes) -> None:
        end = request.sent_bytes + len(block)
        try:
            # It returns when there is room for the next block: a client that reads slowly makes it wait.
            async with asyncio.timeout(self._stall_seconds):
                await send({"type": "http.response.body", "body": block, "more_body": end < answer.length})
        except TimeoutError:
            raise Cut(CLIENT_GONE) from None
        request.sent_bytes = end


def _path_to_hand_over(request: Request, answer: BlobAnswer) -> str | None:
    # Up to one block a read is cheaper than the server's own open and reads.
    whole = answer.length == answer.blob.size and answer.length > _BLOCK_BYTES
    offered = "http.response.pathsend" in (request.scope.get("extensions") or {})
    return answer.blob.reader.path if whole and offered else None
