"""How listings look: aligned columns, sizes and times; the same on a terminal and in a pipe, nothing cut off.

Owns form alone. What clients wrote goes through `printable`: it must not steer the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.cells import cell_len

from hatoba.config.values import printable

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_STEP = 1000
_ROUNDED_UP = 999.5  # from here on three digits are those of the next unit
_ABSENT = "-"


def table(head: Sequence[str], rows: Sequence[Sequence[str | None]]) -> str:
    """A line a row beneath the head, columns two spaces apart; what is not there is a dash."""
    lines = [list(head), *([shown(cell) for cell in row] for row in rows)]
    widths = [max(cell_len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(_line(line, widths) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()


def shown(text: str | None) -> str:
    """A text fit for one line; a dash for none."""
    return printable(text) if text else _ABSENT


def amount(size: int) -> str:
    """Bytes as `docker images` has them: 5B, 1.23kB, 45.6MB."""
    number, unit = float(size), 0
    while number >= _ROUNDED_UP and unit < len(_UNITS) - 1:
        number, unit = number / _STEP, unit + 1
    return f"{size}B" if unit == 0 else f"{number:.3g}{_UNITS[unit]}"


def many(number: int, noun: str) -> str:
    """So many of them: 1 blob, 2 blobs."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def moment(at: datetime) -> str:
    """A time for people: RFC 3339, UTC, whole seconds."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def exact(at: datetime | None) -> str | None:
    """A time for programs: RFC 3339, UTC, to the microsecond; None for none."""
    return None if at is None else f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
