"""Sending a blob in blocks: what ends it early, and how much of it is said to have gone out."""

import asyncio

import pytest

from hatoba.errors import Unavailable
from hatoba.oci.digest import Digest
from hatoba.registry.blobs import OpenBlob
from hatoba.web.messages import Request
from hatoba.web.sending import CLIENT_GONE, BlobSender, Cut
from hatoba.web.v2.base import BlobAnswer

BLOCK = 512 * 1024
SIZE = 12 * BLOCK + 5


class Reader:
    """An open blob; `failing` is raised, or returned, by every read from `failing_from` on."""

    def __init__(self, failing=None, failing_from=0):
        self.size, self.failing, self.failing_from = SIZE, failing, failing_from
        self.reads = 0

    path = None

    async def read(self, offset, length):
        self.reads += 1
        if self.failing is None or offset < self.failing_from:
            return bytes(length)
        if isinstance(self.failing, Exception):
            raise self.failing
        return self.failing


class Client:
    """The other end: reads `blocks` of them, then leaves or stands still."""

    def __init__(self, blocks=100, *, leaves=False, body=()):
        self.blocks, self.leaves, self.body = blocks, leaves, list(body)
        self.received = b""
        self.largest = 0
        self.gone = asyncio.Event()
        self.began = False

    async def receive(self):
        if self.body:
            return {"type": "http.request", "body": self.body.pop(0), "more_body": bool(self.body)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        if message["type"] == "http.response.start":
            self.began = True
            return
        if self.blocks:
            self.blocks -= 1
            self.received += message["body"]
            self.largest = max(self.largest, len(message["body"]))
        elif self.leaves:
            self.gone.set()
            await asyncio.sleep(0)
        else:
            await asyncio.Event().wait()


def answer(reader, first=0, length=SIZE):
    return BlobAnswer(206, [], OpenBlob(Digest.parse("sha256:" + "0" * 64), SIZE, reader), first, length)


def asked(client):
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "extensions": {}}
    return Request(scope, client.receive, 60)


async def send(reader, client, first=0, length=SIZE, stall_seconds=60.0):
    """Send it; the request."""
    request = asked(client)
    sender = BlobSender(stall_seconds)
    try:
        await sender.send(request, client.send, answer(reader, first, length), [])
    except Cut as cut:
        request.cut = cut.status
    else:
        request.cut = None
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1, "nobody waits on"
    return request


@pytest.mark.parametrize(
    ("first", "length"),
    [(0, SIZE), (1, SIZE - 1), (7, BLOCK), (7, BLOCK + 1), (7, 4 * BLOCK), (7, 5 * BLOCK), (0, 1), (0, 0)],
)
@pytest.mark.parametrize("body", [[], [b""], [b"x" * 100_000] * 5])
async def test_all_of_it(first, length, body):
    """A GET may have a body; nobody wants it, and it stands in nobody's way."""
    client = Client(body=body)
    request = await send(Reader(), client, first, length)
    assert len(client.received) == request.sent_bytes == length
    assert request.cut is None


async def test_a_client_that_leaves_is_sent_nothing_more():
    reader = Reader()
    request = await send(reader, Client(7, leaves=True))
    assert request.cut == CLIENT_GONE
    assert reader.reads == 8


async def test_a_client_that_stands_still_is_cut():
    for blocks in (0, 2, 7):
        request = await send(Reader(), Client(blocks), stall_seconds=0.05)
        assert (request.cut, request.sent_bytes) == (CLIENT_GONE, blocks * BLOCK)


@pytest.mark.parametrize("length", [10, SIZE])
@pytest.mark.parametrize("failing", [Unavailable("the disk fails"), b""])
async def test_a_blob_that_cannot_be_read_is_no_fault_of_the_client(failing, length):
    client = Client()
    with pytest.raises(Unavailable):
        await send(Reader(failing), client, length=length)
    assert not client.began
    request = await send(Reader(failing, 1), Client())
    assert (request.cut, request.sent_bytes) == (503, BLOCK)


async def test_many_at_once_get_small_blocks():
    """Whoever stands still holds several blocks: 150 such clients took 400 MB."""
    sender = BlobSender(60)
    standing = [Client(0) for _ in range(16)]
    tasks = [asyncio.create_task(sender.send(asked(client), client.send, answer(Reader()), [])) for client in standing]
    await asyncio.sleep(0)
    for length, largest in ((SIZE, 64 * 1024), (BLOCK, BLOCK)):
        client = Client(1000)
        await sender.send(asked(client), client.send, answer(Reader(), 0, length), [])
        assert (len(client.received), client.largest) == (length, largest)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    client = Client()
    await sender.send(asked(client), client.send, answer(Reader()), [])
    assert client.largest == BLOCK
