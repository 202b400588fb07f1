"""SQL of repositories."""

from __future__ import annotations

from datetime import datetime

from hatoba.db.engine import Reader, Transaction


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


async def names(reader: Reader, after: str, limit: int) -> list[str]:
    """All names in byte order, after `after`, repositories without manifests too."""
    rows = await reader.all(
        "SELECT name FROM repositories WHERE name > :after ORDER BY name LIMIT :limit", after=after, limit=limit
    )
    return [row[0] for row in rows]
