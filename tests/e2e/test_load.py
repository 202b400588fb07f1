"""`make load`: many clients at once, none hears an error; and growth is seen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from load.__main__ import growth


@pytest.mark.timeout(600)
def test_no_request_fails_beside_idle_connections(e2e):
    """A small one; how memory goes is for a minute of it on a quiet machine."""
    done = subprocess.run(
        [sys.executable, "-m", "load", "--seconds", "5", "--pushers", "16", "--pullers", "48", "--idle", "300"],
        cwd=Path(__file__).parents[1], text=True, capture_output=True, check=False, env=e2e.clean_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-20_000:]
    assert " 0 errors; worker 1: " in done.stdout


def test_growth_is_seen():
    assert growth([[100_000, 100_000], [115_000, 100_000]]) == []
    assert growth([[100_000, 100_000], [115_001, 90_000]]) == ["worker 1 grew from 100000 to 115001 KiB"]
    assert growth([[150_000, 1], [153_601, 1]]) == ["worker 1 has 153601 KiB, more than 153600"]
