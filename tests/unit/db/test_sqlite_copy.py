"""SQLite's own copy and check of a whole database, while others write."""

import asyncio
import os

import apsw
import pytest

from hatoba.db import repositories, sqlite
from hatoba.db.engine import now
from hatoba.db.sqlite import DatabaseFailed, Sqlite
from hatoba.errors import StartError


async def add(database, name):
    await database.write(lambda t: repositories.ensure(t, name, now()))


def names(path):
    connection = apsw.Connection(str(path))
    try:
        assert connection.pragma("integrity_check") == "ok"
        return [name for (name,) in connection.execute("SELECT name FROM repositories ORDER BY name")]
    finally:
        connection.close()


async def test_a_copy_has_what_only_the_log_has(database, folder):
    await add(database, "a")
    assert (folder / "metadata.db-wal").stat().st_size
    await database.copy_to(folder / "copy.db")
    await add(database, "b")
    assert names(folder / "copy.db") == ["a"]
    assert await repositories.names(database, "", 5) == ["a", "b"]


async def test_copies_while_another_process_would_write(database, open_sqlite, folder):
    """In one step: a copy in many would begin anew at every commit, and never end here."""
    other = open_sqlite()
    ended = False

    async def write():
        number = 0
        while not ended:
            await add(other, f"r{number:05}")
            number += 1

    writing = asyncio.get_running_loop().create_task(write())
    counts = []
    try:
        for number in range(5):
            await database.copy_to(folder / f"{number}.db")
            counts.append(len(await asyncio.to_thread(names, folder / f"{number}.db")))
    finally:
        ended = True
        await writing
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]


async def test_a_copy_says_when_the_database_was_made(database, folder):
    await database.copy_to(folder / "copy.db")
    copy = Sqlite(folder / "copy.db", folder / "locks", "metadata", "FULL", existing=True)
    assert await copy.made_at() == await database.made_at()
    await copy.check_schema()
    copy.close()
    assert not (folder / "copy.db-wal").exists(), "the last to close folds the log in"


async def test_no_copy_where_nothing_can_be_written(database, folder):
    with pytest.raises(DatabaseFailed):
        await database.copy_to(folder / "absent" / "copy.db")


async def test_what_the_engine_finds(database, folder):
    await add(database, "a")
    connection = apsw.Connection(str(folder / "metadata.db"))
    connection.pragma("foreign_keys", 0)
    for number in range(150):
        connection.execute(
            "INSERT INTO tags (repository_id, name, digest, pushed_at) VALUES (1, ?, 'sha256:0', 0)", (str(number),)
        )
    connection.close()
    found = await database.check()
    assert len(found) == 100
    assert found[0] == "row 1 of tags names a row of manifests that is not there"


async def test_a_page_that_is_garbage(database, folder):
    for number in range(300):
        await add(database, f"repository-{number}")
    database.close()
    path = folder / "metadata.db"
    connection = apsw.Connection(str(path))
    size = connection.pragma("page_size")
    (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'repositories'").fetchone()
    connection.close()
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), os.urandom(size), (page - 1) * size)
    damaged = Sqlite(path, folder / "locks", "metadata", "FULL", existing=True)
    found = await damaged.check()
    damaged.close()
    assert found
    assert all("\n" not in line for line in found)


def test_alone_it_may_lie_anywhere(folder, monkeypatch):
    def refuse(_):
        raise StartError("lies on nfs")

    monkeypatch.setattr(sqlite, "check_filesystem", refuse)
    with pytest.raises(StartError):
        Sqlite(folder / "metadata.db", folder / "locks", "metadata", "FULL")
    Sqlite(folder / "metadata.db", folder / "locks", "metadata", "FULL", alone=True).close()
