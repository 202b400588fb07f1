"""How `Sqlite` writes: one transaction at a time over all processes, each writer in its turn, none for ever."""

import asyncio
import contextlib
import json
import threading
import time

import apsw
import httpx
import pytest

from hatoba.config.load import load
from hatoba.db import repositories, sqlite
from hatoba.errors import Unavailable
from hatoba.wiring import serving

INSERT = "INSERT INTO repositories (name, created_at) VALUES (:name, 1)"


def adding(name):
    async def add(transaction):
        await transaction.run(INSERT, name=name)

    return add


@pytest.fixture
def raw(folder, database):
    """A connection of a program that knows nothing of hatoba's locks, and does not wait."""
    connection = apsw.Connection(str(folder / "metadata.db"))
    connection.set_busy_timeout(0)
    yield connection
    connection.close()


# One at a time


async def test_a_transaction_holds_the_write_lock_before_its_first_statement(database, raw):
    async def work(transaction):
        with pytest.raises(apsw.BusyError):
            raw.execute("BEGIN IMMEDIATE")
        return transaction

    await database.write(work)
    raw.execute("BEGIN IMMEDIATE")
    raw.execute("ROLLBACK")


async def test_a_transaction_that_reads_first_can_still_write(database, raw):
    """A deferred one could not: another writer's commit between its read and its write makes it fail for good."""

    async def work(transaction):
        before = await transaction.one("SELECT count(*) FROM repositories")
        with pytest.raises(apsw.BusyError):
            raw.execute(INSERT, {"name": "other"})
        await transaction.run(INSERT, name="mine")
        return before

    assert await database.write(work) == (0,)
    assert await repositories.names(database, "", 10) == ["mine"]


async def test_what_a_deferred_transaction_would_meet(database, folder):
    with contextlib.closing(apsw.Connection(str(folder / "metadata.db"))) as deferred:
        deferred.set_busy_timeout(60_000)
        deferred.execute("BEGIN")
        deferred.execute("SELECT count(*) FROM repositories").fetchall()
        await database.write(adding("between"))
        with pytest.raises(apsw.BusyError):  # at once: no waiting mends an old snapshot
            deferred.execute(INSERT, {"name": "late"})


async def test_only_immediate_transactions_write(database):
    seen = []

    async def trace(transaction):
        transaction._connection.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: seen.append(event["sql"]))

    await database.write(trace)
    seen.clear()
    await database.write(adding("a"))
    with pytest.raises(apsw.ConstraintError):
        await database.write(adding("a"))
    assert [sql for sql in seen if not sql.startswith("INSERT")] == [
        "BEGIN IMMEDIATE",
        "COMMIT",
        "BEGIN IMMEDIATE",
        "ROLLBACK",
    ]


async def test_work_that_suspends_is_refused_and_rolled_back(database):
    async def work(transaction):
        await transaction.run(INSERT, name="a")
        await asyncio.sleep(0)
        await transaction.run(INSERT, name="b")

    with pytest.raises(RuntimeError, match="may await nothing that suspends"):
        await database.write(work)
    assert await repositories.names(database, "", 10) == []
    await database.write(adding("c"))


async def test_there_is_one_writer_thread_and_it_ends(open_sqlite):
    before = set(threading.enumerate())
    database = open_sqlite()
    assert set(threading.enumerate()) == before, "reading alone needs no thread"
    await database.migrate()
    await asyncio.gather(*(database.write(adding(f"name{number}")) for number in range(20)))
    (writer,) = set(threading.enumerate()) - before
    assert writer.name == "hatoba-write-metadata"
    database.close()
    assert set(threading.enumerate()) == before


async def test_close_waits_for_the_write_that_runs(open_sqlite, database):
    begun = threading.Event()

    async def work(transaction):
        begun.set()
        time.sleep(0.2)  # noqa: ASYNC251  on the writer thread
        await transaction.run(INSERT, name="a")

    writing = asyncio.ensure_future(database.write(work))
    await asyncio.to_thread(begun.wait)
    database.close()
    await writing
    assert await repositories.names(open_sqlite(), "", 10) == ["a"]


