"""What a registry takes up, seen from outside: descriptors, threads and memory of each worker, rows, files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fuzz.serving import Registry

ROOM = 1.1  # the ten per cent


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process."""

    descriptors: int
    threads: int
    pss_kib: int


@dataclass(frozen=True, slots=True)
class Footprint:
    """All of a registry at one moment. `files` are those that are neither content nor links."""

    workers: tuple[Worker, ...]
    sessions: int
    files: int


def measure(registry: Registry) -> Footprint:
    """The footprint now."""
    workers = tuple(_worker(Path(f"/proc/{pid}")) for pid in registry.children())
    return Footprint(workers, registry.sessions(), len(registry.leftovers()))


def growth(before: Footprint, after: Footprint) -> list[str]:
    """What is over its room afterwards; nothing when all is as before."""
    rows = figures(before, after)
    return [f"{what}: {was} before, {now} after" for what, was, now in rows if now > int(was * ROOM)]


def figures(before: Footprint, after: Footprint) -> list[tuple[str, int, int]]:
    """Every figure by name, before and after."""
    found = [("upload sessions", before.sessions, after.sessions), ("temporary files", before.files, after.files)]
    for number, (was, now) in enumerate(zip(before.workers, after.workers, strict=True), 1):
        found += [
            (f"worker {number}: open files", was.descriptors, now.descriptors),
            (f"worker {number}: threads", was.threads, now.threads),
        ]
    # Of all together: the kernel spreads connections unevenly, and an allocator keeps what a worker needed once.
    return [*found, ("memory of all workers (PSS, KiB)", *(sum(w.pss_kib for w in f.workers) for f in (before, after)))]


def table(before: Footprint, after: Footprint) -> str:
    """The figures in Markdown."""
    rows = [f"| {what} | {was:,} | {now:,} |" for what, was, now in figures(before, after)]
    return "\n".join(["| what | before | after |", "|---|---|---|", *rows])


def _worker(proc: Path) -> Worker:
    memory = re.search(r"^Pss:\s+(\d+) kB", (proc / "smaps_rollup").read_text(encoding="ascii"), re.MULTILINE)
    return Worker(
        descriptors=len(list((proc / "fd").iterdir())),
        threads=len(list((proc / "task").iterdir())),
        pss_kib=int(memory[1]) if memory else 0,
    )
