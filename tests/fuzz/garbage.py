"""What is no good HTTP, or breaks off: bytes for a connection of their own, and how that ends."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from fuzz import bodies, vocabulary
from fuzz.cases import RIGHT

TLS_HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(range(256)) * 2
HTTP_2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
WEBSOCKET = (
    b"GET /v2/ HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SIGN_IN = b"%s: %s\r\n" % RIGHT
BAD_LENGTHS = (
    b"-1",
    b"+2",
    b"2, 3",
    b"2 2",
    b"0x2",
    b"\xd9\xa2",
    b"9" * 30,
    b"18446744073709551615",
    b"1e1",
    b"",
    b"2\r\nContent-Length: 3",
)
BAD_CODINGS = (
    b"gzip",
    b"chunked, gzip",
    b"xchunked",
    b"chunked\r\nTransfer-Encoding: chunked",
    b"chunked\r\nContent-Length: 2",
    b"\x0bchunked",
    b"identity",
)
BAD_CHUNKS = (
    b"zz\r\n{}\r\n0\r\n\r\n", b"-2\r\n{}\r\n0\r\n\r\n", b"f" * 18 + b"\r\n{}\r\n0\r\n\r\n", b"2\n{}\n0\n\n",
    b"2;" + b"x" * 20_000 + b"\r\n{}\r\n0\r\n\r\n", b"1\r\n{}\r\n0\r\n\r\n", b"2 \r\n{}\r\n0\r\n\r\n", b"\r\n",
    b"2\r\n{}0\r\n\r\n", b"0\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", b"2\r\n{}\r\n", b"0x2\r\n{}\r\n0\r\n\r\n",
    b"7fffffffffffffff\r\n{}", b"2\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\n", b"0\r\n" + b"A: b\r\n" * 500 + b"\r\n",
)  # fmt: skip
ODD_LINES = (
    b"GET /v2/\r\n\r\n", b"GET\r\n\r\n", b"\r\n" * 20, b"\n" * 20, b"GET /v2/ HTTP/0.9\r\n\r\n",
    b"GET /v2/ HTTP/3.0\r\n\r\n", b"GET  /v2/  HTTP/1.1\r\n\r\n", b"GET /v2/ HTTP/1.1\nhost: x\n\n",
    b"GET v2 HTTP/1.1\r\n\r\n", b"\x00" * 64, b"GET /v2/\x00 HTTP/1.1\r\n\r\n", b"get /v2/ http/1.1\r\n\r\n", HTTP_2,
    TLS_HELLO, b"GET /v2/" + b"a" * 102_400 + b" HTTP/1.1\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\n" + b"x: y\r\n" * 300 + b"\r\n",
    b"GET /v2/ HTTP/1.1\r\nx: " + b"y" * 300_000 + b"\r\n\r\n", b"GET /v2/ HTTP/1.1\r\n folded: x\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nx y: z\r\n\r\n", b"GET /v2/ HTTP/1.1\r\nx\r\n\r\n", b"GET /v2/ HTTP/1.1\r\n: x\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nx: \x00\r\n\r\n", b"GET /v2/ HTTP/1.1\r\nx: a\rb\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", b"GET http://h/v2/ HTTP/1.1\r\n\r\n",
    b"CONNECT h:1 HTTP/1.1\r\nhost: h\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nhost: h\r\n\r\n",
    b"GET /v2/ HTTP/1.0\r\n\r\n", b"\x80\x2e\x01\x00\x02", b"USER anonymous\r\n",
    WEBSOCKET,
    b"G" * 70_000, b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", b"GET //v2/ HTTP/1.1\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nexpect: 200-ok\r\n\r\n",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes for one connection. `ending`: read until the server closes, say FIN first, or reset at once.

    `methods` are those of the requests in it, to know which answers have no body; `path` is the first one's.
    """

    sent: bytes
    ending: Literal["read", "finish", "reset"]
    methods: tuple[str, ...] = ("GET",)
    path: bytes = b""


def raw(rng: random.Random, sessions: list[bytes]) -> Raw:
    """Something that no client should send."""
    kind = rng.randrange(6)
    ending: Literal["finish", "reset"] = "finish" if rng.random() < 0.8 else "reset"
    if kind == 0:
        return Raw(rng.choice(ODD_LINES), ending)
    if kind == 1:
        return Raw(rng.randbytes(rng.randrange(1, 400)), ending)
    if kind == 2:
        return Raw(_framing(rng), ending, ("PUT",), b"/v2/scratch/raw/manifests/v1")
    if kind == 3 and sessions:
        return _vanishing(rng, rng.choice(sessions))
    if kind == 4:
        return _too_long(rng)
    line = b"PUT /v2/scratch/raw/manifests/v1 HTTP/1.1\r\nhost: x\r\n%scontent-length: 9\r\n\r\n{}" % SIGN_IN
    return Raw(line[: rng.randrange(1, len(line))], ending, ("PUT",), b"/v2/scratch/raw/manifests/v1")


def _framing(rng: random.Random) -> bytes:
    head = b"PUT /v2/scratch/raw/manifests/v1 HTTP/1.1\r\nhost: x\r\n" + SIGN_IN
    kind = rng.randrange(3)
    if kind == 0:
        return head + b"content-length: %s\r\n\r\n{}" % rng.choice(BAD_LENGTHS)
    if kind == 1:
        return head + b"transfer-encoding: %s\r\n\r\n2\r\n{}\r\n0\r\n\r\n" % rng.choice(BAD_CODINGS)
    return head + b"transfer-encoding: chunked\r\n\r\n" + rng.choice(BAD_CHUNKS)


def _vanishing(rng: random.Random, session: bytes) -> Raw:
    """A client that goes away in the middle of a body."""
    method = rng.choice((b"PATCH", b"PUT"))
    target = session if method == b"PATCH" else session + b"?digest=" + vocabulary.absent(rng).encode()
    head = b"%s %s HTTP/1.1\r\nhost: x\r\n%s" % (method, target, SIGN_IN)
    body = rng.randbytes(rng.choice((0, 1, 500, 20_000)))
    if rng.random() < 0.5:
        sent = head + b"content-length: %d\r\n\r\n" % (len(body) + rng.randrange(1, 10_000_000)) + body
    else:
        sent = head + b"transfer-encoding: chunked\r\n\r\n%x\r\n" % (len(body) + 1) + body
    return Raw(sent, rng.choice(("finish", "reset")), (method.decode(),), target)


def _too_long(rng: random.Random) -> Raw:
    """A body longer than announced: what is too much is read as the next request."""
    body = bodies.impossible(rng)[:10_000]
    announced = rng.randrange(len(body) + 1)
    head = b"PUT /v2/scratch/raw/manifests/v1 HTTP/1.1\r\nhost: x\r\n" + SIGN_IN
    return Raw(
        head + b"content-length: %d\r\n\r\n" % announced + body, "finish", ("PUT",), b"/v2/scratch/raw/manifests/v1"
    )
