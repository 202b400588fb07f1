"""Log lines: one a message whatever it holds, written in batches that never hold a request up, without credentials."""

import asyncio
import base64
import contextlib
import fcntl
import io
import itertools
import json
import logging
import os
import re
import select
import socket
import sys
import threading
import time

import httpx
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from hatoba import telemetry
from hatoba.auth.htpasswd_file import HtpasswdFile
from hatoba.config.load import load
from hatoba.telemetry import AccessLog, configure
from hatoba.wiring import serving

HOSTILE = [
    "two\nlines",
    "level=error msg=forged\ntime=2026 level=error msg=forged",
    "carriage\rreturn",
    "\x1b[2Kescape",
    "\x00nul",
    "vertical\x0btab, form\x0cfeed, \x1c\x1d\x1e",
    "\x85next line",
    "\u2028line and \u2029paragraph separator",
    '"quoted" and \\backslash\\',
    "a=b c=d",
    "",
    "\udcff surrogate",
    "港 é",
]


@pytest.fixture(autouse=True)
def logging_restored():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def logged(capsys):
    def logged_():
        return capsys.readouterr().err

    return logged_


def log():
    return structlog.stdlib.get_logger("hatoba.test")


# The application's log


@pytest.mark.parametrize("formatter", ["text", "json", "logstash"])
@pytest.mark.parametrize("value", HOSTILE)
def test_a_message_is_one_line(logged, formatter, value):
    configure("info", formatter)
    log().error(value, reason=value, other=7)
    logging.getLogger("library").warning("%s", value)
    text = logged()
    assert text.endswith("\n")
    assert len(text.splitlines()) == 2, repr(text)
    assert "\x1b" not in text
    assert all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize("formatter", ["text", "json"])
def test_a_traceback_is_one_line(logged, formatter):
    configure("info", formatter)
    try:
        raise ValueError("two\nlines\x1b[0m")
    except ValueError:
        log().exception("defect\nhere")
    text = logged()
    assert len(text.splitlines()) == 1
    assert "ValueError" in text
    assert "\x1b" not in text


def test_the_text_form_is_dockers(logged):
    configure("info", "text")
    log().info("blob missing", digest="sha256:x", key="a b", flag=True, nothing=None)
    line = logged()
    assert line.startswith("time=20")
    assert ' level=info msg="blob missing" ' in line
    assert ' key="a b"' in line
    assert " flag=true" in line
    assert " digest=sha256:x" in line


@pytest.mark.parametrize("formatter", ["text", "json"])
def test_configured_fields_are_on_every_line(logged, formatter):
    configure("info", formatter, {"service": "registry", "level": "forged", "a\nb": {"c": [1]}})
    log().info("ours")
    logging.getLogger("library").warning("theirs")
    for line in logged().splitlines():
        if formatter == "json":
            found = json.loads(line)
            assert (found["service"], found["a_b"]) == ("registry", "{'c': [1]}")
            assert found["level"] in {"info", "warning"}
        else:
            assert " service=registry" in line
            assert "forged" not in line


def test_json_lines_can_be_read(logged):
    configure("info", "json")
    log().warning("wörd\n\x1b", count=3, ratio=0.5, flag=False, nothing=None, path=os)
    found = json.loads(logged())
    assert found["msg"].startswith("wörd\n")
    assert found["level"] == "warning"
    assert (found["count"], found["ratio"], found["flag"], found["nothing"]) == (3, 0.5, False, None)
    assert isinstance(found["path"], str)
    assert found["time"].startswith("20")


def test_a_key_with_a_blank_does_not_break_the_line(logged):
    configure("info", "text")
    log().info("word", **{"a key": 1, "ta\tb": 2, "new\nline": 3, "a=b": 4})
    text = logged()
    assert len(text.splitlines()) == 1
    assert "a_key=1" in text


@pytest.mark.parametrize(("level", "shown"), [("error", 1), ("warn", 2), ("info", 3), ("debug", 4)])
def test_the_level_is_the_least_that_is_written(logged, level, shown):
    configure(level, "text")
    for name in ("debug", "info", "warning", "error"):
        getattr(log(), name)("word")
    assert len(logged().splitlines()) == shown


def test_configuring_again_writes_once(logged):
    for _ in range(3):
        configure("info", "text")
    log().info("word")
    assert len(logged().splitlines()) == 1


