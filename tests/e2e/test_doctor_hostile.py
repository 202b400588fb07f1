"""`hatoba doctor` against servers that mean it ill: what they say ends in lines that print, and in time."""

from __future__ import annotations

import base64
import socket
import threading
import time

import pytest
from typer.testing import CliRunner

from hatoba.cli import hatoba_app
from hatoba.doctor import client

SIGNED = base64.b64encode(b"bob:s3cret").decode()
REGISTRY = "Docker-Distribution-Api-Version: registry/2.0\r\nContent-Type: application/json\r\n"


class Hostile:
    """A port that gives to each request what `says`, a function, makes of its path; keeps heads of requests."""

    def __init__(self, says) -> None:
        self._says = says
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        self.asked: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            with connection:
                if self._ended.is_set():
                    return
                self._answer(connection)

    def _answer(self, connection) -> None:
        try:
            head = b""
            while b"\r\n\r\n" not in head:
                if not (more := connection.recv(65536)):
                    return
                head += more
            self.asked.append(head.decode())
            answer = self._says(head.split()[1].decode())
            for part in [answer] if isinstance(answer, bytes) else answer:
                connection.sendall(part)
                if self._ended.is_set():
                    return
        except OSError:
            pass

    def end(self) -> None:
        self._ended.set()
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join()
        self._listening.close()


@pytest.fixture
def hostile():
    running: list[Hostile] = []

    def start(says):
        running.append(Hostile(says))
        return running[-1]

    yield start
    for each in running:
        each.end()


@pytest.fixture
def doctor(monkeypatch):
    """doctor(server, …): the exit code and the output of a round, which has a second for each answer."""
    monkeypatch.setattr(client, "_SLOWEST", 1 << 40)
    monkeypatch.setattr(client, "_CONNECT_SECONDS", 1.0)

    def run(server, *options):
        arguments = ["doctor", server.origin, "-u", "bob", "-p", "s3cret", "--timeout", "1", *options]
        done = CliRunner().invoke(hatoba_app(), arguments)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert all(line.isprintable() for line in done.output.splitlines())
        assert "s3cret" not in done.output
        return done.exit_code, done.output

    return run


def answer(status="200 OK", headers="", body=b""):
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def drip(beginning, byte):
    yield beginning
    while True:
        time.sleep(0.1)
        yield byte


def flood(beginning, again):
    yield beginning
    while True:
        yield again


EVIL = b'{"errors": [{"code": "X\\u001b[2J", "message": "a\\nok    all is well\\u202e\\r\\u0007"}]}'
FAULTS = {
    "words": (answer("403 no", REGISTRY, EVIL), "X\\x1b[2J: a\\nok    all is well\\u202e\\r\\x07"),
    "deep": (answer("401 no", body=b"[" * 60_000), "401 from a proxy"),
    "nowhere": (answer("301 go", "Location: http://[\r\n"), "Location is no address: http://["),
    "to a terminal": (answer("301 go", "Location: http://a/\x1b[2J\r\n"), "\\x1b[2J"),
    "a name": (answer("404 no", "Server: \x1b]0;me\x07\r\n"), "404 from \\x1b]0;me\\x07 to GET"),
    "folded": (answer("404 no", "Server: a\r\n FAULT b\r\n"), "404 from a\\r\\n FAULT b"),
    "a kind": (answer("200 OK", "Content-Type: \x1b[2J\r\n"), "answered with \\x1b[2j"),
    "a scheme": (answer("401 no", f"{REGISTRY}WWW-Authenticate: \x1b[2J x\r\n"), "sign-in with \\x1b[2j is nothing"),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n", "is it HTTP that is spoken there?"),
    "many headers": (answer(headers="X: y\r\n" * 1000), "is it HTTP"),
    "a long header": (answer(headers=f"X: {'y' * 100_000}\r\n"), "is it HTTP"),
    "a long body": (flood(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536), "this is no registry"),
    "endless news": (flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), "no answer to GET in --timeout"),
    "a slow head": (drip(b"HTTP/1.1 200 OK\r\n", b"X"), "does not end"),
    "a slow body": (drip(answer(headers="Content-Length: 999\r\n"), b"x"), "does not end"),
    "a slow body without an end": (drip(b"HTTP/1.1 200 OK\r\n\r\n", b"x"), "does not end"),
    "slow chunks": (drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"), "does not end"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_it_ends_in_one_line(hostile, doctor, name):
    says, words = FAULTS[name]
    code, output = doctor(hostile(lambda _: says))
    (line,) = [line for line in output.splitlines() if line.startswith("FAULT")]
    assert (code, words in line) == (1, True), line


def test_a_user_without_rights(hostile, doctor):
    """The login was right, so it is not the password that is wrong."""
    challenge = answer("401 no", f'{REGISTRY}WWW-Authenticate: Basic realm="r"\r\n')
    denied = answer("401 no", REGISTRY, b'{"errors": [{"code": "UNAUTHORIZED", "message": "no push"}]}')
    answers = iter([challenge, challenge, answer(headers=REGISTRY)])
    code, output = doctor(hostile(lambda _: next(answers, denied)))
    (line,) = [line for line in output.splitlines() if line.startswith("FAULT")]
    assert code == 1
    assert line.startswith("FAULT push 1 MiB   401 to POST though the login was right")
    assert line.endswith("(UNAUTHORIZED: no push)")


def wants_token(realm):
    challenge = f'{REGISTRY}WWW-Authenticate: Bearer realm="{realm}",service="s"\r\n'
    return lambda _: answer("401 no", challenge)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"token": "a\\r\\nX-Evil: 1"}', "gives no token, but 200"),
        (b'{"token": "a\\n b"}', "gives no token, but 200"),
        (b"[" * 60_000, "gives no token, but 200"),
        (b'{"token": {}}', "gives no token, but 200"),
        (b"", "gives no token, but 200"),
        (b'{"token": "worthless"}', "401 from a proxy"),
    ],
)
def test_tokens_that_are_none(hostile, doctor, body, words):
    tokens = hostile(lambda _: answer(body=body))
    registry = hostile(wants_token(f"{tokens.origin}/token?for=us"))
    code, output = doctor(registry)
    assert code == 1
    assert words in output
    assert tokens.asked[0].startswith("GET /token?for=us&service=s HTTP/1.1\r\n")
    assert SIGNED in tokens.asked[0]
    assert not any("Evil" in asked or SIGNED in asked for asked in registry.asked), "the password is the realm's alone"


@pytest.mark.parametrize(
    ("realm", "words"),
    [
        ("", "without a realm"),
        ("file:///etc/passwd", "no address with https"),
        ("http://a b/", "no address with https"),
    ],
)
def test_realms_that_are_none(hostile, doctor, realm, words):
    registry = hostile(wants_token(realm))
    code, output = doctor(registry)
    assert (code, words in output) == (1, True), output
    assert not any(SIGNED in asked for asked in registry.asked)


def test_a_token_server_that_is_not_there_is_the_one_named(hostile, doctor):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        _, output = doctor(hostile(wants_token(f"http://127.0.0.1:{port}/")))
    assert f"connection refused: nothing listens at port {port}" in output
