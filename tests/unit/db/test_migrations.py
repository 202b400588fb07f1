"""Numbered steps: each whole or not at all, resumed after any interruption, equal to `schema.sql` in the end."""

import importlib.resources
import re
from importlib.metadata import version
from itertools import count

import apsw
import pytest

from hatoba.config.load import load
from hatoba.db import sqlite
from hatoba.db.engine import Migration, check_known, migrations
from hatoba.errors import StartError
from hatoba.wiring import serving

STEPS = [
    Migration(1, "first", "CREATE TABLE one (a INTEGER) STRICT; INSERT INTO one VALUES (1)"),
    Migration(2, "second", "CREATE TABLE two (a INTEGER) STRICT; INSERT INTO one VALUES (2)"),
    Migration(3, "third", "CREATE TABLE three (a INTEGER) STRICT; INSERT INTO one VALUES (3)"),
]
BROKEN = Migration(2, "second", f"{STEPS[1].sql}; INSERT INTO nowhere VALUES (1); CREATE TABLE never (a)")
DATABASES = ["metadata", "uploads"]


async def state(database):
    """Applied numbers, content, and the tables that the steps made."""
    tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'migrations' ORDER BY name"
    return (
        [row[0] for row in await database.all("SELECT number FROM migrations ORDER BY number")],
        [row[0] for row in await database.all("SELECT a FROM one ORDER BY a")],
        [row[0] for row in await database.all(tables)],
    )


FINISHED = ([1, 2, 3], [1, 2, 3], ["one", "three", "two"])


# The files


@pytest.mark.parametrize("kind", DATABASES)
def test_numbers_begin_at_1_without_gaps(kind):
    assert [step.number for step in migrations(kind)] == list(range(1, len(migrations(kind)) + 1))


@pytest.mark.parametrize("kind", DATABASES)
def test_other_files_of_the_folder_are_no_migrations(kind):
    files = [file.name for file in importlib.resources.files("hatoba.db").joinpath("migrations", kind).iterdir()]
    assert "schema.sql" in files
    assert len(migrations(kind)) == len([name for name in files if re.fullmatch(r"\d{4}_\w+\.sql", name)])
    assert len(files) == len(migrations(kind)) + 1


def normal(sql):
    """SQL without comments and layout."""
    without = re.sub(r"--[^\n]*", " ", sql)
    return re.sub(r"\s*([(),;])\s*", r"\1", re.sub(r"\s+", " ", without)).strip()


def schema_of(connection):
    rows = connection.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE tbl_name <> 'migrations' ORDER BY type, name"
    ).fetchall()
    return {(kind, name, table): sql and normal(sql) for kind, name, table, sql in rows}


def schema_by_file(kind, change=""):
    connection = apsw.Connection(":memory:")
    text = importlib.resources.files("hatoba.db").joinpath("migrations", kind, "schema.sql").read_text("utf-8")
    connection.execute(text + change)
    found = schema_of(connection)
    connection.close()
    return found


@pytest.mark.parametrize("kind", DATABASES)
async def test_all_migrations_together_are_schema_sql(open_sqlite, kind):
    database = open_sqlite(kind)
    await database.migrate()
    built = schema_of(database._reader)
    assert len(built) >= 3
    assert built == schema_by_file(kind)


@pytest.mark.parametrize("kind", DATABASES)
async def test_a_difference_to_schema_sql_would_be_seen(open_sqlite, kind):
    database = open_sqlite(kind)
    await database.migrate()
    table = {"metadata": "tags", "uploads": "uploads"}[kind]
    await database.write(lambda transaction: transaction.run(f"ALTER TABLE {table} ADD COLUMN note TEXT"))
    assert schema_of(database._reader) != schema_by_file(kind)
    assert schema_of(database._reader) == schema_by_file(kind, f"ALTER TABLE {table} ADD COLUMN note TEXT")


# A newer hatoba


async def test_a_newer_database_is_refused_naming_both_versions(database, open_sqlite):
    await database.write(
        lambda t: t.run("INSERT INTO migrations (number, name, hatoba, applied_at) VALUES (99, 'x', '9.8.7', 1)")
    )
    before = schema_of(database._reader), database.version()
    with pytest.raises(StartError) as raised:
        await open_sqlite().migrate()
    assert "9.8.7" in raised.value.message
    assert version("hatoba") in raised.value.message
    assert (schema_of(database._reader), database.version()) == before, "and left alone"


async def test_the_server_does_not_start_on_it(tmp_path):
    settings = load(None, {}, {"storage.filesystem.rootdirectory": str(tmp_path)}).settings
    await serving.prepare(settings)
    with apsw.Connection(str(tmp_path / "hatoba" / "uploads.db")) as newer:
        newer.execute("INSERT INTO migrations (number, name, hatoba, applied_at) VALUES (99, 'x', '9.8.7', 1)")
    newer.close()
    with pytest.raises(StartError, match=r"9\.8\.7"):
        await serving.prepare(settings)
    with pytest.raises(StartError, match=r"9\.8\.7"):
        async with serving.running(settings):
            pass


def test_the_newest_of_several_unknown_versions_is_named():
    known = [Migration(1, "a", ""), Migration(2, "b", "")]
    check_known([], known, "0.1.0")
    check_known([(1, "0.1.0"), (2, "0.2.0")], known, "0.1.0")
    with pytest.raises(StartError, match=r"hatoba 0\.4\.0, this is hatoba 0\.1\.0"):
        check_known([(1, "0.1.0"), (2, "0.2.0"), (3, "0.3.0"), (4, "0.4.0")], known, "0.1.0")


