"""Looks every minute whether the file of a blob that was found missing is back, and lets the blob be read again if so.

Files go and come back when a disk is not mounted in time, or when somebody restores them from a backup. A pushed blob
is healed at once; this is for those that nobody pushes. What comes back is hashed before it counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import time
from pathlib import Path

import structlog

from hatoba.blobs.driver import BlobDriver, KeyMissing
from hatoba.db import blobs
from hatoba.db.blobs import BlobRow
from hatoba.db.engine import Database, Transaction, now
from hatoba.errors import RegistryError
from hatoba.oci.digest import Digest
from hatoba.registry.intake import read_back

_SECONDS = 60.0
_WRONG_SECONDS = 600.0  # a file that is not what its name says, or cannot be read, is looked at again only then
_PAGE = 200


async def heal_missing(database: Database, driver: BlobDriver, locks: Path) -> None:
    """Look every minute, by one worker, until cancelled."""
    log = structlog.stdlib.get_logger("hatoba.heal")
    healing = Healing(database, driver)
    with (locks / "heal").open("ab") as file:
        while True:
            await asyncio.sleep(_SECONDS)
            try:
                # Tried anew each time: the worker that looked until now may have ended.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                await healing.turn()
            except BlockingIOError:
                continue
            except RegistryError as error:
                log.error("looking for missing blobs failed; trying again", reason=str(error))


class Healing:
    """One look after the other at all missing blobs."""

    def __init__(self, database: Database, driver: BlobDriver) -> None:
        self._database = database
        self._driver = driver
        self._wrong: dict[str, float] = {}  # digest: when to hash its file again
        self._log = structlog.stdlib.get_logger("hatoba.heal")

    async def turn(self) -> int:
        """Look at every missing blob once; how many may be read again."""
        healed, after = 0, ""
        self._wrong = {digest: until for digest, until in self._wrong.items() if until > time.monotonic()}
        while rows := await blobs.missing(self._database, after, _PAGE):
            for row in rows:
                healed += await self._look(row)
                await asyncio.sleep(0)
            after = rows[-1].digest
        return healed

    async def _look(self, row: BlobRow) -> bool:
        """Whether the blob may be read again; one that cannot be looked at does not stop the others."""
        try:
            there = row.digest not in self._wrong and await self._driver.stat(row.key) == row.size
            return there and await self._heal(row)
        except RegistryError as error:
            self._wrong[row.digest] = time.monotonic() + _WRONG_SECONDS
            self._log.error("a missing blob cannot be looked at", digest=row.digest, reason=error.message)
            return False

    async def _heal(self, row: BlobRow) -> bool:
        digest = Digest.parse(row.digest)
        entry = await self._driver.inspect(row.key)
        try:
            with contextlib.closing(await self._driver.open(row.key)) as reader:
                found = await read_back(reader, row.size, digest.algorithm)
        except KeyMissing:
            return False
        if found != digest.encoded:
            self._wrong[row.digest] = time.monotonic() + _WRONG_SECONDS
            self._log.error("a blob's file came back with other content; its next push heals it", digest=row.digest)
            return False

        async def mark(transaction: Transaction) -> bool:
            current = await blobs.find(transaction, digest)
            if current != row or await self._driver.inspect(row.key) != entry:  # not the file that was read
                return False
            await blobs.make_ready(transaction, digest, row.key, row.size, now())
            return True

        healed = await self._database.write(mark)
        if healed:
            self._log.warning("a blob's file is back and whole; it can be read again", digest=row.digest)
        return healed
