"""`make abuse`: after every attack the registry takes up what it did before; and growth is seen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from abuse.footprint import Footprint, Worker, figures, growth, table

SCALE = 1.0 if os.environ.get("REQUIRE_ALL") == "1" else 0.2
BEFORE = Footprint((Worker(40, 30, 50_000), Worker(40, 30, 70_000)), 0, 0)


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
        (
            Footprint((Worker(45, 30, 50_000), Worker(40, 30, 70_000)), 0, 0),
            "worker 1: open files: 40 before, 45 after",
        ),
        (Footprint((Worker(40, 30, 50_000), Worker(40, 34, 70_000)), 0, 0), "worker 2: threads: 30 before, 34 after"),
        (Footprint((Worker(40, 30, 50_000), Worker(40, 30, 82_001)), 0, 0), "memory of all workers"),
        (Footprint(BEFORE.workers, 1, 0), "upload sessions: 0 before, 1 after"),
        (Footprint(BEFORE.workers, 0, 1), "temporary files: 0 before, 1 after"),
    ],
)
def test_growth_is_seen(after, what):
    (found,) = growth(BEFORE, after)
    assert found.startswith(what)


def test_ten_per_cent_are_no_growth():
    after = Footprint((Worker(44, 33, 82_000), Worker(40, 30, 50_000)), 0, 0)
    assert growth(BEFORE, after) == []
    assert len(figures(BEFORE, after)) == 7
    assert table(BEFORE, after).splitlines()[4] == "| worker 1: open files | 40 | 44 |"
