"""The probe of the image against servers of every kind that hatoba can be, and against what it is not."""

import contextlib
import http.server
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hatoba import health

DAY = timedelta(days=1)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked = self.path
        self.send_response(self.server.status)
        self.end_headers()

    def address_string(self):
        return "probe"  # the address of a client on a socket in the file system is empty

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(server, status: int = 200):
    server.status, server.asked = status, ""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def on_tcp(host: str = "127.0.0.1"):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = type("Server", (http.server.HTTPServer,), {"address_family": family, "handle_error": lambda *_: None})
    return kind((host, 0), Handler)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "address"


@pytest.mark.parametrize("status", [200, 503, 500])
def test_the_status_decides(file, status):
    with serving(on_tcp(), status) as server:
        file.write_text(health.told(server.server_address))
        found = health.probe(file)
        assert server.asked == "/healthz/live"
    assert found == ("" if status == 200 else f"answered HTTP/1.0 {status} {http.HTTPStatus(status).phrase}")


@pytest.mark.parametrize(
    ("bound", "told"),
    [("127.0.0.1", "0.0.0.0"), ("127.0.0.1", "::"), ("::1", "::"), ("::1", "::1"), ("127.0.0.7", "127.0.0.7")],  # noqa: S104
)
def test_every_interface_is_reached_over_loopback(file, bound, told):
    try:
        server = on_tcp(bound)
    except OSError:
        pytest.skip("no IPv6 here")
    with serving(server):
        file.write_text(health.told((told, server.server_address[1])))
        assert health.probe(file) == ""


def test_a_socket_in_the_file_system(file, tmp_path):
    path = tmp_path / "a socket"
    with serving(socketserver.UnixStreamServer(str(path), Handler)):
        file.write_text(health.told(path))
        assert health.probe(file) == ""


@pytest.fixture
def certificate(tmp_path):
    names = tmp_path / "cert.pem", tmp_path / "key.pem"
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "registry.example.com")])
    made = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), now, now + DAY)
    names[0].write_bytes(made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    names[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return names


@pytest.mark.parametrize("mutual", [False, True])
def test_tls(file, certificate, mutual):
    """Also a server that wants a client's certificate, which refuses the probe: it lives."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    if mutual:
        context.load_verify_locations(certificate[0])
        context.verify_mode = ssl.CERT_REQUIRED
    server = on_tcp()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server):
        file.write_text(health.told(server.server_address, tls=True))
        assert health.probe(file) == ""


def test_no_tls_where_it_should_be(file):
    with serving(on_tcp()) as server:
        file.write_text(health.told(server.server_address, tls=True))
        assert "WRONG_VERSION_NUMBER" in health.probe(file)


def test_nobody_there(file):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        file.write_text(health.told(bound.getsockname()))
        assert "Connection refused" in health.probe(file)
    assert "No such file" in health.probe(file.with_name("absent"))
    file.write_text("nonsense\n")
    assert health.probe(file)


def test_it_hangs_up_without_an_answer(file):
    with socket.create_server(("127.0.0.1", 0)) as server:
        file.write_text(health.told(server.getsockname()))

        def hang_up():
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)

        thread = threading.Thread(target=hang_up)
        thread.start()
        assert health.probe(file) == "answered nothing"
        thread.join()


def test_it_hangs(file, monkeypatch):
    monkeypatch.setattr(health, "_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        file.write_text(health.told(server.getsockname()))
        assert health.probe(file) == "timed out"


def run(file: Path | str):
    command = [sys.executable, "-X", "importtime", "-m", "hatoba.health"]
    return subprocess.run(command, env={health.VARIABLE: str(file)}, capture_output=True, text=True, check=False)


def test_the_command(file):
    with serving(on_tcp()) as server:
        file.write_text(health.told(server.server_address))
        done = run(file)
        assert (done.returncode, done.stdout) == (0, "")
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert not imported & {"pydantic", "typer", "http.client", "hatoba.errors"}, "it would cost more than it asks"
    done = run(file)
    assert done.returncode == 1
    assert done.stderr.endswith("[Errno 111] Connection refused\n")
    done = run("")
    assert (done.returncode, done.stderr.endswith("REGISTRY_HATOBA_ADDRESSFILE names no file\n")) == (1, True)
