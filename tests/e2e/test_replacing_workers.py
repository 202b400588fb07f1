"""New workers for old ones, on SIGHUP and when a certificate changes: nobody loses a request, nothing holds it back."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

UPLOAD_BYTES = 100 * 1024 * 1024


@pytest.fixture
def served(serving, free_port, tmp_path):
    """served(…) is a server without passwords in `tmp_path/data`."""

    def serve(*arguments, env=None, **options):
        env = {"REGISTRY_AUTH": "none"} | (env or {})
        return serving(tmp_path / "data", "--addr", f"127.0.0.1:{free_port()}", *arguments, env=env, **options)

    return serve


@pytest.fixture
def pairs(authority, tmp_path):
    """pairs(1) is a folder with a certificate and its key, as certbot and Kubernetes lay them out; so is pairs(2)."""

    def make(number: int) -> Path:
        folder = tmp_path / f"pair{number}"
        if not folder.exists():
            folder.mkdir()
            certificate, key = authority.issue(f"server{number}", "127.0.0.1")
            shutil.copy(certificate, folder / "tls.crt")
            shutil.copy(key, folder / "tls.key")
        return folder

    return make


def with_pair(folder: Path) -> dict[str, str]:
    return {"REGISTRY_HTTP_TLS_CERTIFICATE": str(folder / "tls.crt"), "REGISTRY_HTTP_TLS_KEY": str(folder / "tls.key")}


def certificate_of(server) -> str:
    """What a new connection is shown, as PEM."""
    host, _, port = server.host.partition(":")
    try:
        return ssl.get_server_certificate((host, int(port)), timeout=20)
    except OSError as error:
        pytest.fail(f"a connection was lost: {error!r}")


def shown(folder: Path) -> str:
    text = (folder / "tls.crt").read_text()
    return text[text.index("-----BEGIN") :]


def replaced(server, times: int = 1) -> bool:
    assert server.process.poll() is None, server.err
    return server.err.count("workers replaced") >= times


def hang_up(server, e2e, times: int = 1) -> None:
    """Send SIGHUP and wait for the last of so many replacements."""
    server.process.send_signal(signal.SIGHUP)
    e2e.wait_for(lambda: replaced(server, times), lambda: f"the workers are not replaced:\n{server.err}", 60)


def lay(layout: str, live: Path, pair: Path) -> None:
    """Put a pair into the folder `live` as this layout does it, in place of the one before."""
    live.mkdir(exist_ok=True)
    if layout == "kubernetes":  # both at once, by the folder that their links go through
        (live / "new").symlink_to(pair)
        (live / "new").rename(live / "..data")
    for name in ("tls.crt", "tls.key"):
        if layout == "files":
            shutil.copy(pair / name, live / name)
        elif layout == "certbot" or not (live / name).is_symlink():
            (live / "new").symlink_to(pair / name if layout == "certbot" else f"..data/{name}")
            (live / "new").rename(live / name)


def test_a_new_certificate_is_noticed(serving, pairs, e2e, free_port, tmp_path):
    with contextlib.ExitStack() as stack:
        servers = {}
        for layout in ("certbot", "kubernetes", "files"):
            lay(layout, tmp_path / layout, pairs(1))
            env = {"REGISTRY_AUTH": "none"} | with_pair(tmp_path / layout)
            serve = serving(tmp_path / "data" / layout, "--addr", f"127.0.0.1:{free_port()}", name=layout, env=env)
            servers[layout] = stack.enter_context(serve)
        for layout, server in servers.items():
            assert certificate_of(server) == shown(pairs(1))
            lay(layout, tmp_path / layout, pairs(2))
        for server in servers.values():
            e2e.wait_for(lambda s=server: certificate_of(s) == shown(pairs(2)), lambda s=server: s.err, 60)
            assert server.errors == []


def test_half_of_a_new_pair(served, pairs, e2e, tmp_path):
    """It is said, once, and the old one is served on, also by a worker that takes the place of a killed one."""
    live = tmp_path / "live"
    shutil.copytree(pairs(1), live)
    with served(env=with_pair(live)) as server:
        shutil.copy(pairs(2) / "tls.crt", live / "tls.crt")
        e2e.wait_for(lambda: server.errors, "nothing is said of a key that does not belong to the certificate", 60)
        (worker,) = server.workers
        os.kill(worker, signal.SIGKILL)
        e2e.wait_for(lambda: answers(server) and server.workers != [worker], "no new worker comes")
        assert certificate_of(server) == shown(pairs(1))
        (error,) = (line for line in server.errors if "certificate" in line)
        assert "the certificate cannot be served, the old one stays" in error
        assert f"{live / 'tls.key'} does not belong to {live / 'tls.crt'}" in error
        shutil.copy(pairs(2) / "tls.key", live / "tls.key")
        e2e.wait_for(lambda: certificate_of(server) == shown(pairs(2)), lambda: server.err, 60)


def answers(server) -> bool:
    host, _, port = server.host.partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=20).close()
    except OSError:
        return False
    return True


class Small(threading.Thread):
    """Pushes and pulls small blobs, one after the other; every other one on a connection of its own."""

    def __init__(self, host: str, context: ssl.SSLContext | None, stop: threading.Event, number: int) -> None:
        super().__init__()
        self.host, self.context, self.stop, self.number = host, context, stop, number
        self.done, self.problems = 0, []

    def run(self) -> None:
        connection = self._connect()
        while not self.stop.is_set():
            try:
                body = f"{self.number} {self.done}".encode()
                digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
                _, location = self._ask(connection, "POST", "/v2/small/blobs/uploads/", 202)
                self._ask(connection, "PUT", f"{location}?digest={digest}", 201, body)
                found, _ = self._ask(connection, "GET", f"/v2/small/blobs/{digest}", 200)
                assert found == body
                self.done += 1
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.problems.append(repr(error))
                connection.close()
                connection = self._connect()
            if self.number % 2:  # every other one comes anew each time
                connection.close()
        connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        if self.context is None:
            return http.client.HTTPConnection(self.host, timeout=60)
        return http.client.HTTPSConnection(self.host, timeout=60, context=self.context)

    @staticmethod
    def _ask(connection, method: str, path: str, status: int, body: bytes = b"") -> tuple[bytes, str | None]:
        connection.request(method, path, body or None, {"Content-Length": str(len(body))})
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == status, (answer.status, content)
        return content, answer.headers["Location"]


class Slow(threading.Thread):
    """Uploads a large blob with curl, over HTTP/1.1 or 2, for longer than the drain time-out."""

    def __init__(self, server, version: str, file: Path) -> None:
        super().__init__()
        self.base, self.version, self.file = f"https://{server.host}", version, file
        self.told = ""

    def run(self) -> None:
        digest = hashlib.sha256(self.file.read_bytes()).hexdigest()
        options = ["-sSk", "--noproxy", "*", f"--http{self.version}", "--max-time", "120"]
        started = subprocess.run(
            ["curl", *options, "-D-", "-o", "/dev/null", "-X", "POST", f"{self.base}/v2/big/blobs/uploads/"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        headers = dict(line.lower().split(": ", 1) for line in started.stdout.splitlines() if ": " in line)
        done = subprocess.run(
            [
                "curl", *options, "--limit-rate", "20M", "-T", str(self.file), "-w", "%{http_code} %{http_version}",
                f"{self.base}{headers['location']}?digest=sha256:{digest}",
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        self.told = done.stdout + done.stderr


@pytest.mark.parametrize("versions", [(), ("1.1", "2")], ids=["plain", "tls"])
def test_pushes_go_on_while_workers_are_replaced(served, pairs, authority, e2e, tmp_path, versions):
    """Small ones all the time; over TLS large ones too, that take longer than the drain time-out."""
    e2e.needed("curl")
    file = tmp_path / "large"
    file.write_bytes(os.urandom(1024) * (UPLOAD_BYTES // 1024))
    env = {"REGISTRY_HTTP_DRAINTIMEOUT": "2s"} | (with_pair(pairs(1)) if versions else {})
    context = ssl.create_default_context(cafile=authority.ca) if versions else None
    stop = threading.Event()
    with served(env=env) as server:
        first = server.workers
        small = [Small(server.host, context, stop, number) for number in range(4)]
        slow = [Slow(server, version, file) for version in versions]
        for client in (*small, *slow):
            client.start()
        try:
            e2e.wait_for(lambda: all(client.done for client in small), "nothing is pushed")
            hang_up(server, e2e)
            hang_up(server, e2e, times=2)
            for client in slow:
                client.join()
        finally:
            stop.set()
        for client in small:
            client.join()
            assert client.problems == []
        assert [client.told for client in slow] == [f"201 {client.version}" for client in slow]
        e2e.wait_for(lambda: len(server.workers) == 1, "an old worker stays")
        assert server.workers != first
        assert server.errors == []


def stalled_upload(host: str) -> socket.socket:
    """A connection in the middle of a body of which no more comes."""
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.request("POST", "/v2/x/blobs/uploads/", headers={"Content-Length": "0"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    name, _, port = host.partition(":")
    client = socket.create_connection((name, int(port)), timeout=60)
    path = answer.headers["Location"]
    client.sendall(f"PATCH {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc".encode())
    return client


def test_a_stalled_upload_holds_nothing_back(served, e2e):
    """The new workers serve while it stands still, and the old one ends with the server."""
    with served("--workers", "2", env={"REGISTRY_HTTP_DRAINTIMEOUT": "1s"}) as server:
        with stalled_upload(server.host):
            before = set(server.workers)
            hang_up(server, e2e)
            e2e.wait_for(lambda: len(server.workers) == 3, "one old worker is expected to wait for the upload")
            assert len(before & set(server.workers)) == 1
            assert ping(server.host) == 200
            assert server.stop() == 0, server.err
        assert server.errors == []


def ping(host: str) -> int:
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status
    finally:
        connection.close()


def test_the_signal_to_stop_while_workers_are_replaced(served, e2e):
    with served("--workers", "2") as server:
        before = set(server.workers)
        server.process.send_signal(signal.SIGHUP)
        e2e.wait_for(lambda: set(server.workers) - before, "no new worker")
        assert server.stop() == 0, server.err
        assert "the new workers do not start" not in server.err


def test_a_worker_that_dies_while_workers_are_replaced(served, e2e):
    """An old one: its place is taken anyway. A new one that never listens: the old ones go on."""
    with served("--workers", "2") as server:
        before = server.workers
        server.process.send_signal(signal.SIGHUP)
        e2e.wait_for(lambda: set(server.workers) - set(before), "no new worker")
        os.kill(before[0], signal.SIGKILL)
        e2e.wait_for(lambda: replaced(server), lambda: server.err, 60)
        e2e.wait_for(lambda: len(server.workers) == 2, "two workers are expected")
        after = server.workers
        assert not set(before) & set(after)
        assert ping(server.host) == 200
        server.process.send_signal(signal.SIGHUP)
        new = e2e.wait_for(lambda: set(server.workers) - set(after), "no new worker")
        os.kill(new.pop(), signal.SIGKILL)
        e2e.wait_for(lambda: "the new workers do not start" in server.err, lambda: server.err, 60)
        assert ping(server.host) == 200
        assert sorted(server.workers) == sorted(after)


def test_memory_that_a_new_process_would_not_have(start, e2e, free_port):
    env = {"REGISTRY_STORAGE": "inmemory", "REGISTRY_AUTH": "none", "REGISTRY_HTTP_ADDR": f"127.0.0.1:{free_port()}"}
    server = start(e2e.HATOBA, "serve", **env).ready()
    before = server.workers
    server.process.send_signal(signal.SIGHUP)
    e2e.wait_for(lambda: "SIGHUP does nothing with storage.inmemory" in server.err, lambda: server.err)
    assert server.workers == before
    assert ping(server.host) == 200
    assert server.stop() == 0
