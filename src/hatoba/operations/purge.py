"""Removes what nobody came back for: idle upload sessions and temporary files of a crash."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import structlog

from hatoba.blobs.driver import BlobDriver
from hatoba.errors import RegistryError
from hatoba.registry.uploads import Uploads

_FIRST_SECONDS = 3600.0  # like Docker's registry: not at once, and not all servers of a fleet together
_STALE_SECONDS = 24 * 3600.0


async def purge_uploads(
    uploads: Uploads, driver: BlobDriver, age: timedelta, interval: timedelta, *, dry_run: bool
) -> None:
    """Purge every `interval` until cancelled; several workers may run it, sessions are taken one by one."""
    log = structlog.stdlib.get_logger("hatoba.purge")
    await asyncio.sleep(random.uniform(0, min(_FIRST_SECONDS, interval.total_seconds())))  # noqa: S311
    while True:
        try:
            while ended := await uploads.purge(age, dry_run=dry_run):
                log.info("purged idle uploads", uploads=ended, dry_run=dry_run)
                if dry_run:
                    break
            await uploads.purge_files(age, dry_run=dry_run)
            await driver.stale(_STALE_SECONDS)
        except RegistryError as error:
            log.error("purging failed; trying again at the next turn", reason=str(error))
        except Exception:
            log.exception("purging failed; trying again at the next turn")
        await asyncio.sleep(interval.total_seconds())
