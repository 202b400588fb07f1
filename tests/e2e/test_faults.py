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


def test_every_call_is_a_place():
    """None is behind a call that `places` does not know."""
    calls = [
        f"{path.name}:{number}"
        for path in sorted((FOLDER.parent / "src/hatoba").rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "fsync(" in line or "fdatasync(" in line
        if not line.lstrip().startswith(("def ", "async def "))
    ]
    through = {"_fsync_path", "_fsync_folder", "make_durably"}
    assert len(syncs.places()) >= 2 + len(calls) - len(through)


def run(e2e, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "faults", *arguments],
        cwd=FOLDER, text=True, capture_output=True, check=False, env=e2e.clean_environment(),
    )  # fmt: skip
