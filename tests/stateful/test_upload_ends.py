"""The last steps of a session: what is held, what is durable and what is over when a request on it ends."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import threading
from datetime import timedelta

import apsw
import pytest

from hatoba.blobs import filesystem
from hatoba.blobs.driver import KeyBusy, KeyMissing
from hatoba.registry import intake


def name_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


@pytest.mark.parametrize("shape", ["patched", "closing"])
async def test_lock_is_held_until_the_rename(worker, kit, monkeypatch, shape):
    """Let go after the last sync, another request could cut or write to what becomes the blob."""
    one = await worker()
    location = await one.start()
    held = []
    real = os.rename

    def recorded(source, target):
        if "/blobs/" in target:
            with open(source, "rb") as other:  # noqa: PTH123
                try:
                    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    held.append(False)
                except BlockingIOError:
                    held.append(True)
        real(source, target)

    monkeypatch.setattr(os, "rename", recorded)
    body = b"body"
    if shape == "patched":
        await one("PATCH", location, content=body)
        body = b""
    where = f"{location}?digest={kit.digest_of(b'body')}"
    assert (await one("PUT", where, content=body)).status_code == 201
    assert held == [True]


@pytest.mark.parametrize("parts", [[b"all of it"], []])
async def test_file_that_the_closing_request_did_not_open_is_synced(worker, kit, monkeypatch, parts):
    """What is renamed is durable with its size and mode, also when the bytes came before, or never."""
    one = await worker()
    location = await one.start()
    for part in parts:
        await one("PATCH", location, content=part)
    synced, renamed = [], []
    fsync, rename = os.fsync, os.rename

    def sync(descriptor):
        found = os.fstat(descriptor)
        synced.append((found.st_ino, found.st_mode & 0o777))
        fsync(descriptor)

    def move(source, target):
        if "/blobs/" in target:
            renamed.append((os.stat(source).st_ino, 0o444) in synced)  # noqa: PTH116
        rename(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", move)
    assert (await one("PUT", f"{location}?digest={kit.digest_of(b''.join(parts))}")).status_code == 201
    assert renamed == [True]


async def test_session_that_ended_meanwhile_acknowledges_nothing(worker, monkeypatch, root, rows):
    """The row is gone, or elsewhere, when the bytes are on the disk: 202 would promise what nobody can close."""
    one = await worker()
    location = await one.start()
    real = os.fdatasync

    def gone(descriptor):
        connection = apsw.Connection(str(root / "hatoba/uploads.db"))
        connection.execute("DELETE FROM uploads")
        connection.close()
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", gone)
    answer = await one("PATCH", location, content=b"body")
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert rows("SELECT count(*) FROM uploads", "uploads.db") == [(0,)]


async def test_row_that_moved_meanwhile_is_not_overwritten(worker, monkeypatch, root, rows):
    one = await worker()
    location = await one.start()
    real = os.fdatasync

    def moved(descriptor):
        connection = apsw.Connection(str(root / "hatoba/uploads.db"))
        connection.execute('UPDATE uploads SET "offset" = 3')
        connection.close()
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", moved)
    assert (await one("PATCH", location, content=b"body")).status_code == 404
    assert rows('SELECT "offset" FROM uploads', "uploads.db") == [(3,)]


async def test_file_that_changed_under_our_hands_ends_the_session(worker, kit, monkeypatch, tree):
    one = await worker()
    location = await one.start()
    await one("PATCH", location, content=b"body")
    real = filesystem._FileWriter._seal

    def grown(self):
        with open(self._path, "ab") as file:  # noqa: PTH123
            file.write(b"of somebody else")
        return real(self)

    where = f"{location}?digest={kit.digest_of(b'body')}"
    with monkeypatch.context() as patched:
        patched.setattr(filesystem._FileWriter, "_seal", grown)
        assert (await one("PUT", where)).json()["errors"][0]["code"] == "BLOB_UPLOAD_INVALID"
    assert (await one("GET", location)).status_code == 404
    assert (await one("PUT", where)).status_code == 404
    assert not list(tree.glob("repositories/team/app/_uploads/*/data"))


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 507), (errno.EDQUOT, 507), (errno.EIO, 503)])
async def test_failed_sync_ends_the_session_whatever_the_reason(worker, monkeypatch, tree, number, status):
    """A full disk at a write can be cut back; at a sync nobody knows which bytes the kernel dropped."""
    one = await worker()
    location = await one.start()
    await one("PATCH", location, content=b"first")

    def failing(_descriptor):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", failing)
        assert (await one("PATCH", location, content=b"second")).status_code == status
    assert (await one("GET", location)).status_code == 404
    assert not list(tree.glob("repositories/team/app/_uploads/*/data"))


@pytest.mark.parametrize("call", ["fdatasync", "ftruncate", "fsync"])
async def test_descriptor_outlives_the_step_of_a_cancelled_request(worker, kit, monkeypatch, tree, call):
    """The thread is inside the call when the request is cancelled: its descriptor's number must not be free yet."""
    one = await worker()
    location = await one.start()
    await one("PATCH", location, content=b"first")
    if call == "ftruncate":
        (file,) = tree.glob("repositories/team/app/_uploads/*/data")
        with file.open("ab") as data:
            data.write(b"torn")
    reached, released = threading.Event(), threading.Event()
    names = []
    real = getattr(os, call)

    def slow(descriptor, *arguments):
        before = name_of(descriptor)
        if "_uploads" in before and not reached.is_set():
            reached.set()
            assert released.wait(30)
            names.append((before, os.path.lexists(f"/proc/self/fd/{descriptor}") and name_of(descriptor)))
        real(descriptor, *arguments)

    monkeypatch.setattr(os, call, slow)
    where = f"{location}?digest={kit.digest_of(b'firstlast')}"
    request = one("PUT", where, content=b"last") if call == "fsync" else one("PATCH", location, content=b"last")
    running = asyncio.ensure_future(request)
    try:
        assert await asyncio.to_thread(reached.wait, 30)
        running.cancel()
        await asyncio.sleep(0.2)
        assert not running.done()
        assert (await one("DELETE", location)).status_code == 429, "and the lock is held as long"
    finally:
        released.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [before for before, _ in names] == [after for _, after in names]
    assert names
    assert (await one("GET", location)).headers["range"] == "0-4"


