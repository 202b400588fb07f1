"""The folder's lock: one server at a time, in a root that is durable before anything is acknowledged. The address."""

import contextlib
import errno
import os
import socket

import pytest

from hatoba import server
from hatoba.config.load import load
from hatoba.errors import StartError
from hatoba.wiring import serving


def test_a_new_root_is_durable(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    root = tmp_path / "new" / "root"
    with server.only_server(root):
        assert [str(path) for path in (root / "hatoba", root, tmp_path / "new", tmp_path)] == synced[:4]


def test_the_second_is_told_who_holds_it(tmp_path):
    with (
        server.only_server(tmp_path),
        pytest.raises(StartError, match=f"is served by another hatoba, pid {os.getpid()}$"),
        server.only_server(tmp_path),
    ):
        pytest.fail("two servers")
    with server.only_server(tmp_path):
        pass


def test_a_root_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="cannot be written by uid"), server.only_server(tmp_path / "file"):
        pytest.fail("there is no folder")


def test_of_a_name_with_both_the_ipv4_address_is_taken(monkeypatch):
    """As Docker's registry does."""
    both = [(socket.AF_INET6, ("::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0))]
    found = [(family, socket.SOCK_STREAM, 6, "", address) for family, address in both]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert server._probe("localhost", 0)[0] == "127.0.0.1"


async def test_worker_whose_disk_fails_as_it_starts_says_so_in_one_line(monkeypatch):
    @contextlib.asynccontextmanager
    async def running(_settings, _debug):
        raise OSError(errno.EIO, "Input/output error", "/data/hatoba/tmp")
        yield

    async def receive():
        return {"type": "lifespan.startup"}

    async def send(message):
        sent.append(message)

    sent = []
    monkeypatch.setattr(serving, "running", running)
    settings = load(None, {}, {"storage.filesystem.rootdirectory": "/data", "http.addr": "127.0.0.1:0"}).settings
    await server._Worker(settings, ("127.0.0.1", 1), None, lambda: None, None)._live(receive, send)
    assert sent == [{"type": "lifespan.startup.failed", "message": "/data/hatoba/tmp: Input/output error"}]
