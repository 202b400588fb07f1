"""Compares Docker's link files with the rows, and looks for files that no row names.

What is said was looked at again under the repository's mirror lock and in one snapshot of the rows: a link whose row of
the mirror is pending is not true yet, and no finding. Links that other programs wrote are named, never removed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hatoba.blobs import layout
from hatoba.blobs.driver import BlobDriver, KeyMissing
from hatoba.db import blobs, manifests, mirror, repositories, tags, uploads
from hatoba.db.engine import Database, Reader, Transaction, now
from hatoba.db.mirror import Kind, MirrorRow
from hatoba.errors import RegistryError
from hatoba.oci.digest import Digest
from hatoba.oci.reference import is_name
from hatoba.operations.findings import Progress, Report
from hatoba.operations.mirror import Mirror

_PAGE = 500
_LINK_BYTES = 256
_SETTLE = 500
_TREE = "docker"
_REWRITTEN = "verify --fix writes it again; so does the server after a start"
_DIGEST = r"(?P<algorithm>[a-z0-9]+)/(?P<encoded>[0-9a-f]+)"
_NAME = rf"{layout.REPOSITORIES}/(?P<name>.+)"
_BLOB = re.compile(rf"{layout.BLOBS}/(?P<algorithm>[a-z0-9]+)/[0-9a-f]{{2}}/(?P<encoded>[0-9a-f]+)/data", re.ASCII)
_LAYER = re.compile(rf"{_NAME}/_layers/{_DIGEST}/link", re.ASCII)
_REVISION = re.compile(rf"{_NAME}/_manifests/revisions/{_DIGEST}/link", re.ASCII)
_TAG = re.compile(rf"{_NAME}/_manifests/tags/(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]*)/current/link", re.ASCII)
_TAG_INDEX = re.compile(rf"{_NAME}/_manifests/tags/[^/]+/index/{_DIGEST}/link", re.ASCII)
_UPLOAD = re.compile(rf"{_NAME}/_uploads/(?P<id>[0-9A-Za-z-]+)/.+", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Link:
    """A link by what it stands for; `name` is a digest or a tag."""

    repository: str
    kind: Kind
    name: str

    def keys(self, digest: str) -> list[str]:
        """Its files when it means `digest`."""
        found = Digest.parse(digest)
        if self.kind == "layer":
            return [layout.layer_link(self.repository, found)]
        if self.kind == "revision":
            return [layout.revision_link(self.repository, found)]
        return [
            layout.tag_link(self.repository, self.name),
            layout.tag_index_link(self.repository, self.name, found),
        ]

    async def truth(self, reader: Reader) -> tuple[str | None, bool]:
        """The digest that it should hold, None for no link at all; and whether it is known to differ."""
        pending = await mirror.is_pending(reader, self.repository, self.kind, self.name)
        if self.kind == "tag":
            return await tags.find(reader, self.repository, self.name), pending
        digest = Digest.parse(self.name)
        if self.kind == "layer":
            held = await blobs.find_linked(reader, self.repository, digest) is not None
        else:
            held = await manifests.held(reader, self.repository, digest)
        return (self.name if held else None), pending


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
        repository_id = await repositories.find(self._database, name)
        if repository_id is None:
            return
        after = ""
        while rows := await tags.targets(self._database, repository_id, after, _PAGE):
            for tag, digest in rows:
                await self._look(_Link(name, "tag", tag), digest)
            after = rows[-1][0]
        after = ""
        while page := await manifests.digests(self._database, name, after, _PAGE):
            for digest in page:
                await self._look(_Link(name, "revision", digest), digest)
            after = page[-1]
        if after:
            await self._look_at_folder(_Link(name, "revision", after))
        after = ""
        while page := await blobs.linked_digests(self._database, name, after, _PAGE):
            for digest in page:
                await self._look(_Link(name, "layer", digest), digest)
            after = page[-1]

    async def files(self) -> None:
        """Look at every file of the tree: which row names it?"""
        last = ("", "")
        async for key in self._driver.walk(_TREE):
            self._progress.advance(1)
            if found := _BLOB.fullmatch(key):
                digest = _digest(found)
                row = None if digest is None else await blobs.find(self._database, digest)
                if row is None or row.key != key:
                    await self._stray(key)
            elif found := _UPLOAD.fullmatch(key):
                upload = found["name"], found["id"]
                if upload != last and self._sessions is not None:
                    row_of = await uploads.find(self._sessions, *upload) if is_name(upload[0]) else None
                    self._report.abandoned += row_of is None
                last = upload
            elif (link := _link(key)) is not None:
                await self._unnamed(link, key)
            elif not _TAG_INDEX.fullmatch(key):  # what the tag named once: history, and no row's
                await self._stray(key)

    async def sessions(self) -> None:
        """Count upload sessions whose file is gone."""
        after = ""
        while self._sessions is not None and (rows := await uploads.listed(self._sessions, after, _PAGE)):
            for row in rows:
                self._report.fileless += await self._driver.stat(layout.upload(row.repository, row.id)) is None
            after = rows[-1].id

    async def _look(self, link: _Link, digest: str) -> None:
        self._report.links += 1
        self._progress.advance(1)
        if await self._wrong(link, digest) is None:
            return
        async with self._links.locked(link.repository):
            true, pending = await self._database.scan(link.truth)
            wrong = None if true is None or pending else await self._wrong(link, true)
        if wrong is not None and true is not None:
            await self._say(link, true, *wrong)

    async def _wrong(self, link: _Link, digest: str) -> tuple[str, str | None] | None:
        """The first file of the link that does not hold `digest`, and what it holds; None when all do."""
        for key in link.keys(digest):
            held = await self._read(key)
            if held != digest:
                return key, held
        return None

    async def _look_at_folder(self, link: _Link) -> None:
        """Whether a repository that holds the manifest `link` has the folder that Docker's collector looks for."""
        folder = layout.layers(link.repository)
        if await self._driver.inspect(folder) is not None:
            return
        async with self._links.locked(link.repository):
            true, pending = await self._database.scan(link.truth)
            if true is None or pending or await self._driver.inspect(folder) is not None:
                return
        meaning = f"Docker's garbage-collect would take all manifests of {link.repository}"
        if self._fix and await self._write_again(link, true) and await self._driver.inspect(folder) is not None:
            self._report.add("link-missing", folder, meaning, "mended: made again", mended=True)
        else:
            self._report.add("link-missing", folder, meaning, _REWRITTEN)

    async def _say(self, link: _Link, digest: str, key: str, held: str | None) -> None:
        kind = "link-missing" if held is None else "link-wrong"
        if held is None:
            meaning = f"Docker's registry would not know {_words(link)}"
        else:
            meaning = (
                f"it holds {held[:80]!r} instead of {digest}: Docker's registry would serve {_words(link)} wrongly"
            )
        if held is not None and link.kind == "tag" and await self._known(held):
            # Another program moved the tag: `follow` takes that over, and writing the old one again would lose it.
            self._report.add(
                kind, key, meaning, "another program moved the tag: the server follows it when it is started"
            )
        elif not self._fix:
            self._report.add(kind, key, meaning, _REWRITTEN)
        elif await self._write_again(link, digest):
            self._report.add(kind, key, meaning, "mended: written again", mended=True)
        else:
            self._report.add(kind, key, meaning, "it cannot be written: look at the folder above it")

    async def _write_again(self, link: _Link, digest: str) -> bool:
        async def mark(transaction: Transaction) -> MirrorRow:
            return await mirror.mark(transaction, link.repository, link.kind, link.name, now())

        await self._links.write([await self._database.write(mark)])
        self._written += 1
        if self._written % _SETTLE == 0:
            await self._links.settle()
        return await self._wrong(link, digest) is None

    async def _unnamed(self, link: _Link, key: str) -> None:
        """A link file whose row there may be none of."""
        if (await link.truth(self._database))[0] is not None:
            return
        async with self._links.locked(link.repository):
            true, pending = await self._database.scan(link.truth)
            held = None if true is not None or pending else await self._read(key)
        if held is None:
            return
        if await self._known(held):
            meaning = f"the database does not know {_words(link)}, and Docker's registry would serve it"
            self._report.add("link-extra", key, meaning, "another program wrote it: `hatoba import` reads it in")
        else:
            await self._stray(key)  # leads nowhere, for anybody

    async def _known(self, digest: str) -> bool:
        try:
            row = await blobs.find(self._database, Digest.parse(digest))
        except RegistryError:
            return False
        return row is not None and row.ready

    async def _stray(self, key: str) -> None:
        self._report.strays += 1
        self._report.stray_bytes += await self._driver.stat(key) or 0

    async def _read(self, key: str) -> str | None:
        try:
            content = await self._driver.read(key, _LINK_BYTES)
        except KeyMissing:
            return None
        except RegistryError as error:
            return error.message
        return content.decode("utf-8", "replace").strip()


def _digest(found: re.Match[str]) -> Digest | None:
    try:
        return Digest.parse(f"{found['algorithm']}:{found['encoded']}")
    except RegistryError:
        return None


def _link(key: str) -> _Link | None:
    """The link that the file at `key` belongs to."""
    if found := _TAG.fullmatch(key):
        return _Link(found["name"], "tag", found["tag"]) if is_name(found["name"]) else None
    kinds: tuple[tuple[Kind, re.Pattern[str]], ...] = (("layer", _LAYER), ("revision", _REVISION))
    for kind, pattern in kinds:
        if found := pattern.fullmatch(key):
            digest = _digest(found)
            return _Link(found["name"], kind, str(digest)) if digest is not None and is_name(found["name"]) else None
    return None


def _words(link: _Link) -> str:
    if link.kind == "tag":
        return f"{link.repository}:{link.name}"
    return f"{'manifest' if link.kind == 'revision' else 'blob'} {link.name} in {link.repository}"
