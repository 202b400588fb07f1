"""Rules of manifests: what may be pushed, what a pull gives, what deleting takes along.

Bytes are stored and served as the client pushed them. Pushing is one write transaction: every reference is looked at,
the manifest is kept, tags move, and the link files to be written are marked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import structlog

from hatoba.blobs import layout
from hatoba.blobs.driver import BlobDriver, KeyMissing
from hatoba.db import blobs, manifests, mirror, repositories, tags
from hatoba.db.blobs import BlobRow
from hatoba.db.engine import Database, Reader, Transaction, now
from hatoba.db.manifests import ManifestBody, ManifestRow
from hatoba.db.mirror import MirrorRow
from hatoba.errors import DigestInvalid, ManifestBlobUnknown, ManifestInvalid, ManifestUnknown, Unavailable
from hatoba.oci import config, manifest
from hatoba.oci.digest import Digest
from hatoba.oci.manifest import ParsedManifest
from hatoba.oci.reference import Reference, RepositoryName, Tag
from hatoba.registry.answers import Answers
from hatoba.registry.blobs import Blobs, is_whole
from hatoba.registry.bodies import Bodies
from hatoba.registry.ports import Links
from hatoba.registry.repositories import known_id
from hatoba.registry.validation import Validation

# Larger manifests are parsed in a thread, one at a time: they become many times their size in memory.
_PARSE_INLINE_BYTES = 64 * 1024
CONFIG_BYTES = 1024 * 1024  # larger configs are not read
_TRIES = 3
_MANY_REFERENCES = 500  # images have up to 127 layers


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """What a pull gives. `warning` is for the client's user: an index lists manifests that were deleted."""

    digest: str
    media_type: str
    body: bytes
    warning: str | None


@dataclass(frozen=True, slots=True)
class DescribedManifest:
    """A manifest with all that is known of it.

    `children` are the manifests that an index lists, with the bytes that each names; None where the repository does not
    hold it.
    """

    row: ManifestRow
    parsed: ParsedManifest
    tags: tuple[str, ...]
    children: Mapping[str, int | None]

    @property
    def total_bytes(self) -> int:
        """Bytes of everything that the manifest names; of an index, also of what its manifests name."""
        return self.row.total_bytes + sum(size or 0 for size in self.children.values())


@dataclass(frozen=True, slots=True)
class PushedManifest:
    """What a push did."""

    digest: Digest
    subject: Digest | None
    tags: tuple[Tag, ...]


@dataclass(frozen=True, slots=True)
class Push:
    """A manifest as a client sends it. `tags` come beside a digest (`?tag=`); `actor` is None without sign-in."""

    repository: RepositoryName
    reference: Reference
    content_type: str | None
    body: bytes
    tags: tuple[Tag, ...]
    actor: str | None


@dataclass(frozen=True, slots=True)
class _Found:
    digest: str
    media_type: str
    missing_children: int


class _NotStagedError(Exception):
    """The manifest's file, or the one staged for it, was there before the transaction and is not any more."""


class _FilesLostError(Exception):
    """Some of what is missing has a row that says otherwise; the transaction must end before that is mended."""

    def __init__(self, missing: list[str], lost: list[Digest]) -> None:
        super().__init__()
        self.missing, self.lost = missing, lost


