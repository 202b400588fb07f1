"""`make fuzz`, small; and that its judge sees what is wrong: a fuzzer that cannot fail shows nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz import garbage, journeys, oracle, vocabulary
from fuzz.cases import RIGHT, Case, Generator
from fuzz.client import Client
from fuzz.judge import expect, violation
from fuzz.serving import problems_at_the_end, serving
from fuzz.wire import Answer, NotHTTP, parse_all, parse_head
from hatoba.web.v2 import routes

REQUESTS = 20_000
VERSION = ("docker-distribution-api-version", "registry/2.0")
JSON = ("content-type", "application/json; charset=utf-8")


@pytest.mark.timeout(900)
def test_no_request_is_answered_wrong(e2e, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", "-n", str(REQUESTS), "--root", str(tmp_path)],
        cwd=Path(__file__).parents[1], text=True, capture_output=True, check=False, env=e2e.clean_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[:20_000]
    found = re.fullmatch(r"fuzz: (\d+) requests, 0 violations, seed 1, 2 workers, .*", done.stdout.strip())
    assert found, done.stdout
    assert int(found[1]) >= REQUESTS


def refusal(status: int, code: str, **fields: object) -> Answer:
    body = json.dumps({"errors": [{"code": code, "message": "m", **fields}]}).encode()
    return Answer(status, [VERSION, JSON], body)


def test_right_answers_are_right():
    assert violation(refusal(404, "BLOB_UNKNOWN"), "GET", b"/v2/x", expect(404, codes="BLOB_UNKNOWN")) is None
    assert violation(Answer(400), "GET", b"/v2/\xff", expect(400, below=True)) is None
    assert violation(Answer(200, [VERSION], b"{}"), "GET", b"/v2/", expect(200, body=b"{}")) is None


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (refusal(500, "UNKNOWN"), expect()),
        (Answer(500, [], b"Internal server error"), expect(below=True)),
        (Answer(502), expect(below=True)),
        (refusal(503, "UNAVAILABLE"), expect()),
        (Answer(400), expect(400)),
        (Answer(400, [], b"text"), expect(400, below=True)),
        (Answer(404, [JSON], refusal(404, "BLOB_UNKNOWN").body), expect(404)),
        (Answer(404, [VERSION, VERSION, JSON], refusal(404, "BLOB_UNKNOWN").body), expect(404)),
        (Answer(404, [VERSION, ("content-type", "text/plain")], b"not found"), expect(404)),
        (Answer(404, [VERSION, JSON], b""), expect(404)),
        (Answer(404, [VERSION, JSON], b"{}"), expect(404)),
        (Answer(404, [VERSION, JSON], b'{"errors": []}'), expect(404)),
        (refusal(404, "BLOB_UNKNOWN", trace="x"), expect(404)),
        (refusal(404, "NO_SUCH_CODE"), expect(404)),
        (refusal(404, "DIGEST_INVALID"), expect(404)),
        (refusal(400, "DIGEST_INVALID"), expect(400, codes="NAME_INVALID")),
        (refusal(400, "DIGEST_INVALID"), expect(404)),
        (refusal(401, "UNAUTHORIZED"), expect(401)),
        (Answer(200, [VERSION], b"other"), expect(200, body=b"bytes")),
        (Answer(200, [VERSION], b"{}"), expect(400)),
        (Answer(200, [VERSION, ("etag", "x")], b"{}"), expect(200, etag="y")),
        (Answer(200, [VERSION, ("docker-content-digest", vocabulary.digest_of(b"a"))], b"b"), expect(200)),
        (Answer(201, [VERSION]), expect(201)),
        (Answer(206, [VERSION], b"x"), expect(206)),
    ],
)
def test_wrong_answers_are_wrong(answer, wanted):
    assert violation(answer, "GET", b"/v2/x/blobs/y", wanted)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_session_without_a_place(method):
    assert violation(Answer(202, [VERSION]), method, b"/v2/x/blobs/uploads/", expect(202))


@pytest.mark.parametrize(
    "head",
    [b"HTTP/2.0 200 OK", b"HTTP/1.1 20 OK", b"HTTP/1.1 200", b"200 OK", b"{}", b"HTTP/1.1 200 OK\r\nno colon", b"",
     b"HTTP/1.1 200 OK\r\nx: a\x00", b"HTTP/1.1 200 OK\r\nx y: z", b"HTTP/1.1 200 OK\r\nx: a\nb: c",
     b"x\r\nHTTP/1.1 200 OK"],
)  # fmt: skip
def test_heads_that_are_none(head):
    with pytest.raises(NotHTTP):
        parse_head(head + b"\r\n\r\n")


def test_answers_of_a_closed_connection():
    one = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
    found = parse_all(one + b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\nHTTP/1.", ["GET"])
    assert [(answer.status, answer.body) for answer in found] == [(200, b"{}"), (400, b"")]
    with pytest.raises(NotHTTP):
        parse_all(one + b"Internal server error", ["GET"])


@pytest.mark.parametrize(
    ("method", "target", "wanted"),
    [
        ("GET", b"/v2/a/B/tags/list", (400, "NAME_INVALID")),
        ("GET", b"/v2/a%2fb/tags/list", ({200, 404}, None)),
        ("GET", b"/v2/a%252fb/tags/list", (400, "NAME_INVALID")),
        ("PUT", b"/v2/a/tags/list", (405, "UNSUPPORTED")),
        ("GET", b"/v2/a", (404, "NAME_INVALID")),
        ("GET", b"/v2/a/blobs/sha256:abc", (400, "DIGEST_INVALID")),
        ("PUT", b"/v2/a/manifests/-x", (400, "TAG_INVALID")),
        ("GET", b"/v2/a/tags/list?n=-1", (400, "PAGINATION_NUMBER_INVALID")),
        ("GET", b"/v2/a/tags/list?n=%d9%a1", (400, "PAGINATION_NUMBER_INVALID")),
        ("PUT", b"/v2/a/blobs/uploads/x?digest=md5:abc", (400, "DIGEST_INVALID")),
    ],
)
def test_oracle(method, target, wanted):
    found, _ = oracle.expected(method, target, [], "right", impossible=False)
    statuses, code = wanted
    assert found.statuses == (statuses if isinstance(statuses, set) else {statuses})
    assert found.codes == (code and {code})


def test_every_route_is_met_right_and_wrong():
    generator = Generator(random.Random(1), "c0", ["c0/app"], [vocabulary.digest_of(b"x")])
    met: dict[tuple[str, str], set[int]] = {}
    for _ in range(20_000):
        case = generator.case()
        for route in routes.ROUTES:
            pattern = re.escape(route.pattern).replace(r"\{", "{").replace(r"\}", "}")
            if route.method == case.method and re.fullmatch(
                re.sub(r"{\w+}", "[^?]+", pattern).encode(), case.target.partition(b"?")[0]
            ):
                met.setdefault((route.method, route.pattern), set()).update(case.wanted.statuses or ())
    for route in routes.ROUTES:
        assert {200, 201, 202, 204} & met[route.method, route.pattern], f"{route} is never asked rightly"
        assert 401 in met[route.method, route.pattern], f"{route} is never asked without credentials"


def test_same_seed_same_requests():
    def made(seed: str) -> list[bytes]:
        generator = Generator(random.Random(seed), "c0", ["c0/app"], [])
        return [generator.case().raw for _ in range(500)]

    assert made("1 0") == made("1 0")
    assert made("1 0") != made("2 0")


# --- a server that is not as it should be at the end


@pytest.fixture
def registry(tmp_path):
    with serving(tmp_path) as registry:
        yield registry


def test_good_end(registry):
    assert problems_at_the_end(registry) == []


def test_worker_that_was_replaced_is_seen(registry, e2e):
    os.kill(registry.workers[0], signal.SIGKILL)
    e2e.wait_for(lambda: len(set(registry.children()) - set(registry.workers)) == 1, "no new worker comes")
    assert "became" in problems_at_the_end(registry)[0]


async def test_what_stays_is_seen(registry):
    client = Client(registry.port, 1, 0)
    (answer,) = await client.burst([Case("POST", b"/v2/x/blobs/uploads/", [RIGHT], b"", wanted=expect(202))])
    assert answer
    await client.close()
    (registry.root / "docker/registry/v2/repositories/x/_manifests/temporary").mkdir(parents=True)
    (registry.root / "docker/registry/v2/repositories/x/_manifests/temporary/file").touch()
    with registry.err_path.open("a") as err:
        err.write("time=2026-01-01T00:00:00Z level=error msg=oh\nTraceback (most recent call last):\n")
    told = "\n".join(problems_at_the_end(registry))
    assert "1 upload sessions are open, at most 0 were left" in told
    assert "3 files are left over" in told
    assert "on standard error: time=2026-01-01T00:00:00Z level=error msg=oh" in told
    assert "on standard error: Traceback" in told


# --- against servers that are wrong


async def talk(answers: list[bytes], case: Case | journeys.Journey | garbage.Raw) -> list[str]:
    """What a client finds when it is answered with these bytes, one after the other, then not at all."""
    left = list(answers)
    writers: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while left and await reader.read(65_536):
            writer.write(left.pop(0))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        client = Client(server.sockets[0].getsockname()[1], 1, 0)
        if isinstance(case, Case):
            await client.burst([case])
        elif isinstance(case, garbage.Raw):
            await client.raw(case)
        else:
            await client.journey(case)
        await client.close()
        for writer in writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return client.report.violations


def on_the_wire(answer: Answer) -> bytes:
    lines = [f"{name}: {value}" for name, value in [*answer.headers, ("content-length", str(len(answer.body)))]]
    return "\r\n".join([f"HTTP/1.1 {answer.status} X", *lines, "", ""]).encode() + answer.body


PING = Case("GET", b"/v2/", [RIGHT], wanted=expect(200))
GOOD = on_the_wire(Answer(200, [VERSION, JSON], b"{}"))


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ([GOOD], 0),
        ([], 1),
        ([b"nonsense\r\n\r\n"], 1),
        ([GOOD[:20]], 1),
        ([GOOD[:-1]], 1),
        ([GOOD.replace(b"content-length", b"x-length")], 1),
        ([on_the_wire(refusal(500, "UNKNOWN"))], 1),
    ],
    ids=["right", "closed", "no HTTP", "half a head", "half a body", "no length", "500"],
)
async def test_client_reports(answers, found):
    violations = await talk(answers, PING)
    assert len(violations) == found
    assert all("GET /v2/ HTTP/1.1" in violation for violation in violations), "the bytes that were sent are shown"


async def test_body_after_a_head_request_is_seen():
    def journey() -> journeys.Journey:
        yield Case("HEAD", b"/v2/", [RIGHT], wanted=expect(200))
        yield PING

    assert await talk([GOOD, GOOD], journey())


async def test_lost_blob_is_seen():
    model = journeys.Model(random.Random(1), "c0")
    model.keep("c0/app", journeys.Repository({vocabulary.digest_of(b"x"): b"x"}))
    tags = on_the_wire(Answer(200, [VERSION, JSON], b'{"name": "c0/app", "tags": []}'))
    gone = on_the_wire(refusal(404, "BLOB_UNKNOWN"))
    assert len(await talk([tags, gone], journeys.everything(model))) == 1
    other = on_the_wire(Answer(200, [VERSION], b"y"))
    assert len(await talk([tags, other], journeys.everything(model))) == 1
    whole = on_the_wire(Answer(200, [VERSION], b"x"))
    assert await talk([tags, whole], journeys.everything(model)) == []


async def test_garbage_that_is_welcomed_is_seen():
    raw = garbage.Raw(b"PUT /v2/x/manifests/v1 HTTP/1.1\r\ncontent-length: 9\r\n\r\n{}", "finish", ("PUT",), b"/v2/x")
    assert await talk([on_the_wire(Answer(400))], raw) == []
    assert await talk([on_the_wire(Answer(500, [], b"Internal server error"))], raw)
    assert await talk([on_the_wire(Answer(201, [VERSION, ("location", "x"), ("docker-content-digest", "x")]))], raw)
