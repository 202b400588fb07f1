"""From what was seen to one line for a person: who is to blame, and which setting of NGINX or hatoba cures it.

Pure: no I/O. Whatever a server sent is cut and escaped before it is repeated.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from urllib.parse import urljoin, urlsplit

from hatoba.config.values import printable
from hatoba.doctor.client import Address, Answer, Broken

_LONGEST = 160
_VALIDITY = re.compile(
    # A certificate's validity (RFC 5280, 4.1.2.5): two times, each with a year of two digits or of four.
    rb"\x30.(?:\x17\x0d(\d{12})Z|\x18\x0f(\d{14})Z)(?:\x17\x0d(\d{12})Z|\x18\x0f(\d{14})Z)",
    re.DOTALL,
)
_PLAIN_TO_TLS = re.compile(rb"HTTP request (was sent )?to (an )?HTTPS", re.IGNORECASE)
_UNUSUAL = "nothing that a registry answers here"
REDIRECTS = {301, 302, 303, 307, 308}
# OpenSSL's error numbers, X509_V_ERR_*.
_NOT_YET_VALID, _EXPIRED = 9, 10
_SELF_SIGNED, _SELF_SIGNED_ROOT = 18, 19
_NO_ISSUER = {2, 20, 21}
_OTHER_NAME = {62, 64}
_NOT_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}
_NO_COMMON_VERSION = {"TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE"}
_WANTS_CLIENT_CERTIFICATE = {"TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_BAD_CERTIFICATE"}


def shown(text: str) -> str:
    """What a server said, fit for one line: cut, and nothing in it that a terminal obeys."""
    return printable(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")


def spoken(answer: Answer) -> str:
    """The registry's own words in an error; "" when it was no registry that answered."""
    try:
        first = json.loads(answer.body)["errors"][0]
        return shown(f"{first['code']}: {first.get('message', '')}")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""


def of_failure(broken: Broken) -> str:  # noqa: PLR0911  one a rule
    """Why there is no answer at all."""
    error, address = broken.error, broken.address
    if broken.phase == "name":
        return f"the name {address.host} has no address: DNS, /etc/hosts, or a slip of the pen"
    if broken.phase == "connect":
        return _of_connecting(error, address)
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return _of_handshake(error, address)
    if broken.phase == "TLS":
        return f"{address.authority} closed the connection at once: port {address.port} does not speak TLS"
    if isinstance(error, TimeoutError):
        if broken.phase == "read":
            return f"the answer to {broken.method} began, but does not end: a proxy or the line is too slow"
        return f"no answer to {broken.method} in --timeout: the registry hangs, or a proxy keeps requests waiting"
    if broken.phase == "read":
        return _of_cut_answer(error)
    if broken.method in {"PATCH", "PUT"}:
        return (
            f"the connection was closed in the middle of {broken.method}: a proxy's limit or time-out (NGINX: "
            "client_max_body_size, client_body_timeout, proxy_send_timeout), or the registry ended"
        )
    return f"the connection was closed without an answer ({_said(error)}): is it HTTP that is spoken there?"


def _of_connecting(error: Exception, address: Address) -> str:
    if isinstance(error, ConnectionRefusedError):
        return f"connection refused: nothing listens at port {address.port} of {address.host}: is it running?"
    if isinstance(error, TimeoutError):
        return f"{address.authority} does not answer: a firewall drops what is sent there, or the machine is off"
    return f"{address.authority} cannot be reached: {_said(error)}"


def _of_handshake(error: ssl.SSLError, address: Address) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {shown(error.verify_message)}"
    reason = getattr(error, "reason", None) or ""
    if reason in _NOT_TLS:
        return (
            f"port {address.port} speaks plain HTTP: use http://{address.authority}, or give it TLS (NGINX: listen "
            f"{address.port} ssl)"
        )
    if reason in _NO_COMMON_VERSION:
        return "the server speaks no version of TLS that is safe (1.2 or 1.3): NGINX: ssl_protocols TLSv1.2 TLSv1.3"
    if reason in _WANTS_CLIENT_CERTIFICATE:
        return (
            "the server wants a certificate of the client, which the doctor has not (NGINX: ssl_verify_client; hatoba: "
            "http.tls.clientcas)"
        )
    if reason in {"TLSV1_UNRECOGNIZED_NAME", "TLSV1_ALERT_INTERNAL_ERROR"}:
        return f"the server has no certificate for the name {address.host}"
    return f"TLS fails: {shown(reason or str(error))}"


