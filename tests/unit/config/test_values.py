from __future__ import annotations

import contextlib
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatoba.config.values import parse_address, parse_duration, printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10s", timedelta(seconds=10)),
        ("168h", timedelta(hours=168)),
        ("1h30m", timedelta(minutes=90)),
        ("500ms", timedelta(milliseconds=500)),
        ("1.5h", timedelta(minutes=90)),
        (".5s", timedelta(milliseconds=500)),
        ("1.s", timedelta(seconds=1)),
        ("+2m", timedelta(minutes=2)),
        ("250us", timedelta(microseconds=250)),
        ("250\u00b5s", timedelta(microseconds=250)),
        ("250\u03bcs", timedelta(microseconds=250)),
        ("2000ns", timedelta(microseconds=2)),
        ("1h1m1s1ms", timedelta(hours=1, minutes=1, seconds=1, milliseconds=1)),
        ("0", timedelta(0)),
        ("0s", timedelta(0)),
        (0, timedelta(0)),
        (timedelta(days=1), timedelta(days=1)),
    ],
)
def test_go_durations(text, expected):
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "value",
    ["", "10", 10, 1.5, "s", "-1s", "1 s", "1d", "1h ", "banana", "1s\n", "1e3s", "٣s", True, False, None, [], {}],
)
def test_what_is_no_go_duration(value):
    with pytest.raises(ValueError, match="must be a duration such as"):
        parse_duration(value)


def test_a_negative_timedelta_is_no_duration():
    with pytest.raises(ValueError, match="duration"):
        parse_duration(timedelta(seconds=-1))


def test_a_duration_that_go_cannot_hold():
    with pytest.raises(ValueError, match="292 years"):
        parse_duration("9" * 5000 + "h")


@given(st.text(alphabet="0123456789.+-hmsnuµ e") | st.text() | st.integers() | st.floats(allow_nan=True))
def test_durations_raise_nothing_but_value_errors(value):
    with contextlib.suppress(ValueError):
        assert parse_duration(value) >= timedelta(0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (":5000", ("", 5000)),
        ("0.0.0.0:5000", ("0.0.0.0", 5000)),  # noqa: S104  an address to be parsed, not to be bound
        ("localhost:0", ("localhost", 0)),
        ("registry.example.com:65535", ("registry.example.com", 65535)),
        ("[::1]:5000", ("::1", 5000)),
        ("[fe80::1%eth0]:5000", ("fe80::1%eth0", 5000)),
    ],
)
def test_addresses(text, expected):
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5000",
        "localhost",
        "localhost:",
        ":65536",
        ":-1",
        ":+1",
        ":http",
        ":٣",
        "::1:5000",
        "[::1]",
        "[::1:5000",
        "[nonsense]:5000",
        "[127.0.0.1]:5000",
        "a b:5000",
        "*:5000",
        "http://x:5000",
        "[fe80::1%\n]:5000",
        ":5000\n",
    ],
)
def test_what_is_no_address(text):
    with pytest.raises(ValueError, match="must be host:port"):
        parse_address(text)


def test_printable_keeps_a_message_on_one_line():
    assert printable("REGISTRY_X") == "REGISTRY_X"
    assert printable("a\nb\udc80") == "a\\nb\\udc80"
