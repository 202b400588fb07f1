"""What is counted: everything once, and nothing that is missing as if it were there."""

import asyncio
import time

from hatoba.db import totals
from hatoba.db.sqlite import Sqlite
from hatoba.db.totals import Totals
from hatoba.metrics.catalogue import WRITE, WRITE_WAIT
from hatoba.metrics.cells import Recorder

ROWS = (
    "INSERT INTO repositories (id, name, created_at) VALUES (1, 'a', 0), (2, 'b', 0), (3, 'empty', 0)",
    (
        "INSERT INTO blobs (digest, key, size, state, linked_at, created_at) VALUES "
        "('x', 'x', 5, 'ready', 0, 0), ('y', 'y', 7, 'ready', 0, 0), ('z', 'z', 100, 'missing', 0, 0)"
    ),
    "INSERT INTO manifest_bodies (digest, body) VALUES ('x', x'00')",
    (
        "INSERT INTO manifests (repository_id, digest, media_type, size, total_bytes, pushed_at) VALUES "
        "(1, 'x', 'a/b', 5, 5, 0), (2, 'x', 'a/b', 5, 5, 0)"
    ),
    (
        "INSERT INTO tags (repository_id, name, digest, pushed_at) VALUES (1, 'l', 'x', 0), (1, 'm', 'x', 0), "
        "(2, 'l', 'x', 0)"
    ),
    "INSERT INTO mirror (repository, kind, name, generation, marked_at) VALUES ('a', 'tag', 'l', 1, 0)",
)


async def test_content(database):
    assert await database.scan(totals.count) == Totals(0, 0, 0, 0, 0, 0, 0)

    async def fill(transaction):
        for statement in ROWS:
            await transaction.run(statement)

    await database.write(fill)
    assert await database.scan(totals.count) == Totals(
        repositories=3, tags=3, manifests=2, blobs=2, blob_bytes=12, missing_blobs=1, pending_links=1
    )


async def test_uploads(open_sqlite):
    database = open_sqlite("uploads", "NORMAL")
    await database.migrate()
    assert await database.scan(totals.count_uploads) == 0
    started = "INSERT INTO uploads VALUES ('id', 'a', 0, 'sha256', NULL, 0, 0)"
    await database.write(lambda transaction: transaction.run(started))
    assert await database.scan(totals.count_uploads) == 1


async def test_each_write_is_timed_from_its_turn_on_and_up_to_it(folder):
    recorder = Recorder.unshared()
    database = Sqlite(folder / "metadata.db", folder / "locks", "metadata", "FULL", recorder=recorder)

    def observed(metric):
        index = recorder.index(metric, "metadata")
        *counts, seconds = recorder.cells[index : index + len(metric.buckets) + 2].tolist()
        return sum(counts), seconds

    async def slow(_transaction):
        time.sleep(0.2)  # noqa: ASYNC251  on the writer's thread

    try:
        await asyncio.gather(database.write(slow), database.write(slow))
        for metric, least in ((WRITE, 0.4), (WRITE_WAIT, 0.2)):
            times, seconds = observed(metric)
            assert times == 2
            assert seconds >= least, metric.name
    finally:
        database.close()
