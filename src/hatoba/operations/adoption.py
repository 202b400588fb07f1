"""Reads what Docker's registry wrote in a repository's folder into the rows, and lets rows follow what it took away.

A new folder, a lost database and a folder that Docker's registry had for a while are one case: links and rows are
compared, and the difference is taken over. Nothing is written to the tree but links that were lost. Blobs are measured,
manifests hashed. Whatever a client does meanwhile goes before: each change is looked at again in its transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby, islice
from typing import TypeVar

import structlog

from hatoba.blobs import layout
from hatoba.blobs.driver import BlobDriver, KeyMissing
from hatoba.db import blobs, manifests, mirror, repositories, tags
from hatoba.db import tree as tree_rows
from hatoba.db.engine import Database, Reader, Transaction, now
from hatoba.db.mirror import Kind, MirrorRow
from hatoba.errors import DigestInvalid, ManifestInvalid
from hatoba.oci import config, manifest
from hatoba.oci.descriptor import MANIFEST_TYPES
from hatoba.oci.digest import Digest
from hatoba.oci.manifest import ParsedManifest
from hatoba.operations import tree
from hatoba.operations.tree import LinkFile, Section, TellProblem, TreeProblem
from hatoba.registry.blobs import is_whole
from hatoba.registry.intake import read_back
from hatoba.registry.manifests import CONFIG_BYTES, describe, image_config, keep
from hatoba.registry.ports import Links

T = TypeVar("T")
_PAGE = 1000
_BATCH = 200  # files read at a time
# Changes in one transaction: each has its fsync and touches many pages of large tables, but holds up whoever pushes.
_CHANGES, _CHANGES_ALONE = 500, 5000
_CHANGES_BYTES = 16 * 1024 * 1024
_LINK_BYTES = 256
_MANIFEST_BYTES = 32 * 1024 * 1024
_SECTIONS: dict[Kind, Section] = {
    "layer": "_layers",
    "revision": "_manifests/revisions",
    "tag": "_manifests/tags",
}

Change = Callable[[Transaction, int], Awaitable[None]]  # gets the repository's id


@dataclass(slots=True)
class Read:
    """What was met: repositories and manifests, known before or not; and what changed."""

    repositories: int = 0
    manifests: int = 0
    new_manifests: int = 0
    new_blobs: int = 0
    tags_changed: int = 0
    ended: int = 0  # manifests and blobs that the repository holds no more


@dataclass(frozen=True, slots=True)
class _Manifest:
    link: LinkFile
    digest: Digest
    body: bytes
    parsed: ParsedManifest


class Adoption:
    """Compares one repository after the other. Changes wait for `flush`, so that small repositories share an fsync."""

    def __init__(
        self, database: Database, driver: BlobDriver, links: Links, report: TellProblem, *, alone: bool = False
    ) -> None:
        """`alone`: nobody else writes now."""
        self.read = Read()
        self.uncommitted = False  # whether something that was found got lost on its way to the database
        self._most = _CHANGES_ALONE if alone else _CHANGES
        self._database = database
        self._driver = driver
        self._links = links
        self._report = report
        self._changes: list[tuple[str, Change]] = []
        self._bytes = 0
        self._counted = (0, 0)
        self._later: list[TreeProblem] = []
        self._lost: list[MirrorRow] = []  # links to write again, marked in the transaction
        # Blobs of another size than a manifest says; for those that are damaged the size that they should have.
        self._judged: dict[Digest, int | None] = {}
        self._log = structlog.stdlib.get_logger("hatoba.adoption")

    async def repository(self, name: str, seen_at: datetime | None) -> None:
        """Compare a repository's links with its rows and take over the difference.

        An absent link was taken away by somebody if its folder has changed since `seen_at`, the last moment when links
        were as the rows say: then the row ends. Else it was lost, and is written again.
        """
        known = await repositories.find(self._database, name)
        there = await tree.is_there(self._driver, name)
        if not there and (known is None or not await self._driver.children(layout.REPOSITORIES)):
            return  # a tree without any repository is not mounted: nothing follows from that
        if known is None:
            await self._change(name, _nothing)
        absent: dict[Kind, list[str]] = {}
        absent["layer"] = await self._digests(name, known, "layer", seen_at)
        absent["revision"] = await self._digests(name, known, "revision", seen_at)
        absent["tag"] = await self._tags(name, known)
        for kind in reversed(absent):  # a tag before its manifest
            await self._absent(name, kind, absent[kind], seen_at)
        if not there:
            await self._change(name, _end_empty)
        self.read.repositories += 1

    async def flush(self) -> None:
        """Commit what was found until now."""
        changes, self._changes, self._bytes = self._changes, [], 0
        if not changes and self._counted == (self.read.repositories, self.read.manifests):
            return
        counted = (self.read.repositories, self.read.manifests)
        more = (counted[0] - self._counted[0], counted[1] - self._counted[1])

        async def commit(transaction: Transaction) -> None:
            before = self.read.tags_changed
            ids: dict[str, int] = {}
            for name, change in changes:
                if name not in ids:
                    ids[name], _ = await repositories.ensure(transaction, name, now())
                await change(transaction, ids[name])
            await tree_rows.count(transaction, *more, self.read.tags_changed - before)

        await self._write(commit)
        self._counted = counted
        later, self._later = self._later, []
        for finding in later:
            self._report(finding)
        lost, self._lost = self._lost, []
        for name, links in groupby(sorted(lost, key=_repository), key=_repository):
            marked = list(links)
            message = "link files were absent or wrong; writing them again"
            self._log.warning(message, repository=name, links=len(marked), first=f"{marked[0].kind} {marked[0].name}")
            await self._links.write(marked)

    async def _write(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        try:
            return await self._database.write(work)
        except BaseException:
            self.uncommitted = True
            raise

    async def _change(self, name: str, change: Change, size: int = 0) -> None:
        self._changes.append((name, change))
        self._bytes += size
        if len(self._changes) >= self._most or self._bytes >= _CHANGES_BYTES:
            await self.flush()

    async def _digests(self, name: str, known: int | None, kind: Kind, seen_at: datetime | None) -> list[str]:
        """Take in new links of blobs or manifests; the names of rows whose link is absent."""
        page = blobs.linked_digests if kind == "layer" else manifests.digests
        rows = await self._all(lambda reader, after: page(reader, name, after, _PAGE), lambda row: row)
        found = await tree.links(self._driver, name, _SECTIONS[kind], self._report)
        if kind == "revision":
            self.read.manifests += len(found.keys() & rows.keys())
        for batch in _batched([link for link in found.values() if link.name not in rows]):
            await (self._new_blobs(name, known, batch) if kind == "layer" else self._new_manifests(name, batch))
        doubtful = [
            link
            for link in found.values()
            if link.name in rows and (link.size != len(link.name) or seen_at is None or link.written_at > seen_at)
        ]
        for batch in _batched(doubtful):
            for link, content in zip(batch, await self._contents(batch), strict=True):
                if content is not None and content != link.name:
                    await self._write_again(name, kind, link.name)
        return [digest for digest in rows if digest not in found]

    async def _new_blobs(self, name: str, known: int | None, batch: Sequence[LinkFile]) -> None:
        for link, content in zip(batch, await self._contents(batch), strict=True):
            digest = Digest.parse(link.name)
            size = await self._driver.stat(layout.blob(digest))
            if content is None:
                continue
            if content != link.name:
                self._report(TreeProblem(link.key, "link", "does not name the blob that its place is for"))
            elif size is None:
                self._report(TreeProblem(link.key, "missing", f"there is no file of the blob {digest}"))
            else:
                named = None if known is None else await self._named_size(name, known, digest)
                if named is not None and named != size:
                    await self._judge(digest, named, size)
                await self._change(name, self._blob_change(name, link, digest, size))
                await self._mark_damaged(name, digest)

    def _blob_change(self, name: str, link: LinkFile, digest: Digest, size: int) -> Change:
        async def change(transaction: Transaction, repository_id: int) -> None:
            if await self._as_it_was(transaction, name, "layer", link.name, link.key):
                await self._keep_blob(transaction, digest, size, link.written_at)
                self.read.new_blobs += await blobs.link(transaction, repository_id, digest, link.written_at)

        return change

    async def _new_manifests(self, name: str, batch: Sequence[LinkFile]) -> None:
        contents = await self._contents(batch)
        met: list[LinkFile] = []
        for link, content in zip(batch, contents, strict=True):
            if content is None:
                continue
            if content != link.name:
                self._report(TreeProblem(link.key, "link", "does not name the manifest that its place is for"))
            elif await self._driver.stat(_file(link)) is None:
                self._report(TreeProblem(link.key, "missing", f"there is no file of the manifest {link.name}"))
            else:
                met.append(link)
        bodies = await self._driver.read_each([_file(link) for link in met], _MANIFEST_BYTES + 1)
        good: list[_Manifest] = []
        for one in await asyncio.to_thread(lambda: list(map(_read, met, bodies))):
            if isinstance(one, TreeProblem):
                self._report(one)
            else:
                good.append(one)
        for one, image in zip(good, await self._images(good), strict=True):
            await self._check_references(name, one)
            row = replace(describe(one.digest, len(one.body), one.parsed, image), pushed_at=one.link.written_at)
            await self._change(name, self._manifest_change(name, one, row), len(one.body))
        self.read.manifests += len(batch)

    def _manifest_change(self, name: str, one: _Manifest, row: manifests.ManifestRow) -> Change:
        async def change(transaction: Transaction, repository_id: int) -> None:
            if await self._as_it_was(transaction, name, "revision", one.link.name, one.link.key):
                await self._keep_blob(transaction, one.digest, len(one.body), one.link.written_at)
                await keep(transaction, repository_id, row, one.parsed, one.body)
                self.read.new_manifests += 1

        return change

    async def _images(self, read: Sequence[_Manifest]) -> list[config.ImageConfig]:
        """What the configs of these manifests say of the images."""
        wanted = [None if (digest := image_config(one.parsed)) is None else layout.blob(digest) for one in read]
        keys = list(dict.fromkeys(key for key in wanted if key is not None))
        contents = dict(zip(keys, await self._driver.read_each(keys, CONFIG_BYTES + 1), strict=True))
        found = {}
        for key, content in contents.items():
            small = content is not None and len(content) <= CONFIG_BYTES
            found[key] = config.parse(content) if content is not None and small else config.NOTHING
        return [config.NOTHING if key is None else found[key] for key in wanted]

    async def _check_references(self, name: str, one: _Manifest) -> None:
        """Report what the manifest names and is not there. It is served nevertheless, as Docker's registry does."""
        for reference in one.parsed.references:
            digest, named = reference.descriptor.digest, reference.descriptor.size
            size = await self._driver.stat(layout.blob(digest))
            if size is None:
                if reference.required:
                    self._report(TreeProblem(one.link.key, "missing", f"names {digest}, of which there is no file"))
            elif size != named:
                await self._judge(digest, named, size)
                await self._mark_damaged(name, digest)

    async def _judge(self, digest: Digest, named: int, size: int) -> None:
        """Find out whether a blob of another size than a manifest says is damaged. Each is read once."""
        if digest in self._judged:
            return
        key = layout.blob(digest)
        found = ""
        with contextlib.suppress(KeyMissing), contextlib.closing(await self._driver.open(key)) as reader:
            found = await read_back(reader, reader.size, digest.algorithm)
        whole = found == digest.encoded
        self._judged[digest] = None if whole else named
        outcome = "its content is right" if whole else "it is damaged, and missing until it is pushed again"
        self._report(TreeProblem(key, "size", f"has {size} bytes, a manifest says {named}; {outcome}"))

    async def _mark_damaged(self, name: str, digest: Digest) -> None:
        named = self._judged.get(digest)
        if named is None:
            return

        async def change(transaction: Transaction, _repository_id: int) -> None:
            # With the size that it should have: its next push heals it, and so does the right file.
            if await blobs.find(transaction, digest) is not None:
                await blobs.make_ready(transaction, digest, layout.blob(digest), named, now())
                await blobs.mark_missing(transaction, digest)

        await self._change(name, change)

    async def _named_size(self, name: str, known: int, digest: Digest) -> int | None:
        """The size that a manifest of the repository gives the blob, if one names it."""
        for user in await blobs.referencing(self._database, known, digest, 1):
            row = await manifests.find_by_digest(self._database, name, Digest.parse(user))
            if row is not None:
                sizes = {r.descriptor.digest: r.descriptor.size for r in manifest.parse(row.body).references}
                return sizes.get(digest)
        return None

    async def _keep_blob(self, transaction: Transaction, digest: Digest, size: int, at: datetime) -> None:
        row = await blobs.find(transaction, digest)
        if row is None:
            await blobs.make_ready(transaction, digest, layout.blob(digest), size, at)
        elif await is_whole(self._driver, row):
            await blobs.touch(transaction, digest, now())
        elif not row.ready and row.size == size:
            await blobs.make_ready(transaction, digest, row.key, size, now())

    async def _tags(self, name: str, known: int | None) -> list[str]:
        """Take in new and moved tags; the names of rows whose link is absent."""
        # Rows before links: a push between the two changes the row, which the transaction sees.
        rows: dict[str, str] = {}
        if known is not None:
            rows = await self._all(
                lambda reader, after: tags.targets(reader, known, after, _PAGE), lambda row: row[0], lambda row: row[1]
            )
        found = await tree.links(self._driver, name, "_manifests/tags", self._report)
        for batch in _batched(list(found.values())):
            for link, content in zip(batch, await self._contents(batch), strict=True):
                before = rows.get(link.name)
                if content is None or content == before:
                    continue
                try:
                    digest = Digest.parse(content)
                except DigestInvalid:
                    if before is None:
                        self._report(TreeProblem(link.key, "link", "does not hold a digest"))
                    else:  # torn when the power went: the row knows better
                        await self._write_again(name, "tag", link.name)
                    continue
                await self._change(name, self._tag_change(name, link, before, digest))
        return [tag for tag in rows if tag not in found]

    def _tag_change(self, name: str, link: LinkFile, before: str | None, digest: Digest) -> Change:
        tag = link.name

        async def change(transaction: Transaction, repository_id: int) -> None:
            if await tags.find(transaction, name, tag) != before:
                return
            if not await self._as_it_was(transaction, name, "tag", tag, link.key):
                return
            if not await manifests.held(transaction, name, digest):
                self._later.append(TreeProblem(link.key, "tag", f"names {digest}, which the repository does not hold"))
                if before is not None:  # not ours to overwrite: another registry may know more
                    self._log.warning("a tag's link names no manifest; left alone", repository=name, tag=tag)
                return
            await tags.point(transaction, repository_id, tags.Move(name, tag, link.written_at, None), digest)
            self.read.tags_changed += 1
            if before is not None:
                message = "a tag was moved by another program; following it"
                self._log.warning(message, repository=name, tag=tag, digest=str(digest))

        return change

    async def _absent(self, name: str, kind: Kind, names: Sequence[str], seen_at: datetime | None) -> None:
        for what in names:
            key = _key(name, kind, what)
            changed = None if seen_at is None else await self._driver.changed_at(key)
            if seen_at is not None and changed is not None and changed > seen_at:
                await self._change(name, self._end_change(name, kind, what, key))
            else:
                await self._write_again(name, kind, what)

    def _end_change(self, name: str, kind: Kind, what: str, key: str) -> Change:
        async def change(transaction: Transaction, repository_id: int) -> None:
            pending = await mirror.is_pending(transaction, name, kind, what)
            if pending or await self._driver.stat(key) is not None:
                return
            if kind == "tag":
                ended = await tags.delete(transaction, repository_id, tags.Move(name, what, now(), None))
                self.read.tags_changed += ended
            elif kind == "revision":
                self.read.tags_changed += await end_manifest(transaction, (repository_id, name), Digest.parse(what))
                self.read.ended += 1
                ended = True
            else:
                ended = await blobs.unlink(transaction, repository_id, Digest.parse(what))
                self.read.ended += ended
            if ended:
                tell = self._log.warning if kind == "tag" else self._log.debug  # a folder may have had thousands
                tell("removed by another program; following it", repository=name, kind=kind, name=what)

        return change

    async def _as_it_was(self, transaction: Transaction, name: str, kind: Kind, what: str, key: str) -> bool:
        """Whether the link is still another program's word: a client's change is marked, or has taken it away."""
        if await mirror.is_pending(transaction, name, kind, what):
            return False
        return await self._driver.stat(key) is not None

    async def _write_again(self, name: str, kind: Kind, what: str) -> None:
        async def change(transaction: Transaction, _repository_id: int) -> None:
            if not await mirror.is_pending(transaction, name, kind, what):
                self._lost.append(await mirror.mark(transaction, name, kind, what, now()))

        await self._change(name, change)

    async def _contents(self, batch: Sequence[LinkFile]) -> list[str | None]:
        contents = await self._driver.read_each([link.key for link in batch], _LINK_BYTES)
        return [None if content is None else content.decode("utf-8", "replace").strip() for content in contents]

    async def _all(
        self,
        page: Callable[[Reader, str], Awaitable[list[T]]],
        key: Callable[[T], str],
        value: Callable[[T], str] = lambda _row: "",
    ) -> dict[str, str]:
        """All rows of a query by pages."""
        found: dict[str, str] = {}
        after = ""
        while rows := await self._database.scan(lambda reader, after=after: page(reader, after)):  # type: ignore[misc]
            found.update((key(row), value(row)) for row in rows)
            after = key(rows[-1])
        return found


