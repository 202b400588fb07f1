"""`make abuse`: after every attack the registry takes up what it did before; and growth is seen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from abuse.footprint import Footprint, Worker, figures, growth, table

SCALE = 1.0 if os.environ.get("REQUIRE_ALL") == "1" else 0.2
IDLE = (Worker(40, 30), Worker(40, 30))
BEFORE = Footprint(IDLE, 0, 0, 100_000)


@pytest.mark.timeout(1200)
def test_nothing_is_left_of_abuse(e2e):
    done = subprocess.run(
        [sys.executable, "-m", "abuse", "--scale", str(SCALE)],
        cwd=Path(__file__).parents[1], text=True, capture_output=True, check=False, env=e2e.clean_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-20_000:]
    assert "| worker 2: open files |" in done.stdout


@pytest.mark.parametrize(
    ("after", "what"),
    [
        (Footprint((Worker(45, 30), IDLE[1]), 0, 0, 100_000), "worker 1: open files: 40 before, 45 after"),
        (Footprint((IDLE[0], Worker(40, 34)), 0, 0, 100_000), "worker 2: threads: 30 before, 34 after"),
        (Footprint(IDLE, 0, 0, 110_001), "memory of all workers (PSS, KiB): 100000 before, 110001 after"),
        (Footprint(IDLE, 1, 0, 100_000), "upload sessions: 0 before, 1 after"),
        (Footprint(IDLE, 0, 1, 100_000), "temporary files: 0 before, 1 after"),
    ],
)
def test_growth_is_seen(after, what):
    assert growth(BEFORE, after) == [what]


def test_ten_per_cent_are_no_growth():
    after = Footprint((Worker(44, 33), IDLE[1]), 0, 0, 110_000)
    assert growth(BEFORE, after) == []
    assert len(figures(BEFORE, after)) == 7
    assert table(BEFORE, after).splitlines()[4] == "| worker 1: open files | 40 | 44 |"
