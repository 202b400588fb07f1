"""`hatoba verify`: database, manifests, links, files and at last every byte, beside a running server or without one.

Owns the order, the rate and how an interrupted check goes on: only the reading of all bytes does, the rest is quick and
done anew. How far it came is a file of its own, `<root>/hatoba/verify.json`: a row would empty the workers' caches at
every step, and losing the file costs nothing but time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import structlog

from hatoba.blobs.driver import BlobDriver
from hatoba.db import blobs, manifests, mirror, repositories
from hatoba.db.engine import Database, Reader, Transaction, now
from hatoba.db.mirror import MirrorRow
from hatoba.errors import HatobaError, InsufficientStorage, RegistryError
from hatoba.oci import manifest
from hatoba.oci.digest import Digest
from hatoba.oci.manifest import ParsedManifest
from hatoba.operations import link_files, lock_file
from hatoba.operations.blob_check import BlobCheck
from hatoba.operations.findings import Report
from hatoba.operations.link_check import LinkCheck
from hatoba.operations.mirror import Mirror
from hatoba.operations.progress import Progress

_PAGE = 200
_SAVE_SECONDS = 2.0
_BURST_SECONDS = 1.0


class Pace:
    """Lets at most `rate` bytes a second pass; 0: as many as come."""

    def __init__(self, rate: int, progress: Progress) -> None:
        self._rate = rate
        self._progress = progress
        self._free_at = 0.0

    async def __call__(self, length: int) -> None:
        """`length` bytes were read: wait until the next may be."""
        self._progress.advance(length)
        if not self._rate:
            return
        at = time.monotonic()
        self._free_at = max(self._free_at, at - _BURST_SECONDS) + length / self._rate
        if self._free_at > at:
            await asyncio.sleep(self._free_at - at)


class Verification:
    """One check of a registry. `own` is the folder `<root>/hatoba`, `sessions` None where there are no uploads."""

    def __init__(
        self,
        database: Database,
        sessions: Database | None,
        driver: BlobDriver,
        links: Mirror,
        own: Path,
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._driver = driver
        self._links = links
        self._own = own
        self._position = own / "verify.json"
        self._unsaved = False

    async def run(self, report: Report, progress: Progress, rate: int, *, fix: bool, restart: bool) -> None:
        """Check everything into `report`; raises HatobaError when another check runs or a database cannot be read.

        `rate` is in bytes a second, 0 for no bound. Cancelled, it can go on later where it was.
        """
        with lock_file.held(self._own / "locks" / "verify") as ours:
            if not ours:
                raise HatobaError("another `hatoba verify` is at work on this registry")
            if fix:
                with contextlib.suppress(InsufficientStorage):
                    await self._links.catch_up()
            progress.begin("database", None)
            await self._check_databases(report)
            pace = Pace(rate, progress)
            check = BlobCheck(self._database, self._driver, report, pace, fix=fix)
            progress.begin("manifests", None)
            await self._check_manifests(check, report, fix=fix)
            links = LinkCheck(self._database, self._sessions, self._driver, self._links, report, progress, fix=fix)
            progress.begin("links", None)
            await self._each_repository(links.repository)
            progress.begin("files", None)
            await links.files()
            await links.sessions()
            if fix:
                with contextlib.suppress(InsufficientStorage):  # they stay marked
                    await self._links.settle()
            report.pending = await self._links.pending(timedelta(0))
            await self._check_blobs(check, progress, restart=restart)

    async def started_at(self) -> str | None:
        """The digest after which an interrupted check goes on; None for from the beginning."""
        return await asyncio.to_thread(self._load)

    async def _check_databases(self, report: Report) -> None:
        for name, database in (("metadata", self._database), ("uploads", self._sessions)):
            for defect in [] if database is None else await database.check():
                fix = "restore it from a backup, or rebuild it with `hatoba import`"
                if name == "uploads":
                    fix = "stop the server and remove uploads.db: unfinished uploads begin anew"
                report.add("database-damaged", f"{name}.db", defect, fix)

    async def _check_manifests(self, check: BlobCheck, report: Report, *, fix: bool) -> None:
        after = ""
        while page := await manifests.with_body(self._database, after, _PAGE):
            for digest in page:
                await check.manifest(digest)
            after = page[-1]
        references = _References(self._database, self._links, report, fix=fix)
        await self._each_repository(references.repository)

    async def _each_repository(self, look: Callable[[str], Awaitable[None]]) -> None:
        async for name in link_files.repository_names(self._database):
            await look(name)

    async def _check_blobs(self, check: BlobCheck, progress: Progress, *, restart: bool) -> None:
        """Every blob in the order of digests; up to where an interrupted check came only sizes are compared."""
        begin = "" if restart else await self.started_at() or ""
        progress.begin("blobs", await self._database.scan(lambda reader: blobs.bytes_after(reader, begin)))
        after, done, saved_at = "", "", time.monotonic()
        try:
            while rows := await blobs.listed(self._database, after, _PAGE):
                for row in rows:
                    await check.blob(row.digest, hashing=row.digest > begin)
                    done = row.digest
                    if time.monotonic() - saved_at > _SAVE_SECONDS:
                        await asyncio.to_thread(self._save, max(done, begin))
                        saved_at = time.monotonic()
                after = rows[-1].digest
        except BaseException:
            await asyncio.to_thread(self._save, max(done, begin))
            raise
        await asyncio.to_thread(self._save, "")

    def _load(self) -> str | None:
        try:
            return str(Digest.parse(json.loads(self._position.read_text("utf-8"))["after"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RegistryError):
            return None

    def _save(self, after: str) -> None:
        """Keep how far the check came, if that can be: a full disk is no reason not to look at the rest."""
        try:
            if after:
                temporary = self._position.with_suffix(".new")
                temporary.write_text(json.dumps({"after": after}) + "\n", "utf-8")
                temporary.replace(self._position)
            else:
                self._position.unlink(missing_ok=True)
        except OSError as error:
            if not self._unsaved:
                log = structlog.stdlib.get_logger("hatoba.verify")
                log.error("how far the check came cannot be kept; going on", reason=str(error))
            self._unsaved = True


class _References:
    """Looks for manifests that name a config or layer which their repository does not hold."""

    def __init__(self, database: Database, links: Mirror, report: Report, *, fix: bool) -> None:
        self._database = database
        self._links = links
        self._report = report
        self._fix = fix

    async def repository(self, name: str) -> None:
        """Look at the manifests of one repository, in pages that are each one snapshot."""
        repository_id = await repositories.find(self._database, name)
        after = ""
        while repository_id is not None:
            page = await self._database.scan(
                lambda reader, after=after: manifests.unlinked(reader, repository_id, after, _PAGE)  # type: ignore[misc]
            )
            if not page:
                return
            for digest in page:
                await self._manifest(name, repository_id, Digest.parse(digest))
            after = page[-1]

    async def _manifest(self, name: str, repository_id: int, digest: Digest) -> None:
        async def look(reader: Reader) -> list[Digest]:
            body = await manifests.find_body(reader, digest)
            if body is None or not await manifests.held(reader, name, digest):
                return []
            return [blob for blob in _required(body) if await blobs.find_linked(reader, name, blob) is None]

        async def link(transaction: Transaction) -> tuple[list[Digest], list[MirrorRow]]:
            at = now()
            lost = await look(transaction)  # again: it may have been deleted meanwhile, or pushed
            there = [blob for blob in lost if await blobs.touch(transaction, blob, at)]
            for blob in there:
                await blobs.link(transaction, repository_id, blob, at)
            return lost, [await mirror.mark(transaction, name, "layer", str(blob), at) for blob in there]

        lost, marks = await self._database.scan(look), list[MirrorRow]()
        if lost and self._fix:
            with contextlib.suppress(InsufficientStorage):
                lost, marks = await self._database.write(link)
            await self._links.write(marks)
        linked = {mark.name for mark in marks}
        for blob in lost:
            mended = str(blob) in linked
            fix = "push the image again; verify --fix does if the blob is there"
            meaning = f"it names {blob}, which the repository does not hold"
            self._report.add(
                "reference-missing", f"{name}@{digest}", meaning, "mended: it holds it again" if mended else fix,
                mended=mended,
            )  # fmt: skip


def _required(body: bytes) -> list[Digest]:
    """The configs and layers that a manifest's repository must hold; of what cannot be read, none."""
    try:
        parsed: ParsedManifest = manifest.parse(body)
    except RegistryError:
        return []
    found = (r.descriptor.digest for r in parsed.references if r.required and r.kind != "manifest")
    return list(dict.fromkeys(found))
