"""The driver contract on a folder and in memory. Teardown fails on descriptors, threads and temporary files left."""

import os
import threading

import pytest

from hatoba.blobs.filesystem import Filesystem
from hatoba.blobs.memory import Memory
from hatoba.testing.driver_contract import DriverContract, SharedContract


def open_below(root):
    """Names of files under `root` that this process has open."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:
            continue
        if target.startswith(f"{root}/"):
            found.append(target)
    return found


@pytest.fixture
def root(tmp_path):
    before = set(threading.enumerate())
    yield tmp_path / "data"
    assert set(threading.enumerate()) <= before
    assert open_below(tmp_path) == []
    assert list((tmp_path / "data/hatoba/tmp").iterdir()) == []


@pytest.fixture
def opened(root):
    drivers = []

    def open_driver():
        drivers.append(Filesystem(root))
        return drivers[-1]

    yield open_driver
    for driver in drivers:
        driver.close()


@pytest.fixture
def other(opened):
    return opened()


class TestFilesystem(DriverContract, SharedContract):
    @pytest.fixture
    def driver(self, opened):
        return opened()


class TestMemory(DriverContract):
    @pytest.fixture
    def driver(self):
        return Memory()
