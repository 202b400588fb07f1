"""Keeps distribution's link files true to the rows, so that Docker's registry can read the tree on any day.

A mirror row names a link, never its content: under the repository's lock the truth is read and the link written or
removed, so links converge in whatever order workers run. Fsync and the row's end come in groups, off the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import structlog

from hatoba.blobs import layout
from hatoba.blobs.driver import BlobDriver, KeyMissing
from hatoba.cancellation import outlast
from hatoba.db import blobs, manifests, mirror, tags, tree
from hatoba.db.engine import Database, Transaction, now
from hatoba.db.mirror import MirrorRow
from hatoba.errors import RegistryError
from hatoba.oci.digest import Digest

_SETTLE_SECONDS = 1.0
_LEFTOVER_AGE = timedelta(seconds=10)  # younger marks are another request's, about to be written
_STUCK_SECONDS = 10.0
_BATCH = 500
_LOCKS = 64
# KeyMissing: a file stands where a folder should be; OSError: so too, or a lock's file cannot be opened.
_FAILURES = (RegistryError, KeyMissing, OSError)


class Mirror:
    """`registry.ports.Links`, plus the background work that makes links durable and catches up."""

    def __init__(self, database: Database, driver: BlobDriver, locks: Path, *, sees: bool = True) -> None:
        """Whoever `sees` says with each settling that the whole tree is as the rows say."""
        self._sees = sees
        self._database = database
        self._driver = driver
        self._locks = locks
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="hatoba-mirror")
        self._written: dict[MirrorRow, list[str]] = {}
        self._framed: set[str] = set()
        self._stuck: dict[MirrorRow, float] = {}  # when to try again
        self._log = structlog.stdlib.get_logger("hatoba.mirror")

    async def write(self, rows: Sequence[MirrorRow]) -> None:
        """See `Links.write`."""
        if not rows:
            return
        repository = rows[0].repository
        failed: list[Exception] = []
        try:
            async with self.locked(repository):
                for row in rows:
                    try:
                        self._written[row] = await self._make_true(row)
                    except _FAILURES as error:  # the others need not wait for this one
                        self._stuck[row] = time.monotonic() + _STUCK_SECONDS
                        failed.append(error)
        except _FAILURES as error:
            failed.append(error)
        if failed:
            message = "link files cannot be written; they stay pending"
            self._log.error(message, repository=repository, links=len(failed), reason=str(failed[0]))

    async def run(self) -> None:
        """Settle what was written and write what was left, until cancelled."""
        while True:
            await asyncio.sleep(_SETTLE_SECONDS)
            try:
                await self.catch_up(_LEFTOVER_AGE, again=False)
                await self.settle()
            except _FAILURES as error:
                self._log.error("link files are not settled; trying again", reason=str(error))

    async def catch_up(self, age: timedelta = timedelta(0), *, again: bool = True) -> int:
        """Write the links of marks older than `age`, left by a crash or an error; how many there were.

        Without `again` those that failed a moment ago wait, so that one broken folder neither fills the log nor stops
        the others.
        """
        rows = await mirror.pending(self._database, now(), age, _BATCH + len(self._stuck))
        self._stuck = {row: until for row, until in self._stuck.items() if until > time.monotonic() and not again}
        due = [row for row in rows if row not in self._written and row not in self._stuck]
        if due:
            due = await self._taken_over(due)
        for _, group in itertools.groupby(sorted(due, key=_repository), key=_repository):
            await self.write(list(group))
        return len(rows)

    async def _taken_over(self, rows: Sequence[MirrorRow]) -> list[MirrorRow]:
        """The marks that are ours now: whoever wrote these links may be alive, only slow.

        They would fsync the link before it is written again, and end the mark after that: a power loss could then leave
        an empty link that nothing marks.
        """

        async def renew(transaction: Transaction) -> list[MirrorRow]:
            return [renewed for row in rows if (renewed := await mirror.renew(transaction, row)) is not None]

        return await self._database.write(renew)

    async def settle(self) -> None:
        """Make written links durable, then end their marks; a mark made again meanwhile stays."""
        batch, self._written = self._written, {}
        if not batch:
            return
        try:
            await self._driver.sync_links([key for keys in batch.values() for key in keys])

            async def end(transaction: Transaction) -> None:
                for row in batch:
                    await mirror.settle(transaction, row)
                if self._sees:
                    await tree.see(transaction, now())

            await self._database.write(end)
        except BaseException:
            self._written = {**batch, **self._written}
            raise

    async def pending(self, age: timedelta) -> int:
        """How many links are overdue: readiness shows it."""
        return await mirror.count(self._database, now(), age)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True)

    @contextlib.asynccontextmanager
    async def locked(self, repository: str) -> AsyncIterator[None]:
        """The repository's lock, over all workers. Held for a few small files; never while waiting for a client."""
        number = hashlib.blake2b(repository.encode(), digest_size=2).digest()[0] % _LOCKS
        with (self._locks / f"mirror-{number:02d}").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await self._wait_for(file)
            yield

    async def _make_true(self, row: MirrorRow) -> list[str]:
        """Read the truth now and let the link say it; the keys that changed."""
        await self._frame(row.repository)
        if row.kind == "tag":
            return await self._make_tag_true(row)
        digest = Digest.parse(row.name)
        if row.kind == "layer":
            key = layout.layer_link(row.repository, digest)
            true = await blobs.find_linked(self._database, row.repository, digest) is not None
        else:
            key = layout.revision_link(row.repository, digest)
            true = await manifests.held(self._database, row.repository, digest)
        if true:
            await self._driver.write_link(key, str(digest).encode())
        else:
            await self._driver.remove(key)
        return [key]

    async def _make_tag_true(self, row: MirrorRow) -> list[str]:
        found = await tags.find(self._database, row.repository, row.name)
        if found is None:
            folder = layout.tag(row.repository, row.name)
            await self._driver.remove_tree(folder)
            return [folder]
        # Distribution's order: the index entry first, then what the tag names now.
        keys = [layout.tag_index_link(row.repository, row.name, Digest.parse(found))]
        keys.append(layout.tag_link(row.repository, row.name))
        for key in keys:
            await self._driver.write_link(key, found.encode())
        return keys

    async def _frame(self, repository: str) -> None:
        """Both folders from the first link on: Docker's collector empties a repository that has no _layers."""
        if repository not in self._framed:
            await self._driver.make_folder(layout.layers(repository))
            await self._driver.make_folder(layout.manifests(repository))
            if len(self._framed) > 10 * _BATCH:
                self._framed.clear()
            self._framed.add(repository)

    async def _wait_for(self, file: BinaryIO) -> None:
        waiting = asyncio.get_running_loop().run_in_executor(self._pool, fcntl.flock, file, fcntl.LOCK_EX)
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError:
            await outlast(waiting)  # the file must stay open as long as a thread waits on it
            raise


def _repository(row: MirrorRow) -> str:
    return row.repository
