"""One request as Docker's clients make it, on a connection of its own, with every way of failing told apart.

Owns sockets, TLS, credentials and how long to wait. What an answer or a failure means is the business of `culprits`.
The standard library's client is used, as it hides nothing: no retries, no redirects, no pool.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from importlib.metadata import version
from typing import Literal
from urllib.parse import urlencode, urljoin, urlsplit

from hatoba.errors import ConfigError

Phase = Literal["name", "connect", "TLS", "send", "wait", "read"]

_CONNECT_SECONDS = 10.0
_BLOCK_BYTES = 64 * 1024
_ANSWER_BYTES = 64 * 1024
_SLOWEST = 16 * 1024  # bytes a second; whoever is slower holds us up
_PORTS = {"http": 80, "https": 443}
_TOKEN = re.compile(r"[!-~]+")
_PARAMETER = re.compile(r'([A-Za-z_]+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Address:
    """Where a registry is: `path` begins with / or is empty, and never ends with one."""

    scheme: str
    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """From a URL; without a scheme it is https, as for Docker's clients. Raises ConfigError."""
        problem = ConfigError(
            "URL must be such as https://registry.example.com, in ASCII, without user name, query or fragment"
        )
        if not is_plain(text):
            raise problem
        try:
            parts = urlsplit(text if "://" in text else f"https://{text}")
            host, port = parts.hostname, parts.port
        except ValueError:
            raise problem from None
        if parts.scheme not in _PORTS or not host or "@" in parts.netloc or parts.query or parts.fragment or port == 0:
            raise problem
        path = parts.path.rstrip("/")
        return cls(parts.scheme, host, port or _PORTS[parts.scheme], path.removesuffix("/v2").rstrip("/"))

    @property
    def authority(self) -> str:
        """Host and port as a URL has them; the port that goes without saying is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{self.scheme}://{self.authority}"

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine, as far as the name tells."""
        return self.host in {"localhost", "::1"} or self.host.startswith("127.")

    def __str__(self) -> str:
        return f"{self.origin}{self.path}"


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked. A `chunked` body is sent without its length; of the answer's body, `most` bytes are read."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    chunked: bool = False
    most: int = _ANSWER_BYTES


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back from `address`: the body, cut where it is longer than anybody wanted; `seconds` it all took."""

    address: Address
    method: str
    path: str
    status: int
    headers: http.client.HTTPMessage
    body: bytes
    seconds: float

    def header(self, name: str) -> str:
        """A header's value; "" without."""
        return str(self.headers.get(name, ""))


class Broken(Exception):
    """There is no whole answer from `address`: `error` happened in `phase`."""

    def __init__(self, phase: Phase, error: Exception, address: Address, method: str = "") -> None:
        super().__init__(phase)
        self.phase = phase
        self.error = error
        self.address = address
        self.method = method


