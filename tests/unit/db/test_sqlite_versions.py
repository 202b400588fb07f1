"""What the caches hang on: `data_version` of a connection that only reads and reads everything to its end."""

from datetime import timedelta

import apsw
import pytest

from hatoba.db import blobs, manifests, mirror, repositories, tags, uploads
from hatoba.db.engine import now
from hatoba.oci.digest import Digest
from hatoba.registry.answers import Answers

INSERT = "INSERT INTO repositories (name, created_at) VALUES (:name, 1)"
DIGEST = Digest.of(b"")


def adding(name):
    async def add(transaction):
        await transaction.run(INSERT, name=name)

    return add


COMMITTER = """
import asyncio, pathlib, sys
from hatoba.db.sqlite import Sqlite

async def main(folder):
    database = Sqlite(folder / "metadata.db", folder / "locks", "metadata", "FULL")
    print("ready", flush=True)
    for line in sys.stdin:
        async def add(transaction):
            await transaction.run("INSERT INTO repositories (name, created_at) VALUES (:name, 1)", name=line.strip())
        await database.write(add)
        print("committed", flush=True)
    database.close()

asyncio.run(main(pathlib.Path(sys.argv[1])))
"""


@pytest.fixture
def commit_elsewhere(program, database):
    """Another process commits a repository of this name."""
    process = program(COMMITTER)
    assert process.stdout.readline() == "ready\n"

    def commit(name):
        process.stdin.write(f"{name}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "committed\n"

    return commit


@pytest.fixture
def raw(folder, database):
    connection = apsw.Connection(str(folder / "metadata.db"))
    yield connection
    connection.close()


# What SQLite does, shown without hatoba: the two reasons for the rules


def version_of(connection):
    return connection.pragma("data_version")


async def test_raw_own_writes_do_not_change_data_version(database, raw):
    before = version_of(raw)
    raw.execute(INSERT, {"name": "mine"})
    assert version_of(raw) == before, "a cache on the writing connection would not notice"
    await database.write(adding("yours"))
    assert version_of(raw) != before


async def test_raw_an_open_cursor_freezes_data_version(database, raw):
    for number in range(10):
        await database.write(adding(f"name{number}"))
    before = version_of(raw)
    cursor = raw.cursor()
    cursor.execute("SELECT name FROM repositories")
    assert next(cursor)
    await database.write(adding("unseen"))
    assert version_of(raw) == before, "a cache would go on serving what was"
    assert len(cursor.fetchall()) == 9
    assert version_of(raw) != before


# What Sqlite does about it


@pytest.mark.parametrize("way", ["one", "all"])
async def test_a_read_leaves_no_cursor_open(database, monkeypatch, way):
    """Though apsw's cursor lives on, as it does while an exception or a debugger refers to it."""
    for number in range(10):
        await database.write(adding(f"name{number}"))
    kept = []

    class Keeping:
        def __init__(self, connection):
            self._connection = connection

        def execute(self, *arguments):
            kept.append(self._connection.execute(*arguments))
            return kept[-1]

        def close(self):
            self._connection.close()

    monkeypatch.setattr(database, "_reader", Keeping(database._reader))
    await getattr(database, way)("SELECT name FROM repositories")
    before = database.version()
    await database.write(adding("seen"))
    assert database.version() != before
    assert len(kept) == 1


async def test_the_version_is_asked_of_the_connection_that_reads(database):
    assert database._version.connection is database._reader


async def test_own_writes_are_seen_by_the_cache_at_once(database):
    answers = Answers(database)

    async def known():
        return await answers.get("key", lambda: repositories.names(database, "", 100))

    assert await known() == []
    for number in range(50):
        await database.write(adding(f"name{number:02}"))
        assert len(await known()) == number + 1
        assert await known() is await known(), "and remembered until the next"


async def test_a_commit_of_another_process_is_seen_by_the_cache_at_once(database, commit_elsewhere):
    answers = Answers(database)

    async def known():
        return await answers.get("key", lambda: repositories.find(database, "elsewhere49"))

    assert await known() is None
    for number in range(50):
        commit_elsewhere(f"elsewhere{number}")
        assert (await known() is not None) is (number == 49)


def drive(coroutine):
    """Run what must not suspend: one step, and it is done."""
    with pytest.raises(StopIteration) as done:
        coroutine.send(None)
    return done.value.value


async def test_reads_never_suspend(database, open_sqlite):
    """Nothing else runs between the version, the SELECT and the insert into the cache."""
    sessions = open_sqlite("uploads", "NORMAL")
    await sessions.migrate()
    answers = Answers(database)
    for read in (
        blobs.find(database, DIGEST),
        blobs.find_linked(database, "a", DIGEST),
        blobs.find_manifest(database, "a", DIGEST),
        manifests.find_by_digest(database, "a", DIGEST),
        manifests.find_by_tag(database, "a", "latest"),
        manifests.held(database, "a", DIGEST),
        tags.find(database, "a", "latest"),
        repositories.find(database, "a"),
        mirror.is_pending(database, "a", "tag", "latest"),
        uploads.find(sessions, "a", "id"),
        answers.get("key", lambda: tags.find(database, "a", "latest")),
    ):
        assert drive(read) in {None, False}
    assert drive(mirror.count(database, now(), timedelta(0))) == 0
