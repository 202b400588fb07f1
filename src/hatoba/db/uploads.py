"""SQL of upload sessions, in the database `uploads`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from hatoba.db.engine import Reader, Row, Transaction, from_micros
from hatoba.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class UploadRow:
    """A session. `digest` is that of the first `offset` bytes, None when nobody hashed them all."""

    id: str
    repository: str
    offset: int
    algorithm: str
    digest: str | None
    started_at: datetime
    updated_at: datetime


_COLUMNS = 'id, repository, "offset", algorithm, digest, started_at, updated_at'


def _row(row: Row) -> UploadRow:
    return UploadRow(row[0], row[1], row[2], row[3], row[4], from_micros(row[5]), from_micros(row[6]))


async def start(transaction: Transaction, upload_id: str, repository: str, digest: Digest, at: datetime) -> None:
    """A new session of no bytes; `digest` is that of nothing, in the session's algorithm."""
    await transaction.run(
        'INSERT INTO uploads (id, repository, "offset", algorithm, digest, started_at, updated_at) '
        "VALUES (:id, :repository, 0, :algorithm, :digest, :at, :at)",
        id=upload_id,
        repository=repository,
        algorithm=digest.algorithm,
        digest=digest,
        at=at,
    )


async def find(reader: Reader, repository: str, upload_id: str) -> UploadRow | None:
    """The session if it belongs to the repository."""
    row = await reader.one(
        f"SELECT {_COLUMNS} FROM uploads WHERE id = :id AND repository = :repository",  # noqa: S608  our own columns
        id=upload_id,
        repository=repository,
    )
    return None if row is None else _row(row)


async def advance(transaction: Transaction, row: UploadRow, offset: int, digest: str | None, at: datetime) -> bool:
    """The bytes up to `offset` are on the disk; False when the session is gone or not where `row` says."""
    changed = await transaction.run(
        'UPDATE uploads SET "offset" = :new, digest = :digest, updated_at = :at WHERE id = :id AND "offset" = :old',
        id=row.id,
        old=row.offset,
        new=offset,
        digest=digest,
        at=at,
    )
    return changed == 1


async def end(transaction: Transaction, upload_id: str) -> bool:
    """Remove the session; False when it was gone."""
    return await transaction.run("DELETE FROM uploads WHERE id = :id", id=upload_id) == 1


async def are_open(reader: Reader, number: int) -> bool:
    """Whether `number` sessions or more are open; reads no more than that many."""
    row = await reader.one("SELECT count(*) FROM (SELECT 1 FROM uploads LIMIT :number) AS some", number=number)
    return row is not None and row[0] >= number


async def listed(reader: Reader, after: str, limit: int) -> list[UploadRow]:
    """All sessions, in byte order of their ids, after `after`."""
    rows = await reader.all(
        f"SELECT {_COLUMNS} FROM uploads WHERE id > :after ORDER BY id LIMIT :limit",  # noqa: S608
        after=after,
        limit=limit,
    )
    return [_row(row) for row in rows]


async def idle(reader: Reader, before: datetime, limit: int) -> list[UploadRow]:
    """Sessions without a byte since `before`, oldest first."""
    rows = await reader.all(
        f"SELECT {_COLUMNS} FROM uploads WHERE updated_at < :before ORDER BY updated_at LIMIT :limit",  # noqa: S608
        before=before,
        limit=limit,
    )
    return [_row(row) for row in rows]