async def end_manifest(transaction: Transaction, holder: tuple[int, str], digest: Digest) -> int:
    """Take a manifest that another program removed out of a repository, with tags on it; how many those were."""
    repository_id, name = holder
    ended = await tags.pointing_at(transaction, repository_id, digest)
    for tag in ended:
        await tags.delete(transaction, repository_id, tags.Move(name, tag, now(), None))
        await mirror.mark(transaction, name, "tag", tag, now())  # its link may be there still
    await manifests.delete(transaction, repository_id, digest)
    return len(ended)


async def _nothing(_transaction: Transaction, _repository_id: int) -> None:
    """The repository is to be known; that is all."""


async def _end_empty(transaction: Transaction, repository_id: int) -> None:
    """Nothing is left of the folder: an empty repository ends with it."""
    await repositories.delete_empty(transaction, repository_id)


def _read(link: LinkFile, body: bytes | None) -> _Manifest | TreeProblem:
    digest = Digest.parse(link.name)
    path = layout.blob(digest)
    if body is None:
        return TreeProblem(link.key, "missing", f"there is no file of the manifest {digest}")
    if len(body) > _MANIFEST_BYTES:
        return TreeProblem(path, "manifest", f"is no manifest: it has more than {_MANIFEST_BYTES} bytes")
    if Digest.of(body, digest.algorithm) != digest:
        return TreeProblem(path, "digest", "the manifest's content is not what its digest says")
    try:
        return _Manifest(link, digest, body, manifest.parse(body))
    except ManifestInvalid as error:
        return _refused(path, body, error)


def _refused(path: str, body: bytes, error: ManifestInvalid) -> TreeProblem:
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(body)
        if isinstance(document, dict):
            if document.get("schemaVersion") == 1:
                return TreeProblem(path, "schema1", "a manifest of schema version 1, which no client pulls any more")
            media_type = document.get("mediaType")
            if isinstance(media_type, str) and media_type not in MANIFEST_TYPES:
                return TreeProblem(path, "type", error.message)
    return TreeProblem(path, "manifest", error.message)


def _file(link: LinkFile) -> str:
    """Where the bytes lie that a link to a blob or manifest names."""
    return layout.blob(Digest.parse(link.name))


def _key(name: str, kind: Kind, what: str) -> str:
    if kind == "tag":
        return layout.tag_link(name, what)
    digest = Digest.parse(what)
    return layout.layer_link(name, digest) if kind == "layer" else layout.revision_link(name, digest)


def _repository(row: MirrorRow) -> str:
    return row.repository


def _batched(items: Iterable[T]) -> Iterator[list[T]]:
    remaining = iter(items)
    while batch := list(islice(remaining, _BATCH)):
        yield batch
