"""`make faults`: nothing is lost; and each fsync in the code is needed, for without it a loss of power is seen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from faults import syncs

CASES = 200 if os.environ.get("REQUIRE_ALL") == "1" else 60
FOLDER = Path(__file__).parents[1]


@pytest.mark.timeout(900)
def test_nothing_is_lost(e2e):
    done = run(e2e, "-n", str(CASES), "--seed", os.environ.get("FAULTS_SEED", "1"))
    print(done.stdout)  # noqa: T201  its seed, to run it again
    assert done.returncode == 0, done.stderr[-20_000:]
    assert f"faults: {CASES} cases, 0 violations" in done.stdout


@pytest.mark.timeout(900)
@pytest.mark.parametrize("place", syncs.places())
def test_every_fsync_is_needed(e2e, place):
    """The same code, recorded as if this one were not in it."""
    done = run(e2e, "--without", place)
    assert done.returncode == 1, done.stdout
    assert "case power:" in done.stderr


def test_places_left_out_are_there():
    """What no run has is named one by one: a new fsync is a place, and must be seen to be needed."""
    for file, function in syncs.ELSEWHERE:
        (path,) = (FOLDER.parent / "src/hatoba").rglob(file)
        assert f"def {function}(" in path.read_text(encoding="utf-8")


def run(e2e, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "faults", *arguments],
        cwd=FOLDER, text=True, capture_output=True, check=False, env=e2e.clean_environment(),
    )  # fmt: skip
