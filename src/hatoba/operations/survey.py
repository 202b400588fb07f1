"""What an operator wants to know that nobody counts: how much there is, room on the disk, what the processes take up.

Owns looking it up when somebody asks; what is counted as it happens is `metrics`' business.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

from hatoba.db import totals
from hatoba.db.engine import Database
from hatoba.errors import RegistryError
from hatoba.metrics import catalogue
from hatoba.metrics.catalogue import Metric
from hatoba.metrics.cells import Counter, Histogram

_TICK_SECONDS = 1.0


class Survey:
    """Looks at the databases, the disk of `root` (None: there is none) and the processes of one server.

    `workers` gives the ids of those that live. Made in a worker.
    """

    def __init__(
        self, database: Database, sessions: Database, root: Path | None, workers: Callable[[], list[int]]
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._root = root
        self._workers = workers
        self._parent = os.getppid()

    async def take(self) -> dict[Metric, float]:
        """Everything that can be known now: what does not answer is left out."""
        found: dict[Metric, float] = {}
        try:
            content = await self._database.scan(totals.count)
            found |= {
                catalogue.REPOSITORIES: content.repositories,
                catalogue.TAGS: content.tags,
                catalogue.MANIFESTS: content.manifests,
                catalogue.BLOBS: content.blobs,
                catalogue.BLOB_BYTES: content.blob_bytes,
                catalogue.MISSING_BLOBS: content.missing_blobs,
                catalogue.PENDING_LINKS: content.pending_links,
                catalogue.UPLOADS: await self._sessions.scan(totals.count_uploads),
            }
        except RegistryError:
            pass  # readiness says so
        return found | await asyncio.to_thread(self._look)

    def _look(self) -> dict[Metric, float]:
        workers = self._workers()
        found: dict[Metric, float] = {catalogue.WORKERS: len(workers)}
        if self._root is not None:
            try:
                disk = os.statvfs(self._root)
            except OSError:
                pass
            else:
                found[catalogue.FREE_BYTES] = disk.f_bavail * disk.f_frsize
                found[catalogue.SIZE_BYTES] = disk.f_blocks * disk.f_frsize
        return found | processes(self._parent, workers)


def processes(parent: int, workers: list[int]) -> dict[Metric, float]:
    """What a parent and its workers take up together; nothing where there is no /proc."""
    try:
        ticks = os.sysconf("SC_CLK_TCK")
        started = _stat(parent)[21]
        every = [parent, *workers]
        resident = sum(int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) for pid in every)
        opened = sum(sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()) for pid in every)
        booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, AttributeError, IndexError, ValueError):
        return {}
    return {
        catalogue.RESIDENT: resident * resource.getpagesize(),
        catalogue.OPEN_FDS: opened,
        catalogue.MAX_FDS: resource.getrlimit(resource.RLIMIT_NOFILE)[0] * len(every),
        catalogue.START_TIME: booted + int(started) / ticks,
    }


async def watch_process(delays: Histogram, cpu: Counter) -> None:
    """Measure every second how late this loop comes to its turn and what this process has used, until cancelled."""
    used = 0.0
    while True:
        due = time.perf_counter() + _TICK_SECONDS
        await asyncio.sleep(_TICK_SECONDS)
        delays.observe(max(0.0, time.perf_counter() - due))
        before, used = used, time.process_time()
        cpu.add(used - before)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat, numbered as in proc(5) but from 0; the name, which may hold anything, is one."""
    head, _, rest = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")
    number, _, name = head.partition(" ")
    return [number, name, *rest.split()]
