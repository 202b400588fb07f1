"""SQL of blobs and of which repository may read them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from hatoba.db.engine import Reader, Transaction
from hatoba.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class BlobRow:
    """Where a blob's bytes lie and how many they are; `ready` is false when its file was found missing."""

    digest: str
    key: str
    size: int
    ready: bool


async def find(reader: Reader, digest: Digest) -> BlobRow | None:
    """The blob, whoever may read it."""
    row = await reader.one("SELECT digest, key, size, state = 'ready' FROM blobs WHERE digest = :digest", digest=digest)
    return None if row is None else BlobRow(row[0], row[1], row[2], bool(row[3]))


async def find_held(reader: Reader, digest: Digest) -> BlobRow | None:
    """The blob if any repository may read it."""
    row = await reader.one(
        "SELECT digest, key, size, state = 'ready' FROM blobs WHERE digest = :digest "
        "AND EXISTS (SELECT 1 FROM repository_blobs AS l WHERE l.digest = :digest)",
        digest=digest,
    )
    return None if row is None else BlobRow(row[0], row[1], row[2], bool(row[3]))


async def find_linked(reader: Reader, repository: str, digest: Digest) -> BlobRow | None:
    """The blob if `repository` may read it."""
    row = await reader.one(
        "SELECT b.digest, b.key, b.size, b.state = 'ready' FROM repositories AS r "
        "JOIN repository_blobs AS l ON l.repository_id = r.id AND l.digest = :digest "
        "JOIN blobs AS b ON b.digest = l.digest WHERE r.name = :repository",
        repository=repository,
        digest=digest,
    )
    return None if row is None else BlobRow(row[0], row[1], row[2], bool(row[3]))


async def find_manifest(reader: Reader, repository: str, digest: Digest) -> BlobRow | None:
    """The file of a manifest that `repository` holds."""
    row = await reader.one(
        "SELECT b.digest, b.key, b.size, b.state = 'ready' FROM repositories AS r "
        "JOIN manifests AS m ON m.repository_id = r.id AND m.digest = :digest "
        "JOIN blobs AS b ON b.digest = m.digest WHERE r.name = :repository",
        repository=repository,
        digest=digest,
    )
    return None if row is None else BlobRow(row[0], row[1], row[2], bool(row[3]))


async def make_ready(transaction: Transaction, digest: Digest, key: str, size: int, at: datetime) -> None:
    """The file is at `key` now: new row, or the old one healed; protects it from collection as of `at`."""
    await transaction.run(
        "INSERT INTO blobs (digest, key, size, state, linked_at, created_at) "
        "VALUES (:digest, :key, :size, 'ready', :at, :at) "
        "ON CONFLICT (digest) DO UPDATE SET key = :key, size = :size, state = 'ready', linked_at = :at",
        digest=digest,
        key=key,
        size=size,
        at=at,
    )


async def touch(transaction: Transaction, digest: Digest, at: datetime) -> bool:
    """Protect a ready blob from collection before it is linked; False when there is none to link."""
    return (
        await transaction.run(
            "UPDATE blobs SET linked_at = :at WHERE digest = :digest AND state = 'ready'", digest=digest, at=at
        )
        == 1
    )


async def mark_missing(transaction: Transaction, digest: Digest) -> bool:
    """The file is gone or of another size; False when that was known."""
    changed = await transaction.run(
        "UPDATE blobs SET state = 'missing' WHERE digest = :digest AND state = 'ready'", digest=digest
    )
    return changed == 1


async def missing(reader: Reader, after: str, limit: int) -> list[BlobRow]:
    """Blobs whose files were found missing, in byte order of their digests, after `after`."""
    rows = await reader.all(
        "SELECT digest, key, size FROM blobs WHERE state = 'missing' AND digest > :after ORDER BY digest LIMIT :limit",
        after=after,
        limit=limit,
    )
    return [BlobRow(row[0], row[1], row[2], ready=False) for row in rows]


async def listed(reader: Reader, after: str, limit: int, beginning: str = "") -> list[BlobRow]:
    """Blobs, in byte order of their digests, after `after`; those alone whose digests have this `beginning`."""
    rows = await reader.all(
        "SELECT digest, key, size, state = 'ready' FROM blobs "
        "WHERE digest > :after AND digest >= :beginning AND digest < :beyond ORDER BY digest LIMIT :limit",
        beginning=beginning,
        beyond=f"{beginning}~",  # behind every character of a digest
        after=after,
        limit=limit,
    )
    return [BlobRow(row[0], row[1], row[2], bool(row[3])) for row in rows]


