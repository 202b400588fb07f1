"""The rules of uploads (docs/architecture.md, "Uploads"), each against the thing that goes wrong without it."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import threading
from datetime import timedelta

import pytest

from hatoba.registry import intake, uploads

BASE = "/v2/team/app/blobs/uploads/"


def closing(location: str, digest: str) -> str:
    return f"{location}?digest={digest}"


class Blocked:
    """Holds every os.pwritev until it is let go."""

    def __init__(self, monkeypatch) -> None:
        self.reached, self.released = threading.Event(), threading.Event()
        self._real = os.pwritev
        monkeypatch.setattr(os, "pwritev", self)

    def __call__(self, *arguments):
        self.reached.set()
        assert self.released.wait(30)
        return self._real(*arguments)

    async def wait(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 30)


@pytest.fixture
def blocked(monkeypatch):
    held = Blocked(monkeypatch)
    yield held
    held.released.set()


@pytest.fixture
def read_backs(monkeypatch):
    """How many times an upload was read again to be hashed."""
    calls = []

    async def counted(*arguments):
        calls.append(arguments)
        return await intake.read_back(*arguments)

    monkeypatch.setattr(uploads, "read_back", counted)
    return calls


@pytest.mark.parametrize("other_worker", [False, True])
async def test_running_patch_shuts_out_every_other_request(worker, kit, blocked, other_worker):
    one = await worker()
    two = await worker() if other_worker else one
    location = await one.start()
    patch = asyncio.ensure_future(one("PATCH", location, content=b"a" * 100_000))
    await blocked.wait()
    digest = kit.digest_of(b"a" * 100_000)
    second = await two("PATCH", location, content=b"zzz")
    assert (second.status_code, second.headers["range"]) == (416, "0-0")
    put = await two("PUT", closing(location, digest))
    assert (put.status_code, put.headers["retry-after"]) == (429, "1")
    assert (await two("DELETE", location)).status_code == 429
    blocked.released.set()
    assert (await patch).headers["range"] == "0-99999"
    assert (await two("PUT", closing(location, digest))).status_code == 201
    assert (await two("GET", f"/v2/team/app/blobs/{digest}")).content == b"a" * 100_000


async def test_cancelled_request_waits_for_its_write(worker, kit, root, blocked):
    one = await worker()
    location = await one.start()
    patch = asyncio.ensure_future(one("PATCH", location, content=b"a" * 100_000))
    await blocked.wait()
    patch.cancel()
    await asyncio.sleep(0.2)
    assert not patch.done()
    descriptors = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_link(fd)}
    assert any("_uploads" in name for name in descriptors), "the file was closed under the thread that writes"
    blocked.released.set()
    with pytest.raises(asyncio.CancelledError):
        await patch
    assert (await one("GET", location)).headers["range"] == "0-0"
    assert (await one("PUT", closing(location, kit.digest_of(b"b")), content=b"b")).status_code == 201


def _is_link(descriptor: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{descriptor}")


async def test_session_survives_a_restart_and_uses_the_digest_so_far(worker, kit, read_backs):
    one = await worker()
    location = await one.start()
    assert (await one("PATCH", location, content=b"hello ")).status_code == 202
    await one.aclose()
    two = await worker()
    assert (await two("GET", location)).headers["range"] == "0-5"
    assert (await two("PUT", closing(location, kit.digest_of(b"hello ")))).status_code == 201
    assert read_backs == []


async def test_another_worker_goes_on_and_the_file_is_read_once(worker, kit, read_backs):
    workers = [await worker(), await worker()]
    location = await workers[0].start()
    body = b"".join(bytes([number]) * 1000 for number in range(10))
    for number in range(10):
        part = body[number * 1000 : (number + 1) * 1000]
        headers = {"content-range": f"{number * 1000}-{number * 1000 + 999}"}
        answer = await workers[number % 2]("PATCH", location, content=part, headers=headers)
        assert answer.status_code == 202
    assert (await workers[0]("PUT", closing(location, kit.digest_of(body)))).status_code == 201
    assert len(read_backs) == 1


async def test_one_worker_never_reads_back(worker, kit, read_backs):
    one = await worker()
    location = await one.start()
    for part in (b"a" * 5000, b"b" * 5000):
        await one("PATCH", location, content=part)
    body = b"a" * 5000 + b"b" * 5000 + b"c"
    assert (await one("PUT", closing(location, kit.digest_of(body)), content=b"c")).status_code == 201
    assert read_backs == []


async def test_bytes_nobody_acknowledged_are_cut(worker, kit, tree):
    one = await worker()
    location = await one.start()
    await one("PATCH", location, content=b"good")
    (file,) = tree.glob("repositories/team/app/_uploads/*/data")
    with file.open("ab") as data:
        data.write(b"torn write of a crash")
    assert (await one("PATCH", location, content=b"more")).headers["range"] == "0-7"
    assert file.read_bytes() == b"goodmore"
    assert (await one("PUT", closing(location, kit.digest_of(b"goodmore")))).status_code == 201


async def test_file_shorter_than_its_row_ends_the_session(worker, tree):
    one = await worker()
    location = await one.start()
    await one("PATCH", location, content=b"0123456789")
    (file,) = tree.glob("repositories/team/app/_uploads/*/data")
    os.truncate(file, 5)
    assert (await one("PATCH", location, content=b"more")).status_code == 404
    assert (await one("GET", location)).status_code == 404
    assert not file.exists()


async def test_row_says_no_more_than_the_disk_has(worker, monkeypatch, rows):
    """fdatasync comes before the row: at the time of the sync the row has the old offset."""
    one = await worker()
    location = await one.start()
    seen = []
    real = os.fdatasync

    def recorded(descriptor):
        seen.append(rows('SELECT "offset" FROM uploads', "uploads.db")[0][0])
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", recorded)
    for _ in range(2):
        await one("PATCH", location, content=b"12345")
    assert seen == [0, 5]
    assert rows('SELECT "offset" FROM uploads', "uploads.db") == [(10,)]


@pytest.mark.parametrize("call", ["fdatasync", "pwritev"])
async def test_failed_write_ends_the_upload_for_good(worker, kit, monkeypatch, tree, call):
    one = await worker()
    location = await one.start()
    await one("PATCH", location, content=b"first")
    calls = []

    def failing(*_arguments):
        calls.append(1)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing)
        answer = await one("PATCH", location, content=b"second")
    assert answer.status_code == 503
    assert "Input/output" not in answer.json()["errors"][0].get("detail", "")
    assert len(calls) == 1, "a failed sync is not tried again"
    assert (await one("GET", location)).status_code == 404
    assert (await one("PUT", closing(location, kit.digest_of(b"firstsecond")))).status_code == 404
    assert not list(tree.glob("repositories/team/app/_uploads/*/data"))


async def test_full_disk_cuts_back_and_the_session_goes_on(worker, kit, monkeypatch, tree):
    one = await worker()
    location = await one.start()
    await one("PATCH", location, content=b"first")
    real = os.pwritev

    def full(descriptor, buffers, offset):
        real(descriptor, [b"half"], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", full)
        answer = await one("PATCH", location, content=b"second")
    kit_error = answer.json()["errors"][0]
    assert (answer.status_code, kit_error["code"]) == (507, "UNAVAILABLE")
    (file,) = tree.glob("repositories/team/app/_uploads/*/data")
    assert file.read_bytes() == b"first"
    assert (await one("PATCH", location, content=b"second")).headers["range"] == "0-10"
    assert (await one("PUT", closing(location, kit.digest_of(b"firstsecond")))).status_code == 201


async def test_client_that_goes_away_keeps_what_came(worker, kit):
    one = await worker()
    location = await one.start()
    messages = [
        {"type": "http.request", "body": b"half", "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent = []
    scope = {
        "type": "http", "method": "PATCH", "path": location, "query_string": b"", "headers": [], "client": None,
    }  # fmt: skip

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    await one.app(scope, receive, send)
    assert sent[0]["status"] == 400, "whoever may still hear it"
    assert (await one("GET", location)).headers["range"] == "0-3"
    assert (await one("PUT", closing(location, kit.digest_of(b"half")))).status_code == 201


async def test_stalled_client_is_told_and_the_session_stays(worker):
    one = await worker(**{"hatoba.limits.stalltimeout": "100ms"})
    location = await one.start()

    scope_messages = iter([{"type": "http.request", "body": b"some", "more_body": True}])
    sent = []

    async def receive():
        message = next(scope_messages, None)
        if message is None:
            await asyncio.sleep(60)
        return message

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "PATCH", "path": location, "query_string": b"", "headers": [], "client": None}
    await one.app(scope, receive, send)
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]
    assert (await one("GET", location)).headers["range"] == "0-3"


async def test_closing_again_after_a_lost_answer(worker, kit):
    one, two = await worker(), await worker()
    location = await one.start()
    await one("PATCH", location, content=b"body")
    where = closing(location, kit.digest_of(b"body"))
    assert (await one("PUT", where)).status_code == 201
    assert (await two("PUT", where)).status_code == 201
    assert (await two("PUT", closing(location, kit.digest_of(b"other")))).status_code == 404


async def test_committed_file_is_read_only_and_nobody_writes_to_it(worker, kit, blob_file, monkeypatch):
    one = await worker()
    seen = []
    real = os.rename

    def recorded(source, target):
        if target.endswith("/data"):
            for descriptor in os.listdir("/proc/self/fd"):
                if _is_link(descriptor) and os.readlink(f"/proc/self/fd/{descriptor}") == source:
                    flags = fcntl.fcntl(int(descriptor), fcntl.F_GETFL)
                    seen.append(flags & os.O_ACCMODE)
        real(source, target)

    monkeypatch.setattr(os, "rename", recorded)
    digest = await one.push_blob(b"x" * 5000)
    assert seen == [os.O_RDONLY], "the lock alone is open at the rename"
    assert blob_file(digest).stat().st_mode & 0o777 == 0o444


async def test_purge_takes_the_idle_and_leaves_the_busy(worker, tree, blocked):
    one = await worker()
    idle, busy = await one.start(), await one.start()
    patch = asyncio.ensure_future(one("PATCH", busy, content=b"a" * 100_000))
    await blocked.wait()
    assert await one.uploads.purge(timedelta(hours=1)) == 0
    assert await one.uploads.purge(timedelta(0), dry_run=True) == 2
    assert await one.uploads.purge(timedelta(0)) == 1
    assert (await one("GET", idle)).status_code == 404
    blocked.released.set()
    assert (await patch).status_code == 202
    assert len(list(tree.glob("repositories/team/app/_uploads/*"))) == 1
    assert await one.uploads.purge(timedelta(0)) == 1
    assert not list(tree.glob("repositories/team/app/_uploads/*"))


async def test_many_pushes_of_one_digest(worker, kit, rows, tree):
    workers = [await worker(), await worker()]
    body = os.urandom(50_000)
    answers = await asyncio.gather(*(workers[number % 2].push_blob(body) for number in range(32)))
    assert set(answers) == {kit.digest_of(body)}
    assert rows("SELECT count(*) FROM blobs") == [(1,)]
    assert not list(tree.glob("repositories/team/app/_uploads/*"))
    assert (await workers[0]("GET", f"/v2/team/app/blobs/{kit.digest_of(body)}")).content == body


async def test_hashers_are_bounded_and_forget_the_idle(monkeypatch):
    live = intake.LiveHashers(most=2, idle_seconds=10)
    for name in ("a", "b", "c"):
        live.keep(name, 5, live.take(name, 0, "sha256"))
    assert live.take("a", 5, "sha256") is None
    assert live.take("b", 4, "sha256") is None
    kept = live.take("c", 5, "sha256")
    assert kept is not None
    live.keep("c", 5, kept)
    monkeypatch.setattr(intake.time, "monotonic", lambda: 1e9)
    assert live.take("c", 5, "sha256") is None