def of_certificate(  # noqa: PLR0911  one a rule
    error: ssl.SSLCertVerificationError, address: Address, certificate: bytes, names: Sequence[str]
) -> str:
    """Why a certificate is not accepted. `certificate` is DER or empty; `names` are those in it, as far as known."""
    code, (begin, end) = error.verify_code, _validity(certificate)
    now = f"this machine's clock says {_day(datetime.now(UTC))}"
    if code == _EXPIRED:
        return f"the certificate has expired{_at(' on ', end)}: renew it and let the server read it again ({now})"
    if code == _NOT_YET_VALID:
        return f"the certificate is not valid yet{_at(', but from ', begin)}: a clock is wrong ({now})"
    if code in _OTHER_NAME:
        for_whom = f"; it is for {shown(', '.join(names))}" if names else ""
        return f"the certificate is not for the name {address.host}{for_whom}"
    if code == _SELF_SIGNED:
        return (
            "the certificate is signed by itself: clients need it as a CA (--ca FILE; /etc/docker/certs.d/HOST/ca.crt)"
        )
    if code == _SELF_SIGNED_ROOT:
        return "the certificate is of a CA that is unknown here (--ca FILE; for Docker /etc/docker/certs.d/HOST/ca.crt)"
    if code in _NO_ISSUER:
        return (
            "the chain of certificates is not complete: the server must send the intermediate ones too (NGINX: "
            "ssl_certificate fullchain.pem, not cert.pem), unless the CA is your own (--ca FILE)"
        )
    return f"the certificate is not accepted: {shown(error.verify_message)}"


def _of_cut_answer(error: Exception) -> str:
    so_far = ""
    if isinstance(error, http.client.IncompleteRead):
        so_far = f" after {len(error.partial)} bytes, {error.expected} short" if error.expected else ""
    return (
        f"the answer broke off{so_far}: a proxy could not keep it (NGINX: proxy_buffering off, or room and rights in "
        "proxy_temp_path and proxy_max_temp_file_size 0) or gave up (proxy_read_timeout 900)"
    )


def of_status(answer: Answer) -> str:
    """Why an answer is not the one that was hoped for."""
    words = spoken(answer)
    if answer.status in REDIRECTS:
        return _of_redirect(answer)
    if words or (answer.status == HTTPStatus.METHOD_NOT_ALLOWED and answer.header("docker-distribution-api-version")):
        return _of_registry(answer, words or "no reason given")
    known = {
        400: _of_bad_request(answer),
        401: "a password of its own is asked for (NGINX: auth_basic): leave sign-in to the registry",
        403: f"{answer.method} is forbidden (NGINX: limit_except, allow, deny)",
        404: "/v2/ must be passed on (NGINX: location /v2/ with proxy_pass)",
        405: f"{answer.method} is not let through",
        411: "the length of a body is wanted beforehand, which Docker does not tell",
        413: "a body as large as this is not taken: NGINX: client_max_body_size 0 (or 1000m) in its server block",
        500: "it failed, maybe at keeping the body: NGINX: proxy_request_buffering off, or room and rights in "
        "client_body_temp_path",
        502: "the registry is not reached: is it running, are address and scheme of proxy_pass right?",
        503: "no registry to pass this on to, or a limit (NGINX: limit_req, limit_conn)",
        504: "it gave up waiting for the registry: NGINX: proxy_read_timeout 900",
        507: "no room for the body",
    }
    server = shown(answer.header("server") or "a proxy")
    return f"{answer.status} from {server} to {answer.method}: {known.get(answer.status, _UNUSUAL)}"


def of_rights(answer: Answer) -> str:
    """Why somebody who has signed in is asked for a password again."""
    return (
        f"401 to {answer.method} though the login was right: this user may not do it there, or a proxy drops "
        f"Authorization for some paths ({spoken(answer)})"
    )


def of_blob_elsewhere(answer: Answer) -> str:
    """Why a blob is not had from where the registry sends clients for it."""
    return (
        f"{answer.status} from {answer.address.origin}, where the registry sends clients for its blobs: that store "
        "refuses them, or the address that was signed is another (storage.redirect.disable: true in the registry)"
    )


def of_realm(realm: str) -> str:
    """Why no password goes to a token server."""
    if not realm:
        return "the registry does not say where its token server is (WWW-Authenticate without a realm)"
    return (
        f"the registry wants the password sent to {shown(realm)}, which is no address with https: its realm must be "
        "the one that clients reach"
    )


def of_token_server(answer: Answer) -> str:
    """Why a token server gave no token."""
    words = f" ({said})" if (said := spoken(answer)) else ""
    if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return f"wrong user or password, says the token server {answer.address.origin}{words}"
    return f"the token server {answer.address.origin} gives no token, but {answer.status}{words}"


