"""SQL of repositories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from hatoba.db.engine import Reader, Transaction, from_micros
from hatoba.db.paging import Page, containing, pattern

Sort = Literal["name", "pushed", "size", "tags"]
_COLUMNS: Mapping[Sort, str] = {"name": "name", "pushed": "pushed_at", "size": "size", "tags": "tags"}


@dataclass(frozen=True, slots=True)
class RepositoryRow:
    """What a listing shows of a repository that holds a manifest. `size` is bytes of the blobs that it may read.

    `pushed_at` is the time of its last push, of what was deleted since, too.
    """

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
        "SELECT name FROM repositories WHERE manifests > 0 AND name > :after ORDER BY name LIMIT :limit",
        after=after,
        limit=limit,
    )
    return [row[0] for row in rows]


async def summaries(reader: Reader, after: str, limit: int) -> list[RepositoryRow]:
    """The repositories of the catalog with what is in them, in byte order of their names, after `after`."""
    return await page(reader, Page("name", limit, after=(after, after)))


async def page(reader: Reader, wanted: Page[Sort]) -> list[RepositoryRow]:
    """A page of the catalog with what is in each repository."""
    column = _COLUMNS[wanted.sort]
    rows = await reader.all(
        "SELECT name, tags, manifests, size, pushed_at FROM repositories "  # noqa: S608  our own text
        f"WHERE manifests > 0{wanted.conditions(column, 'name')} ORDER BY {wanted.order(column, 'name')} LIMIT :limit",
        **wanted.parameters(),
    )
    return [RepositoryRow(row[0], row[1], row[2], row[3], from_micros(row[4])) for row in rows]


async def count(reader: Reader, text: str = "") -> int:
    """How many repositories of the catalog have `text` in their names. Looks at each name."""
    row = await reader.one(
        f"SELECT count(*) FROM repositories WHERE manifests > 0{containing('name') if text else ''}",  # noqa: S608  our own text
        pattern=pattern(text),
    )
    return 0 if row is None else row[0]


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
