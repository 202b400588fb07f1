"""`hatoba backup`: a copy of a registry in another folder, made while it is served, that a hatoba can serve itself.

The order, in which the copy's database at each moment names only files that are there:
1. the database, as of one moment, beside the copy's older one; 2. the files of all its blobs, which are only ever
added; 3. in the new database every link file that differs is marked in `mirror`; 4. the new database takes the older
one's place; 5. the links are written and the marks end. Broken off before 4 the older backup is as it was; after it the
marks say what is left to do, to the next backup and to a hatoba that serves the copy.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from hatoba.blobs import copying
from hatoba.blobs.copying import Copied, Copier, Wanted
from hatoba.blobs.driver import BlobDriver
from hatoba.cancellation import in_thread, outlast
from hatoba.config.values import printable
from hatoba.db import blobs, manifests, mirror, tags
from hatoba.db.blobs import BlobRow
from hatoba.db.engine import Database, Transaction, from_micros, now
from hatoba.errors import HatobaError, RegistryError
from hatoba.oci.digest import Digest, hasher
from hatoba.operations import link_files
from hatoba.operations.backup_folder import Claim
from hatoba.operations.findings import Report
from hatoba.operations.link_files import Link
from hatoba.operations.mirror import Mirror
from hatoba.operations.progress import Progress

_PAGE = 200
_MARKS = 500
_ROUNDS = 3
OWN_FILES = ("htpasswd", "secret")  # of the folder `hatoba`, beside the database
_FIX = "run `hatoba verify`, then push it again; an older backup may have it"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the copy goes: its folder, a driver on it, and what opens databases and a mirror there."""

    root: Path
    claim: Claim
    driver: BlobDriver
    open_database: Callable[[Path], Database]
    open_mirror: Callable[[Database], Mirror]

    @property
    def own(self) -> Path:
        """The folder of the copy's databases."""
        return self.root / "hatoba"