def _of_bad_request(answer: Answer) -> str:
    if _PLAIN_TO_TLS.search(answer.body):
        return of_tls(answer.address)
    if b"SSL certificate" in answer.body:
        return "a certificate of the client is wanted, which the doctor has not (NGINX: ssl_verify_client)"
    return _UNUSUAL


def of_tls(address: Address) -> str:
    """What is wrong when plain HTTP was spoken to a port with TLS."""
    return f"port {address.port} speaks TLS: use https://{address.host}:{address.port}"


def _of_redirect(answer: Answer) -> str:
    try:
        to = urlsplit(urljoin(f"{answer.address.origin}{answer.path}", answer.header("location")))
    except ValueError:
        return of_no_address(answer.header("location"))
    where = shown(f"{to.scheme}://{to.netloc}{to.path}")
    if (answer.address.scheme, to.scheme) == ("http", "https"):
        return (
            f"a proxy sends {answer.method} on to https ({answer.status}), where clients make a GET of a POST: use "
            f"https://{shown(to.netloc)}"
        )
    return f"a proxy sends {answer.method} on to {where} ({answer.status}): it must pass /v2/ on instead"


def of_no_address(location: str) -> str:
    """A Location that leads nowhere."""
    return f"Location is no address: {shown(location)}"


def _of_registry(answer: Answer, words: str) -> str:
    known = {
        401: "wrong user or password (or a proxy drops Authorization)",
        403: "the registry does not allow it",
        405: f"the registry does not do {answer.method}; is it read-only?",
        429: "too many requests or failed sign-ins; come back in a minute",
        503: "the registry is there, but cannot answer now",
        507: "the registry's disk is full",
    }
    return f"{known.get(answer.status, f'the registry refuses {answer.method} with {answer.status}')} ({words})"


def of_location(value: str, answer: Answer, address: Address) -> str | None:
    """What is wrong with a Location sent to a client at `address`; None when it leads to the same registry."""
    try:
        to = urlsplit(urljoin(f"{address.origin}{answer.path}", value))
        port = to.port or {"http": 80, "https": 443}.get(to.scheme)
    except ValueError:
        return of_no_address(value)
    named = shown(f"{to.scheme}://{to.netloc}")
    if to.hostname != address.host:
        return (
            f"Location leads to {named} instead of {address.origin}: the proxy must pass the name on (NGINX: "
            "proxy_set_header Host $http_host), or set http.host"
        )
    if to.scheme != address.scheme:
        return (
            f"Location leads to {named} instead of {address.origin}: the proxy must tell the scheme (NGINX: "
            "proxy_set_header X-Forwarded-Proto $scheme), or set http.relativeurls: true"
        )
    if port != address.port:
        return (
            f"Location has lost the port, {named} instead of {address.origin}: the proxy must pass on the whole Host "
            "(NGINX: $http_host, not $host), or set http.host"
        )
    if not to.path.startswith(f"{address.path}/v2/"):
        there = shown(to.path.partition("/v2/")[0])
        return (
            f"Location leads to {there}/v2/ instead of {address.path}/v2/: set http.prefix: {address.path}/, or let "
            "the proxy send X-Forwarded-Prefix"
        )
    return None


def of_header(name: str) -> str:
    """What a missing header does."""
    why = {
        "Docker-Distribution-Api-Version": "clients take this for no registry; a proxy must not take it away "
        "(NGINX: no proxy_hide_header)",
        "Docker-Content-Digest": "clients cannot check what they get, and web pages cannot delete; a proxy must not "
        "take it away (NGINX: no proxy_hide_header)",
        "WWW-Authenticate": "clients do not know how to sign in; a proxy must not take it away (NGINX: no "
        "proxy_hide_header, no error_page 401)",
        "Location": "clients do not know where to go on; a proxy must not take it away (NGINX: no proxy_hide_header)",
    }
    return f"the header {name} is missing: {why[name]}"


def _validity(certificate: bytes) -> tuple[datetime | None, datetime | None]:
    """From when and until when a certificate in DER is valid, as far as can be told."""
    match = _VALIDITY.search(certificate)
    if match is None:
        return None, None
    try:
        return _time(match[1], match[2]), _time(match[3], match[4])
    except ValueError:
        return None, None


def _time(short: bytes | None, long: bytes | None) -> datetime:
    form = "%Y%m%d%H%M%S" if long else "%y%m%d%H%M%S"
    return datetime.strptime((long or short or b"").decode(), form).replace(tzinfo=UTC)


def _at(before: str, time: datetime | None) -> str:
    return f"{before}{_day(time)}" if time else ""


def _day(time: datetime) -> str:
    return f"{time:%Y-%m-%d}"


def _said(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and not isinstance(error, socket.gaierror) else None
    return shown(text or type(error).__name__)