class Manifests:
    """The manifests of repositories."""

    def __init__(  # noqa: PLR0913, PLR0917  what the rules work on
        self,
        database: Database,
        driver: BlobDriver,
        links: Links,
        answers: Answers,
        blobs_: Blobs,
        validation: Validation,
    ) -> None:
        self._validation = validation
        self._database = database
        self._driver = driver
        self._links = links
        self._answers = answers
        self._blobs = blobs_
        self._bodies = Bodies()
        self._parsing = asyncio.Lock()
        self._log = structlog.stdlib.get_logger("hatoba.manifests")

    async def get(self, repository: RepositoryName, reference: Reference) -> StoredManifest:
        """The manifest under a tag or digest; raises ManifestUnknown. At most one SELECT."""
        fresh: ManifestBody | None = None

        async def load() -> _Found | None:
            nonlocal fresh
            fresh = row = await self._select(repository, reference)
            if row is None:
                return None
            self._bodies.put(row.digest, row.body)
            return _Found(row.digest, row.media_type, row.missing_children)

        found = await self._answers.get(("manifest", repository, str(reference)), load)
        if found is None:
            raise ManifestUnknown(detail={"reference": str(reference)})
        body = fresh.body if fresh else self._bodies.get(found.digest)
        if body is None:
            row = await self._select(repository, Digest.parse(found.digest))
            if row is None:
                raise ManifestUnknown(detail={"reference": str(reference)})
            body = row.body
            self._bodies.put(found.digest, body)
        warning = None
        if found.missing_children:
            warning = (
                f"{found.missing_children} of the manifests that this index lists were deleted from the repository"
            )
        return StoredManifest(found.digest, found.media_type, body, warning)

    async def put(self, push: Push) -> PushedManifest:
        """Store a manifest and move its tags; atomic and durable on return.

        Raises ManifestInvalid, DigestInvalid, ManifestBlobUnknown listing every missing reference.
        """
        parsed = await self._parse(push.body)
        _check_content_type(push.content_type, parsed)
        self._validation.check_urls(parsed)
        digest = _digest(push)
        await self._refuse_early(push.repository, parsed)
        row = await self._row(push, parsed, digest)
        names = push.tags if isinstance(push.reference, Digest) else (push.reference, *push.tags)
        marks = await self._store(push, parsed, row, names)
        await self._links.write(marks)
        return PushedManifest(digest, parsed.subject.digest if parsed.subject else None, push.tags)

    async def describe(self, repository: RepositoryName, reference: Reference) -> DescribedManifest:
        """All there is to say of a manifest; raises NameUnknown, ManifestUnknown."""

        async def find(reader: Reader) -> tuple[ManifestRow, bytes, list[str], dict[str, int | None]]:
            repository_id = await known_id(reader, repository)
            found = reference if isinstance(reference, Digest) else await tags.find(reader, repository, reference)
            digest = None if found is None else Digest.parse(str(found))
            row = None if digest is None else await manifests.find_row(reader, repository_id, digest)
            body = None if digest is None else await manifests.find_by_digest(reader, repository, digest)
            if digest is None or row is None or body is None:
                raise ManifestUnknown(detail={"reference": str(reference)})
            named = await tags.pointing_at(reader, repository_id, digest)
            return row, body.body, named, await manifests.children(reader, repository_id, digest)

        row, body, named, children = await self._database.scan(find)
        return DescribedManifest(row, await self._parse(body), tuple(named), children)

    async def delete(self, repository: RepositoryName, digest: Digest, actor: str | None) -> list[str]:
        """Take the manifest and every tag on it out of the repository; raises NameUnknown, ManifestUnknown.

        Returns the tags that ended.
        """

        async def end(transaction: Transaction) -> tuple[list[str], list[MirrorRow]]:
            repository_id = await known_id(transaction, repository)
            at = now()
            marks = []
            ended = await tags.pointing_at(transaction, repository_id, digest)
            for tag in ended:
                await tags.delete(transaction, repository_id, tags.Move(repository, tag, at, actor))
                marks.append(await mirror.mark(transaction, repository, "tag", tag, at))
            if not await manifests.delete(transaction, repository_id, digest):
                raise ManifestUnknown(detail={"digest": str(digest)})
            return ended, [*marks, await mirror.mark(transaction, repository, "revision", str(digest), at)]

        ended, marks = await self._database.write(end)
        await self._links.write(marks)
        return ended

    async def _parse(self, body: bytes) -> ParsedManifest:
        if len(body) <= _PARSE_INLINE_BYTES:
            return manifest.parse(body)
        async with self._parsing:
            return await asyncio.to_thread(manifest.parse, body)

    async def _select(self, repository: RepositoryName, reference: Reference) -> ManifestBody | None:
        if isinstance(reference, Digest):
            row = await manifests.find_by_digest(self._database, repository, reference)
        else:
            row = await manifests.find_by_tag(self._database, repository, reference)
        if row is None or self._bodies.get(row.digest) is not None or _is_right(row):
            return row
        self._log.error(
            "a manifest's bytes in the database are not what its digest says; run `hatoba verify --fix`",
            repository=repository,
            digest=row.digest,
        )
        return None

    async def _row(self, push: Push, parsed: ParsedManifest, digest: Digest) -> ManifestRow:
        image = await self._read_config(push.repository, parsed)
        return replace(describe(digest, len(push.body), parsed, image), pushed_at=now(), pushed_by=push.actor)

    async def _read_config(self, repository: RepositoryName, parsed: ParsedManifest) -> config.ImageConfig:
        """What the image's config says of itself; nothing for artifacts, strange or missing configs."""
        digest = image_config(parsed)
        row = None if digest is None else await blobs.find_linked(self._database, repository, digest)
        if row is None or row.size > CONFIG_BYTES:
            return config.NOTHING
        try:
            return config.parse(await self._driver.read(row.key, CONFIG_BYTES))
        except KeyMissing:
            return config.NOTHING  # the transaction will say so

    async def _refuse_early(self, repository: RepositoryName, parsed: ParsedManifest) -> None:
        """Raise ManifestBlobUnknown for very many references without the write lock: 36,000 take most of a second."""
        if len(parsed.references) <= _MANY_REFERENCES:
            return

        async def look(reader: Reader) -> list[str]:
            return [
                str(digest)
                for digest, kind, required in self._asked(parsed)
                if required and await _find(reader, repository, digest, kind) is None
            ]

        if missing := await self._database.scan(look):
            raise ManifestBlobUnknown(detail=list(dict.fromkeys(missing)))

    def _asked(self, parsed: ParsedManifest) -> Iterable[tuple[Digest, str, bool]]:
        """Digest, kind and whether it must be there, of each reference once: some images repeat an empty layer."""
        return dict.fromkeys((r.descriptor.digest, r.kind, self._validation.required(r)) for r in parsed.references)

    async def _store(
        self, push: Push, parsed: ParsedManifest, row: ManifestRow, names: tuple[Tag, ...]
    ) -> list[MirrorRow]:
        digest = Digest.parse(row.digest)
        key = layout.blob(digest)
        known = await blobs.find(self._database, digest)
        staged: str | None = None
        try:
            for _ in range(_TRIES):
                if staged is None and not await is_whole(self._driver, known):
                    await self._driver.prepare(key)
                    staged = await self._driver.stage(push.body)
                try:
                    return await self._database.write(
                        lambda transaction, staged=staged: self._commit(transaction, push, parsed, row, names, staged)  # type: ignore[misc]
                    )
                except _NotStagedError:
                    if staged is not None:
                        await self._driver.remove(staged)
                    known = staged = None
            raise Unavailable("files go away as soon as they are made")
        except _FilesLostError as error:
            for lost in error.lost:
                await self._blobs.report_missing(lost)
            raise ManifestBlobUnknown(detail=error.missing) from None
        finally:
            if staged is not None:
                await self._driver.remove(staged)

    async def _commit(  # noqa: PLR0913, PLR0917  one transaction, all its parts
        self,
        transaction: Transaction,
        push: Push,
        parsed: ParsedManifest,
        row: ManifestRow,
        names: tuple[Tag, ...],
        staged: str | None,
    ) -> list[MirrorRow]:
        digest = Digest.parse(row.digest)
        await self._check_references(transaction, push.repository, parsed, row)
        await self._keep_file(transaction, digest, row, staged)
        repository_id, _ = await repositories.ensure(transaction, push.repository, row.pushed_at)
        await keep(transaction, repository_id, row, parsed, push.body)
        marks = [await mirror.mark(transaction, push.repository, "revision", row.digest, row.pushed_at)]
        for tag in names:
            move = tags.Move(push.repository, tag, row.pushed_at, push.actor)
            await tags.point(transaction, repository_id, move, digest)
            marks.append(await mirror.mark(transaction, push.repository, "tag", tag, row.pushed_at))
        return marks

    async def _check_references(
        self, transaction: Transaction, repository: RepositoryName, parsed: ParsedManifest, row: ManifestRow
    ) -> None:
        missing: dict[str, None] = {}
        lost: list[Digest] = []
        for digest, kind, required in self._asked(parsed):
            found = await _find(transaction, repository, digest, kind)
            whole = await is_whole(self._driver, found)
            if found is not None and found.ready and not whole:
                lost.append(digest)
            there = whole and await blobs.touch(transaction, digest, row.pushed_at)
            if not there and required:
                missing[str(digest)] = None
        if missing and lost:
            raise _FilesLostError(list(missing), lost)
        if missing:
            raise ManifestBlobUnknown(detail=list(missing))

    async def _keep_file(self, transaction: Transaction, digest: Digest, row: ManifestRow, staged: str | None) -> None:
        whole = await is_whole(self._driver, await blobs.find(transaction, digest))
        if whole and await blobs.touch(transaction, digest, row.pushed_at):
            return
        if staged is None:
            raise _NotStagedError
        key = layout.blob(digest)
        try:
            await self._driver.publish(staged, key)
        except KeyMissing:  # a clock that was set forward makes a staged file look like one that a crash left
            raise _NotStagedError from None
        await blobs.make_ready(transaction, digest, key, row.size, row.pushed_at)