# Everybody's turn

WRITER = """
import asyncio, pathlib, sys, time
from hatoba.db.sqlite import Sqlite

async def main(folder, name, seconds, most):
    database = Sqlite(folder / "metadata.db", folder / "locks", "metadata", "FULL")
    async def add(transaction):
        await transaction.run("INSERT INTO repositories (name, created_at) VALUES (:name, 1)", name=f"{name}/{done}")
        time.sleep(0.02)  # as a disk whose fsync is slow
    done, longest = 0, 0.0
    print("ready", flush=True)
    sys.stdin.readline()
    end = time.monotonic() + seconds
    while done < most and (begun := time.monotonic()) < end:
        await database.write(add)
        done += 1
        longest = max(longest, time.monotonic() - begun)
    database.close()
    print(done, longest, flush=True)

asyncio.run(main(pathlib.Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4])))
"""


def compete(program, source):
    """Commits and longest wait of each of eight processes that write for three seconds, at most 2,000 times each."""
    writers = [program(source, f"writer{number}", 3.0, 2000) for number in range(8)]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    results = [writer.stdout.readline().split() for writer in writers]
    return sorted(int(done) for done, _ in results), sorted(float(longest) for _, longest in results)


async def test_eight_writing_processes_each_get_their_turn(database, program):
    commits, waits = compete(program, WRITER)
    assert (await database.one("SELECT count(*) FROM repositories")) == (sum(commits),), "nothing is lost"
    assert commits[0] > commits[-1] / 3, f"one starved: {commits}"
    assert waits[-1] < 1.5, f"one waited too long: {waits}"


async def test_without_the_flock_one_would_starve(database, program):
    """SQLite's own waiting is polling: who writes again at once is before those who sleep."""
    commits, _ = compete(program, f"import fcntl\nfcntl.flock = lambda *_: None\n{WRITER}")
    assert (await database.one("SELECT count(*) FROM repositories")) == (sum(commits),), "slow, but right"
    assert commits[0] <= commits[-1] / 3


# A limit to waiting

