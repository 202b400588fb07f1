"""The database contract on SQLite: a real file on tmpfs where there is one (`:memory:` has no WAL and other locks)."""

import shutil
import tempfile
import threading
from pathlib import Path

import pytest

from hatoba.db.sqlite import Sqlite
from hatoba.testing.database_contract import DatabaseContract

TMPFS = Path("/dev/shm")  # noqa: S108


@pytest.fixture
def folder(tmp_path):
    if not TMPFS.is_dir():
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="hatoba-", dir=TMPFS))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def no_leftovers(folder):
    """After everything is closed no thread runs, and the last connection to go has taken WAL and index along."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before
    assert [path.name for path in folder.iterdir() if path.name.endswith(("-wal", "-shm", "-journal"))] == []


@pytest.mark.usefixtures("no_leftovers")
class TestSqlite(DatabaseContract):
    @pytest.fixture
    async def database(self, folder):
        database = Sqlite(folder / "metadata.db", folder / "locks", "metadata", "FULL")
        await database.migrate()
        yield database
        database.close()

    @pytest.fixture
    async def other(self, folder, database):  # noqa: ARG002  the one that migrates
        other = Sqlite(folder / "metadata.db", folder / "locks", "metadata", "FULL")
        yield other
        other.close()

    @pytest.fixture
    async def sessions(self, folder):
        sessions = Sqlite(folder / "uploads.db", folder / "locks", "uploads", "NORMAL")
        await sessions.migrate()
        yield sessions
        sessions.close()
