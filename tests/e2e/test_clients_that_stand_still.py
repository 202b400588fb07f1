"""Clients that leave in the middle of an answer, or stay and take nothing of it: neither holds anything for long."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import socket
import time
from pathlib import Path

import pytest

SIZE = 200_000_000  # more than all buffers on the way hold
RANGED = {"Range": f"bytes=1-{SIZE - 1}"}


@pytest.fixture
def pull(serving, free_port, tmp_path):
    """pull(headers) asks a server, whose stall time-out is 2 s, for a blob; the socket, with an answer on its way."""
    opened = []
    host = f"127.0.0.1:{free_port()}"
    env = {"REGISTRY_HATOBA_LIMITS_STALLTIMEOUT": "2s", "REGISTRY_AUTH": "none"}
    with serving(tmp_path / "data", "--addr", host, env=env) as server:
        path = push_blob(host)

        def ask(headers: dict[str, str]) -> socket.socket:
            client = socket.socket()
            opened.append(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            client.settimeout(60)
            client.connect(("127.0.0.1", int(host.rpartition(":")[2])))
            lines = [
                f"GET {path} HTTP/1.1",
                "Host: x",
                "Connection: close",
                *(f"{name}: {value}" for name, value in headers.items()),
            ]
            client.sendall("\r\n".join([*lines, "", ""]).encode())
            assert client.recv(1000).startswith(b"HTTP/1.1 206" if headers else b"HTTP/1.1 200")
            return client

        ask.server = server
        yield ask
        for client in opened:
            client.close()


def push_blob(host: str) -> str:
    """Push a blob of SIZE bytes; its path."""
    body = bytes(SIZE)
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.request("POST", f"/v2/x/blobs/uploads/?digest={digest}", body)
    assert connection.getresponse().status == 201
    connection.close()
    return f"/v2/x/blobs/{digest}"


def test_left(pull, e2e):
    """The rest is not read from the disk for nobody."""
    before = bytes_read(pull.server)
    pull(RANGED).close()
    e2e.wait_for(lambda: lines_of(pull.server), "no line in the access log")
    assert bytes_read(pull.server) - before < SIZE / 2
    assert open_blobs(pull.server) == []
    check_line(pull.server, 499)


def test_ranged_and_never_read(pull, e2e):
    client = pull(RANGED)
    assert len(open_blobs(pull.server)) == 1
    e2e.wait_for(lambda: not open_blobs(pull.server), "the blob stays open")
    e2e.wait_for(lambda: is_cut(client), "the connection stays open")
    e2e.wait_for(lambda: lines_of(pull.server), "no line in the access log")
    check_line(pull.server, 499)


def test_whole_and_never_read(pull, e2e):
    """granian sends files on its own: nobody but the kernel can tell that nothing moves."""
    client = pull({})
    e2e.wait_for(lambda: is_cut(client), "the connection stays open")


def test_many_that_never_read(pull, e2e):
    """Beyond the first few each holds less than a MB of the server's memory; it was 2.75."""
    before = pull.server.memory()
    clients = [pull(RANGED) for _ in range(100)]
    e2e.wait_for(lambda: len(lines_of(pull.server)) == len(clients), "they are not cut")
    assert pull.server.memory("VmHWM") - before < len(clients) * 2_500_000


@pytest.mark.parametrize("headers", [{}, RANGED], ids=["whole", "ranged"])
def test_slow_but_moving(pull, e2e, headers):
    """Pauses that are shorter than the time-out, and together longer."""
    client, received = pull(headers), 0
    for part in range(1, 6):
        time.sleep(0.6)
        while received < part * SIZE // 5 - 1000:
            block = client.recv(1 << 20)
            assert block, f"cut after {received} bytes"
            received += len(block)
    while client.recv(1000):
        pass
    e2e.wait_for(lambda: lines_of(pull.server), "no line in the access log")
    (line,) = lines_of(pull.server)
    assert f" bytes={SIZE - len(headers)} " in line
    assert f" status={206 if headers else 200} " in line


def check_line(server, status: int) -> None:
    """The access log tells of a cut answer, and of the bytes that went out: some, by far not all."""
    (line,) = lines_of(server)
    assert f" status={status} " in line
    assert 0 < int(re.search(r" bytes=(\d+) ", line)[1]) < SIZE / 2


def is_cut(client: socket.socket) -> bool:
    """Whether the server's end of the connection is gone. The client hears of it when it next sends or reads."""
    theirs, ours = (f"0100007F:{port:04X}" for port in (client.getpeername()[1], client.getsockname()[1]))
    with Path("/proc/net/tcp").open(encoding="ascii") as table:
        return all(line.split()[1:3] != [theirs, ours] for line in table)


def bytes_read(server) -> int:
    """How many bytes the worker has read by system calls."""
    (worker,) = server.workers
    return int(re.search(r"^rchar: (\d+)", Path(f"/proc/{worker}/io").read_text(encoding="ascii"), re.MULTILINE)[1])


def open_blobs(server) -> list[str]:
    (worker,) = server.workers
    found = []
    for entry in Path(f"/proc/{worker}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(entry))
    return [name for name in found if name.endswith("/data")]


def lines_of(server) -> list[str]:
    return [line for line in server.out.splitlines() if "method=GET" in line and "/blobs/sha256:" in line]
