"""`http.net: unix`: a socket in the file system, for a proxy on the same machine."""

from __future__ import annotations

import http.client
import os
import signal
import socket

import pytest


class Connection(http.client.HTTPConnection):
    """HTTP over a socket's path."""

    def __init__(self, path) -> None:
        super().__init__("localhost", timeout=20)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self.path))


def ask(path, method="GET", target="/v2/", body=None, **headers) -> tuple[int, str]:
    connection = Connection(path)
    try:
        connection.request(method, target, body, {key.replace("_", "-"): value for key, value in headers.items()})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers.get("Location", "")
    finally:
        connection.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "socket"


@pytest.fixture
def begin(start, config, e2e, path, tmp_path):
    """Serve on the socket, `workers` of them."""

    def begin_(name="server", workers=1, root="data"):
        text = f"http: {{net: unix, addr: {path}}}\nhatoba: {{workers: {workers}}}\n"
        return start(e2e.HATOBA, "serve", "--root", tmp_path / root, config(text, f"{name}.yml"), name=name)

    return begin_


def answers(path) -> bool:
    try:
        return ask(path)[0] == 200
    except OSError:
        return False


def test_push_over_a_socket(begin, e2e, path):
    server = begin(workers=2)
    e2e.wait_for(lambda: answers(path), "nobody answers")
    for _ in range(8):
        status, location = ask(path, "POST", "/v2/a/blobs/uploads/")
        assert status == 202
        assert location.startswith("/v2/a/blobs/uploads/")
    e2e.wait_for(lambda: f'msg="listening on {path}"' in server.err, "nobody says so")
    assert "NO AUTHENTICATION" in server.err, "who is behind the proxy nobody here knows"
    assert ask(path, X_Forwarded_For="203.0.113.7")[0] == 200
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
    assert " client=- " in server.out
    assert " client=203.0.113.7 " in server.out, "who may enter the socket's folder is a proxy of ours"


def test_socket_in_use_and_left_behind(begin, e2e, path):
    first = begin("first")
    e2e.wait_for(lambda: answers(path), "nobody answers")
    second = begin("second", root="other")
    assert second.process.wait(20) == 1
    assert second.err == f"hatoba: cannot listen on {path}: another server answers there\n"
    assert answers(path)
    os.killpg(first.process.pid, signal.SIGKILL)
    first.process.wait(20)
    assert path.is_socket()
    begin("third")
    e2e.wait_for(lambda: answers(path), "nobody answers")


def test_other_file_at_the_path_stays(begin, path):
    path.write_text("mine")
    server = begin()
    assert server.process.wait(20) == 1
    assert server.err == f"hatoba: cannot listen on {path}: Address already in use\n"
    assert path.read_text() == "mine"
