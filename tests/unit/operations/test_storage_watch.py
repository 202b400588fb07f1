"""When the storage counts as broken, and when it is well again."""

import os
import threading

import pytest

from hatoba.operations import storage_watch
from hatoba.operations.storage_watch import StorageWatch, problem_of


@pytest.fixture
def storage(tmp_path):
    made = StorageWatch(tmp_path, 5.0, 3)
    yield made
    made.close()


def test_only_so_many_bad_looks_in_a_row_are_a_problem(storage):
    for found, problem in (("bad", None), ("bad", None), (None, None), ("bad", None), ("bad", None), ("bad", "bad")):
        storage.judge(found)
        assert storage.problem == problem
    storage.judge("worse")
    assert storage.problem == "worse"
    storage.judge(None)
    assert storage.problem is None


async def test_a_look_at_the_folder(storage, tmp_path):
    assert await storage.look() is None
    tmp_path.rmdir()
    assert await storage.look() == "the storage cannot be read: No such file or directory"
    tmp_path.mkdir()
    assert await storage.look() is None


def test_a_disk_that_went_read_only(tmp_path, monkeypatch):
    class Flags:
        f_flag = os.ST_RDONLY

    monkeypatch.setattr(os, "statvfs", lambda _: Flags)
    assert problem_of(tmp_path) == "the storage cannot be written"


async def test_a_disk_that_hangs_is_asked_once(tmp_path, monkeypatch):
    release, asked = threading.Event(), []

    def hang(root):
        asked.append(root)
        release.wait(30)

    monkeypatch.setattr(storage_watch, "problem_of", hang)
    watch = StorageWatch(tmp_path, 0.05, 1)
    try:
        assert await watch.look() == "the storage does not answer"
        assert await watch.look() == "the storage does not answer"
        assert asked == [tmp_path]
        release.set()
        watch._seconds = 30.0
        assert await watch.look() is None
        assert await watch.look() is None
        assert len(asked) == 2
    finally:
        release.set()
        watch.close()
