"""After a start: compares Docker's link files with the rows, slowly, and follows what somebody else wrote.

A link that differs while no mirror row names it was written by another program, Docker's registry above all: hatoba
follows it and says so. A link that is absent is written again: losing files must not lose images.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
from pathlib import Path

import structlog

from hatoba.blobs import layout
from hatoba.blobs.driver import BlobDriver, KeyMissing
from hatoba.db import blobs, manifests, mirror, repositories, tags
from hatoba.db.engine import Database, Transaction, now
from hatoba.db.mirror import Kind, MirrorRow
from hatoba.errors import RegistryError
from hatoba.oci.digest import Digest
from hatoba.operations.mirror import Mirror

_PAGE = 200
_PAUSE_SECONDS = 0.05
_LINK_BYTES = 256


async def follow_links(database: Database, driver: BlobDriver, links: Mirror, locks: Path) -> None:
    """One walk over all repositories, by one worker; ends when it is through."""
    log = structlog.stdlib.get_logger("hatoba.follow")
    with (locks / "walk").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        walk = LinkWalk(database, driver, links)
        after = ""
        while names := await database.scan(lambda reader, after=after: repositories.names(reader, after, _PAGE)):  # type: ignore[misc]
            for name in names:
                try:
                    await walk.repository(name)
                except (RegistryError, KeyMissing) as error:
                    log.error("links of a repository cannot be compared", repository=name, reason=str(error))
                await asyncio.sleep(_PAUSE_SECONDS)
            after = names[-1]


class LinkWalk:
    """Compares the links of one repository after the other."""

    def __init__(self, database: Database, driver: BlobDriver, links: Mirror) -> None:
        self._database = database
        self._driver = driver
        self._links = links
        self._log = structlog.stdlib.get_logger("hatoba.follow")

    async def repository(self, name: str) -> None:
        """Follow changed tags, write absent links again."""
        repository_id = await repositories.find(self._database, name)
        if repository_id is None:
            return
        after = ""
        while page := await self._page(lambda reader, after=after: tags.names(reader, repository_id, after, _PAGE)):
            for tag in page:
                await self._tag(name, repository_id, tag)
            after = page[-1]
        after = ""
        while page := await self._page(lambda reader, after=after: manifests.digests(reader, name, after, _PAGE)):
            for digest in page:
                await self._link(name, "revision", layout.revision_link(name, Digest.parse(digest)), digest)
            after = page[-1]
        after = ""
        while page := await self._page(lambda reader, after=after: blobs.linked_digests(reader, name, after, _PAGE)):
            for digest in page:
                await self._link(name, "layer", layout.layer_link(name, Digest.parse(digest)), digest)
            after = page[-1]

    async def _page(self, read: object) -> list[str]:
        await asyncio.sleep(0)
        return await self._database.scan(read)  # type: ignore[arg-type]

    async def _tag(self, name: str, repository_id: int, tag: str) -> None:
        # The row before the link: a push between the two changes the row, which `_follow` sees. The other way round an
        # old link would be taken for another program's, and the push rolled back.
        row = await tags.find(self._database, name, tag)
        if row is None:
            return
        written = await self._read(layout.tag_link(name, tag))
        if written == row or await mirror.is_pending(self._database, name, "tag", tag):
            return
        if written is None:
            await self._write_again(name, "tag", tag)
            return
        with contextlib.suppress(RegistryError):
            digest = Digest.parse(written)
            if await manifests.held(self._database, name, digest):
                await self._follow(name, repository_id, tag, row, digest)
                return
        # Not ours to overwrite: another registry may have pushed there. Reading its push in is adoption's work.
        self._log.warning("a tag's link names no manifest of the repository; left alone", repository=name, tag=tag)

    async def _follow(self, name: str, repository_id: int, tag: str, row: str, digest: Digest) -> None:
        async def point(transaction: Transaction) -> bool:
            if await tags.find(transaction, name, tag) != row or await mirror.is_pending(transaction, name, "tag", tag):
                return False
            await tags.point(transaction, repository_id, tags.Move(name, tag, now(), None), digest)
            return True

        if await self._database.write(point):
            self._log.warning(
                "a tag was moved by another program; following it", repository=name, tag=tag, digest=str(digest)
            )

    async def _link(self, name: str, kind: Kind, key: str, digest: str) -> None:
        if await self._read(key) == digest or await mirror.is_pending(self._database, name, kind, digest):
            return
        await self._write_again(name, kind, digest)

    async def _write_again(self, name: str, kind: Kind, what: str) -> None:
        async def mark(transaction: Transaction) -> MirrorRow:
            return await mirror.mark(transaction, name, kind, what, now())

        self._log.warning("a link file was absent or wrong; writing it again", repository=name, kind=kind, name=what)
        await self._links.write([await self._database.write(mark)])

    async def _read(self, key: str) -> str | None:
        try:
            content = await self._driver.read(key, _LINK_BYTES)
        except KeyMissing:
            return None
        return content.decode("utf-8", "replace").strip()
