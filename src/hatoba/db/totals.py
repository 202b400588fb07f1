"""SQL that counts everything. It looks through whole tables: for `Database.scan` alone, now and then."""

from __future__ import annotations

from dataclasses import dataclass

from hatoba.db.engine import Reader


@dataclass(frozen=True, slots=True)
class Totals:
    """What the database `metadata` holds. `blobs` are ready ones, of `blob_bytes` together."""

    repositories: int
    tags: int
    manifests: int
    blobs: int
    blob_bytes: int
    missing_blobs: int
    pending_links: int


async def count(reader: Reader) -> Totals:
    """Count the content."""
    row = await reader.one(
        "SELECT (SELECT count(*) FROM repositories), (SELECT count(*) FROM tags), (SELECT count(*) FROM manifests), "
        "b.ready, b.bytes, b.missing, (SELECT count(*) FROM mirror) "
        "FROM (SELECT count(CASE WHEN state = 'ready' THEN 1 END) AS ready, "
        "coalesce(sum(CASE WHEN state = 'ready' THEN size END), 0) AS bytes, "
        "count(CASE WHEN state = 'missing' THEN 1 END) AS missing FROM blobs) AS b"
    )
    if row is None:
        raise RuntimeError("an aggregate gave no row")
    return Totals(*row)


async def count_uploads(reader: Reader) -> int:
    """How many sessions the database `uploads` holds."""
    row = await reader.one("SELECT count(*) FROM uploads")
    return 0 if row is None else row[0]
