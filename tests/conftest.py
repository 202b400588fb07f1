"""What all suites share: options, skips that count, and the rule that nothing blocks the event loop."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("dev", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

# Calls that take microseconds and run on the loop on purpose: a SELECT, a stat, an open, a flock that does not wait.
MAY_BLOCK = (
    ("os.stat", "hatoba/blobs/filesystem.py", "stat"),
    ("os.stat", "hatoba/auth/htpasswd.py", "_version"),
)


def pytest_addoption(parser):
    parser.addoption("--base-url", default=os.environ.get("HATOBA_BASE_URL"), help="test this registry, not hatoba")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With REQUIRE_ALL=1 a skip is a failure: CI must run everything."""
    report = yield
    if report.skipped and os.environ.get("REQUIRE_ALL") == "1" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but REQUIRE_ALL=1: {report.longrepr}"
    return report