def test_a_secret_is_never_shown(logged):
    configure("info", "text")
    log().info("settings", secret=SecretStr("hunter2"), all={"secret": SecretStr("hunter2")})
    assert "hunter2" not in logged()


@pytest.fixture
def onto(monkeypatch):
    """onto(descriptor) configures logging for a process whose stderr that is."""
    with contextlib.ExitStack() as stack:

        def configured(descriptor, formatter="text"):
            stderr = stack.enter_context(open(descriptor, "w", closefd=False))
            monkeypatch.setattr(sys, "stderr", stderr)
            configure("info", formatter)

        yield configured


@pytest.fixture
def page(pipe):
    """A pipe of one page."""
    fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, select.PIPE_BUF)
    return pipe


@pytest.mark.parametrize("formatter", ["text", "json"])
@pytest.mark.parametrize("nowait", [True, False])
def test_an_unread_stderr_stops_nobody_and_is_told_of_later(pipe, onto, monkeypatch, formatter, nowait):
    if not nowait:  # an older Linux, another system
        monkeypatch.setattr(telemetry, "_takes_nowait", lambda _descriptor: False)
    onto(pipe[1], formatter)
    for number in range(2000):
        log().info("word", number=number)
    first = read(pipe[0]).splitlines()
    assert 100 < len(first) < 1900
    log().info("after")
    told, after, *rest = read(pipe[0]).splitlines()
    assert f"{2000 - len(first)} log lines were dropped: stderr is not read" in told
    assert "warning" in told
    assert "after" in after
    assert rest == []
    log().info("and on")
    assert len(read(pipe[0]).splitlines()) == 1, "it is told once"


