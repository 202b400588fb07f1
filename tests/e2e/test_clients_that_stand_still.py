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
    """The rest is not read from the disk for nobody. A busy server may hear of it late, but not each time."""
    for asked in range(1, 6):
        before = bytes_read(pull.server)
        pull(RANGED).close()
        e2e.wait_for(lambda asked=asked: len(lines_of(pull.server)) == asked, "no line in the access log")
        assert open_blobs(pull.server) == []
        if bytes_read(pull.server) - before < SIZE / 2:
            break
    else:
        pytest.fail("all of it is read whenever a client leaves")
    assert " status=499 " in lines_of(pull.server)[-1]


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


def test_slow_heads_and_stalled_uploads_free_what_they_held(serving, e2e, free_port, tmp_path):
    """Heads that come byte by byte and bodies that stop: both are cut, and others can go on with the sessions."""
    host = f"127.0.0.1:{free_port()}"
    limits = {"REGISTRY_HATOBA_LIMITS_STALLTIMEOUT": "1s", "REGISTRY_HATOBA_LIMITS_HEADERTIMEOUT": "2s"}
    with (
        contextlib.ExitStack() as stack,
        serving(tmp_path / "data", "--addr", host, env=limits | {"REGISTRY_AUTH": "none"}) as server,
    ):
        locations = [start_upload(host) for _ in range(40)]
        e2e.wait_for(lambda: not [name for name in held(server) if name != "socket"], "an upload is in use")
        before = held(server)
        slow = [connected(stack, host, b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: ") for _ in range(100)]
        head = "PATCH {} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nsome"
        stalled = [connected(stack, host, head.format(location).encode()) for location in locations]
        e2e.wait_for(lambda: len(held(server)) >= len(before) + len(stalled), "the uploads do not begin")

        def all_cut() -> bool:
            for client in slow:
                with contextlib.suppress(OSError):
                    client.send(b"x")
            return len(held(server)) <= len(before)  # of those, some may just be ending

        e2e.wait_for(all_cut, lambda: f"still held: {held(server)}")
        assert {client.recv(12) for client in stalled} == {b"HTTP/1.1 408"}
        for location in locations:
            assert patch(host, location, b" more") == (202, "0-8")


def start_upload(host: str) -> str:
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.request("POST", "/v2/x/blobs/uploads/")
    location = connection.getresponse().headers["Location"]
    connection.close()
    return location


def patch(host: str, location: str, body: bytes) -> tuple[int, str]:
    """Go on with an upload; status and Range."""
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.request("PATCH", location, body)
    answer = connection.getresponse()
    connection.close()
    return answer.status, answer.headers["Range"]


def connected(stack: contextlib.ExitStack, host: str, sent: bytes) -> socket.socket:
    """A connection on which so much was sent; it ends with the stack."""
    client = stack.enter_context(socket.create_connection(("127.0.0.1", int(host.rpartition(":")[2])), 60))
    client.sendall(sent)
    return client


def held(server) -> list[str]:
    """What the worker holds of clients: connections, and files of uploads."""
    (worker,) = server.workers
    found = []
    for entry in Path(f"/proc/{worker}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(entry))
    uploads = sorted(name for name in found if "_uploads" in name)
    return ["socket"] * sum(name.startswith("socket:") for name in found) + uploads


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