class Backup:
    """One backup of the registry whose files are in `root` and whose rows are in `database`."""

    def __init__(self, database: Database, root: Path, destination: Destination, *, hard_links: bool) -> None:
        self._database = database
        self._root = root
        self._to = destination
        self._hard_links = hard_links
        self._new = destination.own / "metadata-new.db"
        self._current = destination.own / "metadata.db"
        self.copied = Copied()
        self.there = 0
        self.links = 0

    async def run(self, report: Report, progress: Progress) -> None:
        """Make the copy; what it lacks because the registry lacks it goes into `report`.

        Raises HatobaError when the database is damaged, the older backup holds what this one would undo (it stays, in
        both cases), or a disk fails.
        """
        progress.begin("database", None)
        await self._to.driver.stale(0)
        async with self._older() as older:
            if older is not None:
                await self._refuse_changed(older)
            with contextlib.closing(await self._copy_database(older, report, progress)) as copy:
                progress.begin("link files", None)
                await self._mark_links(copy, older, progress)
                images = await _images(copy)
        for name in OWN_FILES:
            await in_thread(None, self._copy_own, name)
        await in_thread(None, self._to.claim.expect, images)
        await in_thread(None, self._swap)
        with contextlib.closing(self._to.open_database(self._current)) as database:
            await self._write_links(database, progress)
        await in_thread(None, self._to.claim.finish, report.findings)

    async def _copy_database(self, older: Database | None, report: Report, progress: Progress) -> Database:
        """Steps 1 and 2. A blob that was collected between the two is no loss: the database is copied again."""
        for left in reversed(range(_ROUNDS)):
            progress.begin("database", None)
            self.there = 0
            await in_thread(None, _remove_database, self._new)
            await self._database.copy_to(self._new)
            copy = self._to.open_database(self._new)
            try:
                if defects := await copy.check():
                    raise HatobaError(f"the database is damaged, and is not copied: {defects[0]}")
                lost = [each async for each in self._copy_blobs(copy, older, progress)]
                if not left or not [digest for digest, _ in lost if await self._was_collected(digest)]:
                    lacking = [each for each in lost if not await self._write_manifest(copy, each[0])]
                    await _mark_missing(copy, [digest for digest, _ in lacking])
                    for digest, why in lacking:
                        report.add("blob-missing", digest, f"it is not in the backup: {why}", _FIX)
                    return copy
            except BaseException:
                copy.close()
                raise
            copy.close()
        raise AssertionError("the last round returns")

    async def _copy_blobs(
        self, copy: Database, older: Database | None, progress: Progress
    ) -> AsyncIterator[tuple[str, str]]:
        """Copy what is not there; gives the blobs that are not there afterwards either, and why."""
        progress.begin("blobs", await copy.scan(lambda reader: blobs.bytes_after(reader, "")))
        copier = Copier(self._root, self._to.root, progress.advance, hard_links=self._hard_links)
        self.copied = copier.copied
        after = ""
        while rows := await blobs.listed(copy, after, _PAGE):
            wanted: list[Wanted] = []
            for row in rows:
                if await self._is_there(row, older):
                    self.there += 1
                    progress.advance(row.size)
                elif row.ready:
                    wanted.append(Wanted(row.key, Digest.parse(row.digest), row.size))
                else:
                    yield row.digest, "the registry lacks it, too"
            for lost, why in await _stoppable(copier, wanted):
                yield str(lost.digest), why
            after = rows[-1].digest
        await in_thread(None, copying.sync, self._to.root)

    async def _is_there(self, row: BlobRow, older: Database | None) -> bool:
        """Whether the copy has the file, of the right size, and no check of the copy has found it wrong since."""
        entry = await self._to.driver.inspect(row.key)
        if entry is None or entry.kind != "file" or entry.size != row.size:
            return False
        known = None if older is None else await blobs.find(older, Digest.parse(row.digest))
        return known is None or known.ready

    async def _write_manifest(self, copy: Database, text: str) -> bool:
        """Write a manifest's file from the database, from where pulls are answered; False if it is no manifest.

        Without it whoever serves the copy would take the manifest for one that a collector removed.
        """
        digest = Digest.parse(text)
        body, row = await manifests.find_body(copy, digest), await blobs.find(copy, digest)
        if body is None or row is None or Digest.of(body, digest.algorithm) != digest:
            return False
        await self._to.driver.prepare(row.key)
        await self._to.driver.publish(await self._to.driver.stage(body), row.key)
        await copy.write(lambda transaction: blobs.make_ready(transaction, digest, row.key, len(body), now()))
        return True

    async def _was_collected(self, digest: str) -> bool:
        return await blobs.find(self._database, Digest.parse(digest)) is None

    def _copy_own(self, name: str) -> None:
        source = self._root / "hatoba" / name
        with contextlib.suppress(FileNotFoundError):
            mode = source.stat().st_mode & 0o777
            copying.replace(self._to.own / name, source.read_bytes(), mode)

    async def _mark_links(self, copy: Database, older: Database | None, progress: Progress) -> None:
        """Step 3. Raises HatobaError when another program wrote a link that step 5 would take away."""
        async for name in link_files.repository_names(copy):
            differing: list[Link] = []
            async for link, digest in link_files.rows_of(copy, name):
                progress.advance(1)
                if (wrong := await link.wrong(self._to.driver, digest)) is not None:
                    await self._refuse_foreign(link, older, *wrong)
                    differing.append(link)
                if len(differing) >= _MARKS:
                    await _mark(copy, differing)
                    differing = []
            await _mark(copy, differing)
        unnamed: list[Link] = []
        async for key in self._to.driver.walk("docker"):
            found = link_files.link_at(key)
            if found is not None and (await found.truth(copy))[0] is None:
                await self._refuse_foreign(found, older, key, await link_files.read(self._to.driver, key))
                unnamed.append(found)
            if len(unnamed) >= _MARKS:
                await _mark(copy, unnamed)
                unnamed = []
        await _mark(copy, unnamed)

    async def _refuse_foreign(self, link: Link, older: Database | None, key: str, held: str | None) -> None:
        if older is None or held is None:
            return
        true, pending = await link.truth(older)
        if held != true and not pending and await link_files.leads(older, self._to.driver, link, held):
            raise HatobaError(
                f"{printable(self._to.root / key)} was written by another program, and would be undone: choose another "
                "folder"
            )

    def _swap(self) -> None:
        """Step 4. A log that SQLite left beside either database would be taken for the new one's.

        There is none: whoever closes a database last folds its log in, and `_older` did.
        """
        for path in (self._new, self._current):
            log = path.with_name(f"{path.name}-wal")
            if log.exists() and log.stat().st_size:
                raise HatobaError(f"{log} is in the way: somebody has the backup's database open, or it is damaged")
            for rest in ("-wal", "-shm"):
                path.with_name(f"{path.name}{rest}").unlink(missing_ok=True)
        copying.rename(self._new, self._current)

    async def _write_links(self, database: Database, progress: Progress) -> None:
        """Step 5."""
        progress.begin("link files", None)
        with contextlib.closing(self._to.open_mirror(database)) as links:
            before = -1
            while (left := await links.pending(timedelta(0))) and left != before:
                before = left
                self.links += min(await links.catch_up(), left)
                await links.settle()
                progress.advance(_MARKS)
        if left:
            raise HatobaError(f"{left} link files of the backup cannot be written; a hatoba that serves it tries again")

    @contextlib.asynccontextmanager
    async def _older(self) -> AsyncIterator[Database | None]:
        """The database of the last backup, if there is one that is whole; what is damaged this backup mends."""
        if not self._current.exists():
            yield None
            return
        with contextlib.ExitStack() as stack:
            usable = None
            with contextlib.suppress(RegistryError):
                database = stack.enter_context(contextlib.closing(self._to.open_database(self._current)))
                if await database.made_at() > from_micros(0) and not await database.check():
                    usable = database
            yield usable

    async def _refuse_changed(self, older: Database) -> None:
        """Raise HatobaError when the copy holds what this backup would undo."""
        self._to.claim.check(await _images(older))
        # Moves are only ever added: those of a backup are the first of its registry's.
        last = await tags.last_move(older)
        if last is not None and not await tags.has_move(self._database, last):
            raise HatobaError(
                f"{printable(self._to.root)} knows of pushes that the registry does not: one of the two was put back "
                "to an earlier state; choose another folder"
            )


