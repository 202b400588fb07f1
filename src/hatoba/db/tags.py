"""SQL of tags and of their moves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from hatoba.db.engine import Reader, Transaction
from hatoba.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class Move:
    """Who moves which tag, and when."""

    repository: str
    tag: str
    at: datetime
    by: str | None


async def find(reader: Reader, repository: str, tag: str) -> str | None:
    """The digest that the tag names."""
    row = await reader.one(
        "SELECT t.digest FROM repositories AS r JOIN tags AS t ON t.repository_id = r.id AND t.name = :tag "
        "WHERE r.name = :repository",
        repository=repository,
        tag=tag,
    )
    return None if row is None else row[0]


async def names(reader: Reader, repository_id: int, after: str, limit: int) -> list[str]:
    """Tag names in byte order, after `after`."""
    rows = await reader.all(
        "SELECT name FROM tags WHERE repository_id = :repository AND name > :after ORDER BY name LIMIT :limit",
        repository=repository_id,
        after=after,
        limit=limit,
    )
    return [row[0] for row in rows]


async def pointing_at(reader: Reader, repository_id: int, digest: Digest) -> list[str]:
    """Names of the tags on a manifest, in byte order."""
    rows = await reader.all(
        "SELECT name FROM tags WHERE repository_id = :repository AND digest = :digest ORDER BY name",
        repository=repository_id,
        digest=digest,
    )
    return [row[0] for row in rows]


async def point(transaction: Transaction, repository_id: int, move: Move, digest: Digest) -> None:
    """Let the tag name `digest`; the move is recorded when it named another or none."""
    before = await transaction.one(
        "SELECT digest FROM tags WHERE repository_id = :repository AND name = :tag",
        repository=repository_id,
        tag=move.tag,
    )
    await transaction.run(
        "INSERT INTO tags (repository_id, name, digest, pushed_at, pushed_by) "
        "VALUES (:repository, :tag, :digest, :at, :by) "
        "ON CONFLICT (repository_id, name) DO UPDATE SET digest = :digest, pushed_at = :at, pushed_by = :by",
        repository=repository_id,
        tag=move.tag,
        digest=digest,
        at=move.at,
        by=move.by,
    )
    if before is None or before[0] != str(digest):
        await _record(transaction, move, digest)


async def delete(transaction: Transaction, repository_id: int, move: Move) -> bool:
    """End the tag and record it; False when there was none."""
    changed = await transaction.run(
        "DELETE FROM tags WHERE repository_id = :repository AND name = :tag", repository=repository_id, tag=move.tag
    )
    if changed:
        await _record(transaction, move, None)
    return changed == 1


async def _record(transaction: Transaction, move: Move, digest: Digest | None) -> None:
    await transaction.run(
        "INSERT INTO tag_moves (repository, tag, digest, actor, moved_at) "
        "VALUES (:repository, :tag, :digest, :by, :at)",
        repository=move.repository,
        tag=move.tag,
        digest=digest,
        by=move.by,
        at=move.at,
    )
