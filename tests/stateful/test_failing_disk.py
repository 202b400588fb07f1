"""A disk that is full or fails at any step: what the client hears, what stays, what can go on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from datetime import timedelta

import pytest

from hatoba.blobs import filesystem
from hatoba.db import sqlite
from hatoba.operations import readiness

BASE = "/v2/team/app/blobs/uploads/"
TAG = "_manifests/tags/v/current"


@contextlib.contextmanager
def failing(monkeypatch, call: str, number: int, below: str = ""):
    """os.<call> fails for paths (or descriptors of paths) that contain `below`; yields how often it was asked."""
    calls: list[str] = []
    real = getattr(os, call)

    def fail(target, *arguments, **options):
        name = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else str(target)
        if below not in name:
            return real(target, *arguments, **options)
        calls.append(name)
        raise OSError(number, os.strerror(number), name)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        yield calls


def no_upload_left(tree) -> bool:
    return not list(tree.glob("repositories/team/app/_uploads/*/data"))


# The closing request -----------------------------------------------------------------------------------------------


async def test_failed_sync_of_the_closing_request_ends_the_upload(worker, kit, monkeypatch, tree, blob_file):
    one = await worker()
    location = await one.start()
    await one("PATCH", location, content=b"first")
    where = f"{location}?digest={kit.digest_of(b'firstlast')}"
    with failing(monkeypatch, "fsync", errno.EIO, "_uploads") as calls:
        answer = await one("PUT", where, content=b"last")
    assert answer.status_code == 503
    assert len(calls) == 1, "a failed sync is not tried again"
    assert (await one("PUT", where, content=b"last")).status_code == 404
    assert no_upload_left(tree)
    assert not blob_file(kit.digest_of(b"firstlast")).exists()


async def test_full_disk_at_the_closing_request_keeps_the_session(worker, kit, monkeypatch):
    one, two = await worker(), await worker()
    location = await one.start()
    await one("PATCH", location, content=b"first")
    where = f"{location}?digest={kit.digest_of(b'firstlast')}"
    with failing(monkeypatch, "pwritev", errno.ENOSPC):
        assert (await one("PUT", where, content=b"last")).status_code == 507
    assert (await two("GET", location)).headers["range"] == "0-4"
    assert (await two("PUT", where, content=b"last")).status_code == 201
    assert (await one("GET", f"/v2/team/app/blobs/{kit.digest_of(b'firstlast')}")).content == b"firstlast"


async def test_full_disk_under_the_database_keeps_the_session(worker, kit, monkeypatch, rows):
    """The file is sealed, the row cannot be written; the same request succeeds when there is room again."""
    one = await worker()
    location = await one.start()
    await one("PATCH", location, content=b"body")
    where = f"{location}?digest={kit.digest_of(b'body')}"

    def full(work):
        work.close()
        raise sqlite.apsw.FullError("database or disk is full")

    real = one.database.write

    async def write(work):
        with monkeypatch.context() as patched:
            patched.setattr(sqlite, "_drive", full)
            return await real(work)

    with monkeypatch.context() as patched:
        patched.setattr(one.database, "write", write)
        assert (await one("PUT", where)).status_code == 507
    assert rows("SELECT count(*) FROM blobs") == [(0,)]
    assert (await one("PUT", where)).status_code == 201


async def test_file_that_grew_under_our_hands_is_no_blob(worker, kit, monkeypatch, blob_file):
    """Before the rename its size must be the offset: a blob of another size would be served wrong for ever."""
    one = await worker()
    location = await one.start()
    await one("PATCH", location, content=b"body")
    real = filesystem._FileWriter._seal

    def grown(self):
        with open(self._path, "ab") as file:  # noqa: PTH123
            file.write(b"of somebody else")
        return real(self)

    digest = kit.digest_of(b"body")
    with monkeypatch.context() as patched:
        patched.setattr(filesystem._FileWriter, "_seal", grown)
        answer = await one("PUT", f"{location}?digest={digest}")
    assert answer.json()["errors"][0]["code"] == "BLOB_UPLOAD_INVALID"
    assert not blob_file(digest).exists()
    assert (await one("HEAD", f"/v2/team/app/blobs/{digest}")).status_code == 404
    await one.push_blob(b"body")


# Write-back ahead of the end ---------------------------------------------------------------------------------------


async def test_failed_early_write_back_is_not_lost(worker, monkeypatch, tree):
    """The kernel reports a failed write-back once, to the early sync: the upload ends though the last sync is fine."""
    monkeypatch.setattr(filesystem, "_WRITE_BACK_BYTES", 1)
    one = await worker()
    location = await one.start()
    calls = []

    def once(_descriptor):
        calls.append(1)
        if len(calls) == 1:
            raise OSError(errno.EIO, "write-back failed")

    monkeypatch.setattr(os, "fdatasync", once)
    assert (await one("PATCH", location, content=bytes(3_000_000))).status_code == 503
    assert (await one("GET", location)).status_code == 404
    assert no_upload_left(tree)


async def test_descriptor_outlives_its_early_write_back(worker, monkeypatch):
    """The request ends while the early sync runs: the file is closed after it, or its number is another file's."""
    monkeypatch.setattr(filesystem, "_WRITE_BACK_BYTES", 1)
    one = await worker()
    location = await one.start()
    reached, released = threading.Event(), threading.Event()
    still_open = []

    def slow(descriptor):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        reached.set()
        assert released.wait(30)
        still_open.append(os.path.exists(f"/proc/self/fd/{descriptor}") and name)  # noqa: PTH110

    monkeypatch.setattr(os, "fdatasync", slow)
    body = asyncio.Event()

    async def parts():
        for _ in range(3):
            yield bytes(1_100_000)
        body.set()
        await asyncio.sleep(30)

    patch = asyncio.ensure_future(stream(one, location, parts()))
    await body.wait()
    assert await asyncio.to_thread(reached.wait, 30)
    patch.cancel()
    await asyncio.sleep(0.2)
    released.set()
    with pytest.raises(asyncio.CancelledError):
        await patch
    assert still_open
    assert all("_uploads" in str(name) for name in still_open)
    assert (await one("GET", location)).headers["range"] == "0-0"