async def bytes_after(reader: Reader, after: str) -> int:
    """The sizes of all blobs whose digests come after `after`, added up. Looks at each row."""
    row = await reader.one("SELECT coalesce(sum(size), 0) FROM blobs WHERE digest > :after", after=after)
    return 0 if row is None else int(row[0])


async def naming(reader: Reader, digest: Digest, limit: int) -> list[tuple[str, str, str | None]]:
    """(repository, manifest, one of its tags) of manifests that are this blob or reference it, in no order."""
    rows = await reader.all(
        "SELECT r.name, n.manifest, (SELECT min(t.name) FROM tags AS t "
        "WHERE t.repository_id = n.repository_id AND t.digest = n.manifest) FROM ("
        "SELECT m.repository_id, m.digest AS manifest FROM manifests AS m WHERE m.digest = :digest "
        "UNION ALL SELECT c.repository_id, c.manifest FROM repository_blobs AS l "
        "JOIN manifest_references AS c ON c.repository_id = l.repository_id AND c.digest = l.digest "
        "WHERE l.digest = :digest LIMIT :limit) AS n JOIN repositories AS r ON r.id = n.repository_id",
        digest=digest,
        limit=limit,
    )
    return [(row[0], row[1], row[2]) for row in rows]


async def readers(reader: Reader, digest: Digest) -> list[tuple[int, str]]:
    """(id, name) of the repositories that may read the blob."""
    rows = await reader.all(
        "SELECT r.id, r.name FROM repository_blobs AS l JOIN repositories AS r ON r.id = l.repository_id "
        "WHERE l.digest = :digest",
        digest=digest,
    )
    return [(row[0], row[1]) for row in rows]


async def forget(transaction: Transaction, digest: Digest) -> None:
    """Give the blob up, once no repository may read it and it is no manifest's."""
    await transaction.run(
        "DELETE FROM blobs WHERE digest = :digest "
        "AND NOT EXISTS (SELECT 1 FROM repository_blobs AS l WHERE l.digest = :digest) "
        "AND NOT EXISTS (SELECT 1 FROM manifest_bodies AS b WHERE b.digest = :digest)",
        digest=digest,
    )


async def link(transaction: Transaction, repository_id: int, digest: Digest, at: datetime) -> bool:
    """Let a repository read the blob; False when it could."""
    changed = await transaction.run(
        "INSERT INTO repository_blobs (repository_id, digest, linked_at) VALUES (:repository, :digest, :at) "
        "ON CONFLICT (repository_id, digest) DO NOTHING",
        repository=repository_id,
        digest=digest,
        at=at,
    )
    return changed == 1


async def unlink(transaction: Transaction, repository_id: int, digest: Digest) -> bool:
    """End that; False when there was no link."""
    changed = await transaction.run(
        "DELETE FROM repository_blobs WHERE repository_id = :repository AND digest = :digest",
        repository=repository_id,
        digest=digest,
    )
    return changed == 1


async def referencing(reader: Reader, repository_id: int, digest: Digest, limit: int) -> list[str]:
    """Digests of manifests of the repository that reference the blob, in byte order."""
    rows = await reader.all(
        "SELECT DISTINCT manifest FROM manifest_references WHERE repository_id = :repository AND digest = :digest "
        "AND kind <> 'manifest' ORDER BY manifest LIMIT :limit",
        repository=repository_id,
        digest=digest,
        limit=limit,
    )
    return [row[0] for row in rows]


async def linked_digests(reader: Reader, repository: str, after: str, limit: int) -> list[str]:
    """Digests that `repository` may read, in byte order, after `after`."""
    rows = await reader.all(
        "SELECT l.digest FROM repositories AS r JOIN repository_blobs AS l ON l.repository_id = r.id "
        "WHERE r.name = :repository AND l.digest > :after ORDER BY l.digest LIMIT :limit",
        repository=repository,
        after=after,
        limit=limit,
    )
    return [row[0] for row in rows]
