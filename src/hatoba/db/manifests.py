"""SQL of manifests, their bodies and what they reference."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from hatoba.db.engine import Reader, Row, Transaction, from_micros
from hatoba.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class ManifestBody:
    """What a pull needs. `missing_children` counts entries of an index that the repository no longer holds."""

    digest: str
    media_type: str
    body: bytes
    missing_children: int


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """What listings show of a manifest; sizes in bytes, `annotations` is JSON text, kept where there is a subject."""

    digest: str
    media_type: str
    artifact_type: str | None
    size: int
    total_bytes: int
    config_digest: str | None
    subject: str | None
    annotations: str | None
    os: str | None
    architecture: str | None
    image_created_at: datetime | None
    pushed_at: datetime
    pushed_by: str | None


_BODY = (
    "SELECT m.digest, m.media_type, b.body, (SELECT count(*) FROM manifest_references AS c "
    "WHERE c.repository_id = m.repository_id AND c.manifest = m.digest AND c.kind = 'manifest' AND NOT EXISTS "
    "(SELECT 1 FROM manifests AS k WHERE k.repository_id = c.repository_id AND k.digest = c.digest)) "
    "FROM repositories AS r "
)


async def find_by_digest(reader: Reader, repository: str, digest: Digest) -> ManifestBody | None:
    """The manifest `digest` if the repository holds it."""
    row = await reader.one(
        _BODY + "JOIN manifests AS m ON m.repository_id = r.id AND m.digest = :digest "
        "JOIN manifest_bodies AS b ON b.digest = m.digest WHERE r.name = :repository",
        repository=repository,
        digest=digest,
    )
    return _body(row)


async def find_by_tag(reader: Reader, repository: str, tag: str) -> ManifestBody | None:
    """The manifest that the tag names."""
    row = await reader.one(
        _BODY + "JOIN tags AS t ON t.repository_id = r.id AND t.name = :tag "
        "JOIN manifests AS m ON m.repository_id = r.id AND m.digest = t.digest "
        "JOIN manifest_bodies AS b ON b.digest = m.digest WHERE r.name = :repository",
        repository=repository,
        tag=tag,
    )
    return _body(row)


def _body(row: Row | None) -> ManifestBody | None:
    return None if row is None else ManifestBody(row[0], row[1], row[2], row[3])


async def find_row(reader: Reader, repository_id: int, digest: Digest) -> ManifestRow | None:
    """What listings show of the manifest, if the repository holds it."""
    row = await reader.one(
        "SELECT digest, media_type, artifact_type, size, total_bytes, config_digest, subject, annotations, os, "
        "architecture, image_created_at, pushed_at, pushed_by FROM manifests "
        "WHERE repository_id = :repository AND digest = :digest",
        repository=repository_id,
        digest=digest,
    )
    if row is None:
        return None
    fields = dict(zip(ManifestRow.__slots__, row, strict=True))
    for name in ("image_created_at", "pushed_at"):
        fields[name] = None if fields[name] is None else from_micros(fields[name])
    return ManifestRow(**fields)


async def children(reader: Reader, repository_id: int, digest: Digest) -> dict[str, int | None]:
    """The manifests that an index lists, with the `total_bytes` of each; None where the repository does not hold it."""
    rows = await reader.all(
        "SELECT c.digest, k.total_bytes FROM manifest_references AS c "
        "LEFT JOIN manifests AS k ON k.repository_id = c.repository_id AND k.digest = c.digest "
        "WHERE c.repository_id = :repository AND c.manifest = :digest AND c.kind = 'manifest'",
        repository=repository_id,
        digest=digest,
    )
    return {row[0]: row[1] for row in rows}


async def keep_body(transaction: Transaction, digest: Digest, body: bytes) -> None:
    """Store the bytes once, whichever repositories hold them; those that a disk spoiled are right again."""
    await transaction.run(
        "INSERT INTO manifest_bodies (digest, body) VALUES (:digest, :body) "
        "ON CONFLICT (digest) DO UPDATE SET body = :body WHERE manifest_bodies.body <> :body",
        digest=digest,
        body=body,
    )


async def find_body(reader: Reader, digest: Digest) -> bytes | None:
    """The manifest's bytes, whoever holds it."""
    row = await reader.one("SELECT body FROM manifest_bodies WHERE digest = :digest", digest=digest)
    return None if row is None else row[0]


async def with_body(reader: Reader, after: str, limit: int) -> list[str]:
    """Digests of all manifests, whoever holds them, in byte order, after `after`."""
    rows = await reader.all(
        "SELECT digest FROM manifest_bodies WHERE digest > :after ORDER BY digest LIMIT :limit",
        after=after,
        limit=limit,
    )
    return [row[0] for row in rows]


async def unlinked(reader: Reader, repository_id: int, after: str, limit: int) -> list[str]:
    """Digests of manifests that reference a blob which their repository may not read; in byte order, after `after`."""
    rows = await reader.all(
        "SELECT DISTINCT c.manifest FROM manifest_references AS c "
        "WHERE c.repository_id = :repository AND c.manifest > :after AND c.kind <> 'manifest' AND NOT EXISTS "
        "(SELECT 1 FROM repository_blobs AS l WHERE l.repository_id = c.repository_id AND l.digest = c.digest) "
        "ORDER BY c.manifest LIMIT :limit",
        repository=repository_id,
        after=after,
        limit=limit,
    )
    return [row[0] for row in rows]