HOLDER = """
import fcntl, sys, time
with open(sys.argv[2], "ab") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def hold(program):
    """Another process takes a lock file while the context lasts."""

    @contextlib.contextmanager
    def hold_(path):
        holder = program(HOLDER, path)
        assert holder.stdout.readline() == "held\n"
        try:
            yield
        finally:
            holder.kill()
            holder.wait()

    return hold_


async def test_a_waiter_gives_up_and_its_work_never_runs(database, hold, folder, monkeypatch):
    monkeypatch.setattr(sqlite, "_WAIT_SECONDS", 0.2)
    with hold(folder / "locks" / "write-metadata"):
        begun = time.monotonic()
        waiters = [asyncio.ensure_future(database.write(adding(f"name{number}"))) for number in range(3)]
        async with asyncio.timeout(10):
            found = await asyncio.gather(*waiters, return_exceptions=True)
        assert 0.15 < time.monotonic() - begun < 5
        assert await repositories.names(database, "", 10) == [], "reading goes on"
    for error in found:
        assert isinstance(error, Unavailable)
        assert error.status == 503
        assert int(dict(error.headers)["Retry-After"]) > 0
    await database.write(adding("after"))
    assert await repositories.names(database, "", 10) == ["after"]


async def test_work_that_began_in_time_is_not_given_up(database, monkeypatch):
    monkeypatch.setattr(sqlite, "_WAIT_SECONDS", 0.1)

    async def work(transaction):
        time.sleep(0.4)  # noqa: ASYNC251  on the writer thread
        await transaction.run(INSERT, name="a")
        return "done"

    assert await database.write(work) == "done"
    assert await repositories.names(database, "", 10) == ["a"]


async def test_cancelling_counts_while_slow_work_outlasts_the_limit(database, monkeypatch):
    """The caller is told that it was cancelled, though the limit struck first and the work ended well."""
    monkeypatch.setattr(sqlite, "_WAIT_SECONDS", 0.1)
    begun = threading.Event()

    async def work(transaction):
        begun.set()
        time.sleep(0.5)  # noqa: ASYNC251  on the writer thread
        await transaction.run(INSERT, name="a")

    writing = asyncio.ensure_future(database.write(work))
    await asyncio.to_thread(begun.wait)
    await asyncio.sleep(0.25)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await repositories.names(database, "", 10) == ["a"]


async def test_a_client_is_told_when_to_come_back(tmp_path, hold, monkeypatch):
    monkeypatch.setattr(sqlite, "_WAIT_SECONDS", 0.2)
    settings = load(None, {}, {"storage.filesystem.rootdirectory": str(tmp_path)}).settings
    async with serving.running(settings) as app:
        with hold(tmp_path / "hatoba" / "locks" / "write-uploads"):
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hatoba") as client:
                answer = await client.post("/v2/a/blobs/uploads/", timeout=10)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert json.loads(answer.content)["errors"][0]["code"] == "UNAVAILABLE"


async def test_a_writer_outside_of_the_queue_is_waited_for_only_so_long(open_sqlite, raw, monkeypatch):
    monkeypatch.setattr(sqlite, "_BUSY_MILLISECONDS", 100)
    database = open_sqlite()
    raw.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable) as raised:
        await database.write(adding("a"))
    assert dict(raised.value.headers)["Retry-After"]
    raw.execute("COMMIT")
    await database.write(adding("a"))


async def test_a_lock_file_that_cannot_be_opened_is_told_at_once(open_sqlite, folder):
    database = open_sqlite()
    (folder / "locks" / "write-metadata").unlink(missing_ok=True)
    (folder / "locks" / "write-metadata").mkdir()
    async with asyncio.timeout(5):
        for _ in range(2):
            with pytest.raises(Unavailable):
                await database.write(adding("a"))
    (folder / "locks" / "write-metadata").rmdir()
    await database.migrate()


# The WAL's size


def wal_bytes(folder):
    return (folder / "metadata.db-wal").stat().st_size


async def test_the_wal_is_emptied_when_it_is_long(database, folder, monkeypatch):
    monkeypatch.setattr(sqlite, "_WAL_BYTES", 100_000)
    lengths = []
    for number in range(60):
        await database.write(adding(f"name{number}" * 1000))
        await database.write(lambda transaction: transaction.one("SELECT 1"))  # the checkpoint follows the answer
        lengths.append(wal_bytes(folder))
    assert 60_000 < max(lengths) < 120_000
    assert 0 in lengths
    assert (folder / "metadata.db").stat().st_size > 200_000
    assert await database.one("SELECT count(*) FROM repositories") == (60,)
    busy_timeout = await database.write(lambda transaction: transaction.one("PRAGMA busy_timeout"))
    assert busy_timeout == (30_000,), "checkpoints alone have no patience"


async def test_a_scan_does_not_make_writers_wait_for_the_checkpoint(database, folder, monkeypatch):
    """TRUNCATE waits for readers of old snapshots, and the writer would hold everybody's lock meanwhile."""
    monkeypatch.setattr(sqlite, "_WAL_BYTES", 10_000)
    reading, done = threading.Event(), threading.Event()

    async def scan(reader):
        await reader.one("SELECT count(*) FROM repositories")
        reading.set()
        done.wait(20)

    scanning = asyncio.ensure_future(database.scan(scan))
    await asyncio.to_thread(reading.wait)
    begun = time.monotonic()
    for number in range(10):
        await database.write(adding(f"name{number}" * 1000))
    waited, length = time.monotonic() - begun, wal_bytes(folder)
    done.set()
    await scanning
    assert waited < 2, f"ten small writes took {waited:.1f} s"
    assert length > 10_000
    for _ in range(2):
        await database.write(lambda transaction: transaction.one("SELECT 1"))
    assert wal_bytes(folder) == 0, "a later one has emptied it"