async def test_error_of_a_write_back_under_way_ends_the_session(worker, monkeypatch, tree):
    """The kernel tells the early sync alone; the last one is fine. The body comes in blocks: else none is early."""
    monkeypatch.setattr(filesystem, "_WRITE_BACK_BYTES", 1)
    one = await worker()
    location = await one.start()
    sizes = []

    def once(descriptor):
        sizes.append(os.fstat(descriptor).st_size)
        if len(sizes) == 1:
            raise OSError(errno.EIO, "write-back failed")

    async def parts():
        for _ in range(4):
            yield bytes(1_100_000)

    monkeypatch.setattr(os, "fdatasync", once)
    assert (await one("PATCH", location, content=parts())).status_code == 503
    assert sizes[0] < 4_400_000, "the first sync was an early one"
    assert (await one("GET", location)).status_code == 404
    assert not list(tree.glob("repositories/team/app/_uploads/*/data"))


@pytest.mark.parametrize("written", [0, 1, 5])
async def test_short_write_is_completed(worker, kit, monkeypatch, written):
    """A signal, or a quota about to be reached: pwritev may write less than it was given, without an error."""
    one = await worker()
    location = await one.start()
    body = os.urandom(70_000)
    real = os.pwritev

    def short(descriptor, buffers, offset):
        return real(descriptor, [b"".join(buffers)[:written]], offset) if written else 0

    monkeypatch.setattr(os, "pwritev", short)
    assert (await one("PATCH", location, content=body)).status_code == 202
    where = f"{location}?digest={kit.digest_of(body + b'last')}"
    assert (await one("PUT", where, content=b"last")).status_code == 201
    assert (await one("GET", f"/v2/team/app/blobs/{kit.digest_of(body + b'last')}")).content == body + b"last"


async def test_interrupted_closing_request_closes_nothing(worker, kit):
    """Half of the last chunk came: nothing is compared with the digest yet, and the request can come again."""
    one = await worker()
    location = await one.start()
    await one("PATCH", location, content=b"first")
    digest = kit.digest_of(b"firstlast")
    messages = [{"type": "http.request", "body": b"la", "more_body": True}, {"type": "http.disconnect"}]
    sent = []
    scope = {
        "type": "http", "method": "PUT", "path": location, "query_string": f"digest={digest}".encode(), "headers": [],
        "client": None,
    }  # fmt: skip

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    await one.app(scope, receive, send)
    assert sent[0]["status"] == 400, "whoever may still hear it"
    assert (await one("GET", location)).headers["range"] == "0-4"
    assert (await one("PUT", f"{location}?digest={digest}", content=b"last")).status_code == 201


async def test_closing_again_looks_at_the_file(worker, kit, blob_file):
    """201 for a lost answer says that the blob exists: row and file."""
    one = await worker()
    location = await one.start()
    where = f"{location}?digest={kit.digest_of(b'body')}"
    assert (await one("PUT", where, content=b"body")).status_code == 201
    assert (await one("PUT", where, content=b"body")).status_code == 201
    blob_file(kit.digest_of(b"body")).unlink()
    assert (await one("PUT", where, content=b"body")).status_code == 404
    await one.push_blob(b"body")
    assert (await one("PUT", where, content=b"body")).status_code == 201


