"""Docker's link files and the rows that they stand for: which files a row needs, and which row a file is of.

Owns neither reading a whole registry nor writing: `link_check`, `backup` and `mirror` do.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from hatoba.blobs import layout
from hatoba.blobs.driver import BlobDriver, KeyMissing
from hatoba.db import blobs, manifests, mirror, repositories, tags
from hatoba.db.engine import Database, Reader
from hatoba.db.mirror import Kind
from hatoba.errors import RegistryError
from hatoba.oci.digest import Digest
from hatoba.oci.reference import is_name

_PAGE = 500
_LINK_BYTES = 256
_DIGEST = r"(?P<algorithm>[a-z0-9]+)/(?P<encoded>[0-9a-f]+)"
_NAME = rf"{layout.REPOSITORIES}/(?P<name>.+)"
_BLOB = re.compile(rf"{layout.BLOBS}/(?P<algorithm>[a-z0-9]+)/[0-9a-f]{{2}}/(?P<encoded>[0-9a-f]+)/data", re.ASCII)
_LAYER = re.compile(rf"{_NAME}/_layers/{_DIGEST}/link", re.ASCII)
_REVISION = re.compile(rf"{_NAME}/_manifests/revisions/{_DIGEST}/link", re.ASCII)
_TAG = re.compile(rf"{_NAME}/_manifests/tags/(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]*)/current/link", re.ASCII)
_TAG_INDEX = re.compile(rf"{_NAME}/_manifests/tags/[^/]+/index/{_DIGEST}/link", re.ASCII)


@dataclass(frozen=True, slots=True)
class Link:
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

    async def wrong(self, driver: BlobDriver, digest: str) -> tuple[str, str | None] | None:
        """The first of its files that does not hold `digest`, and what it holds; None when all do."""
        for key in self.keys(digest):
            held = await read(driver, key)
            if held != digest:
                return key, held
        return None

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


async def rows_of(database: Database, name: str) -> AsyncIterator[tuple[Link, str]]:
    """Every link that a repository should have, with the digest it should hold; pages of rows, each as of its time."""
    repository_id = await repositories.find(database, name)
    if repository_id is None:
        return
    after = ""
    while rows := await tags.targets(database, repository_id, after, _PAGE):
        for tag, digest in rows:
            yield Link(name, "tag", tag), digest
        after = rows[-1][0]
    after = ""
    while page := await manifests.digests(database, name, after, _PAGE):
        for digest in page:
            yield Link(name, "revision", digest), digest
        after = page[-1]
    after = ""
    while page := await blobs.linked_digests(database, name, after, _PAGE):
        for digest in page:
            yield Link(name, "layer", digest), digest
        after = page[-1]


async def repository_names(database: Database) -> AsyncIterator[str]:
    """All repositories, page by page."""
    after = ""
    while names := await repositories.names(database, after, _PAGE):
        for name in names:
            yield name
        after = names[-1]


async def read(driver: BlobDriver, key: str) -> str | None:
    """What a link file holds; None when there is none. Of one that cannot be read, why."""
    try:
        content = await driver.read(key, _LINK_BYTES)
    except KeyMissing:
        return None
    except RegistryError as error:
        return error.message
    return content.decode("utf-8", "replace").strip()


async def leads(reader: Reader, driver: BlobDriver, link: Link, held: str) -> bool:
    """Whether `held`, which a file of the link holds and no row does, is there to be served: a program wrote it, then.

    Docker's registry writes a manifest's link before a tag that names it.
    """
    try:
        digest = Digest.parse(held)
    except RegistryError:
        return False
    if (link.kind != "tag" and held != link.name) or await driver.stat(layout.blob(digest)) is None:
        return False
    return (
        link.kind != "tag"
        or await manifests.held(reader, link.repository, digest)
        or await driver.stat(layout.revision_link(link.repository, digest)) is not None
    )


def blob_at(key: str) -> Digest | None:
    """The blob whose file may be at `key`."""
    found = _BLOB.fullmatch(key)
    return None if found is None else _digest(found)


def link_at(key: str) -> Link | None:
    """The link that the file at `key` belongs to."""
    if found := _TAG.fullmatch(key):
        return Link(found["name"], "tag", found["tag"]) if is_name(found["name"]) else None
    kinds: tuple[tuple[Kind, re.Pattern[str]], ...] = (("layer", _LAYER), ("revision", _REVISION))
    for kind, pattern in kinds:
        if found := pattern.fullmatch(key):
            digest = _digest(found)
            return Link(found["name"], kind, str(digest)) if digest is not None and is_name(found["name"]) else None
    return None


def is_history(key: str) -> bool:
    """Whether the file says what a tag named once: no row's, and rightly there."""
    return _TAG_INDEX.fullmatch(key) is not None


def _digest(found: re.Match[str]) -> Digest | None:
    try:
        return Digest.parse(f"{found['algorithm']}:{found['encoded']}")
    except RegistryError:
        return None