async def stream(one, location: str, parts) -> list[dict]:
    """A PATCH whose body comes piece by piece; what the application sends."""
    sent = []

    async def receive():
        async for part in parts:
            return {"type": "http.request", "body": part, "more_body": True}
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "PATCH", "path": location, "query_string": b"", "headers": [], "client": None}
    await one.app(scope, receive, send)
    return sent


@pytest.mark.parametrize(("number", "offset"), [(errno.EIO, None), (errno.ENOSPC, "0-4")])
async def test_failed_write_of_a_client_that_went_away(worker, kit, monkeypatch, number, offset):
    """Nobody hears of the error, and still a failed write ends the upload, a full disk only cuts it back."""
    one = await worker()
    location = await one.start()
    await one("PATCH", location, content=b"first")

    async def parts():
        yield b"second"

    with failing(monkeypatch, "pwritev", number):
        await stream(one, location, parts())
    status = await one("GET", location)
    assert (status.status_code, status.headers.get("range")) == (204 if offset else 404, offset)
    if offset:
        assert (await one("PUT", f"{location}?digest={kit.digest_of(b'first')}")).status_code == 201


# A full disk everywhere else ---------------------------------------------------------------------------------------

STEPS = {
    "a session's folder": ("makedirs", "_uploads"),
    "a session's file": ("open", "_uploads"),
    "a blob's folder": ("makedirs", "/blobs/"),
    "the rename": ("rename", "_uploads"),
}


@pytest.mark.parametrize("step", STEPS)
async def test_full_disk_at_a_step_of_a_push(worker, kit, monkeypatch, step):
    one = await worker()
    call, below = STEPS[step]
    path = f"/v2/team/app/blobs/uploads/?digest={kit.digest_of(b'body')}"
    with failing(monkeypatch, call, errno.ENOSPC, below) as calls:
        answer = await one("POST", path, content=b"body")
    assert calls
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (507, "UNAVAILABLE")
    assert (await one("POST", path, content=b"body")).status_code == 201


async def test_full_disk_at_a_manifest(worker, kit, monkeypatch, root):
    one = await worker()
    await one.push_blob(b"{}")
    body = kit.manifest_of(b"{}", [])
    with failing(monkeypatch, "pwrite", errno.ENOSPC, "/hatoba/tmp/"):
        answer = await one.push_manifest(body, "v")
    assert answer.status_code == 507
    assert not list((root / "hatoba/tmp").iterdir())
    assert (await one.push_manifest(body, "v")).status_code == 201


# Links -------------------------------------------------------------------------------------------------------------