@pytest.mark.parametrize("how", ["replaced", "removed"])
async def test_file_that_goes_away_between_open_and_lock_is_not_locked(worker, monkeypatch, tree, how):
    """The lock would be on what is a blob by now, and the next step would cut it."""
    one = await worker()
    location = await one.start()
    (file,) = tree.glob("repositories/team/app/_uploads/*/data")
    real = fcntl.flock

    def late(descriptor, operation):
        if file.exists() and isinstance(descriptor, int) and name_of(descriptor) == str(file):
            file.rename(tree / "moved")
            if how == "replaced":
                file.write_bytes(b"")
        return real(descriptor, operation)

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", late)
        with pytest.raises(KeyMissing):
            async with one.driver.append(f"docker/registry/v2/{file.relative_to(tree)}"):
                pass
    assert (await one("GET", location)).status_code == 204


async def test_ended_sessions_leave_no_hasher(worker, kit):
    one = await worker()
    for number, end in enumerate(("DELETE", "PUT", "wrong", "purge")):
        location = await one.start()
        await one("PATCH", location, content=b"body %d" % number)
        if end == "purge":
            await one.uploads.purge(timedelta(0))
        else:
            digest = kit.digest_of(b"body %d" % number if end == "PUT" else b"")
            await one("DELETE" if end == "DELETE" else "PUT", f"{location}?digest={digest}")
        assert (await one("GET", location)).status_code == 404
    assert not one.uploads._hashers._kept


def test_idle_hashers_go_when_others_are_kept(monkeypatch):
    live = intake.LiveHashers(most=100, idle_seconds=10)
    live.keep("idle", 5, live.take("idle", 0, "sha256"))
    monkeypatch.setattr(intake.time, "monotonic", lambda: 1e9)
    live.keep("busy", 5, live.take("busy", 0, "sha256"))
    assert set(live._kept) == {"busy"}


async def test_row_ends_before_its_file(worker, kit, monkeypatch, rows):
    """No request may find a session whose file is gone already; a crash in between leaves a file, not a session."""
    one = await worker()
    seen = []
    real = one.driver.remove

    async def remove(key):
        if "_uploads" in key:
            seen.append(rows("SELECT count(*) FROM uploads", "uploads.db"))
        await real(key)

    monkeypatch.setattr(one.driver, "remove", remove)
    await one("DELETE", await one.start())
    await one.push_blob(b"body")
    assert seen
    assert set(map(tuple, seen)) == {((0,),)}


async def test_range_of_a_busy_session_is_todays(worker, monkeypatch):
    """Between the first look and the lock that is not to be had the other request acknowledged bytes."""
    one, two = await worker(), await worker()
    location = await one.start()

    class Busy:
        def __init__(self, _key):
            pass

        async def __aenter__(self):
            assert (await two("PATCH", location, content=b"first")).status_code == 202
            raise KeyBusy

        async def __aexit__(self, *_error):
            return None

    monkeypatch.setattr(one.driver, "append", Busy)
    answer = await one("PATCH", location, content=b"second")
    assert (answer.status_code, answer.headers["range"]) == (416, "0-4")


async def test_bytes_go_where_the_row_says(worker, kit, monkeypatch, tree):
    """Never to the file's end: somebody else's bytes behind the offset are written over, not built upon."""
    one = await worker()
    location = await one.start()
    await one("PATCH", location, content=b"first")
    (file,) = tree.glob("repositories/team/app/_uploads/*/data")
    real = filesystem._FileWriter._pwrite

    def late(*arguments):
        with file.open("ab") as data:
            data.write(b"torn")
        real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(filesystem._FileWriter, "_pwrite", late)
        assert (await one("PATCH", location, content=b"second")).headers["range"] == "0-10"
    assert file.read_bytes() == b"firstsecond"
    assert (await one("PUT", f"{location}?digest={kit.digest_of(b'firstsecond')}")).status_code == 201


@pytest.mark.parametrize("end", ["gone", "stalled"])
async def test_push_in_one_request_leaves_no_session(worker, kit, rows, tree, end):
    """Nobody knows its address, so nobody could go on with it."""
    one = await worker(**{"hatoba.limits.stalltimeout": "50ms"})
    digest = kit.digest_of(b"whole")
    messages = [{"type": "http.request", "body": b"who", "more_body": True}]
    scope = {
        "type": "http", "method": "POST", "path": "/v2/team/app/blobs/uploads/",
        "query_string": f"digest={digest}".encode(), "headers": [], "client": None,
    }  # fmt: skip

    async def receive():
        if messages:
            return messages.pop(0)
        if end == "stalled":
            await asyncio.sleep(1)
        return {"type": "http.disconnect"}

    async def send(_message):
        return None

    await one.app(scope, receive, send)
    assert rows("SELECT count(*) FROM uploads", "uploads.db") == [(0,)]
    assert not list(tree.glob("repositories/team/app/_uploads/*"))
    await one.push_blob(b"whole")
