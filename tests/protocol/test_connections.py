"""The wire itself: framing, connections that go on, early answers, interrupted bodies. Over TCP, to a real process.

At a base URL that registry is asked; otherwise hatoba is started, since in process there is no connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

TOO_LARGE = 4 * 1024 * 1024 + 1
NO_SESSION = "/v2/x/blobs/uploads/00000000-0000-0000-0000-000000000000"


@pytest.fixture(scope="module")
def base_url(request, tmp_path_factory):
    given = request.config.getoption("--base-url")
    if given:
        yield given
        return
    folder = tmp_path_factory.mktemp("connections")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("REGISTRY_", "HATOBA_"))}
    ours = {"REGISTRY_HTTP_ADDR": address, "REGISTRY_AUTH": "none", "REGISTRY_STORAGE_DELETE_ENABLED": "true"}
    ours["REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY"] = str(folder / "root")
    command = [Path(sys.executable).with_name("hatoba"), "serve"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=kept | ours, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(address, process, folder / "log")
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(30)


def wait_for(address: str, process, log: Path) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"http://{address}/v2/")
            return
        time.sleep(0.05)
    pytest.fail(f"hatoba does not answer:\n{log.read_text()}")


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """One TCP connection; reads answers by their framing alone, so that a byte too many or too few breaks the next."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self.reader, self.writer, self.host = reader, writer, host

    def head(self, method: str, path: str, length: int | None = None, **headers: str) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}"]
        lines += [] if length is None else [f"Content-Length: {length}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode()

    async def read(self, method: str) -> Answer:
        async with asyncio.timeout(20):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            status = int(first.split()[1])
            length = 0 if method == "HEAD" or status in {100, 204, 304} else int(headers["content-length"])
            return Answer(status, headers, await self.reader.readexactly(length))

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        self.writer.write(self.head(method, path, len(body) if body or method in {"POST", "PUT"} else None, **headers))
        self.writer.write(body)
        return await self.read(method)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@pytest.fixture
async def connect(base_url):
    url = httpx.URL(base_url)
    opened = []

    async def connection() -> Connection:
        reader, writer = await asyncio.open_connection(url.host, url.port or 80)
        opened.append(Connection(reader, writer, url.netloc.decode()))
        return opened[-1]

    yield connection
    for one in opened:
        await one.close()


@pytest.fixture
async def remote(base_url, kit):
    async with httpx.AsyncClient(base_url=base_url, timeout=30) as http:
        yield kit.Wire(http)


async def test_one_connection_for_everything(remote, connect):
    blob = await remote.push_blob(os.urandom(1000))
    image = await remote.push_image("v1")
    path, absent = remote.blob_path(blob.digest), remote.blob_path("sha256:" + "0" * 64)
    accept, tag = {"Accept": image.media_type}, f'"{blob.digest}"'
    connection = await connect()
    for method, where, headers, status, body in [
        ("GET", "/v2/", {}, 200, b"{}"),
        ("HEAD", path, {}, 200, b""),
        ("GET", path, {}, 200, blob.body),
        ("GET", path, {"If_None_Match": tag}, 304, b""),
        ("GET", path, {"Range": "bytes=5-9"}, 206, blob.body[5:10]),
        ("HEAD", absent, {}, 404, b""),
        ("GET", absent, {}, 404, None),
        ("HEAD", remote.manifest_path("v1"), accept, 200, b""),
        ("GET", remote.manifest_path("v1"), accept, 200, image.body),
        ("GET", remote.manifest_path("v1"), {**accept, "If_None_Match": f'"{image.digest}"'}, 304, b""),
        ("HEAD", remote.manifest_path("absent"), accept, 404, b""),
        ("POST", remote.uploads_path(), {}, 202, b""),
        ("PATCH", "/v2/", {}, None, None),
        ("GET", "/v2/", {}, 200, b"{}"),
    ]:
        answer = await connection.ask(method, where, **headers)
        assert status in {None, answer.status}
        assert body in {None, answer.body}


async def test_pipelined(remote, connect):
    blobs = [await remote.push_blob(os.urandom(50_000)) for _ in range(4)]
    connection = await connect()
    for blob in blobs:
        connection.writer.write(connection.head("GET", remote.blob_path(blob.digest)))
    for blob in blobs:
        assert (await connection.read("GET")).body == blob.body


async def test_session_status_and_cancel_on_one_connection(remote, connect):
    location = httpx.URL(await remote.start()).raw_path.decode()
    connection = await connect()
    for method, status in (("GET", 204), ("DELETE", 204), ("GET", 404), ("GET", 404)):
        assert (await connection.ask(method, location)).status == status
    assert (await connection.ask("GET", "/v2/")).body == b"{}"


@pytest.mark.parametrize("size", [1, 100_000, 3_000_000])
async def test_expect_continue(remote, connect, kit, size):
    body = os.urandom(size)
    location = httpx.URL(kit.closing(await remote.start(), kit.digest_of(body))).raw_path.decode()
    connection = await connect()
    connection.writer.write(connection.head("PUT", location, size, Expect="100-continue"))
    assert (await connection.read("PUT")).status == 100
    connection.writer.write(body)
    assert (await connection.read("PUT")).status == 201
    assert (await connection.ask("GET", remote.blob_path(kit.digest_of(body)))).body == body


EARLY = [
    ("PUT", "/v2/x/manifests/v1", TOO_LARGE, {400, 413}),
    ("PUT", "/v2/x/manifests/v1", 64_000_000, {400, 413}),
    ("PATCH", NO_SESSION, 1_000_000, {404}),
    ("PATCH", NO_SESSION, 64_000_000, {404}),
    ("PUT", "/v2/UPPER/manifests/v1", 8_000_000, {400, 404}),
    ("PUT", "/v2/x/tags/list", 8_000_000, {404, 405}),
]


@pytest.mark.parametrize(("method", "path", "size", "statuses"), EARLY, ids=range(len(EARLY)))
async def test_early_answer_reaches_a_client_that_sends_on(connect, method, path, size, statuses):
    """Go's client, so Docker's and skopeo's, sends and reads at once and gives up when sending fails before it has read
    the answer's head: what was wrong is then never told. Docker's registry goes on taking the body for a while.
    """
    for _ in range(8):
        connection = await connect()
        connection.writer.write(connection.head(method, path, size))
        reading = asyncio.create_task(connection.read(method))
        sending = asyncio.create_task(send_blanks(connection, size))
        await asyncio.wait({reading, sending}, return_when=asyncio.FIRST_COMPLETED)
        told = reading.done() or sending.exception() is None
        if told:
            await asyncio.wait({reading})
        for task in (sending, reading):
            task.cancel()
        answer, _ = await asyncio.gather(reading, sending, return_exceptions=True)
        assert told, "sending failed before there was an answer to read"
        assert isinstance(answer, Answer), repr(answer)
        assert answer.status in statuses


async def send_blanks(connection: Connection, size: int) -> None:
    for first in range(0, size, 65_536):
        connection.writer.write(b" " * min(65_536, size - first))
        await connection.writer.drain()
        await asyncio.sleep(0)  # reading has its turn too


async def test_broken_upload_goes_on(remote, connect, kit):
    """What came before the break is kept or not; the status tells, and the session goes on there (3.3)."""
    body = os.urandom(400_000)
    start = await remote.start()
    connection = await connect()
    path = httpx.URL(start).raw_path.decode()
    connection.writer.write(connection.head("PATCH", path, len(body), Content_Range=f"0-{len(body) - 1}"))
    connection.writer.write(body[:300_000])
    await connection.writer.drain()
    await connection.close()
    for _ in range(100):  # the registry may not have noticed yet
        answer = await remote("GET", start)
        assert answer.status_code == 204
        location, sent = answer.headers["location"], answer.headers["range"].removeprefix("0-")
        sent = 0 if sent == "0" else int(sent) + 1
        assert sent <= 300_000
        answer = await remote("PATCH", location, **kit.part(sent, body[sent:]))
        if answer.status_code == 202:
            break
        await asyncio.sleep(0.05)
    location = kit.check_session(answer, 202, f"0-{len(body) - 1}")
    answer = await remote("PUT", kit.closing(location, kit.digest_of(body)))
    await kit.check_blob(remote, answer, kit.digest_of(body), body)


async def test_broken_single_post_leaves_nothing(remote, connect, kit):
    body = os.urandom(400_000)
    connection = await connect()
    path = f"{remote.uploads_path()}?digest={kit.digest_of(body)}"
    connection.writer.write(connection.head("POST", path, len(body)) + body[:300_000])
    await connection.writer.drain()
    await connection.close()
    assert (await remote("HEAD", remote.blob_path(kit.digest_of(body)))).status_code == 404
    await remote.push_blob(body)
    assert (await remote("GET", remote.blob_path(kit.digest_of(body)))).content == body


@pytest.mark.parametrize("size", [0, 1, 524_288, 524_289, 5_000_000])
@pytest.mark.parametrize("range_", [None, "bytes=1-"])
async def test_blobs_over_the_wire(remote, connect, size, range_):
    """By whatever way the server sends files."""
    blob = await remote.push_blob(os.urandom(size))
    connection = await connect()
    for _ in range(2):
        answer = await connection.ask("GET", remote.blob_path(blob.digest), **({"Range": range_} if range_ else {}))
        if range_ and size <= 1:
            assert answer.status == 416
        else:
            assert answer.status == (206 if range_ else 200)
            assert answer.body == blob.body[1 if range_ else 0 :]


async def test_http_1_0(connect):
    connection = await connect()
    connection.writer.write(b"GET /v2/ HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(20):
        head, _, body = (await connection.reader.read()).partition(b"\r\n\r\n")
    assert (head.split()[1], body) == (b"200", b"{}")


@pytest.mark.parametrize(
    "framing",
    [
        b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
        b"content-length: 10\r\n\r\n{}",
    ],
    ids=["no number", "negative", "huge", "no end", "short"],
)
@pytest.mark.parametrize("where", ["manifest", "chunk", "end", "whole"])
async def test_body_that_breaks_off(remote, connect, kit, where, framing):
    """A body that is no HTTP, or the client closes its side alone: it still listens, and is told what was wrong."""
    digest = kit.digest_of(b"{}")
    session = httpx.URL(await remote.start()).raw_path.decode()
    method, path = {
        "manifest": ("PUT", remote.manifest_path("v1")),
        "chunk": ("PATCH", session),
        "end": ("PUT", kit.closing(session, digest)),
        "whole": ("POST", f"{remote.uploads_path()}?digest={digest}"),
    }[where]
    connection = await connect()
    connection.writer.write(f"{method} {path} HTTP/1.1\r\nhost: x\r\n".encode() + framing)
    connection.writer.write_eof()
    answer = await connection.read(method)
    assert answer.status == 400
    assert json.loads(answer.body)["errors"][0]["code"] == "SIZE_INVALID"
    assert answer.headers["connection"] == "close"
    assert (await remote("GET", session)).status_code == 204, "the session goes on"
    assert (await remote("HEAD", remote.blob_path(digest))).status_code == 404


@pytest.mark.parametrize("size", [10, 1_000_000])
async def test_blob_asked_for_with_a_body(remote, connect, size):
    """Odd, but HTTP: the body is taken, and the connection goes on."""
    blob = await remote.push_blob(os.urandom(size))
    connection = await connect()
    for _ in range(50):
        head = connection.head("GET", remote.blob_path(blob.digest), Transfer_Encoding="chunked")
        connection.writer.write(head + b"5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n")
        assert (await connection.read("GET")).body == blob.body
