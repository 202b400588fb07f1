"""A folder that was made is durable in its parent, and so are those above it."""

from __future__ import annotations

import os

import pytest

from hatoba.durable import make_durably


@pytest.fixture
def synced(monkeypatch):
    found = []
    fsync = os.fsync

    def watched(descriptor):
        found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    return found


@pytest.mark.parametrize("there", ["", "a", "a/b/c"])
def test_every_folder_above_is_fsynced(tmp_path, synced, there):
    (tmp_path / there).mkdir(parents=True, exist_ok=True)
    make_durably(tmp_path / "a/b/c")
    assert (tmp_path / "a/b/c").is_dir()
    assert {str(tmp_path / name) for name in ("", "a", "a/b")} <= {path.rstrip("/") for path in synced}


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        make_durably(tmp_path / "file" / "folder")


def test_folder_above_that_nobody_may_open(tmp_path, monkeypatch):
    """Who made it had it durable."""
    real = os.open

    def refuse(path, *arguments, **options):
        if str(path) == str(tmp_path):
            raise PermissionError
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    make_durably(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
