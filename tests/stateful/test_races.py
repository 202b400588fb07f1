"""Two requests, two workers, or another program at the same time: whoever comes first, nothing is lost or mixed."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import apsw
import pytest
import structlog
from structlog.testing import LogCapture

from hatoba.db import sqlite

BLOBS = "/v2/team/app/blobs/"
TAG = "_manifests/tags/v/current"


@pytest.fixture
def logged():
    capture = LogCapture()
    structlog.configure(processors=[capture])
    yield capture.entries
    structlog.reset_defaults()


def hold(monkeypatch, owner, name: str, *, only: str) -> tuple[asyncio.Event, asyncio.Event]:
    """The first call of owner.name on a key that ends with `only` waits: (it has begun, let it go on)."""
    reached, go_on = asyncio.Event(), asyncio.Event()
    real = getattr(owner, name)

    async def held(key, *arguments):
        if key.endswith(only) and not reached.is_set():
            reached.set()
            await go_on.wait()
        return await real(key, *arguments)

    monkeypatch.setattr(owner, name, held)
    return reached, go_on


async def until(condition) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it does not come to that")


# Tags and links ----------------------------------------------------------------------------------------------------


async def test_link_waits_for_the_one_that_has_read_the_truth(worker, kit, link, rows, monkeypatch):
    """The first push has read its own digest and stands before the write: a second must not overtake it there."""
    one, two = await worker(), await worker()
    reached, go_on = hold(monkeypatch, one.driver, "write_link", only="/current/link")
    first = asyncio.ensure_future(one.push_image("v"))
    await reached.wait()
    second = asyncio.ensure_future(two.push_image("v", note="second"))
    digest = kit.digest_of(kit.manifest_of(b"{}", [], note="second"))
    await until(lambda: rows("SELECT digest FROM tags") == [(digest,)])
    await asyncio.sleep(0.1)
    assert not second.done()
    go_on.set()
    await asyncio.gather(first, second)
    assert link(TAG) == digest


async def test_push_waits_for_the_delete_that_has_read_the_truth(worker, kit, link, monkeypatch):
    one, two = await worker(), await worker()
    body = await one.push_image("v")
    reached, go_on = hold(monkeypatch, one.driver, "remove_tree", only="/tags/v")
    deleting = asyncio.ensure_future(one("DELETE", "/v2/team/app/manifests/v"))
    await reached.wait()
    pushing = asyncio.ensure_future(two.push_manifest(body, "v"))
    await asyncio.sleep(0.2)
    assert not pushing.done()
    go_on.set()
    assert [answer.status_code for answer in await asyncio.gather(deleting, pushing)] == [202, 201]
    assert link(TAG) == kit.digest_of(body)


async def test_deletes_and_pushes_of_one_tag(worker, kit, link, rows):
    one, two = await worker(), await worker()
    bodies = [await one.push_image("v") for _ in range(3)]
    for number in range(60):
        answers = await asyncio.gather(
            one.push_manifest(bodies[number % 3], "v"),
            two("DELETE", "/v2/team/app/manifests/v"),
            two.push_manifest(bodies[(number + 1) % 3], "v"),
        )
        assert [answer.status_code for answer in answers if answer.status_code not in {201, 202, 404}] == []
        row = rows("SELECT digest FROM tags WHERE name = 'v'")
        assert link(TAG) == (row[0][0] if row else None), f"round {number}"
        pulled = await one("GET", "/v2/team/app/manifests/v")
        assert (kit.digest_of(pulled.content) if pulled.is_success else None) == link(TAG)


async def test_deletes_and_pushes_of_one_manifest(worker, kit, link, rows):
    one, two = await worker(), await worker()
    body = await one.push_image("v")
    digest = kit.digest_of(body)
    for number in range(40):
        await asyncio.gather(one.push_manifest(body, "v"), two("DELETE", f"/v2/team/app/manifests/{digest}"))
        held = bool(rows("SELECT 1 FROM manifests"))
        assert bool(rows("SELECT 1 FROM tags")) <= held
        assert link(f"_manifests/revisions/sha256/{digest[7:]}") == (digest if held else None), f"round {number}"


async def test_push_between_the_looks_of_the_walk_is_not_rolled_back(worker, kit, link, monkeypatch):
    """The walk has read the old link; a push moves the tag and settles before it reads the row."""
    one, two = await worker(), await worker()
    await one.push_image("v")
    await one.mirror.settle()
    real = one.driver.read_each
    pushed = []

    async def slow(keys, limit):
        found = await real(keys, limit)
        if any(key.endswith("/current/link") for key in keys) and not pushed:
            pushed.append(await two.push_image("v"))
            await two.mirror.settle()
        return found

    monkeypatch.setattr(one.driver, "read_each", slow)
    await one.compare()
    assert (await one("GET", "/v2/team/app/manifests/v")).content == pushed[0]
    assert link(TAG) == kit.digest_of(pushed[0])


async def test_following_another_program_is_said(worker, kit, tree, logged):
    one = await worker()
    await one.push_image("v")
    other = kit.digest_of(await one.push_image("w"))
    await one.mirror.settle()
    (tree / "repositories/team/app/_manifests/tags/v/current/link").write_text(other)
    await one.compare()
    said = [entry for entry in logged if "moved by another program" in entry["event"]]
    assert [(entry["repository"], entry["tag"], entry["digest"]) for entry in said] == [("team/app", "v", other)]
    assert (await one("HEAD", "/v2/team/app/manifests/v")).headers["docker-content-digest"] == other


# Blobs -------------------------------------------------------------------------------------------------------------


async def push_somehow(one, number: int, body: bytes, digest: str) -> int:
    """POST alone, POST and PUT, or POST, PATCH and PUT; the last answer's status."""
    if number % 3 == 0:
        return (await one("POST", f"{BLOBS}uploads/?digest={digest}", content=body)).status_code
    location = await one.start()
    if number % 3 == 1:
        return (await one("PUT", f"{location}?digest={digest}", content=body)).status_code
    assert (await one("PATCH", location, content=body)).status_code == 202
    return (await one("PUT", f"{location}?digest={digest}")).status_code


