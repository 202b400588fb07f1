"""Looks again and again whether the storage can be used, as `health.storagedriver` says; for health and readiness.

A disk that went read-only, was not mounted, or hangs shows here before a push fails at it. Nothing is written.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog


class StorageWatch:
    """Looks at the folder `root` every `seconds`; `threshold` bad looks in a row are a problem, one good ends it.

    `problem` says what is wrong, without naming a path, or is None.
    """

    def __init__(self, root: Path, seconds: float, threshold: int) -> None:
        self.problem: str | None = None
        self._root = root
        self._seconds = seconds
        self._threshold = threshold
        self._failures = 0
        self._look: asyncio.Future[str | None] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hatoba-watch")
        self._log = structlog.stdlib.get_logger("hatoba.storage")

    def close(self) -> None:
        """Stop looking; a look that hangs is left to itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(self._seconds)
            self.judge(await self.look())

    async def look(self) -> str | None:
        """One look; what is wrong. Waits for the disk as long as the time between two looks."""
        if self._look is None:
            self._look = asyncio.get_running_loop().run_in_executor(self._pool, problem_of, self._root)
        await asyncio.wait([self._look], timeout=self._seconds)
        if not self._look.done():
            return "the storage does not answer"  # and is not asked again before it does
        found, self._look = self._look.result(), None
        return found

    def judge(self, found: str | None) -> None:
        """Count a look and see what follows."""
        self._failures = 0 if found is None else self._failures + 1
        now = found if self._failures >= self._threshold else None
        if now != self.problem:
            if now is None:
                self._log.info("the storage can be used again")
            else:
                self._log.error(now, root=str(self._root))
        self.problem = now


def problem_of(root: Path) -> str | None:
    """What is wrong with the folder; None if it can be read and written."""
    try:
        with os.scandir(root) as entries:
            next(entries, None)
        flags = os.statvfs(root).f_flag
    except OSError as error:
        return f"the storage cannot be read: {os.strerror(error.errno or 0)}"
    if flags & os.ST_RDONLY or not os.access(root, os.W_OK):
        return "the storage cannot be written"
    return None
