"""What a registry takes up, seen from outside: descriptors, threads and memory of each worker, rows, files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fuzz.serving import Registry

ROOM = 1.1  # the ten per cent


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process."""

    descriptors: int
    threads: int


@dataclass(frozen=True, slots=True)
class Footprint:
    """All of a registry. `files` are those that are neither content nor links; `memory_kib` that of all workers."""

    workers: tuple[Worker, ...]
    sessions: int
    files: int
    memory_kib: int


def measure(registry: Registry, memory_kib: int) -> Footprint:
    """The footprint now."""
    workers = tuple(_worker(Path(f"/proc/{pid}")) for pid in registry.children())
    return Footprint(workers, registry.sessions(), len(registry.leftovers()), memory_kib)


def memory_kib(registry: Registry) -> int:
    """PSS of all workers together: the kernel spreads connections unevenly over them."""
    files = (Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii") for pid in registry.children())
    return sum(int(line.split()[1]) for file in files for line in file.splitlines() if line.startswith("Pss:"))


def rss_kib(pid: int) -> int:
    """What one process has in memory, shared parts too."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))


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
    return [*found, ("memory of all workers (PSS, KiB)", before.memory_kib, after.memory_kib)]


def table(before: Footprint, after: Footprint) -> str:
    """The figures in Markdown."""
    rows = [f"| {what} | {was:,} | {now:,} |" for what, was, now in figures(before, after)]
    return "\n".join(["| what | before | after |", "|---|---|---|", *rows])


def _worker(proc: Path) -> Worker:
    return Worker(descriptors=len(list((proc / "fd").iterdir())), threads=len(list((proc / "task").iterdir())))
