"""What all suites share: options, skips that count, and the rule that nothing blocks the event loop."""

from __future__ import annotations

import fcntl
import os
import traceback
from pathlib import Path

import blockbuster.blockbuster
import pytest
from blockbuster import BlockBuster, BlockBusterFunction, BlockingError
from hypothesis import settings

import hatoba

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("dev", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

E2E = Path(__file__).parent / "e2e"  # hatoba runs in processes of its own there
REQUIRE_ALL = os.environ.get("REQUIRE_ALL") == "1"

# blockbuster's own list, and these: (the call, when it does not block).
ALSO_WATCHED = {
    "builtins.open": None,
    "io.open": None,  # pathlib's
    "os.open": None,
    "os.fsync": None,
    "os.fdatasync": None,
    "os.ftruncate": None,
    "os.pread": None,
    "os.pwrite": None,
    "os.pwritev": None,
    "fcntl.flock": lambda _file, operation: bool(operation & (fcntl.LOCK_NB | fcntl.LOCK_UN)),
}
# Opening and closing: no request waits then.
START_AND_END = (
    ("hatoba/wiring/serving.py", {"prepare", "running"}),
    ("hatoba/wiring/commands.py", {"import_tree", "opened"}),
    # A SELECT on the loop is apsw's: nobody watches it.
    ("hatoba/db/sqlite.py", {"__init__", "close", "migrate", "check_schema"}),
    ("hatoba/db/engine.py", {"migrations"}),
    ("hatoba/blobs/filesystem.py", {"__init__", "close"}),
    ("hatoba/connections.py", {"prepare_port"}),
    ("hatoba/operations/mirror.py", {"close"}),
    ("hatoba/auth/htpasswd.py", {"load", "close"}),
    ("hatoba/auth/htpasswd_file.py", {"_edit"}),  # a command's
    ("hatoba/cli/opening.py", {"with_registry"}),  # a command's own loop
    ("hatoba/cli/verify.py", {"verify"}),
    ("hatoba/cli/backup.py", {"backup"}),
)
# What runs on the loop on purpose, for it takes microseconds: (calls, file, functions).
OPEN = {"builtins.open", "io.open", "os.open"}
ON_PURPOSE = (
    ({"os.stat"}, "hatoba/blobs/filesystem.py", {"stat"}),
    ({"os.open"}, "hatoba/blobs/filesystem.py", {"open"}),
    (OPEN, "hatoba/operations/mirror.py", {"locked"}),  # an empty file of ours
    (OPEN, "hatoba/operations/lock_file.py", {"held"}),  # the same
    (OPEN, "hatoba/operations/heal.py", {"heal_missing"}),  # the same
    (OPEN | {"os.stat", "io.BufferedReader.read"}, "hatoba/auth/htpasswd.py", {"_refresh"}),  # read when changed
    ({"os.write", "os.pwritev"}, "hatoba/telemetry.py", {"_put"}),  # only where there is room
)
# What Python and pytest do beneath hatoba's frames.
BENEATH = (
    (OPEN, "<frozen importlib._bootstrap>", {"_find_and_load"}),
    (OPEN | {"os.stat"}, "structlog/_base.py", {"_proxy_to_logger"}),  # source lines for a logged traceback
    # stderr is allowed anyway, but pytest has handlers of its own
    ({"io.TextIOWrapper.write", "io.BufferedWriter.write"}, "logging/__init__.py", {"emit"}),
)


def pytest_addoption(parser):
    parser.addoption("--base-url", default=os.environ.get("HATOBA_BASE_URL"), help="test this registry, not hatoba")


def pytest_collection_modifyitems(items):
    """Keep the tests of one file of e2e in one process of `pytest -n`: they share engines and ports."""
    for item in items:
        if item.path.parent == E2E:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With REQUIRE_ALL=1 a skip is a failure: CI must run everything."""
    return _counted((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """A whole file that is skipped counts too."""
    return _counted((yield))


def _counted(report):
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but REQUIRE_ALL=1: {_reason(report)}"
    return report


def _reason(report) -> str:
    return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)


def pytest_terminal_summary(terminalreporter):
    """Name every test that did not run, and why (pytest's own summary folds them by the line that skips)."""
    for report in terminalreporter.getreports("skipped"):
        terminalreporter.write_line(f"not run: {report.nodeid}: {_reason(report).removeprefix('Skipped: ')}")


OURS = str(Path(hatoba.__file__).parent)


class Blocked(BlockingError):
    """Remembers each blocking call: whoever catches the exception does not hide it from the test."""

    def __init__(self, func: str) -> None:
        super().__init__(func)
        ours = [f for f in traceback.extract_stack() if f.filename.startswith(OURS)]
        places = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(ours))
        SEEN.append(f"{func} on the event loop, in {places}")


SEEN: list[str] = []


@pytest.fixture(scope="session")
def watch() -> BlockBuster:
    found = BlockBuster(hatoba, excluded_modules=["hatoba.testing"])
    for name, harmless in ALSO_WATCHED.items():
        options = {"can_block_predicate": harmless} if harmless else {}
        found.functions[name] = BlockBusterFunction(
            None, name, scanned_modules=hatoba, excluded_modules=["hatoba.testing"], **options
        )
    for name, function in found.functions.items():
        for file, functions in START_AND_END:
            function.can_block_in(file, functions)
        for names, file, functions in (*ON_PURPOSE, *BENEATH):
            if name in names:
                function.can_block_in(file, functions)
    return found


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop(watch, monkeypatch, request):
    """Fail a test in which hatoba, in this process, waits for a disk, a lock or a socket on the event loop."""
    if request.path.parent == E2E:
        yield
        return
    monkeypatch.setattr(blockbuster.blockbuster, "BlockingError", Blocked)
    SEEN.clear()
    watch.activate()
    try:
        yield
    finally:
        watch.deactivate()
    if SEEN:
        pytest.fail("\n".join(dict.fromkeys(SEEN)), pytrace=False)
