"""TLS by hatoba itself, as openssl, curl, Docker and skopeo see it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, ResponseReceived
from h2.settings import SettingCodes

from hatoba.testing.images import random_image

OPEN = {"REGISTRY_AUTH": "none"}


@pytest.fixture
def secured(serving, authority, free_port, tmp_path):
    """secured(pair, env) serves with a certificate of the authority for 127.0.0.1."""

    def serve(pair=None, env=None, arguments=(), folder: Path | None = None, name="server"):
        certificate, key = pair or authority.issue("server", "127.0.0.1")
        env = {
            "REGISTRY_HTTP_TLS_CERTIFICATE": str(certificate), "REGISTRY_HTTP_TLS_KEY": str(key), **OPEN, **(env or {}),
        }  # fmt: skip
        root = folder or tmp_path / "data"
        return serving(root, "--addr", f"127.0.0.1:{free_port()}", *arguments, env=env, name=name)

    return serve


@pytest.fixture
def curl(authority, e2e):
    """curl(url, …) trusts the authority; what it printed: status and version of HTTP."""
    e2e.needed("curl")

    def run(url: str, *options, check: bool = True) -> str:
        command = [
            "curl", "-sS", "--noproxy", "*", "--max-time", "60", "--cacert", authority.ca,
            "-o", "/dev/null", "-w", "%{http_code} %{http_version}",
            *options, url,
        ]  # fmt: skip
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout if done.returncode == 0 else f"curl: {done.returncode}"

    return run


def handshake(server, *options: str) -> str:
    """What openssl says of a connection; the version of TLS, or "none"."""
    command = ["openssl", "s_client", "-connect", server.host, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, input="")
    found = re.search(r"^\s*Protocol\s*: (\S+)|^New, (TLSv\S+), Cipher is [A-Z]", done.stdout, re.MULTILINE)
    return "none" if done.returncode or found is None else found[1] or found[2]


def context(authority, *protocols: str) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=authority.ca)
    if protocols:
        made.set_alpn_protocols(list(protocols))
    return made


def dial(server, context: ssl.SSLContext | None = None) -> socket.socket:
    host, _, port = server.host.partition(":")
    plain = socket.create_connection((host, int(port)), timeout=60)
    return plain if context is None else context.wrap_socket(plain, server_hostname=host)


def test_both_versions_of_http(secured, authority, curl):
    with secured() as server:
        assert f"listening on {server.host} (https)" in server.err
        assert curl(f"https://{server.host}/v2/") == "200 2"
        assert curl(f"https://{server.host}/v2/", "--http1.1") == "200 1.1"
        upload = httpx.post(f"https://{server.host}/v2/a/blobs/uploads/", verify=context(authority))
        assert upload.status_code == 202
        with dial(server) as client:  # plain HTTP at this port
            client.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
            assert not client.recv(100).startswith(b"HTTP/1.1 2")
        assert curl(f"https://{server.host}/v2/") == "200 2"
        assert server.errors == []
        assert "Traceback" not in server.err + server.out


def test_versions_of_tls_and_of_http(secured, curl):
    env = {"REGISTRY_HTTP_HTTP2_DISABLED": "true"}
    with secured(env=env) as server:
        assert curl(f"https://{server.host}/v2/", "--http2") == "200 1.1"
        assert handshake(server, "-tls1_3") == "TLSv1.3"
        assert handshake(server, "-tls1_2") == "TLSv1.2"
        assert handshake(server, "-tls1_1", "-cipher", "ALL@SECLEVEL=0") == "none"
    with secured(env={"REGISTRY_HTTP_TLS_MINIMUMTLS": "tls1.3"}, name="newer") as server:
        assert handshake(server, "-tls1_3") == "TLSv1.3"
        assert handshake(server, "-tls1_2") == "none"


def test_a_pair_that_does_not_fit(start, authority, e2e, config):
    certificate, _ = authority.issue("server", "127.0.0.1")
    _, other = authority.issue("other", "127.0.0.1")
    path = config(f"http: {{tls: {{certificate: {certificate}, key: {other}}}}}\n")
    server = start(e2e.HATOBA, "serve", path)
    assert server.process.wait(20) == 2
    expected = f"hatoba: {other} does not belong to {certificate}: the private key of that certificate is another\n"
    assert server.err == expected


def test_certificates_of_clients(secured, authority, curl, e2e, tmp_path):
    ours = authority.issue("client")
    theirs = e2e.Authority(tmp_path / "another").issue("stranger")

    def bearing(pair):
        return "--cert", pair[0], "--key", pair[1]

    needed = {"REGISTRY_HTTP_TLS_CLIENTCAS": f"[{authority.ca}]"}
    with secured(env=needed) as server:
        url = f"https://{server.host}/v2/"
        assert curl(url, *bearing(ours)) == "200 2"
        assert curl(url, check=False).startswith("curl: ")
        assert curl(url, *bearing(theirs), check=False).startswith("curl: ")
    with secured(env=needed | {"REGISTRY_HTTP_TLS_CLIENTAUTH": "verify-client-cert-if-given"}, name="given") as server:
        url = f"https://{server.host}/v2/"
        assert curl(url, *bearing(ours)) == "200 2"
        assert curl(url) == "200 2"
        assert curl(url, *bearing(theirs), check=False).startswith("curl: ")


def test_errors_are_heard_over_http2(secured, authority):
    """Short bodies are drained, long ones are not waited for; the connection goes on."""
    with secured() as server, httpx.Client(http2=True, verify=context(authority), timeout=60) as client:
        base = f"https://{server.host}/v2"
        for size in (60_000, 3_000_000):
            answer = client.patch(f"{base}/a/blobs/uploads/00000000-0000-4000-8000-000000000000", content=bytes(size))
            assert (answer.status_code, answer.http_version) == (404, "HTTP/2")
            assert answer.json()["errors"][0]["code"] == "BLOB_UPLOAD_UNKNOWN"
        answer = client.put(f"{base}/a/manifests/v1", content=bytes(5_000_000))
        assert answer.status_code == 413
        body = os.urandom(2_000_000)
        digest = str(random_image(seed=0).manifest.digest)
        assert client.post(f"{base}/a/blobs/uploads/?digest={digest}", content=body).status_code == 400
        assert client.get(f"{base}/").status_code == 200


def test_one_unread_body_does_not_stop_the_others(secured, authority):
    """What a connection may send in all is worth sixteen uploads that nobody has begun to read."""
    with secured() as server, dial(server, context(authority, "h2")) as client:
        peer = Http2(client)
        assert peer.request(1, "GET", "/v2/")[b":status"] == b"200"
        assert peer.connection.outbound_flow_control_window >= 16 * peer.connection.remote_settings.initial_window_size


class Http2:
    """A client that sends and reads frames itself, so that it can do what no decent client does."""

    def __init__(self, client: ssl.SSLSocket, window: int = 65_535) -> None:
        self.client = client
        self.connection = H2Connection(H2Configuration(client_side=True))
        self.connection.local_settings.update({SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.connection.initiate_connection()
        self.answers: dict[int, dict[bytes, bytes]] = {}
        self.flush()

    def request(self, stream: int, method: str, path: str) -> dict[bytes, bytes]:
        """The headers of the answer."""
        headers = [(":method", method), (":path", path), (":scheme", "https"), (":authority", "127.0.0.1")]
        self.connection.send_headers(stream, headers, end_stream=True)
        self.flush()
        while stream not in self.answers:
            assert self.hear(), "the connection has ended"
        return self.answers[stream]

    def hear(self) -> bool:
        """Take in what has come; False at the connection's end."""
        received = self.client.recv(65_536)
        for event in self.connection.receive_data(received) if received else ():
            if isinstance(event, ResponseReceived):
                self.answers[event.stream_id] = dict(event.headers)
            assert not isinstance(event, ConnectionTerminated)
        self.flush()
        return bool(received)

    def flush(self) -> None:
        self.client.sendall(self.connection.data_to_send())


