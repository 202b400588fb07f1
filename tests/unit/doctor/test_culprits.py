"""What the doctor says of answers and failures; whatever a server sent must neither break it nor reach the terminal."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatoba.doctor import culprits
from hatoba.doctor.client import Address, Answer, Broken, challenge, may_hear
from hatoba.errors import ConfigError

HERE = Address("https", "reg.example", 8443)
BELOW = Address("https", "reg.example", 443, "/registry")


def answer(status=202, headers=(), body=b"", method="POST", path="/v2/a/blobs/uploads/"):
    message = http.client.HTTPMessage()
    for name, value in headers:
        message[name] = value
    return Answer(HERE, method, path, status, message, body, 0.1)


class TestAddress:
    @pytest.mark.parametrize(
        ("text", "whole", "port"),
        [
            ("reg.example", "https://reg.example", 443),
            ("reg.example:5000", "https://reg.example:5000", 5000),
            ("http://reg.example", "http://reg.example", 80),
            ("HTTPS://REG.example:443/", "https://reg.example", 443),
            ("https://reg.example/v2/", "https://reg.example", 443),
            ("https://reg.example/registry/v2", "https://reg.example/registry", 443),
            ("http://[::1]:5000", "http://[::1]:5000", 5000),
            ("https://10.0.0.1:443/a/b/", "https://10.0.0.1/a/b", 443),
        ],
    )
    def test_parse(self, text, whole, port):
        address = Address.parse(text)
        assert (str(address), address.port) == (whole, port)

    @pytest.mark.parametrize(
        "text",
        ["", "http://", "ftp://h", "http://a:b@h", "http://h?x", "http://h#x", "http://h:0", "http://h:x", "h h",
         "h\nh", "h\u00e4", "http://[::1", "https://:443"],
    )  # fmt: skip
    def test_no_address(self, text):
        with pytest.raises(ConfigError, match="URL must be"):
            Address.parse(text)

    @given(st.text(max_size=60))
    def test_nothing_else_happens(self, text):
        with contextlib.suppress(ConfigError):
            assert Address.parse(text).host


class TestLocation:
    @pytest.mark.parametrize(
        ("address", "value"),
        [
            (HERE, "/v2/a/blobs/uploads/1"),
            (HERE, "https://reg.example:8443/v2/a/blobs/uploads/1?_state=x"),
            (HERE, "//reg.example:8443/v2/a"),
            (HERE, "1"),
            (BELOW, "/registry/v2/a"),
            (BELOW, "https://reg.example/registry/v2/a"),
            (BELOW, "https://REG.example:443/registry/v2/a"),
        ],
    )
    def test_right(self, address, value):
        given_ = answer(path=f"{address.path}/v2/a/blobs/uploads/")
        assert culprits.of_location(value, given_, address) is None

    @pytest.mark.parametrize(
        ("value", "culprit"),
        [
            ("http://reg.example:8443/v2/a", "X-Forwarded-Proto"),
            ("http://inner:5000/v2/a", "Host $http_host"),
            ("https://inner:8443/v2/a", "Host $http_host"),
            ("https://reg.example/v2/a", "lost the port"),
            ("https://reg.example:8443/other/v2/a", "http.prefix"),
            ("https://reg.example:99999999/v2/a", "no address"),
            ("https://[/v2/a", "no address"),
        ],
    )
    def test_wrong(self, value, culprit):
        assert culprit in culprits.of_location(value, answer(), HERE)

    def test_a_path_that_was_lost(self):
        assert "instead of /registry/v2/" in culprits.of_location("/v2/a", answer(path="/registry/v2/x"), BELOW)

    @given(st.text(max_size=80))
    def test_any_text(self, value):
        found = culprits.of_location(value, answer(), HERE)
        assert found is None or found.isprintable()


class TestStatus:
    @given(
        st.integers(100, 999),
        st.sampled_from(["GET", "POST", "PATCH", "PUT", "DELETE"]),
        st.binary(max_size=80),
        st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=300),
    )
    def test_one_printable_line(self, status, method, body, text):
        headers = [("server", text), ("location", text), ("docker-distribution-api-version", text)]
        found = culprits.of_status(answer(status, headers, body, method))
        assert found
        assert found.isprintable()

    @pytest.mark.parametrize(
        "body", [b"", b"{", b"[]", b"{}", b'{"errors": []}', b'{"errors": [1]}', b'{"errors": [{}]}', b"\xff"]
    )
    def test_words_that_are_none(self, body):
        assert culprits.spoken(answer(400, body=body)) == ""

    def test_words_are_cut_and_escaped(self):
        body = json.dumps({"errors": [{"code": "DENIED", "message": "\x1b[31m" + "x" * 1000}]}).encode()
        found = culprits.spoken(answer(403, body=body))
        assert found.startswith("DENIED: \\x1b[31mxxx")
        assert len(found) < 200


class TestFailure:
    @pytest.mark.parametrize("phase", ["name", "connect", "TLS", "send", "wait", "read"])
    @pytest.mark.parametrize(
        "error",
        [
            OSError(113, "No route to host"), ConnectionRefusedError(), TimeoutError(),
            ConnectionResetError(104, "reset"), ssl.SSLError(1, "odd"), ssl.SSLEOFError(8, "EOF"),
            http.client.BadStatusLine("x\x1b"),
            http.client.IncompleteRead(b"x", 5), http.client.RemoteDisconnected("gone"), http.client.LineTooLong("h"),
        ],
        ids=lambda error: type(error).__name__,
    )  # fmt: skip
    def test_one_printable_line(self, phase, error):
        found = culprits.of_failure(Broken(phase, error, HERE, "PATCH"))
        assert found
        assert found.isprintable()


def certificate_error(code):
    error = ssl.SSLCertVerificationError(1, "no")
    error.verify_code, error.verify_message = code, "words of OpenSSL"
    return error


def validity(begin: bytes, end: bytes) -> bytes:
    """As it stands in a certificate: UTCTime with a year of two digits, GeneralizedTime with one of four."""
    parts = b"".join((b"\x17\x0d" if len(time) == 13 else b"\x18\x0f") + time for time in (begin, end))
    return b"\x30\x82\x01\x02junk" + b"\x30" + bytes([len(parts)]) + parts + b"more"


class TestCertificate:
    @pytest.mark.parametrize(
        ("code", "words"),
        [
            (10, "has expired on 2025-06-01"),
            (9, "not valid yet, but from 2024-01-02"),
            (62, "not for the name reg.example; it is for a.test, b.test"),
            (18, "signed by itself"),
            (19, "a CA that is unknown here"),
            (20, "fullchain.pem"),
            (21, "fullchain.pem"),
            (99, "words of OpenSSL"),
        ],
    )
    def test_culprit(self, code, words):
        certificate = validity(b"240102030405Z", b"20250601000000Z")
        assert words in culprits.of_certificate(certificate_error(code), HERE, certificate, ["a.test", "b.test"])

    def test_times(self):
        begin, end = culprits._validity(validity(b"991231235959Z", b"490101000000Z"))
        assert begin == datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC)
        assert end == datetime(2049, 1, 1, tzinfo=UTC)

    @given(st.binary(max_size=200))
    def test_any_bytes(self, certificate):
        for code in (9, 10):
            assert culprits.of_certificate(certificate_error(code), HERE, certificate, ()).isprintable()

    def test_times_that_are_none(self):
        assert culprits._validity(validity(b"249902030405Z", b"240102030405Z")) == (None, None)


@pytest.mark.parametrize(
    ("realm", "scheme", "may"),
    [
        ("https://auth.example/token", "https", True),
        ("http://auth.example/token", "http", True),
        ("https://auth.example/token", "http", True),
        ("http://auth.example/token", "https", False),
        ("http://reg.example/token", "https", False),
        ("//auth.example", "https", False),
        ("https://a:b@auth.example/", "https", False),
        ("https://auth.example/\r\nX: y", "https", False),
        ("https://[", "https", False),
        ("", "https", False),
    ],
)
def test_who_may_hear_the_password(realm, scheme, may):
    assert may_hear(realm, Address(scheme, "reg.example", 5000)) is may


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ('Basic realm="r"', ("basic", {"realm": "r"})),
        ('Bearer realm="https://a/t",service="s",scope="repository:a:pull,push"',
         ("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:a:pull,push"})),
        ("Negotiate", ("negotiate", {})),
    ],
)  # fmt: skip
def test_challenge(text, expected):
    assert challenge(answer(401, [("www-authenticate", text)])) == expected