def test_an_unread_stderr_stops_no_thread(page, onto):
    """What libraries log comes from threads, too: no line is mixed with another, none is lost without being counted."""
    onto(page[1])

    def write():
        for _ in range(200):
            log().info("word")

    threads = [threading.Thread(target=write, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    found = []
    while any(thread.is_alive() for thread in threads):
        found += read(page[0]).splitlines()
    found += read(page[0]).splitlines()
    log().info("last")
    found += read(page[0]).splitlines()
    dropped = sum(int(match[1]) for line in found if (match := re.search(r'msg="(\d+) log lines', line)))
    told = sum("log lines were dropped" in line for line in found)
    assert all(re.fullmatch(r'time=\S+ level=\w+ msg=("[^"]*"|\w+)', line) for line in found)
    assert len(found) - told + dropped == 801


def test_a_line_that_is_torn_spoils_no_other(page, onto):
    onto(page[1])
    log().info("x" * 10_000)
    first = read(page[0])
    assert len(first) == select.PIPE_BUF
    log().info("after")
    rest, told, after = read(page[0]).splitlines()
    assert rest == ""
    assert "1 log lines were dropped" in told
    assert "msg=after" in after


def test_a_traceback_longer_than_a_pipe_takes_at_once_is_whole_when_it_is_read(pipe, onto):
    onto(pipe[1])
    try:
        raise ValueError("x" * 20_000)
    except ValueError:
        log().exception("defect")
    (line,) = read(pipe[0]).splitlines()
    assert len(line) > 20_000


def test_a_socket_that_is_not_read_stops_nobody(onto):
    """stderr is one under systemd."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        onto(theirs.fileno())
        for number in range(5000):
            log().info("word", number=number, text="x" * 200)
        first = ours.recv(1 << 22)
        assert first.count(b"msg=word") < 5000
        log().info("after")
        assert b"log lines were dropped" in ours.recv(1 << 22)


def test_stderr_is_left_as_it_was(page, onto):
    """It is shared with other processes, with the shell too."""
    onto(page[1])
    log().info("word")
    assert os.get_blocking(page[1])


def test_a_file_gets_every_line(tmp_path, onto):
    with (tmp_path / "log").open("w") as file:
        onto(file.fileno())
        for number in range(5000):
            log().info("word", number=number, text="x" * (number % 7000))
    lines = (tmp_path / "log").read_text().splitlines()
    assert [re.search(r"number=(\d+)", line)[1] for line in lines] == [str(number) for number in range(5000)]


@pytest.mark.parametrize("stderr", [None, io.StringIO()])
def test_a_stderr_that_is_none(stderr, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stderr)
    configure("info", "text")
    log().info("word")


@pytest.mark.parametrize("formatter", ["text", "json"])
def test_a_line_that_cannot_be_written_fails_nothing(page, onto, formatter):
    class Rude:
        def __str__(self):
            raise ZeroDivisionError

    onto(page[1], formatter)
    logging.getLogger("library").warning("%d", "no number")
    logging.getLogger("library").warning(Rude())
    lines = read(page[0]).splitlines()
    assert len(lines) == 2
    assert all("a log line cannot be written" in line and "test_telemetry.py" in line for line in lines)


# The access log


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield reading, writing
    for descriptor in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def read(descriptor):
    content = b""
    with contextlib.suppress(BlockingIOError):
        while block := os.read(descriptor, 1 << 16):
            content += block
    return content.decode()


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("value", HOSTILE)
async def test_a_request_is_one_line(pipe, value, as_json):
    access = AccessLog(pipe[1], as_json=as_json)
    access.add({"path": value, "status": 200, "ms": 0.1})
    access.flush()
    text = read(pipe[0])
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    assert text.isascii()
    if as_json:
        assert json.loads(text)["path"] == value


@given(st.text(), st.text())
def test_no_value_forges_a_field(one, other):
    quoted = telemetry._quoted(one)
    assert quoted.isascii()
    assert quoted.isprintable()
    assert quoted
    assert (json.loads(quoted) if quoted.startswith('"') else quoted) == one
    assert (quoted == telemetry._quoted(other)) is (one == other)
    assert quoted.startswith('"') or not set(' "=\\') & set(quoted)


async def test_lines_wait_a_moment_and_go_together(pipe, monkeypatch):
    monkeypatch.setattr(telemetry, "_FLUSH_SECONDS", 0.05)
    writes = []
    real = telemetry._Outlet._put
    monkeypatch.setattr(telemetry._Outlet, "_put", lambda outlet, piece: writes.append(piece) or real(outlet, piece))
    access = AccessLog(pipe[1], as_json=False)
    for number in range(20):
        access.add({"number": number})
    assert writes == []
    assert read(pipe[0]) == ""
    await asyncio.sleep(0.2)
    assert [line.rpartition("=")[2] for line in read(pipe[0]).splitlines()] == [str(number) for number in range(20)]
    assert len(writes) == 1
    access.add({"number": 20})
    await asyncio.sleep(0.2)
    assert len(read(pipe[0]).splitlines()) == 1, "and again"


async def test_many_lines_do_not_wait(pipe, monkeypatch):
    monkeypatch.setattr(telemetry, "_FLUSH_LINES", 10)
    access = AccessLog(pipe[1], as_json=False)
    for number in range(25):
        access.add({"number": number})
    assert len(read(pipe[0]).splitlines()) == 20
    access.flush()
    assert len(read(pipe[0]).splitlines()) == 5


async def test_flushing_nothing_writes_nothing(pipe):
    access = AccessLog(pipe[1], as_json=False)
    access.flush()
    assert read(pipe[0]) == ""


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_reader_that_stands_still_stops_nobody(pipe, blocking):
    """A log collector that hangs fills the pipe: a write that waited for it would stop every request."""
    os.set_blocking(pipe[1], blocking)
    access = AccessLog(pipe[1], as_json=False)
    begun = time.monotonic()
    for _ in range(30_000):
        access.add({"path": "x" * 200})
    access.flush()
    assert time.monotonic() - begun < 5
    assert len(access._lines) == 20_000, "memory is bounded"
    assert read(pipe[0])
    access._lines.clear()
    access.add({"path": "after"})
    access.flush()
    assert read(pipe[0]).endswith("path=after\n")


async def test_a_reader_that_reads_loses_no_line(pipe):
    """A pipe holds 64 KiB, which may be less than what is written at a time."""
    access = AccessLog(pipe[1], as_json=False)
    for number in range(2000):
        access.add({"number": number, "path": "x" * 200})
    found = b""
    for _ in range(1000):
        found += read(pipe[0]).encode()
        if found.count(b"\n") == 2000:
            break
        await asyncio.sleep(0.01)
    assert [int(line.split(b"number=")[1].split()[0]) for line in found.splitlines()] == list(range(2000))


async def test_it_is_told_how_many_lines_a_standing_reader_cost(pipe, logged):
    configure("info", "text")
    access = AccessLog(pipe[1], as_json=False)
    for _ in range(30_000):
        access.add({"path": "x" * 200})
    access.flush()
    arrived = 0
    while access._lines:
        arrived += len(read(pipe[0]).splitlines())
        access.flush()
    first, second = logged().splitlines()
    assert "lines of the access log are being dropped: stdout takes no more" in first
    arrived += len(read(pipe[0]).splitlines())
    assert f"{30_000 - arrived} lines of the access log were dropped" in second
    access.add({"path": "after"})
    access.flush()
    assert logged() == ""


async def test_every_line_that_arrives_is_whole(pipe):
    access = AccessLog(pipe[1], as_json=True)
    for number in range(3000):
        access.add({"number": number, "path": "x" * 150})
    access.flush()
    numbers = [json.loads(line)["number"] for line in read(pipe[0]).splitlines()]
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("text", ["x" * 20_000, "\U0001f600" * 512, "\0" * 1000])
async def test_no_line_is_longer_than_a_pipe_takes_at_once(tmp_path, text, as_json):
    """Between two pieces another worker's line may come, and the second would begin as the client wants."""
    with (tmp_path / "log").open("wb") as file:
        access = AccessLog(file.fileno(), as_json=as_json)
        access.add({"id": "1", "user": text, "method": text[:16], "path": text, "status": 404})
        access.add({"path": "short"})
        access.flush()
    lines = (tmp_path / "log").read_bytes().splitlines(keepends=True)
    assert len(lines) == 2
    assert len(lines[0]) <= select.PIPE_BUF
    assert b"404" in lines[0]


async def test_a_closed_stdout_raises_nothing():
    reading, writing = os.pipe()
    access = AccessLog(writing, as_json=False)
    os.close(reading)
    access.add({"path": "nobody reads"})
    access.flush()
    os.close(writing)
    access.add({"path": "closed"})
    access.flush()


# Credentials

PASSWORD = "correct horse"
BASIC = base64.b64encode(f"alice:{PASSWORD}".encode()).decode()


@pytest.fixture
def htpasswd(tmp_path):
    HtpasswdFile(tmp_path / "htpasswd", cost=4).add("alice", PASSWORD)
    return tmp_path / "htpasswd"


async def test_no_credential_reaches_a_log(tmp_path, htpasswd, pipe, monkeypatch, capsys):
    monkeypatch.setattr(serving, "_STDOUT", pipe[1])
    values = {
        "storage.filesystem.rootdirectory": str(tmp_path / "root"),
        "auth.htpasswd.realm": "hatoba",
        "auth.htpasswd.path": str(htpasswd),
        "http.secret": "s3cret-of-http",
        "log.level": "debug",
    }
    settings = load(None, {}, values).settings
    configure(settings.log.level, settings.log.formatter)
    monkeypatch.setattr(logging.getLogger("httpx"), "disabled", True)  # the client's log is not ours
    headers = [f"Basic {BASIC}", f"Basic {BASIC}x", "Bearer tok3n-of-bearer", "Basic"]
    paths = ["/v2/", "/v2/a/manifests/latest", "/v2/a/tags/list?token=tok3n-in-query", "/none"]
    async with (
        serving.running(settings) as app,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hatoba") as client,
    ):
        for header, path in itertools.product(headers, paths):
            await client.get(path, headers={"authorization": header, "cookie": "session=c00kie"})
    written = read(pipe[0])
    text = written + capsys.readouterr().err
    assert "user=alice" in written
    assert len(written.splitlines()) == 16
    for secret in (PASSWORD, BASIC, BASIC[:-2], "tok3n", "c00kie", "s3cret", "$2b$"):
        assert secret not in text


@pytest.mark.parametrize(
    ("proxies", "line"),
    [
        (["127.0.0.1"], {"id": "7b5a-91", "client": "198.51.100.1"}),
        (["10.0.0.0/8"], {"client": "127.0.0.1"}),
    ],
)
async def test_the_access_log_names_who_asked_the_proxy(tmp_path, pipe, monkeypatch, proxies, line):
    monkeypatch.setattr(serving, "_STDOUT", pipe[1])
    values = {
        "storage.filesystem.rootdirectory": str(tmp_path / "root"),
        "hatoba.trustedproxies": proxies,
        "log.formatter": "json",
    }
    async with (
        serving.running(load(None, {}, values).settings) as app,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hatoba") as client,
    ):
        headers = {"x-forwarded-for": "8.8.8.8, 198.51.100.1", "x-request-id": "7b5a-91"}
        assert (await client.get("/v2/", headers=headers)).status_code == 200
    (written,) = read(pipe[0]).splitlines()
    found = json.loads(written)
    assert {key: found[key] for key in line} == line
    assert (found["id"] == "7b5a-91") == ("id" in line)