LINK_STEPS = {
    "the first folders": ("makedirs", "_layers", errno.ENOSPC),
    "no permission for them": ("makedirs", "_manifests", errno.EACCES),
    "a link's folder": ("makedirs", "current", errno.EDQUOT),
    "the rename": ("rename", "/hatoba/tmp/", errno.EROFS),
}


@pytest.mark.parametrize("step", LINK_STEPS)
async def test_link_that_cannot_be_written_fails_no_push(worker, kit, monkeypatch, link, logged, step):
    monkeypatch.setattr(readiness, "_OVERDUE", timedelta(0))
    one = await worker()
    call, below, number = LINK_STEPS[step]
    with failing_links(monkeypatch, call, number, below) as calls:
        body = await one.push_image("v")
        assert calls
        assert "link files" in (await one("GET", "/healthz/ready")).text
        assert (await one("GET", "/v2/team/app/manifests/v")).content == body
    await one.mirror.catch_up()
    await one.mirror.settle()
    assert link(TAG) == kit.digest_of(body)
    assert (await one("GET", "/healthz/ready")).status_code == 200
    assert any("stay pending" in entry["event"] for entry in logged)


@contextlib.contextmanager
def failing_links(monkeypatch, call: str, number: int, below: str):
    """Like `failing`, for the link files alone: what a push itself needs goes on."""
    real = getattr(os, call)
    calls = []

    def fail(target, *arguments, **options):
        into = str(arguments[0]) if call == "rename" else str(target)
        if below not in str(target) or "/repositories/" not in into or "_uploads" in into:
            return real(target, *arguments, **options)
        calls.append(into)
        raise OSError(number, os.strerror(number), into)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        yield calls


@pytest.mark.parametrize(("call", "below"), [("unlink", "_layers"), ("rmdir", "tags/v"), ("scandir", "tags/v")])
async def test_link_that_cannot_be_removed_fails_no_delete(worker, kit, monkeypatch, link, call, below):
    one = await worker()
    body = await one.push_image("v")
    digest, config = kit.digest_of(body), kit.digest_of(b"{}")
    with failing_links(monkeypatch, call, errno.EACCES, below) as calls:
        assert (await one("DELETE", "/v2/team/app/manifests/v")).status_code == 202
        assert (await one("DELETE", f"/v2/team/app/manifests/{digest}")).status_code == 202
        assert (await one("DELETE", f"/v2/team/app/blobs/{config}")).status_code == 202
        assert calls
    await one.mirror.catch_up()
    assert link(TAG) is None
    assert link(f"_layers/sha256/{config[7:]}") is None


async def test_file_or_folder_in_a_links_place_fails_no_push(worker, kit, tree, link):
    one = await worker()
    await one.push_image("other")
    tags = tree / "repositories/team/app/_manifests/tags"
    (tags / "v").mkdir()
    (tags / "v/current").write_text("a file where the folder should be")
    (tags / "w/current/link").mkdir(parents=True)
    body = await one.push_image("v")
    await one.push_image("w")
    (tags / "v/current").unlink()
    (tags / "w/current/link").rmdir()
    await one.mirror.catch_up()
    assert link(TAG) == kit.digest_of(body)
    assert link("_manifests/tags/w/current") is not None


async def test_lock_that_cannot_be_opened_fails_no_push(worker, kit, monkeypatch, link, root):
    one = await worker()
    await one.push_image("other")
    locks = root / "hatoba/locks"
    for path in locks.glob("mirror-*"):
        path.unlink()
        path.mkdir()
    body = await one.push_image("v")
    for path in locks.glob("mirror-*"):
        path.rmdir()
    await one.mirror.catch_up()
    assert link(TAG) == kit.digest_of(body)


@pytest.fixture
def logged():
    import structlog  # noqa: PLC0415
    from structlog.testing import LogCapture  # noqa: PLC0415

    capture = LogCapture()
    structlog.configure(processors=[capture])
    yield capture.entries
    structlog.reset_defaults()


async def test_blob_that_cannot_be_read_is_told_so(worker, monkeypatch, rows):
    """Before the first byte there is an answer to give; and a disk that fails is no blob that is missing."""
    one = await worker()
    digest = await one.push_blob(b"some content")

    def fail(*_arguments):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", fail)
        answer = await one("GET", f"/v2/team/app/blobs/{digest}")
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (503, "UNAVAILABLE")
    assert answer.headers["retry-after"]
    assert rows("SELECT state FROM blobs") == [("ready",)]
    assert (await one("GET", f"/v2/team/app/blobs/{digest}")).content == b"some content"