async def test_64_pushes_of_one_digest(worker, kit, rows, tree, blob_file, link):
    workers = [await worker(), await worker()]
    body = os.urandom(70_000)
    digest = kit.digest_of(body)
    answers = await asyncio.gather(*(push_somehow(workers[n % 2], n, body, digest) for n in range(64)))
    assert answers == [201] * 64
    assert [path for path in (tree / "blobs").rglob("*") if path.is_file()] == [blob_file(digest)]
    assert blob_file(digest).read_bytes() == body
    assert blob_file(digest).stat().st_mode & 0o777 == 0o444
    assert not list(tree.glob("repositories/team/app/_uploads/*"))
    assert rows("SELECT state, size FROM blobs") == [("ready", 70_000)]
    assert link(f"_layers/sha256/{digest[7:]}") == digest


async def test_ready_blob_is_not_replaced(worker, kit, blob_file, tree):
    """Readers and sendfile keep the inode they opened; a second push only drops its own file."""
    one, two = await worker(), await worker()
    digest = await one.push_blob(b"the same")
    before = blob_file(digest).stat()
    await two.push_blob(b"the same", "other/app")
    after = blob_file(digest).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not list(tree.glob("repositories/other/app/_uploads/*"))


async def test_file_removed_between_row_and_open(worker, monkeypatch, blob_file, rows, logged):
    one = await worker()
    digest = await one.push_blob(b"gone in a moment")
    real = one.driver.open

    async def late(key):
        await asyncio.to_thread(blob_file(digest).unlink)
        return await real(key)

    with monkeypatch.context() as patched:
        patched.setattr(one.driver, "open", late)
        answer = await one("GET", BLOBS + digest)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, "BLOB_UNKNOWN")
    assert rows("SELECT state FROM blobs") == [("missing",)]
    assert (await one("GET", BLOBS + digest)).status_code == 404
    assert len([entry for entry in logged if entry["log_level"] == "error"]) == 1