# Interruptions


async def test_each_step_is_written_down(open_sqlite, monkeypatch):
    monkeypatch.setattr(sqlite, "migrations", lambda _: STEPS)
    database = open_sqlite()
    await database.migrate()
    assert await state(database) == FINISHED
    rows = await database.all("SELECT number, name, hatoba, applied_at > 0 FROM migrations ORDER BY number")
    assert rows == [(step.number, step.name, version("hatoba"), 1) for step in STEPS]


async def test_later_steps_follow_where_an_older_hatoba_stopped(open_sqlite, monkeypatch):
    monkeypatch.setattr(sqlite, "migrations", lambda _: STEPS[:1])
    database = open_sqlite()
    await database.migrate()
    assert (await state(database))[0] == [1]
    monkeypatch.setattr(sqlite, "migrations", lambda _: STEPS)
    await database.migrate()
    assert await state(database) == FINISHED


async def test_an_error_in_a_step_leaves_the_steps_before_it(open_sqlite, monkeypatch):
    monkeypatch.setattr(sqlite, "migrations", lambda _: [STEPS[0], BROKEN, STEPS[2]])
    database = open_sqlite()
    for _ in range(2):
        with pytest.raises(apsw.SQLError, match="nowhere"):
            await database.migrate()
        assert await state(database) == ([1], [1], ["one"])
    monkeypatch.setattr(sqlite, "migrations", lambda _: STEPS)
    await open_sqlite().migrate()
    assert await state(database) == FINISHED


async def test_an_error_after_a_step_and_before_its_entry_undoes_it(open_sqlite, monkeypatch):
    monkeypatch.setattr(sqlite, "migrations", lambda _: STEPS)
    calls, now = count(1), sqlite.now

    def failing_second_time():
        if next(calls) == 2:
            raise OSError("power")
        return now()

    database = open_sqlite()
    with monkeypatch.context() as patched:
        patched.setattr(sqlite, "now", failing_second_time)
        with pytest.raises(OSError, match="power"):
            await database.migrate()
    assert await state(database) == ([1], [1], ["one"])
    await database.migrate()
    assert await state(database) == FINISHED


KILLED = """
import asyncio, pathlib, sys
from hatoba.db import sqlite
from hatoba.db.engine import Migration
steps = [Migration(*step) for step in eval(sys.argv[2])]
calls = []
def now(real=sqlite.now):
    calls.append(1)
    if len(calls) == 2:
        print("in the second step", flush=True)
        sys.stdin.readline()
    return real()
sqlite.migrations, sqlite.now = lambda _: steps, now
folder = pathlib.Path(sys.argv[1])
asyncio.run(sqlite.Sqlite(folder / "metadata.db", folder / "locks", "metadata", "FULL").migrate())
"""


async def test_a_migration_killed_in_a_step_is_resumed(open_sqlite, program, monkeypatch):
    steps = [(step.number, step.name, step.sql) for step in STEPS]
    migrating = program(KILLED, repr(steps))
    assert migrating.stdout.readline() == "in the second step\n"
    migrating.kill()
    migrating.wait()
    monkeypatch.setattr(sqlite, "migrations", lambda _: STEPS)
    database = open_sqlite()
    assert await state(database) == ([1], [1], ["one"])
    await database.migrate()
    assert await state(database) == FINISHED


async def test_processes_that_migrate_together_do_it_once(open_sqlite, program, monkeypatch):
    monkeypatch.setattr(sqlite, "migrations", lambda _: STEPS)
    database = open_sqlite()
    steps = [(step.number, step.name, step.sql) for step in STEPS]
    others = [program(KILLED.replace("len(calls) == 2", "False"), repr(steps)) for _ in range(3)]
    await database.migrate()
    assert [other.wait() for other in others] == [0, 0, 0]
    assert await state(database) == FINISHED


# What a step makes of rows that are there


async def test_counts_of_what_was_there_before_they_were_kept(open_sqlite, monkeypatch):
    known = migrations("metadata")
    monkeypatch.setattr(sqlite, "migrations", lambda _folder: known[:3])
    database = open_sqlite()
    await database.migrate()
    rows = (
        "INSERT INTO repositories VALUES (1, 'app', 0), (2, 'empty', 0);"
        "INSERT INTO blobs VALUES ('m', 'k', 1, 'ready', 0, 0), ('i', 'k', 1, 'ready', 0, 0);"
        "INSERT INTO blobs VALUES ('l', 'k', 7, 'ready', 0, 0);"
        "INSERT INTO manifest_bodies VALUES ('m', x''), ('i', x'');"
        "INSERT INTO repository_blobs VALUES (1, 'l', 0);"
        "INSERT INTO manifests (repository_id, digest, media_type, size, total_bytes, pushed_at) "
        "VALUES (1, 'm', 't', 1, 100, 5), (1, 'i', 't', 1, 20, 9);"
        "INSERT INTO manifest_references VALUES (1, 'i', 'm', 'manifest'), (1, 'i', 'gone', 'manifest');"
        "INSERT INTO tags VALUES (1, 'v1.10', 'm', 5, NULL), (1, 'v1.9', 'i', 9, NULL);"
    )
    await database.write(lambda transaction: transaction.run(rows))
    monkeypatch.undo()
    await database.migrate()
    counted = await database.all("SELECT name, tags, manifests, size, pushed_at FROM repositories ORDER BY id")
    assert counted == [("app", 2, 2, 7, 9), ("empty", 0, 0, 0, 0)]
    assert await database.all("SELECT name, size FROM tags ORDER BY natural") == [("v1.9", 120), ("v1.10", 100)]
