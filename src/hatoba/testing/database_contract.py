"""The contract of `db.engine.Database` and of every function in `db/`, as one pytest class any engine can join.

A subclass gives three fixtures: `database`, metadata freshly migrated; `other`, a second `Database` on the same data,
as another process would have it; `sessions`, the freshly migrated database of uploads. Work that a test holds open
paces itself with reads, so that an engine whose reads suspend gives the loop its turn.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest

from hatoba.db import repositories
from hatoba.db.engine import Database, Reader, Transaction, from_micros, migrations, now
from hatoba.errors import NameUnknown, StartError
from hatoba.testing.database_lists import ListsContract
from hatoba.testing.database_rows import RowsContract
from hatoba.testing.database_tree import TreeRowsContract
from hatoba.testing.database_walks import WalksContract
from hatoba.testing.database_work import MirrorRowsContract, UploadRowsContract

_PATIENCE_SECONDS = 20.0
# Ordered by their UTF-8 bytes. Any collation of a language, and UTF-16 order for the last two, has it otherwise.
_BYTE_ORDER = ["-x", "10", "2", "A", "Z", "_", "a", "a-b", "a/b", "aa", "z", "é", "\uffff", "\U0001f600"]
_MOMENTS = [
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(2026, 2, 28, 12, 30, 15, 1, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(2026, 3, 29, 2, 30, tzinfo=timezone(timedelta(hours=5, minutes=45))),
]


class _Gate:
    """Holds a function inside the database open until the test lets it go on."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    async def pass_through(self, reader: Reader) -> None:
        """Inside: say that we are here and wait."""
        self._reached.set()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self._opened.is_set() and time.monotonic() < deadline:
            await repositories.find(reader, "nobody")
            time.sleep(0.001)  # noqa: ASYNC251  inside a transaction nothing else may be awaited

    async def reached(self) -> None:
        """Outside: wait until the function is there."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while not self._reached.is_set():  # noqa: ASYNC110  an asyncio.Event cannot be set by a thread
                await asyncio.sleep(0.001)

    def open(self) -> None:
        """Outside: let it go on."""
        self._opened.set()


def _adding(name: str) -> Callable[[Transaction], Awaitable[int]]:
    async def add(transaction: Transaction) -> int:
        return (await repositories.ensure(transaction, name, now()))[0]

    return add


class EngineContract:
    """What `Database`, `Transaction` and `Reader` promise, whatever the tables."""

    async def test_what_is_written_is_read_by_all_ways(self, database: Database, other: Database) -> None:
        made = await database.write(_adding("library/alpine"))
        assert await repositories.find(database, "library/alpine") == made
        assert await repositories.find(other, "library/alpine") == made
        assert await database.scan(lambda reader: repositories.find(reader, "library/alpine")) == made
        assert await other.scan(lambda reader: repositories.find(reader, "library/alpine")) == made
        assert await database.write(lambda transaction: repositories.find(transaction, "library/alpine")) == made

    async def test_a_transaction_sees_its_own_writes(self, database: Database) -> None:
        async def work(transaction: Transaction) -> tuple[int, int | None]:
            made, _ = await repositories.ensure(transaction, "a", now())
            return made, await repositories.find(transaction, "a")

        made, found = await database.write(work)
        assert made == found

    async def test_nobody_sees_what_is_not_committed(self, database: Database, other: Database) -> None:
        gate = _Gate()

        async def work(transaction: Transaction) -> None:
            await repositories.ensure(transaction, "a", now())
            await gate.pass_through(transaction)

        writing = asyncio.ensure_future(database.write(work))
        await gate.reached()
        version, foreign = database.version(), other.version()
        assert await repositories.find(database, "a") is None
        assert await repositories.find(other, "a") is None
        assert await database.scan(lambda reader: repositories.find(reader, "a")) is None
        assert (database.version(), other.version()) == (version, foreign)
        gate.open()
        await writing
        assert await repositories.find(database, "a") is not None
        assert await repositories.find(other, "a") is not None

    async def test_an_error_rolls_everything_back_and_is_raised(self, database: Database, other: Database) -> None:
        async def work(transaction: Transaction) -> None:
            await repositories.ensure(transaction, "a", now())
            await repositories.ensure(transaction, "b", now())
            raise NameUnknown(detail={"name": "a"})

        with pytest.raises(NameUnknown) as raised:
            await database.write(work)
        assert raised.value.detail == {"name": "a"}
        assert await repositories.names(other, "", 10) == []
        assert await database.write(_adding("c"))
        assert await repositories.names(other, "", 10) == ["c"]

    async def test_a_statement_that_fails_rolls_everything_back(self, database: Database) -> None:
        async def work(transaction: Transaction) -> None:
            await repositories.ensure(transaction, "a", now())
            await transaction.run(
                "INSERT INTO tags (repository_id, name, digest, pushed_at) VALUES (4711, 'x', 'nowhere', 1)"
            )

        with pytest.raises(Exception, match=r"(?i)constraint"):  # the engine's own class: a defect, told to no client
            await database.write(work)
        assert await repositories.names(database, "", 10) == []

    async def test_rows_are_returned_by_a_write(self, database: Database) -> None:
        async def work(transaction: Transaction) -> tuple[object, object, object]:
            inserted = await transaction.one(
                "INSERT INTO repositories (name, created_at) VALUES (:name, :at) RETURNING name, created_at",
                name="a",
                at=from_micros(5),
            )
            updated = await transaction.all("UPDATE repositories SET created_at = created_at + 1 RETURNING created_at")
            deleted = await transaction.all("DELETE FROM repositories WHERE name = :name RETURNING name", name="b")
            return inserted, updated, deleted

        assert await database.write(work) == (("a", 5), [(6,)], [])
        assert await database.one("SELECT created_at FROM repositories WHERE name = :name", name="a") == (6,)

    async def test_run_counts_the_rows_that_changed(self, database: Database) -> None:
        async def work(transaction: Transaction) -> list[int]:
            insert = "INSERT INTO repositories (name, created_at) VALUES (:name, 1) ON CONFLICT (name) DO NOTHING"
            counts = [await transaction.run(insert, name=name) for name in ("a", "b", "a")]
            counts.append(await transaction.run("UPDATE repositories SET created_at = 2"))
            counts.append(await transaction.run("UPDATE repositories SET created_at = 3 WHERE name = 'c'"))
            counts.append(await transaction.run("DELETE FROM repositories"))
            return counts

        assert await database.write(work) == [1, 1, 0, 2, 0, 2]

    async def test_one_is_the_first_row_or_none(self, database: Database) -> None:
        for name in ("b", "a", "c"):
            await database.write(_adding(name))
        assert await database.one("SELECT name FROM repositories ORDER BY name") == ("a",)
        assert await database.one("SELECT name FROM repositories WHERE name = :name", name="d") is None
        assert await database.all("SELECT name FROM repositories ORDER BY name DESC") == [("c",), ("b",), ("a",)]
        assert await database.all("SELECT name FROM repositories WHERE name = :name", name="d") == []

    async def test_reading_never_changes_the_version(self, database: Database, other: Database) -> None:
        await database.write(_adding("a"))
        before = database.version()
        for _ in range(3):
            await repositories.find(database, "a")
            await repositories.names(database, "", 10)
            await database.scan(lambda reader: repositories.names(reader, "", 10))
            await repositories.find(other, "a")
            await other.scan(lambda reader: repositories.names(reader, "", 10))
            assert database.version() == before

    async def test_every_commit_changes_the_version_of_everybody_at_once(
        self, database: Database, other: Database
    ) -> None:
        mine, theirs = [database.version()], [other.version()]
        for number in range(20):
            await (database if number % 2 else other).write(_adding(f"name{number}"))
            mine.append(database.version())
            theirs.append(other.version())
        assert all(before != after for before, after in pairwise(mine))
        assert all(before != after for before, after in pairwise(theirs))
        assert len(set(map(repr, mine))) == len(mine)

    async def test_a_scan_is_one_snapshot_and_holds_up_nobody(self, database: Database, other: Database) -> None:
        gate = _Gate()
        await database.write(_adding("a"))

        async def work(reader: Reader) -> tuple[list[str], list[str]]:
            first = await repositories.names(reader, "", 10)
            await gate.pass_through(reader)
            return first, await repositories.names(reader, "", 10)

        scanning = asyncio.ensure_future(database.scan(work))
        await gate.reached()
        async with asyncio.timeout(_PATIENCE_SECONDS / 2):
            await database.write(_adding("b"))
            await other.write(_adding("c"))
        assert await repositories.names(database, "", 10) == ["a", "b", "c"]
        gate.open()
        assert await scanning == (["a"], ["a"])
        assert await database.scan(lambda reader: repositories.names(reader, "", 10)) == ["a", "b", "c"]

    async def test_an_error_of_a_scan_is_raised_and_the_next_one_works(self, database: Database) -> None:
        async def fail(reader: Reader) -> None:
            await repositories.names(reader, "", 10)
            raise NameUnknown

        for _ in range(3):
            with pytest.raises(NameUnknown):
                await database.scan(fail)
        await database.write(_adding("a"))
        assert await database.scan(lambda reader: repositories.names(reader, "", 10)) == ["a"]

    async def test_text_is_compared_bytewise(self, database: Database) -> None:
        for name in reversed(_BYTE_ORDER):
            await database.write(_adding(name))
        assert sorted(_BYTE_ORDER, key=str.encode) == _BYTE_ORDER
        assert await repositories.names(database, "", 100) == _BYTE_ORDER
        assert await repositories.names(database, "a-b", 3) == ["a/b", "aa", "z"]
        assert await repositories.names(database, "B", 2) == ["Z", "_"]

    async def test_values_come_back_as_they_were(self, database: Database) -> None:
        async def work(transaction: Transaction) -> None:
            for number, moment in enumerate(_MOMENTS):
                await repositories.ensure(transaction, f"name{number}", moment)
            await transaction.run(
                "INSERT INTO blobs (digest, key, size, state, linked_at, created_at) "
                "VALUES (:digest, :key, :size, 'ready', 1, 1)",
                digest="d",
                key='it\'s "quoted"; -- 日本\n\\',
                size=2**62,
            )
            await transaction.run(
                "INSERT INTO manifest_bodies (digest, body) VALUES (:digest, :body)", digest="d", body=bytes(range(256))
            )

        await database.write(work)
        for number, moment in enumerate(_MOMENTS):
            row = await database.one("SELECT created_at FROM repositories WHERE name = :name", name=f"name{number}")
            assert row is not None
            found = from_micros(row[0])
            assert (found, found.utcoffset()) == (moment, timedelta(0))
        row = await database.one(
            "SELECT b.key, b.size, m.body FROM blobs AS b JOIN manifest_bodies AS m ON m.digest = b.digest"
        )
        assert row == ('it\'s "quoted"; -- 日本\n\\', 2**62, bytes(range(256)))

    async def test_writers_at_the_same_time_lose_nothing(self, database: Database, other: Database) -> None:
        await database.write(_adding("counter"))

        async def increment(transaction: Transaction) -> None:
            row = await transaction.one("SELECT created_at FROM repositories WHERE name = 'counter'")
            assert row is not None
            await transaction.run("UPDATE repositories SET created_at = :next WHERE name = 'counter'", next=row[0] + 1)

        await database.write(lambda transaction: transaction.run("UPDATE repositories SET created_at = 0"))
        await asyncio.gather(*(writer.write(increment) for _ in range(50) for writer in (database, other)))
        assert await database.one("SELECT created_at FROM repositories") == (100,)

    async def test_a_cancelled_waiter_never_begins(self, database: Database, other: Database) -> None:
        gate, begun = _Gate(), []
        holding = asyncio.ensure_future(other.write(gate.pass_through))
        await gate.reached()

        async def work(transaction: Transaction) -> None:
            begun.append(await repositories.ensure(transaction, "a", now()))

        waiting = asyncio.ensure_future(database.write(work))
        await asyncio.sleep(0.05)
        waiting.cancel()
        async with asyncio.timeout(_PATIENCE_SECONDS / 2):
            with pytest.raises(asyncio.CancelledError):
                await waiting
        gate.open()
        await holding
        await database.write(_adding("b"))
        assert begun == []
        assert await repositories.names(database, "", 10) == ["b"]

    async def test_work_that_began_outlives_its_caller(self, database: Database) -> None:
        gate = _Gate()

        async def work(transaction: Transaction) -> None:
            await gate.pass_through(transaction)
            await repositories.ensure(transaction, "a", now())

        writing = asyncio.ensure_future(database.write(work))
        await gate.reached()
        for _ in range(3):
            writing.cancel()
            await asyncio.sleep(0.02)
        assert not writing.done()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert await repositories.names(database, "", 10) == ["a"]

    async def test_migrating_again_changes_nothing(self, database: Database, other: Database) -> None:
        await database.write(_adding("a"))
        before = database.version()
        await database.migrate()
        await other.migrate()
        assert await repositories.names(database, "", 10) == ["a"]
        applied = await database.all("SELECT number, name FROM migrations ORDER BY number")
        assert applied == [(step.number, step.name) for step in migrations("metadata")]
        assert database.version() == before

    async def test_a_database_of_a_newer_hatoba_is_refused(self, database: Database, other: Database) -> None:
        await database.write(
            lambda transaction: transaction.run(
                "INSERT INTO migrations (number, name, hatoba, applied_at) VALUES (9999, 'later', '98.7.6', 1)"
            )
        )
        with pytest.raises(StartError, match=r"98\.7\.6"):
            await other.migrate()
        with pytest.raises(StartError, match=r"98\.7\.6"):
            await other.check_schema()

    async def test_a_database_of_an_older_hatoba_is_refused_by_whom_may_not_migrate(
        self, database: Database, other: Database
    ) -> None:
        await other.check_schema()
        before = other.version()
        await database.write(lambda transaction: transaction.run("DELETE FROM migrations"))
        with pytest.raises(StartError, match=r"start `hatoba serve` once"):
            await other.check_schema()
        assert other.version() != before, "by the deletion"
        assert await other.all("SELECT number FROM migrations") == []


class DatabaseContract(
    EngineContract, RowsContract, ListsContract, MirrorRowsContract, UploadRowsContract, TreeRowsContract, WalksContract
):
    """Everything that an engine must show."""