def test_who_stands_still_is_cut(secured, authority, e2e):
    """Before, within and after the handshake, and over HTTP/2 without room for the answer; but never who is served."""
    with secured(env={"REGISTRY_HATOBA_LIMITS_STALLTIMEOUT": "2s"}) as server:
        half = dial(server)
        half.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        quiet = [
            dial(server),
            half,
            *(dial(server, context(authority, *alpn)) for alpn in ((), ("http/1.1",), ("h2",))),
        ]
        opened = Http2(dial(server, context(authority, "h2")))
        assert opened.request(1, "GET", "/v2/")[b":status"] == b"200"
        blob = os.urandom(2_000_000)
        narrow = Http2(dial(server, context(authority, "h2")), window=1000)
        narrow.request(1, "GET", push(server, authority, blob))
        trickling = threading.Thread(target=trickle, args=(server, authority, answers := []))
        trickling.start()
        for client in (*quiet, opened.client, narrow.client):
            with client:
                e2e.wait_for(lambda client=client: has_ended(client), "a connection stays open")
        trickling.join()
        assert answers == [202]
        e2e.wait_for(lambda: not open_blobs(server), "a blob stays open")
        assert server.errors == []


def push(server, authority, body: bytes) -> str:
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    base = f"https://{server.host}"
    pushed = httpx.post(f"{base}/v2/a/blobs/uploads/?digest={digest}", content=body, verify=context(authority))
    assert pushed.status_code == 201
    return f"/v2/a/blobs/{digest}"


