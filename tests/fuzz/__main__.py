"""`make fuzz`: a million requests, most of them wrong, at a real server; each answer is judged.

Prints what was wrong with the bytes that were sent, and one line of summary; exit code 1 for a violation.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import multiprocessing
import signal
import sys
import tempfile
import time
from pathlib import Path

from fuzz import journeys
from fuzz.client import Client, Report
from fuzz.serving import Registry, problems_at_the_end, serving

PROCESSES = 2
CLIENTS = 8  # a process
CANARIES = 12
_CANARY = -1


def work(port: int, seed: int, process: int, requests: int) -> Report:
    """The clients of one process."""

    async def together() -> Report:
        clients = [Client(port, seed, process * CLIENTS + number) for number in range(CLIENTS)]
        await asyncio.gather(*(client.run(requests // CLIENTS) for client in clients))
        total = Report()
        for client in clients:
            total.add(client.report)
        return total

    return asyncio.run(together())


async def push_canaries(client: Client) -> None:
    """Images that nobody touches during the run."""
    for _ in range(CANARIES):
        await client.journey(journeys.push_image(client.model))
    await client.close()


async def look_at_canaries(client: Client) -> None:
    """They must come back byte for byte."""
    await client.journey(journeys.everything(client.model))
    await client.close()


def run(registry: Registry, requests: int, seed: int) -> Report:
    """All requests, and everything that must hold afterwards."""
    canary = Client(registry.port, seed, _CANARY)
    asyncio.run(push_canaries(canary))
    total = Report()
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        jobs = [pool.submit(work, registry.port, seed, process, requests // PROCESSES) for process in range(PROCESSES)]
        for job in jobs:
            total.add(job.result())
    asyncio.run(look_at_canaries(canary))
    total.add(canary.report)
    total.violations += problems_at_the_end(registry)
    return total


def summary(report: Report, seed: int, workers: int, seconds: float) -> str:
    """The line for docs/benchmarks.md."""
    classes = [
        (f"{kind}xx", sum(n for status, n in report.answers.items() if status // 100 == kind)) for kind in range(2, 6)
    ]
    told = ", ".join(f"{name} {number}" for name, number in [*classes, ("closed", report.answers[0])])
    return (
        f"fuzz: {report.sent} requests, {len(report.violations)} violations, seed {seed}, {workers} workers, "
        f"{seconds:.0f} s ({report.sent / seconds:.0f}/s); answers: {told}"
    )


def main() -> None:
    """Start, send, judge, say."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("-n", type=int, default=20_000, help="how many requests")
    parser.add_argument("--seed", type=int, default=1, help="what the requests are made from")
    parser.add_argument("--workers", type=int, default=2, help="the server's workers")
    parser.add_argument("--root", type=Path, help="where the data goes, default a temporary folder")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends, too
    with (
        tempfile.TemporaryDirectory(prefix="hatoba-fuzz-", dir=options.root) as folder,
        serving(Path(folder), options.workers) as registry,
    ):
        began = time.perf_counter()
        report = run(registry, options.n, options.seed)
        seconds = time.perf_counter() - began
    for told in report.violations:
        print(told, file=sys.stderr)
    print(summary(report, options.seed, options.workers, seconds))
    sys.exit(1 if report.violations else 0)


if __name__ == "__main__":
    main()
