"""Rows and bytes are the truth: a push is one step, a row says where bytes lie, any worker finishes what is left."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from datetime import timedelta

import apsw
import pytest

from hatoba.blobs import filesystem
from hatoba.db import sqlite
from hatoba.db import tree as tree_rows
from hatoba.operations import follow
from hatoba.operations import mirror as mirror_module

BLOBS = "/v2/team/app/blobs/"
TAG = "_manifests/tags/v/current"
TABLES = (
    "repositories", "blobs", "repository_blobs", "manifest_bodies", "manifests", "manifest_references", "tags",
    "tag_moves", "mirror",
)  # fmt: skip


async def until(condition, seconds: float = 10) -> None:
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    pytest.fail("it does not come to that")


async def test_bytes_lie_where_the_row_says(worker, kit, root, blob_file):
    """An adopted bucket keeps its keys: nobody but the row knows where a blob is."""
    one, two = await worker(), await worker()
    digest = await one.push_blob(b"moved")
    elsewhere = root / "elsewhere/moved.bin"
    elsewhere.parent.mkdir()
    blob_file(digest).rename(elsewhere)
    connection = apsw.Connection(str(root / "hatoba/metadata.db"))
    connection.execute("UPDATE blobs SET key = 'elsewhere/moved.bin'")
    connection.close()
    for each in (one, two):
        assert (await each("HEAD", BLOBS + digest)).status_code == 200
        assert (await each("GET", BLOBS + digest)).content == b"moved"
    assert (await one("POST", f"/v2/other/app/blobs/uploads/?mount={digest}&from=team/app")).status_code == 201
    assert (await two.push_manifest(kit.manifest_of(b"moved", []), "v")).status_code == 201
    await two.push_blob(b"moved")
    assert not blob_file(digest).exists()


async def write_and_fail(one, monkeypatch, number: int, act) -> int:
    """`act`, with statement `number` of its content transaction failing; how many statements it came to."""
    real = sqlite._Session.run
    count = 0

    async def run(self, sql, **parameters):
        nonlocal count
        if "uploads" not in sql:
            count += 1
            if count == number:
                raise apsw.IOError("disk I/O error")
        return await real(self, sql, **parameters)

    with monkeypatch.context() as patched:
        patched.setattr(sqlite._Session, "run", run)
        answer = await act()
    assert answer.status_code == (503 if count == number else 201), answer.text
    return count


@pytest.mark.parametrize("what", ["manifest", "mount", "blob"])
async def test_push_is_one_step(worker, kit, rows, monkeypatch, link, what):
    """Whichever statement fails, nothing of the push is there; then the same push works."""
    one = await worker()
    config = await one.push_blob(b"{}")
    await one.mirror.settle()
    body = kit.manifest_of(b"{}", [])
    pushes = {
        "manifest": lambda: one("PUT", f"/v2/team/app/manifests/{kit.digest_of(body)}?tag=v&tag=w", content=body),
        "mount": lambda: one("POST", f"/v2/team/two/blobs/uploads/?mount={config}&from=team/app"),
        "blob": lambda: one("POST", f"/v2/team/two/blobs/uploads/?digest={kit.digest_of(b'x')}", content=b"x"),
    }

    def everything() -> list[list[tuple]]:
        return [rows(f"SELECT * FROM {table}") for table in TABLES]

    before, number = everything(), 0
    while True:
        number += 1
        reached = await write_and_fail(one, monkeypatch, number, pushes[what])
        if reached < number:
            break
        assert everything() == before, f"statement {number} failed and left something"
        assert link(TAG) is None
    assert number > 3
    assert everything() != before


async def test_uploads_do_not_disturb_the_caches(worker, rows):
    """Sessions have a database of their own: a long upload leaves the version of content unchanged."""
    one = await worker()
    await one.push_image("v")
    await one.mirror.settle()
    before = one.database.version()
    location = await one.start()
    for _ in range(3):
        await one("PATCH", location, content=b"chunk")
    await one("DELETE", location)
    assert one.database.version() == before
    await one.push_blob(b"but this does")
    assert one.database.version() != before


async def test_another_worker_writes_what_a_dead_one_left(worker, kit, link, monkeypatch, rows):
    """Not only at a start: every worker looks for leftovers all the time."""
    monkeypatch.setattr(mirror_module, "_SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(mirror_module, "_LEFTOVER_AGE", timedelta(seconds=0.2))
    await worker()
    dead = await worker()

    async def dies(_rows):
        return None

    monkeypatch.setattr(dead.mirror, "write", dies)
    body = await dead.push_image("v")
    assert link(TAG) is None
    await until(lambda: link(TAG) == kit.digest_of(body))
    await until(lambda: rows("SELECT count(*) FROM mirror") == [(0,)])


async def test_fresh_marks_are_left_to_their_request(worker, monkeypatch, link, rows):
    """A mark of this moment is about to be written by its own request, in order: nobody else hurries."""
    monkeypatch.setattr(mirror_module, "_SETTLE_SECONDS", 0.02)
    one = await worker()

    async def later(_rows):
        return None

    monkeypatch.setattr(one.mirror, "write", later)
    await one.push_image("v")
    await asyncio.sleep(0.3)
    assert link(TAG) is None
    assert rows("SELECT count(*) FROM mirror") == [(3,)]


async def test_one_worker_walks(worker, kit, root, tree, rows):
    one = await worker()
    await one.push_image("v")
    await one.mirror.settle()
    link = tree / "repositories/team/app/_manifests/tags/v/current/link"
    kit.lose(link)
    await one.database.write(tree_rows.doubt)
    following = follow.Following(one.database, one.driver, one.mirror, root / "hatoba/locks")
    with (root / "hatoba/locks/walk").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        running = asyncio.ensure_future(following.run())
        await asyncio.sleep(0.5)
        assert not link.exists()
    await running
    assert link.exists()
    assert following.known
    assert rows("SELECT state FROM tree") == [("known",)]


async def test_manifest_file_holds_the_pushed_bytes(worker, kit, blob_file, root):
    """Byte for byte, read-only, and with nothing left of the way there."""
    one = await worker()
    await one.push_blob(b"{}")
    body = json.dumps(json.loads(kit.manifest_of(b"{}", [])), indent=3).encode() + b"\n\n"
    assert (await one.push_manifest(body, "v")).status_code == 201
    file = blob_file(kit.digest_of(body))
    assert file.read_bytes() == body
    assert file.stat().st_mode & 0o777 == 0o444
    assert not list((root / "hatoba/tmp").iterdir())
    assert (await one("GET", "/v2/team/app/manifests/v")).content == body


async def test_manifest_file_is_durable_before_its_rename(worker, kit, monkeypatch):
    one = await worker()
    await one.push_blob(b"{}")
    synced, renamed = [], []
    fsync, rename = os.fsync, os.rename

    def sync(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def move(source, target):
        if "/blobs/" in target:
            renamed.append((os.stat(source).st_ino, list(synced)))  # noqa: PTH116
        rename(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", move)
    await one.push_manifest(kit.manifest_of(b"{}", []), "v")
    assert [inode in before for inode, before in renamed] == [True]


@pytest.mark.parametrize("shape", ["patches", "closing"])
async def test_file_never_has_room_in_advance(worker, kit, monkeypatch, tree, shape):
    """posix_fallocate would set the size: what is there at each sync is what came, no byte more."""
    one = await worker()
    location = await one.start()
    sizes = []
    for call in ("fdatasync", "fsync"):
        real = getattr(os, call)

        def seen(descriptor, real=real):
            if os.readlink(f"/proc/self/fd/{descriptor}").endswith("/data"):
                sizes.append(os.fstat(descriptor).st_size)
            real(descriptor)

        monkeypatch.setattr(os, call, seen)
    if shape == "patches":
        await one("PATCH", location, content=b"12345")
        await one("PATCH", location, content=b"67890")
        assert sizes == [5, 10]
    else:
        await one("PUT", f"{location}?digest={kit.digest_of(b'123')}", content=b"123")
        assert sizes == [3]


async def test_early_write_back_runs_beside_receiving(worker, kit, monkeypatch):
    """Gigabytes that wait for the last fdatasync would stall the answer: the disk starts while bytes still come."""
    monkeypatch.setattr(filesystem, "_WRITE_BACK_BYTES", 2 * 1024 * 1024)
    one = await worker()
    location = await one.start()
    sizes = []
    real = os.fdatasync

    def seen(descriptor):
        sizes.append(os.fstat(descriptor).st_size)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", seen)
    body = bytes(12 * 1024 * 1024)

    async def parts():
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]
            await asyncio.sleep(0.001)

    assert (await one("PATCH", location, content=parts())).status_code == 202
    assert len([size for size in sizes if size < len(body)]) >= 2
    assert sizes[-1] == len(body)
    assert (await one("PUT", f"{location}?digest={kit.digest_of(body)}")).status_code == 201
