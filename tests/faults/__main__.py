"""`make faults`: proof that nothing is lost. N cases, each a registry that is struck in one way and judged afterwards.

Most lose power at some event of a recorded run; others die or fail at a step, or are killed as a real server. Prints
each violation with the name of its case, which `--case NAME` runs alone, and a summary; exit code 1 for a violation.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from faults import power, servers, upsets
from faults.interception import Interception
from faults.judging import judge
from faults.lives import Told
from faults.registry import Place

# How many of a hundred cases. A process that dies costs ten times as much as a loss of power, a real server a hundred.
SHARES = {"power": 77, "dying": 10, "failing": 9, "clock": 2, "busy": 1, "killing": 1}
WORDS = {
    "power": "power lost", "dying": "died at a step", "failing": "disk failed", "clock": "clock set",
    "busy": "database busy", "killing": "server killed",
}  # fmt: skip
_A_RUN = 40  # states tried of one recorded run
_CASE_SECONDS = 120
_SHM = Path("/dev/shm")  # noqa: S108  no case needs a disk that lasts
_SHM_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Batch:
    """Cases `first` to `last` of one kind; of a recorded run if the kind is power, maybe `without` an fsync."""

    kind: str
    seed: int
    first: int
    last: int
    without: str = ""


def until_seen(place: str, folder: Path, kept: Path, total: Total) -> None:
    """Losses of power without the fsyncs of one place until one is seen, or far more than that takes."""
    for number in range(2, 14):  # the first two have databases elsewhere, where fewer fsyncs cover for others
        if not total.violations:
            total.add(*run(Batch("power", number, 0, _A_RUN - 1, place), folder, kept))


def batches(number: int, seed: int) -> list[Batch]:
    """Together so many cases, mixed: whoever ends a long run early has had some of each."""
    counts = {kind: number * share // 100 for kind, share in SHARES.items()}
    counts["power"] += number - sum(counts.values())
    chosen = [Batch(kind, seed, case, case) for kind in SHARES if kind != "power" for case in range(counts[kind])]
    for run_, first in enumerate(range(0, counts["power"], _A_RUN)):
        chosen.append(Batch("power", 1000 * seed + run_, 0, min(_A_RUN, counts["power"] - first) - 1))
    random.Random(seed).shuffle(chosen)
    return chosen


@dataclass(slots=True)
class Total:
    """What was done so far."""

    cases: Counter[str] = field(default_factory=Counter)
    violations: int = 0

    def add(self, batch: Batch, problems: list[str]) -> None:
        """A batch is through."""
        self.cases[batch.kind] += batch.last - batch.first + 1
        self.violations += len(problems)
        for problem in problems:
            print(problem, file=sys.stderr, flush=True)


def run(batch: Batch, folder: Path, kept: Path) -> tuple[Batch, list[str]]:
    """Go through a batch, in a process that does nothing else; what was wrong."""
    global _interception  # noqa: PLW0603  one a process
    _interception = _interception or Interception()
    signal.alarm(_CASE_SECONDS * (batch.last - batch.first + 1))
    scratch = Path(tempfile.mkdtemp(prefix=f"{batch.kind}-", dir=folder))
    try:
        if batch.kind == "power":
            found = asyncio.run(_lose_power(batch, scratch, kept))
        else:
            found = _strike(batch, scratch, kept)
    except Exception as error:  # noqa: BLE001  a case that cannot be made is no success
        found = [f"case {batch.kind}:{batch.seed}:{batch.first}: {error!r}"]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        signal.alarm(0)
    return batch, found


_interception: Interception | None = None


async def _lose_power(batch: Batch, scratch: Path, kept: Path) -> list[str]:
    assert _interception is not None
    disk, copy = scratch / "disk", scratch / "copy"
    disk.mkdir()
    copy.mkdir()
    recording = await power.record(_interception, disk, batch.seed, batch.without)
    unseen = [] if batch.without else power.seen_all(recording, copy)
    found = [f"run {batch.seed} was not seen whole: {path}" for path in unseen[:3]]
    async for problem in power.cut(recording, batch.seed, range(batch.first, batch.last + 1), scratch, kept):
        found.append(problem)
        if batch.without:
            break
    return found


def _strike(batch: Batch, scratch: Path, kept: Path) -> list[str]:
    assert _interception is not None
    name = f"{batch.kind}:{batch.seed}:{batch.first}"
    place = Place(scratch / "disk", apart=batch.first % 4 == 0)
    place.disk.mkdir()
    if batch.kind == "killing":
        told = servers.killing(place, name)
    else:
        told = getattr(upsets, batch.kind)(_interception, place, name)
        _interception.watch("", None)
    problems = list(told.problems)
    if told.signal not in {0, signal.SIGKILL}:
        problems.append(f"ended by signal {told.signal}")
    problem = asyncio.run(_judged(place, told, sessions_last=batch.kind not in {"failing", "clock"}))
    problems += [problem] if problem else []
    if problems:
        shutil.copytree(scratch, kept / name.replace(":", "-"), dirs_exist_ok=True)
    return [f"case {name} ({', '.join(told.notes)}): {problem}; what is left: {kept}" for problem in problems]


async def _judged(place: Place, told: Told, *, sessions_last: bool) -> str | None:
    try:
        await judge(place, told.known, sessions_last=sessions_last)
    except Exception as error:  # noqa: BLE001  whatever it is, it is this case's
        return repr(error)
    return None


def campaign(chosen: list[Batch], processes: int, folder: Path, kept: Path, total: Total) -> None:
    """Every batch, several at a time."""
    context = multiprocessing.get_context("fork")
    with context.Pool(processes, signal.signal, (signal.SIGTERM, signal.SIG_DFL)) as pool:
        for job in [pool.apply_async(run, (batch, folder, kept)) for batch in chosen]:
            total.add(*job.get())


def summary(total: Total, seed: int, processes: int, seconds: float) -> str:
    """The line for docs/benchmarks.md."""
    told = ", ".join(f"{word} {total.cases[kind]}" for kind, word in WORDS.items())
    return (
        f"faults: {total.cases.total()} cases, {total.violations} violations, seed {seed}, {processes} processes, "
        f"{seconds:.0f} s; {told}"
    )


def main() -> None:
    """Strike, judge, say."""
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    parser.add_argument("-n", type=int, default=200, help="how many cases")
    parser.add_argument("--seed", type=int, default=1, help="what they are made from")
    parser.add_argument("--case", help="this one alone, as a violation names it")
    parser.add_argument(
        "--without", help="an fsync of the code that is left out, as FILE:LINE; a violation must be seen"
    )
    parser.add_argument("--processes", type=int, default=2, help="how many cases at a time")
    parser.add_argument("--root", type=Path, help="where registries lie, default in memory if there is room")
    options = parser.parse_args()
    chosen = batches(options.n, options.seed)
    if options.case:
        kind, seed, case = options.case.split(":")
        chosen = [Batch(kind, int(seed), int(case), int(case))]
    where = options.root or (_SHM if _SHM.is_dir() and shutil.disk_usage(_SHM).free > _SHM_BYTES else None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    kept = Path(tempfile.mkdtemp(prefix="hatoba-faults-kept-", dir=where))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="hatoba-faults-", dir=where) as folder:
        total = Total()
        try:
            if options.without:
                until_seen(options.without, Path(folder), kept, total)
            else:
                campaign(chosen, options.processes, Path(folder), kept, total)
        finally:  # also of what was done until somebody ended it
            print(summary(total, options.seed, options.processes, time.perf_counter() - began))
    if not total.violations or options.without:
        shutil.rmtree(kept)
    sys.exit(1 if total.violations else 0)


if __name__ == "__main__":
    main()
