"""`make abuse`: every attack on a real server, and what it takes up before and after; a Markdown table.

Rounds to warm up go first, so that pools, caches and the allocator are as in use. Memory is the mean over the ends of
rounds, since the allocator gives back more or less of it; everything else is counted when the server is idle.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

from abuse.attacks import ATTACKS, NAME, Target, ask
from abuse.footprint import Footprint, growth, measure, memory_kib, table
from fuzz import vocabulary
from fuzz.serving import Registry, problems_at_the_end, serving

ROUNDS = 3
IDLE_SECONDS = 12.0  # the threads with which the server reads files end after 10


def abuse(registry: Registry, scale: float) -> tuple[Footprint, Footprint]:
    """Rounds to warm up, and rounds that count; the footprint before and after those. Raises AssertionError."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    # At full size whatever the scale: until it has been met once, memory grows from round to round.
    asyncio.run(_round(Target(registry.port, max(scale, 1.0))))
    target = Target(registry.port, scale)
    found = []
    for _ in ("before", "after"):
        memory = []
        for _ in range(ROUNDS):
            asyncio.run(_round(target))
            memory.append(memory_kib(registry))
        time.sleep(IDLE_SECONDS)
        found.append(measure(registry, sum(memory) // ROUNDS))
    return found[0], found[1]


async def _round(target: Target) -> None:
    kept = b"pushed before the attacks"
    path = f"/v2/{NAME}/blobs"
    answer = await ask(target, "POST", f"{path}/uploads/?digest={vocabulary.digest_of(kept)}", kept)
    assert answer.status == 201, answer
    for attack in ATTACKS:
        began = time.perf_counter()
        await attack(target)
        print(f"{attack.__name__}: {time.perf_counter() - began:.1f} s", file=sys.stderr)
        assert (await ask(target, "GET", f"{path}/{vocabulary.digest_of(kept)}")).body == kept, attack.__name__


def main() -> None:
    """Run it, print the table, exit 1 when something grew."""
    parser = argparse.ArgumentParser(prog="abuse", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="how many times as many clients as usual")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends, too
    with (
        tempfile.TemporaryDirectory(prefix="hatoba-abuse-") as folder,
        serving(Path(folder), sign_in=False) as registry,
    ):
        before, after = abuse(registry, options.scale)
        found = growth(before, after) + problems_at_the_end(registry)
    print(table(before, after))
    sys.exit("\n".join(found) or None)


if __name__ == "__main__":
    main()
