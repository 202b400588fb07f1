"""Whether the server beside this process answers: the healthcheck of hatoba's image, `python -m hatoba.health`.

Owns the words of the file in which a server tells where it listens (`hatoba.addressfile`). A probe that reads the
configuration instead does not know the server's command line, and its imports take ten times as long: none here is
hatoba's.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import sys
from pathlib import Path

VARIABLE = "REGISTRY_HATOBA_ADDRESSFILE"
_SECONDS = 8.0
_REQUEST = b"GET /healthz/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
# Where to knock for every address. "::" is that of both families: many a container has no ::1, and a machine with
# net.ipv6.bindv6only has nothing at 127.0.0.1.
_EVERYWHERE = {"0.0.0.0": ("127.0.0.1",), "::": ("127.0.0.1", "::1")}  # noqa: S104


def told(address: tuple[str, int] | Path, *, tls: bool = False) -> str:
    """The content of the file: how the server at `address` is reached."""
    where = str(address) if isinstance(address, Path) else f"{address[0]} {address[1]}"
    return f"{'tls' if tls else 'plain'} {where}\n"


def reached_at(host: str) -> tuple[str, ...]:
    """Where a server that listens at `host` is reached from its own machine, the likeliest first."""
    return _EVERYWHERE.get(host, (host,))


def probe(file: Path) -> str:
    """Why the server that `file` tells of does not answer as it should; empty when it does."""
    try:
        scheme, _, where = file.read_text("utf-8").rstrip("\n").partition(" ")
        with _connected(where) as connection:
            return _problem(_encrypted(connection) if scheme == "tls" else connection)
    except (OSError, ValueError) as error:
        return str(error)


def _connected(where: str) -> socket.socket:
    if where.startswith("/"):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(_SECONDS)
        connection.connect(where)
        return connection
    host, port = where.split(" ")
    *others, last = reached_at(host)
    for other in others:
        with contextlib.suppress(OSError):
            return socket.create_connection((other, int(port)), _SECONDS)
    return socket.create_connection((last, int(port)), _SECONDS)


def _encrypted(connection: socket.socket) -> socket.socket:
    # It never leaves this machine, and the certificate is made out to another name.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(connection)


def _problem(connection: socket.socket) -> str:
    line = b""
    with connection, connection.makefile("rb") as answer:
        try:
            connection.sendall(_REQUEST)
            line = answer.readline(1024).rstrip()
        except (ConnectionError, ssl.SSLError) as error:
            if not isinstance(connection, ssl.SSLSocket):
                return str(error)
    # A server that demands a client's certificate hangs up on the probe after the handshake, and lives.
    if line.split(b" ")[1:2] == [b"200"] or (not line and isinstance(connection, ssl.SSLSocket)):
        return ""
    return f"answered {line.decode('latin-1') or 'nothing'}"


def main() -> None:
    """Exit 0 when the server answers, else 1 with the reason, which `docker inspect` shows."""
    sys.exit(probe(Path(os.environ.get(VARIABLE, ""))) or None)


if __name__ == "__main__":
    main()
