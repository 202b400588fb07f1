"""What nobody came back for goes, and nothing else: sessions by their rows, files of no session by their age."""

from __future__ import annotations

import os
from datetime import timedelta

import apsw
import pytest

from hatoba.db import blobs
from hatoba.db.engine import now

WEEK = timedelta(hours=168)


@pytest.fixture
def forget(root):
    """A crash between the end of a session's row and the removal of its files."""

    def end_rows():
        connection = apsw.Connection(str(root / "hatoba/uploads.db"))
        connection.execute("DELETE FROM uploads")
        connection.close()

    return end_rows


@pytest.fixture
def sessions(tree):
    """The folders of sessions that are there."""
    return lambda name="team/app": sorted(path.name for path in tree.glob(f"repositories/{name}/_uploads/*"))


def docker_session(tree, upload_id: str, started: str) -> None:
    """As Docker's registry leaves one: its hash states are files beside."""
    folder = tree / "repositories/team/app/_uploads" / upload_id
    (folder / "hashstates/sha256").mkdir(parents=True)
    (folder / "hashstates/sha256/0").write_bytes(b"state")
    (folder / "data").write_bytes(b"bytes")
    (folder / "startedat").write_text(started)


async def test_row_is_read_again_under_the_lock(worker, monkeypatch):
    """Idle when purge looked, then a chunk was acknowledged: the session is not idle any more."""
    one = await worker()
    location = await one.start()
    real, patched = one.sessions.scan, []

    async def scan(work):
        found = await real(work)
        if found and not patched:
            patched.append(await one("PATCH", location, content=b"acknowledged"))
        return found

    monkeypatch.setattr(one.sessions, "scan", scan)
    age = timedelta(seconds=5)
    connection = apsw.Connection(str(one.sessions._path))
    connection.execute("UPDATE uploads SET updated_at = updated_at - 60000000")
    connection.close()
    await one.uploads.purge(age)
    assert [answer.status_code for answer in patched] == [202]
    assert (await one("GET", location)).headers["range"] == "0-11"


async def test_files_that_a_crash_left_go(worker, forget, sessions, tree):
    one = await worker()
    await one("PATCH", await one.start(), content=b"body")
    kept = await one.start("other/app")
    (upload_id,) = sessions()
    forget()
    await one.uploads.start("other/app")
    assert await one.uploads.purge_files(WEEK) == 0, "begun just now: it may be another's"
    (tree / "repositories/team/app/_uploads" / upload_id / "startedat").unlink()  # ending a session removes it first
    assert await one.uploads.purge_files(WEEK, dry_run=True) == 1
    assert sessions() == [upload_id]
    assert await one.uploads.purge_files(WEEK) == 1
    assert sessions() == []
    assert len(sessions("other/app")) == 2
    assert (await one("GET", kept)).status_code == 404
    assert await one.uploads.purge_files(timedelta(0)) == 1, "the one that was forgotten, not the one that goes on"
    assert len(sessions("other/app")) == 1


async def test_old_sessions_of_dockers_registry_go(worker, sessions, tree):
    one = await worker()
    await one.push_image("v")
    docker_session(tree, "old", "2020-01-01T00:00:00Z")
    docker_session(tree, "unreadable", "yesterday")
    docker_session(tree, "young", now().isoformat())
    assert await one.uploads.purge_files(WEEK) == 2
    assert sessions() == ["young"]
    assert (await one("GET", "/v2/team/app/manifests/v")).status_code == 200


async def test_session_in_use_keeps_its_files(worker, forget, sessions):
    one, other = await worker(), await worker()
    await one.start()
    (upload_id,) = sessions()
    async with one.driver.append(f"docker/registry/v2/repositories/team/app/_uploads/{upload_id}/data"):
        forget()
        assert await other.uploads.purge_files(timedelta(0)) == 0
    assert sessions() == [upload_id]


@pytest.mark.parametrize("how", ["manifest", "manifest again", "push"])
async def test_touch_that_changes_no_row_links_nothing(worker, kit, rows, monkeypatch, how):
    """Where transactions see other's commits, a collector may come between the look and the touch."""
    one = await worker()
    await one.push_blob(b"{}")
    body = kit.manifest_of(b"{}", [])
    if how == "manifest again":
        await one.push_manifest(body, "v")
    asked = []

    async def gone(*_arguments):
        asked.append(True)
        return False

    with monkeypatch.context() as patched:
        patched.setattr(blobs, "touch", gone)
        if how == "push":
            await one.push_blob(b"{}", "other/app")
        else:
            assert (await one.push_manifest(body, "w")).status_code == 400
    assert asked
    assert rows("SELECT count(*) FROM blobs WHERE state = 'ready'")[0][0] >= 1
    assert rows("SELECT count(*) FROM tags WHERE name = 'w'") == [(0,)]


async def test_names_that_are_no_repositorys_are_left_alone(worker, tree):
    one = await worker()
    await one.push_image("v")
    odd = tree / "repositories" / os.fsdecode(b"\xff") / "_uploads/u"
    odd.mkdir(parents=True)
    (odd / "data").write_bytes(b"bytes")
    docker_session(tree, "old", "2020-01-01T00:00:00Z")
    assert await one.uploads.purge_files(WEEK) == 1
    assert (odd / "data").exists()
