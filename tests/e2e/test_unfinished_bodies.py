"""Manifests that never arrive whole: what they may take of the memory, together, and whom they keep out."""

from __future__ import annotations

import contextlib
import http.client
import re
import select
import socket

LARGEST = 4 * 1024 * 1024
MEBIBYTE = 1024 * 1024


def test_unfinished_bodies_share_a_bounded_memory(serving, e2e, free_port, tmp_path):
    host = f"127.0.0.1:{free_port()}"
    with serving(tmp_path / "data", "--addr", host, env={"REGISTRY_AUTH": "none"}) as server:
        before = server.memory()
        with contextlib.ExitStack() as stack:
            clients = [unfinished(stack, host) for _ in range(60)]
            e2e.wait_for(lambda: sum(map(answered, clients)) >= 60 - 17, "too many are read on")
            assert server.memory() - before < 160 * MEBIBYTE
            waiting = [client for client in clients if not answered(client)]
            assert len(waiting) >= 14
            for client in clients:
                if client not in waiting:
                    assert re.match(rb"HTTP/1.1 429 [^\0]*retry-after: \d+\r\n", client.recv(2000), re.IGNORECASE)
            assert put(host, LARGEST) == 429
            assert put(host, 50_000) == 400, "small ones are read, and found to be no manifest"
        e2e.wait_for(lambda: put(host, LARGEST) == 400, "the memory of those that left is not free again")
        assert server.errors == []


def unfinished(stack: contextlib.ExitStack, host: str) -> socket.socket:
    """Send a manifest but for its last byte; the server may have answered before."""
    name, _, port = host.partition(":")
    client = stack.enter_context(socket.create_connection((name, int(port)), 30))
    with contextlib.suppress(OSError):
        client.sendall(f"PUT /v2/x/manifests/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: {LARGEST}\r\n\r\n".encode())
        client.sendall(b" " * (LARGEST - 1))
    return client


def answered(client: socket.socket) -> bool:
    return bool(select.select([client], [], [], 0)[0])


def put(host: str, size: int) -> int:
    """Put what is no manifest; the status."""
    connection = http.client.HTTPConnection(host, timeout=60)
    with contextlib.closing(connection):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # answered before the end
            connection.request("PUT", "/v2/x/manifests/v1", b" " * size)
        return connection.getresponse().status
