"""Lets rows follow what a garbage collection by Docker's registry took away: blobs whose files are gone.

It removes a blob's folder, so that the folder above has changed since hatoba last looked: only those are searched. A
file that went without such a trace was lost; that is found when somebody asks for it, or by checking everything.
"""

from __future__ import annotations

from datetime import datetime

import structlog

from hatoba.blobs import layout
from hatoba.blobs.driver import BlobDriver
from hatoba.db import blobs, manifests, mirror
from hatoba.db import tree as tree_rows
from hatoba.db.blobs import BlobRow
from hatoba.db.engine import Database, Transaction, now
from hatoba.oci.digest import Digest
from hatoba.operations.adoption import end_manifest

_PAGE = 500


async def follow_vanished(database: Database, driver: BlobDriver, seen_at: datetime) -> int:
    """End the rows of blobs whose files were removed since `seen_at`; how many blobs that were."""
    gone = 0
    for algorithm in await driver.children(layout.BLOBS):
        folder = f"{layout.BLOBS}/{algorithm.name}"
        for child in await driver.children(folder):
            changed = await driver.changed_at(f"{folder}/{child.name}")
            if changed is not None and changed > seen_at:
                gone += await _search(database, driver, f"{algorithm.name}:{child.name}")
    return gone


async def _search(database: Database, driver: BlobDriver, first: str) -> int:
    gone, after = 0, ""
    while rows := await database.scan(lambda reader, after=after: blobs.listed(reader, after, _PAGE, first)):  # type: ignore[misc]
        absent = [row for row in rows if await driver.stat(row.key) is None]
        if absent:
            gone += await database.write(lambda transaction, absent=absent: _end(transaction, driver, absent))  # type: ignore[misc]
        after = rows[-1].digest
    return gone


async def _end(transaction: Transaction, driver: BlobDriver, rows: list[BlobRow]) -> int:
    gone = 0
    for row in rows:
        if await driver.stat(row.key) is None:  # else pushed meanwhile
            gone += await _end_blob(transaction, row)
    return gone


async def _end_blob(transaction: Transaction, row: BlobRow) -> bool:
    """Whether anything was left to end."""
    log = structlog.stdlib.get_logger("hatoba.vanished")
    digest = Digest.parse(row.digest)
    for holder in await manifests.holders(transaction, digest):
        await tree_rows.count(transaction, 0, 0, await end_manifest(transaction, holder, digest))
        await mirror.mark(transaction, holder[1], "revision", row.digest, now())
        log.warning("a manifest's file was removed by another program", repository=holder[1], digest=row.digest)
    await manifests.forget_body(transaction, digest)
    used = False
    for repository_id, name in await blobs.readers(transaction, digest):
        if await blobs.referencing(transaction, repository_id, digest, 1):
            used = True
        else:
            await blobs.unlink(transaction, repository_id, digest)
            await mirror.mark(transaction, name, "layer", row.digest, now())
    if not used:
        await blobs.forget(transaction, digest)
    elif await blobs.mark_missing(transaction, digest):
        log.error("the file of a blob in use is gone; its next push heals it", digest=row.digest)
    return not used
