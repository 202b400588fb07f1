"""tests/conftest.py does what it says: a skip counts in CI, and a test fails when hatoba blocks the event loop."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SKIPPING = {
    "test_in_a_test.py": "import pytest\ndef test_one(): pytest.skip('no such thing')\ndef test_two(): pass\n",
    "test_in_a_fixture.py": """
import pytest
@pytest.fixture
def thing(): pytest.skip('no such thing')
def test_one(thing): pass
""",
    "test_a_mark.py": "import pytest\n@pytest.mark.skip(reason='no such thing')\ndef test_one(): pass\n",
    "test_a_file.py": "import pytest\npytest.skip('no such thing', allow_module_level=True)\n",
    "test_no_skip.py": "import pytest\n@pytest.mark.xfail\ndef test_one(): assert 0\n",
}
SKIPPED = [
    "test_a_file.py",
    "test_a_mark.py::test_one",
    "test_in_a_fixture.py::test_one",
    "test_in_a_test.py::test_one",
]
BLOCKING = """
import asyncio, contextlib, time
from hatoba.blobs import files, filesystem, folders

async def test_bad_sync(tmp_path):
    files.fsync_folder(str(tmp_path))

async def test_bad_but_caught(tmp_path):
    with contextlib.suppress(Exception):
        files.fsync_folder(str(tmp_path))

async def test_bad_scan(tmp_path):
    folders.remove_older(str(tmp_path), time.time())

async def test_bad_in_a_task(tmp_path):
    async def work(): files.fsync_folder(str(tmp_path))
    await asyncio.wait([asyncio.create_task(work())])

async def test_bad_in_a_sync_callback(tmp_path):
    asyncio.get_running_loop().call_soon(files.remove, str(tmp_path / "x"))
    await asyncio.sleep(0.01)

def test_good_without_a_loop(tmp_path):
    files.fsync_folder(str(tmp_path))

async def test_good_in_a_thread(tmp_path):
    await asyncio.to_thread(files.fsync_folder, str(tmp_path))

async def test_good_stat_and_open_of_the_driver(tmp_path):
    (tmp_path / "x").write_text("the test itself may")
    with contextlib.closing(filesystem.Filesystem(tmp_path)) as driver:
        assert await driver.stat("x") == 19
        (await driver.open("x")).close()
"""


@pytest.fixture
def outcome(tmp_path, e2e):
    """outcome(files) runs test files beside a copy of the conftest; what pytest printed, with a line a test."""

    def run(files: dict[str, str], **environment: str) -> str:
        for name, source in files.items():
            (tmp_path / name).write_text(source)
        shutil.copy(TESTS / "conftest.py", tmp_path)
        shutil.copy(TESTS.parent / "pyproject.toml", tmp_path)
        options = ["-p", "no:cacheprovider", "-rA", "--tb=short", "--continue-on-collection-errors"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *sorted(files)],
            cwd=tmp_path, text=True, capture_output=True, check=False, timeout=120,
            env={**e2e.clean_environment(), "REQUIRE_ALL": "", "COLUMNS": "200", **environment},
        )  # fmt: skip
        return done.stdout + done.stderr

    return run


def named(printed: str, *words: str) -> list[str]:
    return sorted(set(re.findall(rf"^(?:{'|'.join(words)}) (\S+)", printed, re.MULTILINE)))


def test_what_did_not_run_is_named_with_its_reason(outcome):
    printed = outcome(SKIPPING)
    assert re.findall(r"^not run: (\S+): no such thing$", printed, re.MULTILINE) == SKIPPED
    assert named(printed, "FAILED", "ERROR") == []
    assert named(printed, "PASSED") == ["test_in_a_test.py::test_two"]


def test_in_ci_a_skip_is_a_failure(outcome):
    printed = outcome(SKIPPING, REQUIRE_ALL="1")
    assert named(printed, "FAILED", "ERROR") == SKIPPED
    assert named(printed, "PASSED") == ["test_in_a_test.py::test_two"]
    assert "skipped, but REQUIRE_ALL=1: Skipped: no such thing" in printed


def test_blocking_the_loop_fails_whoever_catches_it(outcome):
    printed = outcome({"test_it.py": BLOCKING})
    tests = [f"test_it.py::{name}" for name in re.findall(r"def (test_\w+)", BLOCKING)]
    assert named(printed, "ERROR") == sorted(test for test in tests if "_bad_" in test)
    assert set(named(printed, "PASSED")) >= {test for test in tests if "_good_" in test}
    assert "os.open on the event loop, in files.py:" in printed


def test_a_registry_at_another_address_is_an_option(outcome):
    source = "def test_one(pytestconfig): assert pytestconfig.getoption('--base-url') == 'http://r:1'\n"
    assert named(outcome({"test_it.py": source}, HATOBA_BASE_URL="http://r:1"), "PASSED") == ["test_it.py::test_one"]
