"""Databases on real files, and programs beside them: what SQLite promises holds between processes or not at all."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hatoba.db.sqlite import Sqlite

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
def open_sqlite(folder):
    """Opens a database of this folder, as one more process would; closed at the end."""
    opened = []

    def open_(name="metadata", synchronous="FULL"):
        opened.append(Sqlite(folder / f"{name}.db", folder / "locks", name, synchronous))
        return opened[-1]

    yield open_
    for database in reversed(opened):
        database.close()


@pytest.fixture
async def database(open_sqlite):
    database = open_sqlite()
    await database.migrate()
    return database


@pytest.fixture
def program(folder):
    """Starts a Python program whose first argument is the folder; killed at the end if it still runs."""
    started = []

    def start(source, *arguments):
        command = [sys.executable, "-c", source, str(folder), *map(str, arguments)]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