async def get(one, path: str, on_message, **extensions) -> list[dict]:
    """A GET straight into the application; `on_message` happens after each message."""
    sent = []
    body = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive():
        return body.pop() if body else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)
        await on_message()

    scope = {
        "type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [], "client": None,
        "extensions": extensions,
    }  # fmt: skip
    await one.app(scope, receive, send)
    return sent


async def test_transfer_outlives_its_file(worker, blob_file):
    one = await worker()
    body = os.urandom(3_000_000)
    digest = await one.push_blob(body)
    sent = await get(one, BLOBS + digest, lambda: asyncio.to_thread(blob_file(digest).unlink, missing_ok=True))
    assert sent[0]["status"] == 200
    assert b"".join(message["body"] for message in sent[1:]) == body
    assert len(sent) > 3


async def test_what_is_handed_over_is_that_blob_or_nothing(worker, blob_file):
    """granian opens the path some time after `send` returned: by then all of our descriptors may be other files'."""
    one = await worker()
    body = os.urandom(3_000_000)
    digest = await one.push_blob(body)
    before = set(os.listdir("/proc/self/fd"))
    sent = await get(one, BLOBS + digest, lambda: asyncio.sleep(0), **{"http.response.pathsend": {}})
    assert set(os.listdir("/proc/self/fd")) <= before
    assert sent[1:] == [{"type": "http.response.pathsend", "path": str(blob_file(digest))}]
    blob_file(digest).unlink()
    await one("HEAD", BLOBS + digest)
    await one.push_blob(body)
    assert Path(sent[1]["path"]).read_bytes() == body


def collect(root) -> None:
    """What a collector does: row and file of a blob that nothing links to."""
    connection = apsw.Connection(str(root / "hatoba/metadata.db"))
    connection.execute("BEGIN IMMEDIATE; DELETE FROM repository_blobs; DELETE FROM blobs; COMMIT")
    connection.close()


@pytest.mark.parametrize("how", ["mount", "mount from", "manifest"])
async def test_collector_before_the_transaction(worker, kit, root, rows, monkeypatch, how):
    """All looks are done, the transaction has not begun: the blob goes away. Linking it must not succeed."""
    one = await worker()
    digest = await one.push_blob(b"{}")
    await one.mirror.settle()
    real = one.database.write

    async def late(work):
        collect(root)
        return await real(work)

    monkeypatch.setattr(one.database, "write", late)
    if how == "manifest":
        assert (await one.push_manifest(kit.manifest_of(b"{}", []), "v")).status_code == 400
    else:
        source = "&from=team/app" if how == "mount from" else ""
        answer = await one("POST", f"/v2/other/app/blobs/uploads/?mount={digest}{source}")
        assert answer.status_code == 202
    assert rows("SELECT count(*) FROM repository_blobs") == [(0,)]
    assert rows("SELECT count(*) FROM manifests") == [(0,)]


@pytest.mark.parametrize("how", ["mount", "manifest", "push"])
async def test_linking_touches_the_blob_first(worker, kit, monkeypatch, how):
    """On PostgreSQL that row lock is what makes a collector wait; it must come before any link."""
    one = await worker()
    digest = await one.push_blob(b"{}")
    writes = []
    real = sqlite._Session.run

    async def recorded(self, sql, **parameters):
        writes.append(sql)
        return await real(self, sql, **parameters)

    monkeypatch.setattr(sqlite._Session, "run", recorded)
    if how == "mount":
        await one("POST", f"/v2/other/app/blobs/uploads/?mount={digest}&from=team/app")
    elif how == "manifest":
        await one.push_manifest(kit.manifest_of(b"{}", []), "v")
    else:
        await one.push_blob(b"{}", "other/app")
    content = [sql for sql in writes if "uploads" not in sql]
    assert content[0].startswith("UPDATE blobs SET linked_at"), content
    assert any("INSERT INTO repository_blobs" in sql or "INSERT INTO manifests" in sql for sql in content)


