"""A database opened by a command: nothing is made, and what may only be read is read."""

import os
import subprocess
import sys

import pytest

from hatoba.db import repositories
from hatoba.db.engine import now
from hatoba.db.sqlite import DatabaseFailed, Sqlite
from hatoba.errors import StartError

# Reads and tries to write as another uid, in a process of its own: root reads and writes everything.
STRANGER = """
import asyncio, os, pathlib, sys
from importlib.metadata import version
from hatoba.db import repositories
from hatoba.db.engine import migrations, now
from hatoba.db.sqlite import DatabaseFailed, Sqlite

async def main(folder):
    database = Sqlite(folder / "metadata.db", folder / "locks", "metadata", "FULL", existing=True)
    await database.check_schema()
    print(await database.scan(lambda reader: repositories.names(reader, "", 10)))
    try:
        await database.write(lambda transaction: repositories.ensure(transaction, "mine", now()))
    except DatabaseFailed as error:
        print(error.reason)
    database.close()

migrations("metadata"), version("hatoba")  # import more of Python, which may lie where only root reads
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    asyncio.run(main(pathlib.Path(sys.argv[1])))
except DatabaseFailed as error:
    print(error.reason)
"""


@pytest.fixture
def existing(folder):
    """Opens the database of this folder as a command does."""
    return lambda: Sqlite(folder / "metadata.db", folder / "locks", "metadata", "FULL", existing=True)


@pytest.fixture
def stranger(folder):
    """What a uid that may read and not write finds, a line each."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    folder.chmod(0o755)

    def run():
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-c", STRANGER, str(folder)]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environ).stdout.splitlines()

    return run


async def test_nothing_is_made(folder, existing):
    with pytest.raises(DatabaseFailed, match="fails") as raised:
        existing()
    assert raised.value.reason == "unable to open database file"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"another program's"])
async def test_what_is_no_database_of_ours_is_left_as_it_is(folder, existing, content):
    path = folder / "metadata.db"
    path.write_bytes(content)
    if content:
        with pytest.raises(DatabaseFailed) as raised:
            existing()
        assert raised.value.reason == "file is not a database"
    else:
        database = existing()
        with pytest.raises(StartError, match="older"):
            await database.check_schema()
        database.close()
    assert path.read_bytes() == content
    assert list(folder.iterdir()) == [path]


async def test_it_reads_and_writes_beside_others(database, existing):
    await database.write(lambda transaction: repositories.ensure(transaction, "theirs", now()))
    command = existing()
    await command.check_schema()
    before = database.version()
    await command.write(lambda transaction: repositories.ensure(transaction, "mine", now()))
    command.close()
    assert database.version() != before
    assert await repositories.names(database, "", 10) == ["mine", "theirs"]


async def test_a_reader_without_a_server_reads_the_file_alone(folder, database, stranger):
    await database.write(lambda transaction: repositories.ensure(transaction, "theirs", now()))
    database.close()
    names, refused = stranger()
    assert names == "['theirs']"
    assert "locks/write-metadata" in refused
    assert sorted(path.name for path in folder.iterdir()) == ["locks", "metadata.db"]


async def test_a_reader_sees_what_a_server_has_in_the_wal_alone(folder, database, stranger):
    await database.write(lambda transaction: repositories.ensure(transaction, "theirs", now()))
    assert (folder / "metadata.db-wal").stat().st_size > 0
    assert stranger()[0] == "['theirs']"


async def test_a_wal_that_cannot_be_read_is_not_passed_over(folder, database, stranger):
    """The file alone would be the registry as it was: an error is better than that."""
    await database.write(lambda transaction: repositories.ensure(transaction, "theirs", now()))
    wal = (folder / "metadata.db-wal").read_bytes()
    database.close()
    (folder / "metadata.db-wal").write_bytes(wal)
    (answer,) = stranger()
    assert answer == "unable to open database file"
