"""What all suites share: options, and skips that count."""

from __future__ import annotations

import os

import pytest


def pytest_addoption(parser):
    parser.addoption("--base-url", default=os.environ.get("HATOBA_BASE_URL"), help="test this registry, not hatoba")