def trickle(server, authority, answers: list[int]) -> None:
    """Upload for longer than the stall time-out, a byte a second."""

    def parts():
        for _ in range(5):
            yield b"x"
            time.sleep(1)

    with httpx.Client(http2=True, verify=context(authority), timeout=60) as client:
        start = client.post(f"https://{server.host}/v2/slow/blobs/uploads/")
        location = start.headers["location"]
        answers.append(client.patch(f"https://{server.host}{location}", content=parts()).status_code)


def has_ended(client: socket.socket) -> bool:
    client.settimeout(0.1)
    try:
        return client.recv(65_536) == b""
    except (TimeoutError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True


def open_blobs(server) -> list[str]:
    (worker,) = server.workers
    found = []
    for entry in Path(f"/proc/{worker}/fd").iterdir():
        try:
            found.append(os.readlink(entry))
        except FileNotFoundError:
            continue
    return [path for path in found if "/blobs/sha256/" in path]


@pytest.fixture
def certs_d(authority):
    """certs_d(host) makes Docker's engine trust the authority for this host."""
    made = []

    def trust(host: str) -> None:
        folder = Path("/etc/docker/certs.d") / host
        folder.mkdir(parents=True)
        made.append(folder)
        shutil.copy(authority.ca, folder / "ca.crt")

    yield trust
    for folder in made:
        shutil.rmtree(folder)


def own_address() -> str:
    """An address of this machine that is not loopback, where Docker's engine would believe any certificate."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            pytest.skip("needs an address beside loopback")
        return probe.getsockname()[0]


def test_docker_and_skopeo_with_a_private_authority(serving, docker, build, authority, certs_d, e2e, tmp_path):
    e2e.needed("skopeo")
    address = own_address()
    certificate, key = authority.issue("server", address)
    env = {"REGISTRY_HTTP_TLS_CERTIFICATE": str(certificate), "REGISTRY_HTTP_TLS_KEY": str(key)}
    with socket.socket() as probe:
        probe.bind((address, 0))
        host = f"{address}:{probe.getsockname()[1]}"
    with serving(tmp_path / "data", "--addr", host, env=env) as server:
        name = build(f"{host}/team/app:v1")
        login = ("login", host, "--username", "admin", "--password-stdin")
        refused = docker(*login, stdin=server.password, check=False)
        assert refused.returncode != 0
        assert "certificate signed by unknown authority" in refused.stderr
        certs_d(host)
        docker(*login, stdin=server.password)
        digest = docker.push(name)
        docker("rmi", name)
        assert digest in docker("pull", name).stdout
        assert docker("run", "--rm", "--network=none", name, "echo", "over TLS").stdout == "over TLS\n"
        options = ["--src-cert-dir", authority.folder / "trusted", "--src-creds", f"admin:{server.password}"]
        (authority.folder / "trusted").mkdir()
        shutil.copy(authority.ca, authority.folder / "trusted" / "ca.crt")
        command = ["skopeo", "copy", *options, f"docker://{name}", f"dir:{tmp_path / 'copied'}"]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert server.errors == []
