"""Who really asks, and by which address, when a reverse proxy stands in between.

Owns what X-Forwarded-For, -Proto and -Host and X-Request-Id are worth: nothing, unless the peer, the other end of the
connection, is a trusted proxy (`hatoba.trustedproxies`). Whoever has a trusted address may claim any other.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from hatoba.web.messages import Request

UNKNOWN = "-"  # what is logged for a peer without an address: at a socket in the file system
_LOCAL = "127.0.0.1"  # where such a peer is
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")
_HOST = re.compile(r"[A-Za-z0-9._~-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
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
        """The client's address: the last one of X-Forwarded-For that is no trusted proxy, if the peer is one.

        Each proxy adds its peer at the right end, so whatever stands left of the first stranger may be made up.
        """
        found = _peer(request)
        if b"x-forwarded-for" not in request.headers or not self._trusts(found):
            return found
        told = ",".join(request.header_all("x-forwarded-for")).rsplit(",", _MOST_PROXIES)
        for entry in reversed(told[-_MOST_PROXIES:]):
            if not self._trusts(found):
                break
            address = self._read(entry) if len(entry) <= _LONGEST_ENTRY else None
            if address is None:  # "unknown", or no proxy wrote it: the one who passed it on is all that is known
                break
            found = address
        return found

    def origin(self, request: Request) -> tuple[str, str]:
        """Scheme and host as the client wrote them in its address bar."""
        scheme, host = str(request.scope.get("scheme", "http")), request.header("host") or ""
        if self._trusts(_peer(request)):
            told = _first(request.header("x-forwarded-proto")).lower()
            scheme = told if told in {"http", "https"} else scheme
            told = _first(request.header("x-forwarded-host"))
            host = told if _HOST.fullmatch(told) else host
        return scheme, host

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


def _first(value: str | None) -> str:
    """The entry of the proxy next to the client."""
    return (value or "").partition(",")[0].strip()


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
