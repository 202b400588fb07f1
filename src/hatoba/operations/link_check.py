"""Compares Docker's link files with the rows, and looks for files that no row names.

What is said was looked at again under the repository's mirror lock and in one snapshot of the rows: a link whose row of
the mirror is pending is not true yet, and no finding. Links that other programs wrote are named, never removed.
"""

from __future__ import annotations

import contextlib
import re

from hatoba.blobs import layout
from hatoba.blobs.driver import BlobDriver, KeyMissing
from hatoba.db import blobs, mirror, uploads
from hatoba.db.engine import Database, Transaction, now
from hatoba.db.mirror import MirrorRow
from hatoba.errors import InsufficientStorage, Unavailable
from hatoba.oci.reference import is_name
from hatoba.operations import link_files
from hatoba.operations.findings import Report
from hatoba.operations.link_files import Link
from hatoba.operations.mirror import Mirror
from hatoba.operations.progress import Progress

_PAGE = 500
_SETTLE = 500
_TREE = "docker"
_REWRITTEN = "verify --fix writes it again; so does the server after a start"
_UPLOAD = re.compile(rf"{layout.REPOSITORIES}/(?P<name>.+)/_uploads/(?P<id>[0-9A-Za-z-]+)/.+", re.ASCII)


class LinkCheck:
    """Looks at the links of one repository after the other, then at all files. With `fix` links are written again."""

    def __init__(  # noqa: PLR0913, PLR0917  what a check works with
        self,
        database: Database,
        sessions: Database | None,
        driver: BlobDriver,
        links: Mirror,
        report: Report,
        progress: Progress,
        *,
        fix: bool,
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._driver = driver
        self._links = links
        self._report = report
        self._progress = progress
        self._fix = fix
        self._written = 0

    async def repository(self, name: str) -> None:
        """Look at the link of every row."""
        last = None
        async for link, digest in link_files.rows_of(self._database, name):
            await self._look(link, digest)
            last = link if link.kind == "revision" else last
        if last is not None:
            await self._look_at_folder(last)

    async def files(self) -> None:
        """Look at every file of the tree: which row names it?"""
        try:
            await self._each_file()
        except (Unavailable, KeyMissing) as error:  # the others were looked at
            cause = error.__cause__
            where = str(getattr(cause, "filename", None) or _TREE)
            meaning = f"what lies in it was not looked at: {getattr(cause, 'strerror', None) or error}"
            self._report.add("folder-unreadable", where, meaning, "look at the disk and at its permissions")

    async def _each_file(self) -> None:
        last = ("", "")
        async for key in self._driver.walk(_TREE):
            self._progress.advance(1)
            if (digest := link_files.blob_at(key)) is not None:
                row = await blobs.find(self._database, digest)
                if row is None or row.key != key:
                    await self._stray(key)
            elif found := _UPLOAD.fullmatch(key):
                upload = found["name"], found["id"]
                if upload != last and self._sessions is not None:
                    row_of = await uploads.find(self._sessions, *upload) if is_name(upload[0]) else None
                    self._report.abandoned += row_of is None
                last = upload
            elif (link := link_files.link_at(key)) is not None:
                await self._unnamed(link, key)
            elif not link_files.is_history(key):
                await self._stray(key)

    async def sessions(self) -> None:
        """Count upload sessions whose file is gone."""
        after = ""
        while self._sessions is not None and (rows := await uploads.listed(self._sessions, after, _PAGE)):
            for row in rows:
                self._report.fileless += await self._size(layout.upload(row.repository, row.id)) is None
            after = rows[-1].id

    async def _look(self, link: Link, digest: str) -> None:
        self._report.links += 1
        self._progress.advance(1)
        if await link.wrong(self._driver, digest) is None:
            return
        async with self._links.locked(link.repository):
            true, pending = await self._database.scan(link.truth)
            wrong = None if true is None or pending else await link.wrong(self._driver, true)
        if wrong is not None and true is not None:
            await self._say(link, true, *wrong)

    async def _look_at_folder(self, link: Link) -> None:
        """Whether a repository that holds the manifest `link` has the folder that Docker's collector looks for."""
        folder = layout.layers(link.repository)
        if not await self._is_absent(folder):
            return
        async with self._links.locked(link.repository):
            true, pending = await self._database.scan(link.truth)
            if true is None or pending or not await self._is_absent(folder):
                return
        meaning = f"Docker's garbage-collect would take all manifests of {link.repository}"
        if self._fix and await self._write_again(link, true) and not await self._is_absent(folder):
            self._report.add("link-missing", folder, meaning, "mended: made again", mended=True)
        else:
            self._report.add("link-missing", folder, meaning, _REWRITTEN)

    async def _say(self, link: Link, digest: str, key: str, held: str | None) -> None:
        kind = "link-missing" if held is None else "link-wrong"
        if held is None:
            meaning = f"Docker's registry would not know {_words(link)}"
        else:
            meaning = (
                f"it holds {held[:80]!r} instead of {digest}: Docker's registry would serve {_words(link)} wrongly"
            )
        if held is not None and link.kind == "tag" and await self._leads(link, held):
            # Another program moved the tag: `follow` takes that over, and writing the old one again would lose it.
            self._report.add(
                kind, key, meaning, "another program moved the tag: the server follows it when it is started"
            )
        elif not self._fix:
            self._report.add(kind, key, meaning, _REWRITTEN)
        elif await self._write_again(link, digest):
            self._report.add(kind, key, meaning, "mended: written again", mended=True)
        else:
            self._report.add(kind, key, meaning, "it cannot be written: look at the disk, and at the folder above it")

    async def _write_again(self, link: Link, digest: str) -> bool:
        async def mark(transaction: Transaction) -> MirrorRow:
            return await mirror.mark(transaction, link.repository, link.kind, link.name, now())

        with contextlib.suppress(InsufficientStorage):
            await self._links.write([await self._database.write(mark)])
            self._written += 1
            if self._written % _SETTLE == 0:
                await self._links.settle()
        return await link.wrong(self._driver, digest) is None

    async def _unnamed(self, link: Link, key: str) -> None:
        """A link file whose row there may be none of."""
        if (await link.truth(self._database))[0] is not None:
            return
        async with self._links.locked(link.repository):
            true, pending = await self._database.scan(link.truth)
            held = None if true is not None or pending else await link_files.read(self._driver, key)
        if held is None:
            return
        if await self._leads(link, held):
            meaning = f"the database does not know {_words(link)}, and Docker's registry would serve it"
            self._report.add("link-extra", key, meaning, "another program wrote it: `hatoba import` reads it in")
        else:
            await self._stray(key)  # leads nowhere, for anybody

    async def _leads(self, link: Link, held: str) -> bool:
        with contextlib.suppress(Unavailable):
            return await link_files.leads(self._database, self._driver, link, held)
        return True  # nobody can tell: left alone

    async def _stray(self, key: str) -> None:
        self._report.strays += 1
        self._report.stray_bytes += await self._size(key) or 0

    async def _size(self, key: str) -> int | None:
        with contextlib.suppress(Unavailable):  # its folder is said to be unreadable
            return await self._driver.stat(key)
        return None

    async def _is_absent(self, folder: str) -> bool:
        with contextlib.suppress(Unavailable):
            return await self._driver.inspect(folder) is None
        return False


def _words(link: Link) -> str:
    if link.kind == "tag":
        return f"{link.repository}:{link.name}"
    return f"{'manifest' if link.kind == 'revision' else 'blob'} {link.name} in {link.repository}"