async def upsert(transaction: Transaction, repository_id: int, row: ManifestRow) -> None:
    """The repository holds the manifest; pushed again it gets the later time and actor."""
    await transaction.run(
        "INSERT INTO manifests (repository_id, digest, media_type, artifact_type, size, total_bytes, config_digest, "
        "subject, annotations, os, architecture, image_created_at, pushed_at, pushed_by) "
        "VALUES (:repository, :digest, :media_type, :artifact_type, :size, :total_bytes, :config_digest, "
        ":subject, :annotations, :os, :architecture, :image_created_at, :pushed_at, :pushed_by) "
        "ON CONFLICT (repository_id, digest) DO UPDATE SET pushed_at = :pushed_at, pushed_by = :pushed_by",
        repository=repository_id,
        digest=row.digest,
        media_type=row.media_type,
        artifact_type=row.artifact_type,
        size=row.size,
        total_bytes=row.total_bytes,
        config_digest=row.config_digest,
        subject=row.subject,
        annotations=row.annotations,
        os=row.os,
        architecture=row.architecture,
        image_created_at=row.image_created_at,
        pushed_at=row.pushed_at,
        pushed_by=row.pushed_by,
    )


async def add_reference(
    transaction: Transaction, repository_id: int, manifest: Digest, digest: Digest, kind: str
) -> None:
    """Note that `manifest` references `digest` as `kind` (config, layer, manifest)."""
    await transaction.run(
        "INSERT INTO manifest_references (repository_id, manifest, digest, kind) "
        "VALUES (:repository, :manifest, :digest, :kind) ON CONFLICT DO NOTHING",
        repository=repository_id,
        manifest=manifest,
        digest=digest,
        kind=kind,
    )


async def holders(reader: Reader, digest: Digest) -> list[tuple[int, str]]:
    """(id, name) of the repositories that hold the manifest."""
    rows = await reader.all(
        "SELECT r.id, r.name FROM manifests AS m JOIN repositories AS r ON r.id = m.repository_id "
        "WHERE m.digest = :digest",
        digest=digest,
    )
    return [(row[0], row[1]) for row in rows]


async def forget_body(transaction: Transaction, digest: Digest) -> None:
    """Give up the bytes, once no repository holds the manifest."""
    await transaction.run(
        "DELETE FROM manifest_bodies WHERE digest = :digest "
        "AND NOT EXISTS (SELECT 1 FROM manifests AS m WHERE m.digest = :digest)",
        digest=digest,
    )


async def delete(transaction: Transaction, repository_id: int, digest: Digest) -> bool:
    """Take the manifest and its references out of the repository; its tags must be gone. False if it was not there."""
    changed = await transaction.run(
        "DELETE FROM manifests WHERE repository_id = :repository AND digest = :digest",
        repository=repository_id,
        digest=digest,
    )
    return changed == 1


@dataclass(frozen=True, slots=True)
class Referring:
    """Whose referrers are asked for: manifests of `repository` with this subject and, unless None, artifact type."""

    repository: str
    subject: Digest
    artifact_type: str | None


_REFERRING = (
    "FROM repositories AS r JOIN manifests AS m ON m.repository_id = r.id AND m.subject = :subject "
    "AND m.digest > :after {}"
    "WHERE r.name = :repository AND (:artifact_type IS NULL OR m.artifact_type = :artifact_type) ORDER BY m.digest "
)


async def referrer_sizes(reader: Reader, asked: Referring, after: str, limit: int) -> list[tuple[str, int]]:
    """(digest, bytes of its annotations' JSON) of what refers to the subject, in byte order, without reading these."""
    rows = await reader.all(
        "SELECT m.digest, octet_length(COALESCE(m.annotations, '')) " + _REFERRING.format("") + "LIMIT :limit",
        repository=asked.repository,
        subject=asked.subject,
        artifact_type=asked.artifact_type,
        after=after,
        limit=limit,
    )
    return [(row[0], row[1]) for row in rows]


async def referrers(reader: Reader, asked: Referring, after: str, through: str) -> list[Row]:
    """(digest, media type, size, artifact type, annotations' JSON) of these, after `after` up to `through`."""
    return await reader.all(
        "SELECT m.digest, m.media_type, m.size, m.artifact_type, m.annotations "
        + _REFERRING.format("AND m.digest <= :through "),
        repository=asked.repository,
        subject=asked.subject,
        artifact_type=asked.artifact_type,
        after=after,
        through=through,
    )


async def held(reader: Reader, repository: str, digest: Digest) -> bool:
    """Whether the repository holds the manifest."""
    row = await reader.one(
        "SELECT 1 FROM repositories AS r JOIN manifests AS m ON m.repository_id = r.id AND m.digest = :digest "
        "WHERE r.name = :repository",
        repository=repository,
        digest=digest,
    )
    return row is not None


async def listed_besides(reader: Reader, repository: str, index: Digest, subject: Digest, after: str) -> list[str]:
    """Digests that `index` lists and the repository holds, unless their own `subject` is this one; in byte order."""
    rows = await reader.all(
        "SELECT DISTINCT c.digest FROM repositories AS r "
        "JOIN manifest_references AS c ON c.repository_id = r.id AND c.manifest = :index AND c.digest > :after "
        "JOIN manifests AS m ON m.repository_id = r.id AND m.digest = c.digest "
        "WHERE r.name = :repository AND (m.subject IS NULL OR m.subject <> :subject) ORDER BY c.digest",
        repository=repository,
        index=index,
        subject=subject,
        after=after,
    )
    return [row[0] for row in rows]


async def digests(reader: Reader, repository: str, after: str, limit: int) -> list[str]:
    """Digests that the repository holds, in byte order, after `after`."""
    rows = await reader.all(
        "SELECT m.digest FROM repositories AS r JOIN manifests AS m ON m.repository_id = r.id "
        "WHERE r.name = :repository AND m.digest > :after ORDER BY m.digest LIMIT :limit",
        repository=repository,
        after=after,
        limit=limit,
    )
    return [row[0] for row in rows]
