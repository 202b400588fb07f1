"""What one value of a setting may be: durations, addresses, URLs, header lines, as types for the sections.

Owns the spelling of a value alone; what values mean together is the sections' business (`settings`). Messages begin
with a verb, as the key is put before them, and never repeat the value: it may be secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator

VERSION = "0.1"

_UNIT_SECONDS = {
    "ns": Decimal("1e-9"),
    "us": Decimal("1e-6"),
    "\u00b5s": Decimal("1e-6"),  # the micro sign
    "\u03bcs": Decimal("1e-6"),  # the Greek letter; Go reads both
    "ms": Decimal("1e-3"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
}
_DURATION_PART = re.compile(rf"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)({'|'.join(_UNIT_SECONDS)})")
_DURATION = re.compile(rf"\+?(?:{_DURATION_PART.pattern})+")
# Go keeps a duration as nanoseconds in 64 bits: about 292 years.
_LONGEST_DURATION = Decimal(2**63 - 1) / 10**9

_HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9.])?")
_PORT = re.compile(r"[0-9]{1,5}")
_HIGHEST_PORT = 65535
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# Loopback, RFC 1918 and RFC 4193: where a reverse proxy and Docker's own networks are.
_PRIVATE = ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
_METRICS_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*")


def printable(text: str | Path) -> str:
    """A text or path fit for one line of a message: what does not print is escaped."""
    line = str(text)
    return line if line.isprintable() else ascii(line)[1:-1]


def parse_duration(value: object) -> timedelta:
    """A length of time from Go's spelling ("10s", "1h30m", "500ms", bare 0); raises ValueError.

    Never negative. Finer than a microsecond is rounded.
    """
    problem = "must be a duration such as 10s, 1h30m or 500ms"
    if isinstance(value, timedelta):
        if value < timedelta(0):
            raise ValueError(problem)
        return value
    # A number other than 0 is refused: Docker's registry reads nanoseconds where people mean seconds.
    if value in ("0", 0) and not isinstance(value, bool):
        return timedelta(0)
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        raise ValueError(problem)
    seconds = sum((Decimal(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION_PART.findall(value)), Decimal(0))
    if seconds > _LONGEST_DURATION:
        raise ValueError("must be a duration of less than 292 years")
    return timedelta(microseconds=int((seconds * 10**6).to_integral_value()))


def format_duration(value: timedelta) -> str:
    """A length of time in the spelling that `parse_duration` reads: "1h30m", "8s", "0.5s"."""
    microseconds = value // timedelta(microseconds=1)
    hours, rest = divmod(microseconds, 3600 * 10**6)
    minutes, rest = divmod(rest, 60 * 10**6)
    seconds = f"{Decimal(rest) / 10**6:f}"
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if minutes else "", f"{seconds}s" if rest else ""]
    return "".join(parts) or "0s"


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of "host:port"; an empty host means every interface, brackets go. Raises ValueError."""
    problem = "must be host:port such as :5000, 127.0.0.1:5000 or [::1]:5000"
    host, colon, port = text.rpartition(":")
    if not text.isprintable() or not colon or not _PORT.fullmatch(port) or int(port) > _HIGHEST_PORT:
        raise ValueError(problem)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            IPv6Address(host)
        except ValueError:
            raise ValueError(problem) from None
    elif host and not _HOST_NAME.fullmatch(host):
        raise ValueError(problem)
    return host, int(port)


def _expression(value: object) -> object:
    # Go's syntax is smaller than Python's; what it has means the same here, but for rare classes such as \pN.
    if isinstance(value, str):
        try:
            return re.compile(value)
        except re.error as error:
            raise ValueError(f"must be a regular expression: {error.msg}") from None
    return value


def private_networks() -> list[IPv4Network | IPv6Network]:
    """Loopback and the ranges that are nobody's on the Internet."""
    return [ip_network(text) for text in _PRIVATE]


def _positive(value: timedelta) -> timedelta:
    if not value:
        raise ValueError("must be more than 0")
    return value


def _address(text: str) -> str:
    # With `net: unix` this is the path of a socket; the section sees to it that both fit together.
    if "/" in text:
        return str(_path(text))
    parse_address(text)
    return text


def _debug_address(text: str) -> str:
    if text:
        parse_address(text)
    return text


def _metrics_path(text: str) -> str:
    if not text:
        return "/metrics"
    if not _METRICS_PATH.fullmatch(text):
        raise ValueError("must be a path such as /metrics")
    return text


def _path(value: object) -> object:
    text = str(value)
    if value == "" or "\0" in text:
        raise ValueError("must be a path")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be UTF-8, as SQLite wants its paths") from None
    return value


def _web_address(text: str) -> str:
    if not text:
        return text
    problem = "must be an absolute URL such as https://registry.example.com, without user name, query or fragment"
    # urlsplit drops line breaks and tabs instead of refusing them.
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(problem)
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ValueError(problem) from None
    if not usable or "@" in parts.netloc or "?" in text or "#" in text:
        raise ValueError(problem)
    return text


def _prefix(text: str) -> str:
    inner = text.strip("/")
    if not inner:
        return ""
    if not _PREFIX.fullmatch(f"/{inner}"):
        raise ValueError("must be a path such as /registry/")
    return f"/{inner}/"


def _network(value: object) -> IPv4Network | IPv6Network:
    problem = "must be an address or a range such as 10.0.0.0/8 (not 10.1.2.3/8)"
    # ip_network takes numbers too: 10 would be 0.0.0.10.
    if not isinstance(value, str | IPv4Network | IPv6Network):
        raise ValueError(problem)  # noqa: TRY004  pydantic's validators raise nothing else
    try:
        return ip_network(value)
    except ValueError:
        raise ValueError(problem) from None


def _lowered(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _header_name(text: str) -> str:
    if not _HEADER_NAME.fullmatch(text):
        raise ValueError("must be the name of an HTTP header")
    return text


def _header_value(text: str) -> str:
    if not _HEADER_VALUE.fullmatch(text):
        raise ValueError("must be one line of Latin-1 text")
    return text


def _tcp_if_empty(value: object) -> object:
    return "tcp" if value == "" else value


def without_nulls(value: object) -> object:
    """A mapping without the keys that have no value; anything else as it is."""
    if isinstance(value, Mapping):
        return {key: entry for key, entry in value.items() if entry is not None}
    return value


def _only_version(value: object) -> str:
    # A YAML reader that types its scalars makes `version: 0.1` a float.
    if str(value) != VERSION:
        raise ValueError(f"must be {VERSION}")
    return VERSION


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
PositiveDuration = Annotated[timedelta, BeforeValidator(parse_duration), AfterValidator(_positive)]
Expression = Annotated[re.Pattern[str], BeforeValidator(_expression)]
FilePath = Annotated[Path, BeforeValidator(_path)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
HeaderValue = Annotated[str, AfterValidator(_header_value)]
Headers = Annotated[dict[HeaderName, list[HeaderValue]], BeforeValidator(without_nulls)]
ListenAddress = Annotated[str, AfterValidator(_address)]
DebugAddress = Annotated[str, AfterValidator(_debug_address)]
MetricsPath = Annotated[str, AfterValidator(_metrics_path)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
PathPrefix = Annotated[str, AfterValidator(_prefix)]
AddressRange = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
Version = Annotated[str, BeforeValidator(_only_version)]
LogLevel = Annotated[Literal["error", "warn", "info", "debug"], BeforeValidator(_lowered)]
Network = Annotated[Literal["tcp", "unix"], BeforeValidator(_tcp_if_empty)]