def image_config(parsed: ParsedManifest) -> Digest | None:
    """The config that says what kind of image the manifest is; None for artifacts and indexes."""
    if parsed.config is None or parsed.config.media_type not in config.IMAGE_CONFIG_TYPES:
        return None
    return parsed.config.digest


def describe(digest: Digest, size: int, parsed: ParsedManifest, image: config.ImageConfig) -> ManifestRow:
    """The row of a manifest of `size` bytes; when and by whom it was pushed is for the caller to say."""
    return ManifestRow(
        digest=str(digest),
        media_type=parsed.media_type,
        artifact_type=parsed.artifact_type,
        size=size,
        total_bytes=parsed.total_bytes,
        config_digest=str(parsed.config.digest) if parsed.config else None,
        subject=str(parsed.subject.digest) if parsed.subject else None,
        annotations=parsed.annotations_json if parsed.subject else None,
        os=image.os,
        architecture=image.architecture,
        image_created_at=image.created,
        pushed_at=now(),
        pushed_by=None,
    )


async def keep(
    transaction: Transaction, repository_id: int, row: ManifestRow, parsed: ParsedManifest, body: bytes
) -> None:
    """Let the repository hold the manifest, with what it references; its file's row is there already."""
    digest = Digest.parse(row.digest)
    await manifests.keep_body(transaction, digest, body)
    await manifests.upsert(transaction, repository_id, row)
    for referenced, kind in dict.fromkeys((r.descriptor.digest, r.kind) for r in parsed.references):
        await manifests.add_reference(transaction, repository_id, digest, referenced, kind)


async def _find(reader: Reader, repository: RepositoryName, digest: Digest, kind: str) -> BlobRow | None:
    find = blobs.find_manifest if kind == "manifest" else blobs.find_linked
    return await find(reader, repository, digest)


def _is_right(row: ManifestBody) -> bool:
    """Whether the bytes are what was pushed. Microseconds, and once a digest: `Bodies` has what was looked at."""
    digest = Digest.parse(row.digest)
    return Digest.of(row.body, digest.algorithm) == digest


def _check_content_type(content_type: str | None, parsed: ParsedManifest) -> None:
    # Parameters do not count (spec 3.4); without a type the body alone decides.
    sent = (content_type or "").partition(";")[0].strip().lower()
    if sent and sent != parsed.media_type:
        raise ManifestInvalid(f"Content-Type {sent[:255]!r} disagrees with the manifest's type {parsed.media_type}")


def _digest(push: Push) -> Digest:
    if not isinstance(push.reference, Digest):
        return Digest.of(push.body)
    found = Digest.of(push.body, push.reference.algorithm)
    if found != push.reference:
        raise DigestInvalid(detail={"expected": str(push.reference), "found": str(found)})
    return found
