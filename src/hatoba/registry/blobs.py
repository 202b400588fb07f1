"""Rules of blobs: which exist for a repository, mounting, deleting.

A row is not enough to say that a blob exists: its file must be there and of the row's size, looked at each time.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from hatoba.blobs.driver import BlobDriver, BlobReader, KeyMissing
from hatoba.db import blobs, mirror, repositories
from hatoba.db.blobs import BlobRow
from hatoba.db.engine import Database, Reader, Transaction, now
from hatoba.db.mirror import MirrorRow
from hatoba.errors import BlobUnknown, Unsupported
from hatoba.oci.digest import Digest
from hatoba.oci.reference import RepositoryName
from hatoba.registry.answers import Answers
from hatoba.registry.ports import Links

_NAMED = 5  # manifests named when a blob cannot be deleted


@dataclass(frozen=True, slots=True)
class OpenBlob:
    """A blob ready to be sent; whoever takes it closes the reader."""

    digest: Digest
    size: int
    reader: BlobReader


async def is_whole(driver: BlobDriver, row: BlobRow | None) -> bool:
    """Whether the blob exists: a row that says so *and* a file of its size, looked at now."""
    return row is not None and row.ready and await driver.stat(row.key) == row.size


class Blobs:
    """What a repository may read."""

    def __init__(self, database: Database, driver: BlobDriver, links: Links, answers: Answers) -> None:
        self._database = database
        self._driver = driver
        self._links = links
        self._answers = answers
        self._log = structlog.stdlib.get_logger("hatoba.blobs")

    async def size(self, repository: RepositoryName, digest: Digest) -> int:
        """The blob's size in bytes; raises BlobUnknown."""
        row = await self._linked(repository, digest)
        if not await self.present(row, digest):
            raise BlobUnknown(detail={"digest": str(digest)})
        return row.size

    async def open(self, repository: RepositoryName, digest: Digest) -> OpenBlob:
        """Open the blob's bytes; raises BlobUnknown, Unavailable when out of descriptors."""
        row = await self._linked(repository, digest)
        if row.ready:
            try:
                reader = await self._driver.open(row.key)
            except KeyMissing:
                pass
            else:
                if reader.size == row.size:
                    return OpenBlob(digest, row.size, reader)
                reader.close()
            await self.report_missing(digest)
        raise BlobUnknown(detail={"digest": str(digest)})

    async def mount(self, repository: RepositoryName, digest: Digest, source: RepositoryName | None) -> bool:
        """Let `repository` read a blob of `source` (or, without one, of any repository). False if there is none."""

        async def find(reader: Reader) -> BlobRow | None:
            if source:
                return await blobs.find_linked(reader, source, digest)
            return await blobs.find_held(reader, digest)

        row = await find(self._database)
        if row is None or not await self.present(row, digest):
            return False

        async def link(transaction: Transaction) -> list[MirrorRow] | None:
            at = now()
            if not await blobs.touch(transaction, digest, at):
                return None
            if await find(transaction) is None:
                return None
            repository_id, _ = await repositories.ensure(transaction, repository, at)
            if not await blobs.link(transaction, repository_id, digest, at):
                return []
            return [await mirror.mark(transaction, repository, "layer", str(digest), at)]

        marks = await self._database.write(link)
        if marks is None:
            return False
        await self._links.write(marks)
        return True

    async def delete(self, repository: RepositoryName, digest: Digest) -> None:
        """Take the blob from the repository; raises BlobUnknown, or Unsupported naming manifests that reference it."""

        async def unlink(transaction: Transaction) -> list[MirrorRow]:
            repository_id = await repositories.find(transaction, repository)
            if repository_id is None:
                raise BlobUnknown(detail={"digest": str(digest)})
            if await blobs.find_linked(transaction, repository, digest) is None:
                raise BlobUnknown(detail={"digest": str(digest)})
            users = await blobs.referencing(transaction, repository_id, digest, _NAMED)
            if users:
                raise Unsupported(
                    "the blob is referenced by manifests of this repository: delete them first",
                    detail={"digest": str(digest), "manifests": users},
                )
            await blobs.unlink(transaction, repository_id, digest)
            return [await mirror.mark(transaction, repository, "layer", str(digest), now())]

        await self._links.write(await self._database.write(unlink))

    async def present(self, row: BlobRow, digest: Digest) -> bool:
        """Whether the row's file is there and whole; a difference is written down and logged, once."""
        whole = await is_whole(self._driver, row)
        if row.ready and not whole:
            await self.report_missing(digest)
        return whole

    async def report_missing(self, digest: Digest) -> None:
        """Look again inside a write transaction, where no push can be half-way, then mark the row."""

        async def mark(transaction: Transaction) -> str | None:
            row = await blobs.find(transaction, digest)
            if row is None or not row.ready or await is_whole(self._driver, row):
                return None
            await blobs.mark_missing(transaction, digest)
            return row.key

        known = await blobs.find(self._database, digest)
        if known is None or not known.ready:
            return
        key = await self._database.write(mark)
        if key is not None:
            self._log.error("blob file missing or of another size; its next push heals it", digest=str(digest), key=key)

    async def _linked(self, repository: RepositoryName, digest: Digest) -> BlobRow:
        row = await self._answers.get(
            ("blob", repository, digest), lambda: blobs.find_linked(self._database, repository, digest)
        )
        if row is None:
            raise BlobUnknown(detail={"digest": str(digest)})
        return row
