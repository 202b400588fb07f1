"""SQL of what is known of Docker's tree: one row, which all workers look at."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from hatoba.db.engine import Reader, Transaction, from_micros

State = Literal["unread", "unsure", "known"]


@dataclass(frozen=True, slots=True)
class TreeRow:
    """The state (see the migration), until when links were as the rows say, and how far reading is.

    `tags_changed` counts tags that others made, moved or ended.
    """

    state: State
    seen_at: datetime | None
    repositories: int
    repositories_read: int
    manifests_read: int
    tags_changed: int


async def find(reader: Reader) -> TreeRow | None:
    """What is known; None in a new database."""
    row = await reader.one(
        "SELECT state, seen_at, repositories, repositories_read, manifests_read, tags_changed FROM tree WHERE id = 1"
    )
    if row is None:
        return None
    return TreeRow(row[0], None if row[1] is None else from_micros(row[1]), row[2], row[3], row[4], row[5])


async def begin(transaction: Transaction, state: State) -> None:
    """The first word about the tree; nothing happens when there is one."""
    await transaction.run(
        "INSERT INTO tree (id, state, seen_at, repositories, repositories_read, manifests_read, tags_changed) "
        "VALUES (1, :state, NULL, 0, 0, 0, 0) ON CONFLICT (id) DO NOTHING",
        state=state,
    )


async def doubt(transaction: Transaction) -> None:
    """Others may have written: what was known is unsure, and changes count from here."""
    await transaction.run("UPDATE tree SET state = 'unsure', tags_changed = 0 WHERE id = 1 AND state = 'known'")


async def expect(transaction: Transaction, repositories: int) -> None:
    """Reading begins, with so many repositories ahead."""
    await transaction.run(
        "UPDATE tree SET repositories = :repositories, repositories_read = 0, manifests_read = 0 WHERE id = 1",
        repositories=repositories,
    )


async def count(transaction: Transaction, repositories: int, manifests: int, tags: int) -> None:
    """So many more were read, and tags changed."""
    await transaction.run(
        "UPDATE tree SET repositories_read = repositories_read + :repositories, "
        "manifests_read = manifests_read + :manifests, tags_changed = tags_changed + :tags WHERE id = 1",
        repositories=repositories,
        manifests=manifests,
        tags=tags,
    )


async def know(transaction: Transaction, at: datetime) -> None:
    """All of it has been read, as it was at `at`: also when that is earlier than a wrong clock said before."""
    await transaction.run("UPDATE tree SET state = 'known', seen_at = :at WHERE id = 1", at=at)


async def see(transaction: Transaction, at: datetime) -> None:
    """If the tree is known: at `at` links were as the rows say, but for those that are marked. Never goes back."""
    # Only then: while it is unsure the moment before others wrote must stay, or what they removed would seem lost.
    await transaction.run(
        "UPDATE tree SET seen_at = :at WHERE id = 1 AND state = 'known' AND (seen_at IS NULL OR seen_at < :at)", at=at
    )


async def see_first(transaction: Transaction, at: datetime) -> None:
    """Reading a new folder begins at `at`; nothing happens when it was begun before."""
    await transaction.run("UPDATE tree SET seen_at = :at WHERE id = 1 AND seen_at IS NULL", at=at)
