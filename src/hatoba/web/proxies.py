"""Who really asks, and by which address, when a reverse proxy stands in between.

Owns what Forwarded, X-Forwarded-* and X-Request-Id are worth: nothing, unless the peer, the other end of the
connection, is a trusted proxy (`hatoba.trustedproxies`). Whoever has a trusted address may claim any other.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from hatoba.web.messages import Request

UNKNOWN = "-"  # what is logged for a peer without an address: at a socket in the file system
_LOCAL = "127.0.0.1"  # where such a peer is
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")
# A host, maybe with a port, as an address may hold it: the group is the port.
_HOST = re.compile(r"(?:[A-Za-z0-9._~-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?")
_HIGHEST_PORT = 65535
_SCHEMES = {"http", "https"}
_DEFAULT_PORTS = {"80", "443"}
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+;=:@%-]+)+")
_LONGEST_PREFIX = 255
# RFC 7239: pairs of a token and a token or quoted string. Benevolent: a value may hold what a token may not, such as
# the colon of a port, which many proxies leave unquoted.
_PAIR = re.compile(r"""\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s",;]*))\s*""")
_LONGEST_FORWARDED = 4096
_LONGEST_ENTRY = 80
_REMEMBERED = 1024
_MOST_PROXIES = 32  # in a row; a header has room for 40,000 addresses, which would be read for a third of a second


class Proxies:
    """The proxies at `networks`, which are believed."""

    def __init__(self, networks: Sequence[IPv4Network | IPv6Network]) -> None:
        self._networks = tuple(networks)
        # Asked for each request, mostly about the same few proxies and clients; reading an address takes microseconds.
        self._trusts = functools.lru_cache(_REMEMBERED)(self._look_up)
        self._read = functools.lru_cache(_REMEMBERED)(_address)

    def client(self, request: Request) -> str:
        """The client's address: the last one told that is no trusted proxy, if the peer is one.

        Each proxy adds its peer at the right end, so whatever stands left of the first stranger may be made up. Where
        there is an X-Forwarded-For, Forwarded does not count: proxies that write the one let the other pass unread.
        """
        found = _peer(request)
        if b"x-forwarded-for" in request.headers:
            if not self._trusts(found):
                return found
            told = ",".join(request.header_all("x-forwarded-for")).rsplit(",", _MOST_PROXIES)
        elif b"forwarded" in request.headers and self._trusts(found):
            told = [element.get("for", "") for element in _forwarded(request)]
        else:
            return found
        for entry in reversed(told[-_MOST_PROXIES:]):
            if not self._trusts(found):
                break
            address = self._read(entry) if len(entry) <= _LONGEST_ENTRY else None
            if address is None:  # "unknown", or no proxy wrote it: the one who passed it on is all that is known
                break
            found = address
        return found

    def origin(self, request: Request) -> str:
        """Scheme and host as the client wrote them in its address bar, `https://host:port`; "" without a usable host.

        Each is taken from Forwarded, else from X-Forwarded-*, else from the connection and Host.
        """
        scheme, host = str(request.scope.get("scheme", "http")), request.header("host") or ""
        if self._trusts(_peer(request)):
            told = _forwarded(request)[0] if b"forwarded" in request.headers else {}
            words = (told.get("proto", "").lower(), _first(request, "x-forwarded-proto").lower())
            scheme = next((word for word in words if word in _SCHEMES), scheme)
            if _is_host(told.get("host", "")):
                host = told["host"]
            else:
                named = _first(request, "x-forwarded-host")
                host = _with_port(named if _is_host(named) else host, _first(request, "x-forwarded-port"))
        return f"{scheme}://{host}" if _is_host(host) else ""

    def prefix(self, request: Request) -> str:
        """The path that proxies took away in front of what hatoba sees, such as `/registry`; mostly ""."""
        if b"x-forwarded-prefix" not in request.headers or not self._trusts(_peer(request)):
            return ""
        # Whoever takes away a second piece adds it behind the first.
        told = "".join(
            entry.strip().rstrip("/") for line in request.header_all("x-forwarded-prefix") for entry in line.split(",")
        )
        return told if len(told) <= _LONGEST_PREFIX and _PREFIX.fullmatch(told) else ""

    def request_id(self, request: Request) -> str | None:
        """The number that a proxy gave the request, so that its log and ours can be laid side by side."""
        sent = request.header("x-request-id")
        if sent is None or not _REQUEST_ID.fullmatch(sent) or not self._trusts(_peer(request)):
            return None
        return sent

    def _look_up(self, address: str) -> bool:
        parsed = _parsed(_LOCAL if address == UNKNOWN else address)
        return parsed is not None and any(parsed in network for network in self._networks)


def _peer(request: Request) -> str:
    client = request.scope.get("client")
    if not client or not client[0]:
        return UNKNOWN
    peer = str(client[0])
    # How a socket of both families names a client of IPv4.
    return peer[7:] if peer.startswith("::ffff:") and "." in peer else peer


def _first(request: Request, name: str) -> str:
    """The entry of the proxy next to the client."""
    if name.encode("latin-1") not in request.headers:
        return ""
    return request.header_all(name)[0].partition(",")[0].strip()


def _forwarded(request: Request) -> list[Mapping[str, str]]:
    """The elements of Forwarded, the client's own proxy first, names in lower case; [{}] when it cannot be read."""
    text = ",".join(request.header_all("forwarded"))
    found: list[dict[str, str]] = [{}]
    at = 0
    while at < len(text) <= _LONGEST_FORWARDED:
        pair = _PAIR.match(text, at)
        if pair is not None:
            name, quoted, plain = pair.groups()
            found[-1].setdefault(name.lower(), plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
            at = pair.end()
        if at < len(text):
            if text[at] == ",":
                found.append({})
            elif text[at] not in "; \t":
                return [{}]
            at += 1
    return [element for element in found if element] or [{}]


def _is_host(text: str) -> bool:
    match = _HOST.fullmatch(text)
    return match is not None and (match[1] is None or 0 < int(match[1]) <= _HIGHEST_PORT)


def _with_port(host: str, port: str) -> str:
    """`host` with the port that a proxy names, where `host` has lost its own: NGINX's `$host` is without.

    80 with https says that TLS ends at a proxy in front of the one that wrote the port, and is no port of clients.
    """
    match = _HOST.fullmatch(host)
    if match is None or match[1] or not port or port in _DEFAULT_PORTS:
        return host
    whole = f"{host}:{port}"
    return whole if _is_host(whole) else host


def _address(entry: str) -> str | None:
    """The address of an entry of X-Forwarded-For, which may have a port and brackets; None when it is none."""
    text = entry.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    parsed = _parsed(text)
    return None if parsed is None else str(parsed)


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    if not text.isprintable():
        return None
    try:
        parsed = ip_address(text)
    except ValueError:
        return None
    return (parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None) or parsed
