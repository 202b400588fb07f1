"""Image configs: reading never fails, and only usable values come out."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hatoba.oci.config import IMAGE_CONFIG_TYPES, NOTHING, ImageConfig, parse


def read(**fields):
    return parse(json.dumps(fields).encode())


def test_an_image():
    found = read(os="linux", architecture="amd64", created="2025-06-17T16:44:22Z", rootfs={}, config={})
    assert found == ImageConfig("linux", "amd64", datetime(2025, 6, 17, 16, 44, 22, tzinfo=UTC))


UNREADABLE = {
    "nothing": b"",
    "no JSON": b"os: linux",
    "a list": b"[]",
    "a string": b'"os"',
    "null": b"null",
    "number": b"5",
    "NaN": b"NaN",
    "half": b'{"os": "linux"',
    "two documents": b'{"os": "linux"}{}',
    "no UTF-8": b'{"os": "\xff"}',
    "NUL": b"\0",
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "huge integer": b'{"os": ' + b"9" * 5000 + b"}",
    "a tar": b"hello".ljust(512, b"\0"),
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_unreadable(content):
    assert parse(content) == NOTHING == ImageConfig(None, None, None)


UNUSABLE = [
    None,
    "",
    5,
    True,
    [],
    {},
    ["linux"],
    "x" * 256,
    "a\nb",
    "a\0",
    "\ud800",
    "\x1b[31mred",
    "a\u202eb",
    "\ufeffa",
    "a\u2028b",
]


@pytest.mark.parametrize("value", UNUSABLE, ids=lambda value: ascii(value)[:20])
def test_unusable_text(value):
    assert read(os=value, architecture="arm64") == ImageConfig(None, "arm64", None)
    assert read(os="linux", architecture=value) == ImageConfig("linux", None, None)


@pytest.mark.parametrize("value", ["linux", "x" * 255, "os with spaces", "値", "."])
def test_usable_text(value):
    assert read(os=value, architecture=value) == ImageConfig(value, value, None)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2025-06-17T16:44:22Z", datetime(2025, 6, 17, 16, 44, 22, tzinfo=UTC)),
        ("2025-06-17T16:44:22.638028085Z", datetime(2025, 6, 17, 16, 44, 22, 638028, tzinfo=UTC)),
        ("2025-06-17T16:44:22.6Z", datetime(2025, 6, 17, 16, 44, 22, 600000, tzinfo=UTC)),
        ("2025-06-17T18:44:22+02:00", datetime(2025, 6, 17, 16, 44, 22, tzinfo=UTC)),
        ("2025-06-17T00:30:00-11:30", datetime(2025, 6, 17, 12, 0, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59Z", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_created(text, moment):
    found = read(created=text).created
    assert found == moment
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        0,
        1_750_178_662,
        True,
        [],
        {},
        "yesterday",
        "2025-06-17T16:44:22",  # without a zone it is no moment
        "2025-13-01T00:00:00Z",
        "2025-02-30T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",  # before the first moment there is
        "9999-12-31T23:59:59-14:00",  # after the last
        "2025-06-17T16:44:22Z\n",
        "2025-06-17T16:44:22+99:00",
        "\ud800",
        "2" * 100_000,
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_unusable_created(value):
    assert read(created=value, os="linux") == ImageConfig("linux", None, None)


def test_duplicate_keys_are_no_error():
    assert parse(b'{"os": "a", "os": "b"}').os == "b"


def test_the_types_that_are_read():
    assert {
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    } == IMAGE_CONFIG_TYPES


@given(st.binary(max_size=300))
@example(b'{"created": "\\ud800"}')
def test_any_bytes(content):
    parse(content)


@given(st.one_of(st.none(), st.text(), st.integers(), st.datetimes(timezones=st.timezones()).map(str)))
def test_any_value(value):
    found = read(os=value, architecture=value, created=value)
    for text in (found.os, found.architecture):
        assert text is None or (text == value and text.isprintable() and 0 < len(text) <= 255)
        if text is not None:
            text.encode()
    assert found.created is None or found.created.tzinfo is UTC
