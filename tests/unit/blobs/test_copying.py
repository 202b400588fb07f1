"""The order in which copies are made durable: bytes before names, a name before the return."""

import os
from pathlib import Path

import pytest

from hatoba.blobs import copying, layout
from hatoba.blobs.copying import Copier, Wanted
from hatoba.blobs.filesystem import Filesystem
from hatoba.oci.digest import Digest

BODIES = [b"one", b"another"]


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """What was asked of the kernel, in order: (call, path below tmp_path, what lies there now)."""
    made = []
    real_fsync, real_replace = os.fsync, os.replace

    def below(path):
        return os.path.relpath(path, tmp_path)

    def fsync(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        made.append(("fsync", below(path), seen(Path(path))))
        real_fsync(descriptor)

    def replace(source, target):
        made.append(("rename", below(source), below(target)))
        real_replace(source, target)

    class Libc:
        def syncfs(self, descriptor):
            root = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            made.append(("syncfs", below(root), sorted(below(path) for path in root.rglob("*") if path.is_file())))
            return 0

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(copying.ctypes, "CDLL", lambda *_, **__: Libc())
    return made


def seen(path):
    """The names in a folder; a file's bytes and mode."""
    if path.is_dir():
        return sorted(each.name for each in path.iterdir())
    return path.read_bytes(), path.stat().st_mode & 0o777


def test_a_small_file_is_whole_before_it_is_renamed_and_renamed_before_the_return(calls, tmp_path):
    path = tmp_path / "note"
    path.write_bytes(b"older")
    copying.replace(path, b"newer", 0o640)
    assert calls == [
        ("fsync", "note.new", (b"newer", 0o640)),
        ("rename", "note.new", "note"),
        ("fsync", ".", ["note"]),
    ]


def test_a_move_is_durable_before_the_return(calls, tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "b").mkdir()
    copying.rename(tmp_path / "a", tmp_path / "b/c")
    assert calls == [("rename", "a", "b/c"), ("fsync", "b", ["c"])]


@pytest.mark.parametrize("hard_links", [False, True])
def test_bytes_are_durable_before_they_have_their_names(calls, tmp_path, hard_links):
    staged = sorted(f"copy/hatoba/tmp/{Digest.of(body).encoded}" for body in BODIES)
    (tmp_path / "copy/hatoba/tmp").mkdir(parents=True)
    for body in BODIES:
        path = tmp_path / "data" / layout.blob(Digest.of(body))
        path.parent.mkdir(parents=True)
        path.write_bytes(body)
    copier = Copier(tmp_path / "data", tmp_path / "copy", lambda _: None, hard_links=hard_links)
    wanted = [Wanted(layout.blob(Digest.of(body)), Digest.of(body), len(body)) for body in BODIES]
    assert copier.batch(wanted) == []
    synced, *moves = calls
    assert synced == ("syncfs", "copy", staged)
    assert [move[0] for move in moves] == ["rename"] * 2


async def test_links_are_durable_at_once(calls, tmp_path):
    driver = Filesystem(tmp_path, at_once=True)
    link = layout.tag_link("team/app", "v1")
    await driver.write_link(link, b"sha256:0")
    await driver.sync_links([link])
    driver.close()
    assert calls == [("syncfs", ".", [link])]


def test_a_failed_sync_is_an_error(tmp_path, monkeypatch):
    class Libc:
        def syncfs(self, _):
            return -1

    monkeypatch.setattr(copying.ctypes, "CDLL", lambda *_, **__: Libc())
    monkeypatch.setattr(copying.ctypes, "get_errno", lambda: 5)
    with pytest.raises(OSError, match="Input/output error"):
        copying.sync(tmp_path)
