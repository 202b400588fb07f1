"""What hatoba asks of a database: `Reader`, `Transaction`, `Database`, and the migrations that bring one up to date.

The functions beside this file are async and work on any engine. On SQLite none of their awaits suspends: a read
returns on the loop thread in microseconds, a write transaction runs as one piece on the writer thread.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hatoba.errors import StartError

T = TypeVar("T")
Row = tuple[Any, ...]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Reader(Protocol):
    """Runs SELECTs; every statement is read to its end before the call returns."""

    async def one(self, sql: str, **parameters: object) -> Row | None:
        """The first row, or None."""

    async def all(self, sql: str, **parameters: object) -> list[Row]:
        """All rows."""


class Transaction(Reader, Protocol):
    """A write transaction: sees its own writes, nothing lasts before it ends well."""

    async def run(self, sql: str, **parameters: object) -> int:
        """Run one INSERT, UPDATE or DELETE; how many rows changed."""


class Database(Reader, Protocol):
    """One database. Reads go directly; writes as a function that gets the transaction."""

    async def write(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `work` as one atomic, durable write transaction; its error rolls back.

        `work` may await nothing but the transaction and a local driver's non-suspending calls. A caller that is
        cancelled waits for the end of work that has begun. Raises Unavailable after 30 s without the write lock.
        """

    async def scan(self, work: Callable[[Reader], Awaitable[T]]) -> T:
        """Run reads that may touch many rows off the loop, on a connection of their own, as one snapshot."""

    async def copy_to(self, path: Path) -> None:
        """Write all of it, as of one moment, to the new file `path`, durably; readers and writers go on meanwhile."""

    async def made_at(self) -> datetime:
        """When the database was made: a copy says the same, another registry's another time; 1970 when it is empty."""

    async def check(self) -> list[str]:
        """What the engine finds damaged when it looks through all of it, a line each, 100 at most; off the loop."""

    def version(self) -> object:
        """A value equal to an earlier one only if no committed write lies between: caches hang on it."""

    async def migrate(self) -> None:
        """Bring the schema up to date; raises StartError if a newer one wrote the database."""

    async def check_schema(self) -> None:
        """Raise StartError unless the schema is that of this hatoba, neither older nor newer; changes nothing."""

    def close(self) -> None:
        """End the threads and connections; waits for the write that runs."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered step; numbers begin at 1 without gaps."""

    number: int
    name: str
    sql: str


def migrations(folder: str) -> list[Migration]:
    """The migrations of one database (`metadata` or `uploads`), in order, from the package's files."""
    found = []
    for entry in importlib.resources.files("hatoba.db").joinpath("migrations", folder).iterdir():
        number, _, name = entry.name.removesuffix(".sql").partition("_")
        if entry.name.endswith(".sql") and number.isdigit():
            found.append(Migration(int(number), name, entry.read_text("utf-8")))
    return sorted(found, key=lambda step: step.number)


def check_applied(applied: list[tuple[int, str]], known: list[Migration], ours: str) -> None:
    """Refuse a database that this hatoba would have to migrate, or that a newer one wrote; `applied` as below."""
    check_known(applied, known, ours)
    if {step.number for step in known} - {number for number, _ in applied}:
        raise StartError(f"the database is older than this hatoba {ours}: start `hatoba serve` once")


def check_known(applied: list[tuple[int, str]], known: list[Migration], ours: str) -> None:
    """Refuse a database with a migration that this hatoba lacks; `applied` is (number, hatoba version) in order."""
    newest = max((step.number for step in known), default=0)
    newer = [version for number, version in applied if number > newest]
    if newer:
        raise StartError(f"the database was written by hatoba {newer[-1]}, this is hatoba {ours}: start that version")


def now() -> datetime:
    """The time as hatoba stores it: aware, UTC, whole microseconds."""
    return datetime.now(UTC)


def to_micros(moment: datetime) -> int:
    """A time as the INTEGER that is stored."""
    return (moment - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """The time that a stored INTEGER means."""
    return _EPOCH + timedelta(microseconds=micros)
