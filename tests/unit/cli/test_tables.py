"""Columns, sizes and times as listings have them."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from hatoba.cli.tables import amount, exact, moment, table


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1kB"),
        (1234, "1.23kB"),
        (45_600_000, "45.6MB"),
        (999_499, "999kB"),
        (999_500, "1MB"),
        (2**63 - 1, "9.22EB"),
        (10**21, "1e+03EB"),
    ],
)
def test_amounts(size, text):
    assert amount(size) == text


def test_times_are_utc():
    at = datetime(2026, 2, 3, 4, 5, 6, 70, tzinfo=timezone(timedelta(hours=9)))
    assert moment(at) == "2026-02-02T19:05:06Z"
    assert exact(at) == "2026-02-02T19:05:06.000070Z"
    assert exact(datetime(2026, 2, 3, tzinfo=UTC)) == "2026-02-03T00:00:00.000000Z"
    assert exact(None) is None


def test_columns():
    lines = table(("NAME", "BY", "NOTE"), [("a", None, "x"), ("波止場", "zoë", ""), ("\x1b", "b", "y z")]).splitlines()
    assert lines == [
        "NAME    BY   NOTE",
        "a       -    x",
        "波止場  zoë  -",
        "\\x1b    b    y z",
    ]
    assert table(("NAME", "NOTE"), []) == "NAME  NOTE"
