"""SQL of repositories."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from hatoba.db.engine import Reader, Transaction, from_micros


@dataclass(frozen=True, slots=True)
class RepositoryRow:
    """What a listing shows of a repository that holds a manifest. `size` is bytes of the blobs that it may read."""

    name: str
    tags: int
    manifests: int
    size: int
    pushed_at: datetime


async def ensure(transaction: Transaction, name: str, at: datetime) -> tuple[int, bool]:
    """The repository's id, made if it is new; and whether it was."""
    row = await transaction.one("SELECT id FROM repositories WHERE name = :name", name=name)
    if row is not None:
        return row[0], False
    row = await transaction.one(
        "INSERT INTO repositories (name, created_at) VALUES (:name, :at) RETURNING id", name=name, at=at
    )
    if row is None:
        raise RuntimeError("INSERT … RETURNING gave no row")
    return row[0], True


async def find(reader: Reader, name: str) -> int | None:
    """The repository's id."""
    row = await reader.one("SELECT id FROM repositories WHERE name = :name", name=name)
    return None if row is None else row[0]


async def catalog(reader: Reader, after: str, limit: int) -> list[str]:
    """Names of repositories with a manifest, in byte order, after `after`."""
    rows = await reader.all(
        "SELECT name FROM repositories AS r WHERE name > :after "
        "AND EXISTS (SELECT 1 FROM manifests AS m WHERE m.repository_id = r.id) ORDER BY name LIMIT :limit",
        after=after,
        limit=limit,
    )
    return [row[0] for row in rows]


async def summaries(reader: Reader, after: str, limit: int) -> list[RepositoryRow]:
    """The repositories of the catalog with what is in them, in byte order of their names, after `after`.

    Counts the rows of each: no query for a request.
    """
    rows = await reader.all(
        "SELECT r.name, (SELECT count(*) FROM tags AS t WHERE t.repository_id = r.id), "
        "(SELECT count(*) FROM manifests AS m WHERE m.repository_id = r.id), "
        "(SELECT coalesce(sum(b.size), 0) FROM repository_blobs AS l JOIN blobs AS b ON b.digest = l.digest "
        "WHERE l.repository_id = r.id), "
        "(SELECT max(m.pushed_at) FROM manifests AS m WHERE m.repository_id = r.id) "
        "FROM repositories AS r WHERE r.name > :after "
        "AND EXISTS (SELECT 1 FROM manifests AS m WHERE m.repository_id = r.id) ORDER BY r.name LIMIT :limit",
        after=after,
        limit=limit,
    )
    return [RepositoryRow(row[0], row[1], row[2], int(row[3]), from_micros(row[4])) for row in rows]


async def names(reader: Reader, after: str, limit: int) -> list[str]:
    """All names in byte order, after `after`, repositories without manifests too."""
    rows = await reader.all(
        "SELECT name FROM repositories WHERE name > :after ORDER BY name LIMIT :limit", after=after, limit=limit
    )
    return [row[0] for row in rows]


async def delete_empty(transaction: Transaction, repository_id: int) -> None:
    """End a repository that holds no manifest and may read no blob; else nothing happens."""
    await transaction.run(
        "DELETE FROM repositories WHERE id = :repository "
        "AND NOT EXISTS (SELECT 1 FROM manifests AS m WHERE m.repository_id = :repository) "
        "AND NOT EXISTS (SELECT 1 FROM repository_blobs AS l WHERE l.repository_id = :repository)",
        repository=repository_id,
    )
