"""A log that nobody reads, a collector that hangs: the registry serves on, and tells how much was lost."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import os
import re
import select
import subprocess

import pytest

BLOBS = 60


@pytest.fixture
def unread(e2e, free_port, tmp_path):
    """A server whose stderr is a pipe of one page: its host, and a function that reads what is in there."""
    host = f"127.0.0.1:{free_port()}"
    command = [e2e.HATOBA, "serve", "--root", tmp_path / "data", "--addr", host]
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, select.PIPE_BUF)
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=writing, start_new_session=True, env=e2e.clean_environment(REGISTRY_AUTH="none")
        )
    os.close(writing)
    try:
        e2e.wait_for(lambda: status(host, "GET", "/v2/") == 200, "the server does not answer")
        yield host, lambda: os.read(reading, 1 << 16).decode()
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait(20)
        os.close(reading)


def status(host: str, method: str, path: str, body: bytes | None = None) -> int:
    connection = http.client.HTTPConnection(host, timeout=20)
    with contextlib.closing(connection), contextlib.suppress(ConnectionRefusedError):
        connection.request(method, path, body)
        return connection.getresponse().status
    return 0


def lose(host: str, number: int, root) -> str:
    """Push a blob and take its file away, which is logged when it is pulled; its path."""
    body = f"blob {number}".encode()
    digest = hashlib.sha256(body).hexdigest()
    assert status(host, "POST", f"/v2/x/blobs/uploads/?digest=sha256:{digest}", body) == 201
    (root / "docker/registry/v2/blobs/sha256" / digest[:2] / digest / "data").unlink()
    return f"/v2/x/blobs/sha256:{digest}"


def test_an_unread_stderr_stops_no_request(unread, tmp_path):
    host, read = unread
    for number in range(BLOBS):
        assert status(host, "GET", lose(host, number, tmp_path / "data")) == 404
    assert status(host, "GET", "/v2/") == 200
    first = read()
    assert "listening on" in first
    assert first.count("blob file missing") < BLOBS
    assert status(host, "GET", lose(host, BLOBS, tmp_path / "data")) == 404
    told = read()
    dropped = int(re.search(r'level=warning msg="(\d+) log lines were dropped: stderr is not read"', told)[1])
    assert first.count("blob file missing") + dropped == BLOBS
    assert told.count("blob file missing") == 1