async def _images(database: Database) -> str:
    """A digest of all tags and manifests, to see whether somebody changed a copy; of layers alone nobody can pull."""
    found = hasher("sha256")
    async for name in link_files.repository_names(database):
        async for link, digest in link_files.rows_of(database, name):
            if link.kind != "layer":
                found.update(f"{name} {link.kind} {link.name} {digest}\n".encode())
    return f"sha256:{found.hexdigest()}"


async def _mark_missing(copy: Database, digests: list[str]) -> None:
    """Let the copy say what it lacks; else a file that a check of it found rotten would count as good again."""

    async def mark(transaction: Transaction) -> None:
        for digest in digests:
            await blobs.mark_missing(transaction, Digest.parse(digest))

    if digests:
        await copy.write(mark)


async def _mark(copy: Database, links: list[Link]) -> None:
    async def mark(transaction: Transaction) -> None:
        for link in links:
            await mirror.mark(transaction, link.repository, link.kind, link.name, now())

    if links:
        await copy.write(mark)


def _remove_database(path: Path) -> None:
    for rest in ("", "-wal", "-shm", "-journal"):
        path.with_name(f"{path.name}{rest}").unlink(missing_ok=True)


async def _stoppable(copier: Copier, wanted: list[Wanted]) -> list[tuple[Wanted, str]]:
    """Copy a batch on a thread; a cancelled caller stops it at its next block, and waits for that."""
    future = asyncio.get_running_loop().run_in_executor(None, copier.batch, wanted)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        copier.stop()
        await outlast(future)
        raise