class NoToken(Exception):
    """A token server gave none; `answer` is what it said."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Client:
    """Asks one registry. `credentials` are user and password; `context` says which certificates count."""

    def __init__(
        self, address: Address, credentials: tuple[str, str] | None, context: ssl.SSLContext, timeout: float
    ) -> None:
        self.address = address
        self.context = context
        self._credentials = credentials
        self._timeout = timeout
        self._authorization = ""
        self._dances = False

    def request(self, call: Call) -> Answer:
        """One request and its answer; raises Broken, NoToken.

        A token is fetched, and the request made again, where the registry wants one and `sign_in` was called.
        """
        answer = self._exchange(self.address, self._signed(call))
        asked = challenge(answer)
        if answer.status != HTTPStatus.UNAUTHORIZED or asked is None or not self._dances:
            return answer
        return self._exchange(self.address, self._signed(call)) if self._fetch_token(asked[1]) else answer

    def sign_in(self, *, by_token: bool) -> None:
        """From now on send user and password with every request, or fetch tokens with them where they are asked for."""
        if self._credentials is not None and not by_token:
            self._authorization = _basic(*self._credentials)
        self._dances = by_token

    def follow(self, redirect: Answer, most: int) -> Answer:
        """GET what a redirect leads to; raises Broken, NoToken, and ValueError or ConfigError if that is no address.

        As with Docker's clients credentials go along to the routes of this very registry, and nowhere else.
        """
        parts = urlsplit(urljoin(f"{redirect.address.origin}{redirect.path}", redirect.header("location")))
        where = Address.parse(f"{parts.scheme}://{parts.netloc}")
        call = Call("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), most=most)
        inside = where.origin == self.address.origin and parts.path.startswith(f"{self.address.path}/v2/")
        return self.request(call) if inside else self._exchange(where, call)

    def reach(self) -> str:
        """The IP address at which somebody listens; raises Broken."""
        with contextlib.closing(self._socket(self.address)) as connection:
            return str(connection.getpeername()[0])

    @contextlib.contextmanager
    def handshake(
        self, context: ssl.SSLContext | None = None, address: Address | None = None
    ) -> Iterator[ssl.SSLSocket]:
        """A TLS connection, by other rules or to another address if these are given; raises Broken."""
        where = address or self.address
        with self._secured(self._socket(where), where, context or self.context) as secured:
            yield secured

    def _socket(self, address: Address) -> socket.socket:
        try:
            return socket.create_connection((address.host, address.port), timeout=_CONNECT_SECONDS)
        except (socket.gaierror, UnicodeError) as error:
            raise Broken("name", error, address) from None
        except OSError as error:
            raise Broken("connect", error, address) from None

    def _secured(
        self, connection: socket.socket, address: Address, context: ssl.SSLContext, method: str = ""
    ) -> ssl.SSLSocket:
        try:
            return context.wrap_socket(connection, server_hostname=address.host)
        except OSError as error:
            connection.close()
            raise Broken("TLS", error, address, method) from None

    def _exchange(self, address: Address, call: Call) -> Answer:
        started = time.perf_counter()
        connection = http.client.HTTPConnection(address.host, address.port)
        # It would open a socket itself; this way DNS, TCP and TLS fail apart.
        line = self._socket(address)
        if address.scheme == "https":
            connection.default_port = _PORTS["https"]
            line = self._secured(line, address, self.context, call.method)
        line.settimeout(self._timeout)
        connection.sock = line
        limit = self._timeout + (len(call.body) + call.most) / _SLOWEST
        with contextlib.closing(connection), _ending(line, limit) as ended:
            phase: Phase = "send"
            broken = _send(connection, call)
            try:
                phase = phase if broken else "wait"
                with connection.getresponse() as response:
                    phase, broken = "read", None
                    content = response.read(call.most)
                    if ended.is_set():  # where nothing else tells the body's end, this looks like it
                        raise TimeoutError
                    if response.length and len(content) < call.most:
                        raise http.client.IncompleteRead(content, response.length)
            except (OSError, http.client.HTTPException) as error:
                told = TimeoutError() if ended.is_set() else broken or error
                raise Broken(phase, told, address, call.method) from None
        seconds = time.perf_counter() - started
        return Answer(address, call.method, call.path, response.status, response.headers, content, seconds)

    def _signed(self, call: Call) -> Call:
        if not self._authorization:
            return call
        return replace(call, headers={**call.headers, "Authorization": self._authorization})

    def _fetch_token(self, asked: Mapping[str, str]) -> bool:
        """Docker's token dance: user and password go to the realm, which gives a token for the scope.

        False where there is nobody to ask; raises Broken, NoToken.
        """
        realm = asked.get("realm", "")
        if self._credentials is None or not may_hear(realm, self.address):
            return False
        parts = urlsplit(realm)
        query = urlencode({name: asked[name] for name in ("service", "scope") if name in asked})
        query = "&".join(part for part in (parts.query, query) if part)
        signed = {"Authorization": _basic(*self._credentials)}
        where = Address.parse(f"{parts.scheme}://{parts.netloc}")
        answer = self._exchange(where, Call("GET", f"{parts.path or '/'}?{query}", headers=signed))
        token = _token(answer)
        if token is None:
            raise NoToken(answer)
        self._authorization = f"Bearer {token}"
        return True


def is_plain(text: str) -> bool:
    """Whether a text may be an address: ASCII that prints, without a space."""
    return text.isascii() and text.isprintable() and " " not in text


def may_hear(realm: str, address: Address) -> bool:
    """Whether the password of the registry at `address` may go to a token server at `realm`.

    Nobody who may have changed the challenge on its way is handed a password that was safe so far.
    """
    try:
        parts = urlsplit(realm)
        where = Address.parse(f"{parts.scheme}://{parts.netloc}")
    except (ValueError, ConfigError):
        return False
    return is_plain(realm) and (where.scheme, address.scheme) != ("http", "https")


def challenge(answer: Answer) -> tuple[str, dict[str, str]] | None:
    """Scheme, in lower case, and parameters of WWW-Authenticate; None without."""
    scheme, _, rest = answer.header("www-authenticate").strip().partition(" ")
    return (scheme.lower(), dict(_PARAMETER.findall(rest))) if scheme else None


@contextlib.contextmanager
def _ending(connection: socket.socket, seconds: float) -> Iterator[threading.Event]:
    """Hang up after `seconds`, and set the event, however busy the line is.

    A socket's own time-out begins anew with each byte: whoever sends one a minute would never be done.
    """
    ended = threading.Event()

    def end() -> None:
        ended.set()
        with contextlib.suppress(OSError):  # closed in the meantime
            socket.socket.shutdown(connection, socket.SHUT_RDWR)  # TLS's own would not wake who reads

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield ended
    finally:
        timer.cancel()


def _send(connection: http.client.HTTPConnection, call: Call) -> Exception | None:
    """Send it all; gives the error of a server that stops listening, as it may have answered before."""
    try:
        connection.putrequest(call.method, call.path, skip_accept_encoding=True)
        connection.putheader("User-Agent", f"hatoba-doctor/{version('hatoba')}")
        connection.putheader("Connection", "close")
        for name, value in call.headers.items():
            connection.putheader(name, value)
        if call.chunked:
            connection.putheader("Transfer-Encoding", "chunked")
        elif call.body or call.method in {"POST", "PUT"}:
            connection.putheader("Content-Length", str(len(call.body)))
        connection.endheaders()
        for start in range(0, len(call.body), _BLOCK_BYTES):
            part = call.body[start : start + _BLOCK_BYTES]
            connection.send(b"%x\r\n%b\r\n" % (len(part), part) if call.chunked else part)
        if call.chunked:
            connection.send(b"0\r\n\r\n")
    except (OSError, http.client.HTTPException, UnicodeError) as error:  # the last two: a path that is none
        return error
    return None


def _token(answer: Answer) -> str | None:
    """The token in an answer of a token server; None if there is none that fits into a header."""
    try:
        given = json.loads(answer.body)
        token = given.get("token") or given.get("access_token")
    except (ValueError, AttributeError, RecursionError):
        return None
    return token if answer.status == HTTPStatus.OK and isinstance(token, str) and _TOKEN.fullmatch(token) else None


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