# Uploads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [False, True])
async def test_row_is_read_again_under_the_lock(worker, kit, monkeypatch, ordered):
    """Between a request's first look and its lock another one wrote: its bytes are neither overwritten nor cut."""
    one, two = await worker(), await worker()
    location = await one.start()
    with monkeypatch.context() as patched:
        patched.setattr(one.driver, "append", Late(one.driver.append, lambda: two("PATCH", location, content=b"first")))
        headers = {"content-range": "0-5"} if ordered else {}
        answer = await one("PATCH", location, content=b"second", headers=headers)
    if ordered:
        assert (answer.status_code, answer.headers["range"]) == (416, "0-4")
    else:
        assert (answer.status_code, answer.headers["range"]) == (202, "0-10")
    whole = b"first" if ordered else b"firstsecond"
    assert (await one("PUT", f"{location}?digest={kit.digest_of(whole)}")).status_code == 201


class Late:
    """`driver.append` that lets something happen before the lock is taken."""

    def __init__(self, real, before) -> None:
        self._real, self._before = real, before

    def __call__(self, key):
        self._context = self._real(key)
        return self

    async def __aenter__(self):
        assert (await self._before()).status_code == 202
        return await self._context.__aenter__()

    async def __aexit__(self, *error):
        return await self._context.__aexit__(*error)


async def test_patches_at_once_are_taken_whole_or_refused(worker, kit):
    workers = [await worker(), await worker()]
    location = await workers[0].start()
    parts = [bytes([number]) * 40_000 for number in range(12)]
    answers = await asyncio.gather(*(workers[n % 2]("PATCH", location, content=parts[n]) for n in range(12)))
    taken = [n for n, answer in enumerate(answers) if answer.status_code == 202]
    assert {answer.status_code for answer in answers} <= {202, 416}
    assert taken
    taken.sort(key=lambda n: int(answers[n].headers["range"].partition("-")[2]))
    whole = b"".join(parts[n] for n in taken)
    assert (await workers[0]("GET", location)).headers["range"] == f"0-{len(whole) - 1}"
    assert (await workers[1]("PUT", f"{location}?digest={kit.digest_of(whole)}")).status_code == 201


@pytest.mark.parametrize("other", ["PUT", "DELETE", "PATCH"])
async def test_closing_at_once_with_something_else(worker, kit, other):
    one, two = await worker(), await worker()
    for number in range(15):
        body = b"%d" % number * 20_000
        digest = kit.digest_of(body)
        location = await one.start()
        await one("PATCH", location, content=body)
        path = f"{location}?digest={digest}" if other == "PUT" else location
        put, second = await asyncio.gather(one("PUT", f"{location}?digest={digest}"), two(other, path))
        fine = {"PUT": {201, 429}, "DELETE": {204, 404, 429}, "PATCH": {202, 404, 416}}[other]
        assert second.status_code in fine
        assert put.status_code in ({201, 404, 429} if other == "DELETE" else {201, 429})
        if 201 in {put.status_code, second.status_code}:
            assert (await two("GET", BLOBS + digest)).content == body
        elif put.status_code == 429 and second.status_code != 204:
            assert (await one("PUT", f"{location}?digest={digest}")).status_code == 201


async def test_no_more_than_a_few_blocks_wait_for_a_slow_disk(worker, monkeypatch):
    """Memory stays flat: while the disk stands still no more of the body is asked for."""
    one = await worker()
    location = await one.start()
    released = threading.Event()
    real = os.pwritev

    def slow(*arguments):
        assert released.wait(30)
        return real(*arguments)

    monkeypatch.setattr(os, "pwritev", slow)
    taken = 0

    async def parts():
        nonlocal taken
        for _ in range(400):
            taken += 65_536
            yield bytes(65_536)

    patch = asyncio.ensure_future(one("PATCH", location, content=parts()))
    await asyncio.sleep(0.5)
    stalled = taken
    released.set()
    assert (await patch).headers["range"] == f"0-{400 * 65_536 - 1}"
    assert stalled <= 3 * 1024 * 1024
