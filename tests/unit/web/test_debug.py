"""The debug port: two small GETs, and nothing that a client can do to it."""

import asyncio
import contextlib
import json
import socket

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hatoba.metrics import catalogue
from hatoba.metrics.cells import Board
from hatoba.web import debug
from hatoba.web.debug import DebugServer, Metrics


class Port:
    """A debug port of this process. `problems` is what is wrong."""

    def __init__(self, board):
        self.problems = {}
        self.board = board
        self.recorder = self.board.claim()
        self.surveys = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.metrics = Metrics(self.board.totals, self.survey, self.find)

    async def find(self):
        return self.problems

    async def survey(self):
        self.surveys += 1
        return {catalogue.BLOBS: 7.0}

    async def send(self, content):
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(content)
        try:
            answer = await reader.read()
        except ConnectionResetError:
            answer = b""
        writer.close()
        return answer

    async def get(self, path, method="GET"):
        answer = await self.send(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        assert method == "HEAD" or int(headers["content-length"]) == len(body)
        assert headers["connection"] == "close"
        return int(lines[0].split()[1]), headers, body


@pytest.fixture
def board():
    return Board(1)


@pytest.fixture
async def port(board, monkeypatch):
    monkeypatch.setattr(debug, "_GAP_SECONDS", 0.0)
    made = Port(board)
    async with DebugServer(made.listener, made.find, made.metrics, "/metrics").running():
        yield made


async def test_health(port):
    assert await port.get("/debug/health") == (200, {
        "content-type": "application/json; charset=utf-8", "content-length": "2", "x-content-type-options": "nosniff",
        "connection": "close",
    }, b"{}")  # fmt: skip
    port.problems = {"database": "the database does not answer"}
    status, _, body = await port.get("/debug/health")
    assert (status, json.loads(body)) == (503, {"database": "the database does not answer"})


async def test_metrics(port):
    port.recorder.counter(catalogue.CREDENTIAL_CHECKS, "wrong").add(3)
    port.recorder.histogram(catalogue.LOOP_DELAY).observe(0.002)
    status, headers, body = await port.get("/metrics?x=1")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    samples = {(s.name, *s.labels.items()): s.value for family in families.values() for s in family.samples}
    assert samples["hatoba_credential_checks_total", ("outcome", "wrong")] == 3.0
    assert samples["hatoba_event_loop_delay_seconds_bucket", ("le", "0.001")] == 0.0
    assert samples["hatoba_event_loop_delay_seconds_bucket", ("le", "0.0025")] == 1.0
    assert samples["hatoba_event_loop_delay_seconds_bucket", ("le", "+Inf")] == 1.0
    assert samples["hatoba_event_loop_delay_seconds_count",] == 1.0
    assert samples["hatoba_event_loop_delay_seconds_sum",] == 0.002
    assert samples["hatoba_blobs",] == 7.0
    assert samples["hatoba_ready",] == 1.0
    port.problems = {"a": "b"}
    assert b"\nhatoba_ready 0.0\n" in (await port.get("/metrics"))[2]
    assert port.surveys == 1, "what looks through tables is kept for some seconds"


async def test_only_small_gets(port):
    status, headers, body = await port.get("/metrics", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 1000
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "get", ""):
        status, headers, _ = await port.get("/debug/health", method)
        assert (status, headers["allow"]) == (405, "get, head"), method
    for path in ("/", "/debug/vars", "/debug/pprof/", "/metrics/", "//metrics", "/v2/", "*", "/debug/health%00", "/é"):
        assert (await port.get(path))[0] == 404, path


@pytest.mark.parametrize(
    "content",
    [
        b"GET /metrics HTTP/1.1\r\nx: " + b"a" * 100_000,
        b"\r\n" * 3,
        b"\0" * 5000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
    ],
    ids=["huge", "nothing", "zeros", "TLS", "no path", "a body that does not come"],
)
async def test_garbage_is_answered_or_cut_and_the_next_is_served(port, content):
    async with asyncio.timeout(20):
        await port.send(content)
        assert (await port.get("/debug/health"))[0] == 200


async def test_a_head_has_so_many_bytes_at_most(port):
    for size, expected in ((debug._HEAD_BYTES - 100, b"HTTP/1.1 200 OK"), (debug._HEAD_BYTES + 1, b"")):
        head = b"GET /debug/health HTTP/1.1\r\nx: ".ljust(size, b"a")
        assert (await port.send(head + b"\r\n\r\n")).partition(b"\r\n")[0] == expected


async def test_whoever_is_silent_is_cut(port, monkeypatch):
    monkeypatch.setattr(debug, "_SECONDS", 0.05)
    async with asyncio.timeout(20):
        assert await port.send(b"GET /metr") == b""


async def test_no_more_than_so_many_at_a_time(port):
    silent = [await asyncio.open_connection(*port.address) for _ in range(debug._MOST_CONNECTIONS)]
    async with asyncio.timeout(20):
        assert await port.send(b"GET /debug/health HTTP/1.1\r\n\r\n") == b""
        for _, writer in silent:
            writer.close()
        while not await port.send(b"GET /debug/health HTTP/1.1\r\n\r\n"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_texts_are_made_one_after_the_other_with_a_gap(board, monkeypatch):
    monkeypatch.setattr(debug, "_GAP_SECONDS", 0.05)
    port, slept = Port(board), []
    real = asyncio.sleep

    async def sleep(seconds):
        slept.append(seconds)
        await real(seconds)

    monkeypatch.setattr(debug.asyncio, "sleep", sleep)
    await asyncio.gather(*(port.metrics.text() for _ in range(3)))
    port.listener.close()
    assert [seconds > 0 for seconds in slept] == [False, True, True]


async def test_the_end_does_not_wait_for_clients(board, monkeypatch):
    monkeypatch.setattr(debug, "_SECONDS", 3600.0)
    port = Port(board)
    async with asyncio.timeout(20), DebugServer(port.listener, port.find, None, "/metrics").running():
        assert (await port.get("/metrics"))[0] == 404
        reader, writer = await asyncio.open_connection(*port.address)
        writer.write(b"GET")
        await port.get("/debug/health")
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()


async def test_whoever_asked_before_the_end_is_answered(board, monkeypatch):
    """The worker that is replaced, not the one who asks it, is to go."""
    monkeypatch.setattr(debug, "_GAP_SECONDS", 0.1)
    port = Port(board)
    async with DebugServer(port.listener, port.find, port.metrics, "/metrics").running():
        await port.get("/metrics")
        asking = asyncio.ensure_future(port.get("/metrics"))
        await asyncio.sleep(0.05)
        assert not asking.done()
    assert (await asking)[0] == 200
