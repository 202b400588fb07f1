"""Rules of tags: listing, deleting, pointing one at a manifest that is there. A push moves them in `manifests`."""

from __future__ import annotations

from collections.abc import Sequence

from hatoba.db import manifests, mirror, tags
from hatoba.db.engine import Database, Reader, Transaction, now
from hatoba.db.mirror import MirrorRow
from hatoba.db.tags import TagRow
from hatoba.errors import ManifestUnknown
from hatoba.oci.digest import Digest
from hatoba.oci.reference import Reference, RepositoryName, Tag
from hatoba.registry.ports import Links
from hatoba.registry.repositories import known_id

_ALL = 2**62  # "no limit" in every SQL dialect


class Tags:
    """The tags of repositories."""

    def __init__(self, database: Database, links: Links) -> None:
        self._database = database
        self._links = links

    async def list(self, repository: RepositoryName, after: str, limit: int | None) -> tuple[list[str], bool]:
        """At most `limit` tags (None: all) in byte order after `after`; whether more are left. Raises NameUnknown."""

        async def names(reader: Reader) -> list[str]:
            repository_id = await known_id(reader, repository)
            return await tags.names(reader, repository_id, after, _ALL if limit is None else limit + 1)

        found = await self._database.scan(names)
        return (found, False) if limit is None else (found[:limit], len(found) > limit)

    async def listed(self, repository: RepositoryName, after: str, limit: int) -> tuple[Sequence[TagRow], bool]:
        """At most `limit` tags with their manifests, in byte order after `after`; whether more are left.

        Raises NameUnknown.
        """

        async def find(reader: Reader) -> Sequence[TagRow]:
            repository_id = await known_id(reader, repository)
            return await tags.listed(reader, repository_id, after, limit + 1)

        found = await self._database.scan(find)
        return found[:limit], len(found) > limit

    async def point(self, repository: RepositoryName, reference: Reference, tag: Tag, actor: str | None) -> Digest:
        """Let `tag` name the manifest under `reference`, as a push would; its digest.

        Raises NameUnknown, ManifestUnknown.
        """

        async def move(transaction: Transaction) -> tuple[Digest, Sequence[MirrorRow]]:
            repository_id = await known_id(transaction, repository)
            found = reference if isinstance(reference, Digest) else await tags.find(transaction, repository, reference)
            if found is None:
                raise ManifestUnknown(detail={"tag": str(reference)})
            digest = Digest.parse(str(found))
            if not await manifests.held(transaction, repository, digest):
                raise ManifestUnknown(detail={"digest": str(digest)})
            at = now()
            await tags.point(transaction, repository_id, tags.Move(repository, tag, at, actor), digest)
            return digest, [await mirror.mark(transaction, repository, "tag", tag, at)]

        digest, marks = await self._database.write(move)
        await self._links.write(marks)
        return digest

    async def delete(self, repository: RepositoryName, tag: Tag, actor: str | None) -> None:
        """End this tag only; the manifest and its other tags stay. Raises NameUnknown, ManifestUnknown."""

        async def end(transaction: Transaction) -> list[MirrorRow]:
            repository_id = await known_id(transaction, repository)
            at = now()
            if not await tags.delete(transaction, repository_id, tags.Move(repository, tag, at, actor)):
                raise ManifestUnknown(detail={"tag": tag})
            return [await mirror.mark(transaction, repository, "tag", tag, at)]

        await self._links.write(await self._database.write(end))
