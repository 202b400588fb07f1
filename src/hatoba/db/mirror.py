"""SQL of the mirror: which of Docker's link files must be written anew. A row names a key, never content."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from hatoba.db.engine import Reader, Row, Transaction

Kind = Literal["layer", "revision", "tag"]


@dataclass(frozen=True, slots=True)
class MirrorRow:
    """A link to be made true: `name` is a digest or a tag; `generation` tells this mark from a later one."""

    repository: str
    kind: Kind
    name: str
    generation: int


async def mark(transaction: Transaction, repository: str, kind: Kind, name: str, at: datetime) -> MirrorRow:
    """The truth behind this link changes in the same transaction."""
    # Random, not counted: the row is deleted when settled, and a count would then start again at a number in use.
    row = MirrorRow(repository, kind, name, secrets.randbits(62))
    await transaction.run(
        "INSERT INTO mirror (repository, kind, name, generation, marked_at) "
        "VALUES (:repository, :kind, :name, :generation, :at) "
        "ON CONFLICT (repository, kind, name) DO UPDATE SET generation = :generation, marked_at = :at",
        repository=repository,
        kind=kind,
        name=name,
        generation=row.generation,
        at=at,
    )
    return row


async def renew(transaction: Transaction, row: MirrorRow) -> MirrorRow | None:
    """Another generation of the same mark, as old as it was; None when it is settled or was marked again."""
    renewed = MirrorRow(row.repository, row.kind, row.name, secrets.randbits(62))
    changed = await transaction.run(
        "UPDATE mirror SET generation = :renewed WHERE repository = :repository AND kind = :kind AND name = :name "
        "AND generation = :generation",
        renewed=renewed.generation,
        repository=row.repository,
        kind=row.kind,
        name=row.name,
        generation=row.generation,
    )
    return renewed if changed else None


async def settle(transaction: Transaction, row: MirrorRow) -> bool:
    """The link is true and durable; False when it was marked again meanwhile."""
    changed = await transaction.run(
        "DELETE FROM mirror WHERE repository = :repository AND kind = :kind AND name = :name "
        "AND generation = :generation",
        repository=row.repository,
        kind=row.kind,
        name=row.name,
        generation=row.generation,
    )
    return changed == 1


async def pending(reader: Reader, at: datetime, age: timedelta, limit: int) -> list[MirrorRow]:
    """Marks older than `age` at the time `at`, oldest first; then those of the future: the clock was set back since."""
    old = await reader.all(
        "SELECT repository, kind, name, generation FROM mirror WHERE marked_at < :before "
        "ORDER BY marked_at LIMIT :limit",
        before=at - age,
        limit=limit,
    )
    ahead = await reader.all(
        "SELECT repository, kind, name, generation FROM mirror WHERE marked_at > :after "
        "ORDER BY marked_at LIMIT :limit",
        after=at + age,
        limit=limit - len(old),
    )
    return [_row(row) for row in (*old, *ahead)]


async def is_pending(reader: Reader, repository: str, kind: Kind, name: str) -> bool:
    """Whether the link is known to differ."""
    row = await reader.one(
        "SELECT 1 FROM mirror WHERE repository = :repository AND kind = :kind AND name = :name",
        repository=repository,
        kind=kind,
        name=name,
    )
    return row is not None


async def count(reader: Reader, at: datetime, age: timedelta = timedelta(0)) -> int:
    """How many marks `pending` would find."""
    row = await reader.one(
        "SELECT count(*) FROM mirror WHERE marked_at < :before OR marked_at > :after", before=at - age, after=at + age
    )
    return 0 if row is None else row[0]


def _row(row: Row) -> MirrorRow:
    return MirrorRow(row[0], row[1], row[2], row[3])
