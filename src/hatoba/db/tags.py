"""SQL of tags and of their moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from hatoba.db.engine import Reader, Row, Transaction, from_micros
from hatoba.db.paging import Page, containing, pattern
from hatoba.oci.digest import Digest
from hatoba.oci.reference import natural_key


@dataclass(frozen=True, slots=True)
class Move:
    """Who moves which tag, and when."""

    repository: str
    tag: str
    at: datetime
    by: str | None


@dataclass(frozen=True, slots=True)
class TagRow:
    """What a listing shows of a tag and its manifest.

    `size` is bytes of everything the manifest names; of an index, also of what the manifests name that it lists and the
    repository holds. `platforms` are theirs, as `os/architecture`, each once.
    """

    name: str
    digest: str
    media_type: str
    artifact_type: str | None
    size: int
    platforms: tuple[str, ...]
    pushed_at: datetime
    pushed_by: str | None


# natural: numbers in names count as such; bytes: as the protocol wants it.
Sort = Literal["bytes", "natural", "pushed", "size"]
_COLUMNS: Mapping[Sort, str] = {"bytes": "t.name", "natural": "t.natural", "pushed": "t.pushed_at", "size": "t.size"}
_SEPARATOR = "\n"  # in no platform: what does not print is not kept
_NO_PLATFORM = "unknown/"  # what BuildKit calls that of its attestations
_LISTED = (
    "FROM manifest_references AS c JOIN manifests AS k ON k.repository_id = c.repository_id AND k.digest = c.digest "
    "WHERE c.repository_id = t.repository_id AND c.manifest = t.digest AND c.kind = 'manifest'"
)
# As floating point, and bounded: clients choose the sizes in manifests, and their sum may be more than 64 bits hold.
_SIZE = (
    "SELECT CAST(min(9e18, CAST(m.total_bytes AS DOUBLE PRECISION) + coalesce((SELECT sum(CAST(k.total_bytes AS "
    "DOUBLE PRECISION)) FROM manifest_references AS c JOIN manifests AS k ON k.repository_id = c.repository_id "
    "AND k.digest = c.digest WHERE c.repository_id = m.repository_id AND c.manifest = m.digest "
    "AND c.kind = 'manifest'), 0)) AS INTEGER) FROM manifests AS m "
    "WHERE m.repository_id = :repository AND m.digest = :digest"
)


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


async def targets(reader: Reader, repository_id: int, after: str, limit: int) -> list[tuple[str, str]]:
    """(tag, the digest that it names), in byte order of the names, after `after`."""
    rows = await reader.all(
        "SELECT name, digest FROM tags WHERE repository_id = :repository AND name > :after ORDER BY name LIMIT :limit",
        repository=repository_id,
        after=after,
        limit=limit,
    )
    return [(row[0], row[1]) for row in rows]


async def listed(reader: Reader, repository_id: int, after: str, limit: int) -> list[TagRow]:
    """Tags with their manifests, in byte order of their names, after `after`."""
    return await page(reader, repository_id, Page("bytes", limit, after=(after, after)))


async def page(reader: Reader, repository_id: int, wanted: Page[Sort]) -> list[TagRow]:
    """A page of tags with their manifests."""
    column = _COLUMNS[wanted.sort]
    rows = await reader.all(
        "SELECT t.name, t.digest, m.media_type, m.artifact_type, t.size, m.os || '/' || m.architecture, "  # noqa: S608  our own text
        f"(SELECT string_agg(k.os || '/' || k.architecture, :separator) {_LISTED}), t.pushed_at, t.pushed_by "
        "FROM tags AS t JOIN manifests AS m ON m.repository_id = t.repository_id AND m.digest = t.digest "
        f"WHERE t.repository_id = :repository{wanted.conditions(column, 't.name')} "
        f"ORDER BY {wanted.order(column, 't.name')} LIMIT :limit",
        repository=repository_id,
        separator=_SEPARATOR,
        **wanted.parameters(),
    )
    return [_tag_row(row) for row in rows]


async def count(reader: Reader, repository_id: int, text: str = "") -> int:
    """How many tags of the repository have `text` in their names. Looks at each name."""
    row = await reader.one(
        f"SELECT count(*) FROM tags WHERE repository_id = :repository{containing('name') if text else ''}",  # noqa: S608  our own text
        repository=repository_id,
        pattern=pattern(text),
    )
    return 0 if row is None else row[0]


def _tag_row(row: Row) -> TagRow:
    name, digest, media_type, artifact_type, size, platform, platforms, pushed_at, pushed_by = row
    found = {text for text in (platform, *(platforms or "").split(_SEPARATOR)) if text}
    return TagRow(
        name=name,
        digest=digest,
        media_type=media_type,
        artifact_type=artifact_type,
        size=size,
        platforms=tuple(sorted(text for text in found if not text.startswith(_NO_PLATFORM))),
        pushed_at=from_micros(pushed_at),
        pushed_by=pushed_by,
    )


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
        "INSERT INTO tags (repository_id, name, natural, digest, size, pushed_at, pushed_by) "  # noqa: S608  our own text
        f"VALUES (:repository, :tag, :natural, :digest, ({_SIZE}), :at, :by) ON CONFLICT (repository_id, name) "
        "DO UPDATE SET digest = :digest, size = excluded.size, pushed_at = :at, pushed_by = :by",
        repository=repository_id,
        tag=move.tag,
        natural=natural_key(move.tag),
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


async def last_move(reader: Reader) -> Row | None:
    """The newest move of all, whole, for `has_move` of another database."""
    return await reader.one(
        "SELECT id, repository, tag, digest, moved_at FROM tag_moves WHERE id = (SELECT max(id) FROM tag_moves)"
    )


async def has_move(reader: Reader, move: Row) -> bool:
    """Whether this database had the same move at the same place: then it had all those before it, too."""
    found = await reader.one("SELECT id, repository, tag, digest, moved_at FROM tag_moves WHERE id = :id", id=move[0])
    return found == move


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
