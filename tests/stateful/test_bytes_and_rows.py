"""Bytes and rows (docs/architecture.md): what exists, what a crash leaves, what linking protects."""

from __future__ import annotations

import asyncio
import errno
import json
import os

import apsw
import pytest

from hatoba.db import sqlite

BLOBS = "/v2/team/app/blobs/"
MARK = "missing or of another size"


def change(file, how: str) -> None:
    file.chmod(0o644)
    if how == "removed":
        file.unlink()
    elif how == "truncated":
        os.truncate(file, 3)
    else:
        with file.open("ab") as data:
            data.write(b"longer")


@pytest.mark.parametrize("how", ["removed", "truncated", "grown"])
@pytest.mark.parametrize("warm", [False, True])
async def test_row_alone_is_not_enough(worker, kit, blob_file, capfd, how, warm):
    one, two = await worker(), await worker()
    body = os.urandom(1000)
    digest = await one.push_blob(body)
    manifest = kit.manifest_of(body, [])
    if warm:
        for each in (one, two):
            assert (await each("HEAD", BLOBS + digest)).status_code == 200
            assert (await each("GET", BLOBS + digest)).content == body
    change(blob_file(digest), how)
    for each in (one, two):
        assert (await each("HEAD", BLOBS + digest)).status_code == 404
        answer = await each("GET", BLOBS + digest)
        assert answer.json()["errors"][0]["code"] == "BLOB_UNKNOWN"
        path = f"/v2/other/app/blobs/uploads/?mount={digest}&from=team/app"
        assert (await each("POST", path)).status_code == 202
        answer = await each.push_manifest(manifest, "v1")
        assert answer.json()["errors"][0]["code"] == "MANIFEST_BLOB_UNKNOWN"
        assert answer.json()["errors"][0]["detail"]["digest"] == digest
    assert capfd.readouterr().err.count(MARK) + caplog_count() == 1
    await one.push_blob(body)
    for each in (one, two):
        assert (await each("GET", BLOBS + digest)).content == body
    assert (await two.push_manifest(manifest, "v1")).status_code == 201


def caplog_count() -> int:
    return sum(MARK in entry["event"] for entry in LOGGED)


LOGGED: list[dict] = []


@pytest.fixture(autouse=True)
def logged():
    import structlog  # noqa: PLC0415
    from structlog.testing import LogCapture  # noqa: PLC0415

    capture = LogCapture()
    structlog.configure(processors=[capture])
    global LOGGED  # noqa: PLW0603
    LOGGED = capture.entries
    yield capture.entries
    structlog.reset_defaults()


@pytest.mark.parametrize("first", ["HEAD", "GET", "mount", "manifest"])
async def test_each_way_to_ask_looks_at_the_file(worker, kit, blob_file, rows, first):
    one = await worker()
    digest = await one.push_blob(b"some content")
    await one("HEAD", BLOBS + digest)
    blob_file(digest).unlink()
    if first == "mount":
        answer = await one("POST", f"/v2/other/app/blobs/uploads/?mount={digest}&from=team/app")
        assert answer.status_code == 202
    elif first == "manifest":
        answer = await one.push_manifest(kit.manifest_of(b"some content", []), "v")
        assert answer.status_code == 400
    else:
        assert (await one(first, BLOBS + digest)).status_code == 404
    assert rows("SELECT state FROM blobs") == [("missing",)]
    assert caplog_count() == 1


async def test_every_missing_file_is_named(worker, kit, blob_file):
    one = await worker()
    bodies = [os.urandom(10) for _ in range(4)]
    digests = [await one.push_blob(body) for body in bodies]
    for digest in digests[1:]:
        blob_file(digest).unlink()
    answer = await one.push_manifest(kit.manifest_of(bodies[0], bodies[1:]), "v")
    assert {entry["detail"]["digest"] for entry in answer.json()["errors"]} == set(digests[1:])


async def test_manifest_file_of_an_index_entry_is_looked_at(worker, kit, blob_file):
    one = await worker()
    body = await one.push_image("v")
    digest = kit.digest_of(body)
    blob_file(digest).unlink()
    entry = {"mediaType": kit.MANIFEST, "digest": digest, "size": len(body)}
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    answer = await one("PUT", "/v2/team/app/manifests/multi", content=index)
    assert answer.json()["errors"][0]["code"] == "MANIFEST_BLOB_UNKNOWN"
    assert (await one.push_manifest(body, "v")).status_code == 201
    assert blob_file(digest).read_bytes() == body
    assert (await one("PUT", "/v2/team/app/manifests/multi", content=index)).status_code == 201


async def test_pull_of_a_manifest_survives_a_lost_file(worker, blob_file, kit):
    one = await worker()
    body = await one.push_image("v")
    blob_file(kit.digest_of(body)).unlink()
    assert (await one("GET", "/v2/team/app/manifests/v")).content == body


async def test_key_changes_only_inside_a_write_transaction(worker, monkeypatch, root):
    """While a blob's file is renamed onto its key, nobody else can write to the database."""
    one = await worker()
    held = []
    real = os.rename

    def recorded(source, target):
        if "/blobs/" in target:
            other = apsw.Connection(str(root / "hatoba/metadata.db"))
            try:
                other.execute("BEGIN IMMEDIATE")
                held.append(False)
            except apsw.BusyError:
                held.append(True)
            finally:
                other.close()
        real(source, target)

    monkeypatch.setattr(os, "rename", recorded)
    await one.push_blob(b"blob")
    await one.push_image("v")
    assert held == [True, True, True]


async def test_crash_between_rename_and_commit_leaves_an_orphan_only(worker, kit, blob_file, monkeypatch, rows):
    one = await worker()
    real = sqlite._drive

    def dies_at_commit(work):
        result = real(work)
        if blob_file(kit.digest_of(b"orphan")).exists():
            raise OSError(errno.EIO, "power failed")
        return result

    with monkeypatch.context() as patched:
        patched.setattr(sqlite, "_drive", dies_at_commit)
        path = f"/v2/team/app/blobs/uploads/?digest={kit.digest_of(b'orphan')}"
        assert (await one("POST", path, content=b"orphan")).status_code == 500
    assert blob_file(kit.digest_of(b"orphan")).exists()
    assert rows("SELECT count(*) FROM blobs") == [(0,)]
    assert (await one("HEAD", BLOBS + kit.digest_of(b"orphan"))).status_code == 404
    await one.push_blob(b"orphan")
    assert (await one("GET", BLOBS + kit.digest_of(b"orphan"))).content == b"orphan"


@pytest.mark.parametrize("how", ["mount", "manifest", "push"])
async def test_linking_is_noted_in_the_blobs_row(worker, kit, rows, how):
    one = await worker()
    digest = await one.push_blob(b"{}")
    (before,) = rows("SELECT linked_at FROM blobs")
    await asyncio.sleep(0.002)
    if how == "mount":
        await one("POST", f"/v2/other/app/blobs/uploads/?mount={digest}&from=team/app")
    elif how == "manifest":
        await one.push_manifest(kit.manifest_of(b"{}", []), "v")
    else:
        await one.push_blob(b"{}")
    (after,) = rows(f"SELECT linked_at FROM blobs WHERE digest = '{digest}'")
    assert after > before


async def test_collected_blob_cannot_be_linked(worker, kit, root):
    """A collector took row and file between a client's HEAD and its mount: the mount must not succeed."""
    one = await worker()
    digest = await one.push_blob(b"{}")
    collector = apsw.Connection(str(root / "hatoba/metadata.db"))
    collector.execute("BEGIN IMMEDIATE; DELETE FROM repository_blobs; DELETE FROM blobs; DELETE FROM mirror; COMMIT")
    collector.close()
    assert (await one("POST", f"/v2/other/app/blobs/uploads/?mount={digest}&from=team/app")).status_code == 202
    assert (await one.push_manifest(kit.manifest_of(b"{}", []), "v")).status_code == 400


async def test_reader_keeps_the_bytes_it_opened(worker, blob_file):
    one = await worker()
    body = os.urandom(3_000_000)
    digest = await one.push_blob(body)
    opened = await one.driver.open(f"docker/registry/v2/blobs/sha256/{digest[7:9]}/{digest[7:]}/data")
    blob_file(digest).unlink()
    assert await opened.read(0, 3_000_000) == body
    opened.close()


async def test_new_folders_are_durable_before_the_rename(worker, monkeypatch, root):
    one = await worker()
    events = []
    fsync, rename = os.fsync, os.rename

    def synced(descriptor):
        events.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(f"{root}/")))
        fsync(descriptor)

    def renamed(source, target):
        if "/blobs/" in target:
            events.append(("rename", target.removeprefix(f"{root}/")))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    await one.push_blob(b"durable")
    (at,) = [number for number, event in enumerate(events) if event[0] == "rename"]
    target = events[at][1]
    before = [name for _, name in events[:at]]
    parts = target.split("/")
    assert any(name.endswith("_uploads/" + name.split("/")[-2] + "/data") for name in before), "the file itself"
    for depth in range(1, len(parts) - 1):
        assert "/".join(parts[:depth]) in before, "a folder is durable when its parent is fsynced"
    assert events[at + 1] == ("fsync", "/".join(parts[:-1]))


async def test_two_workers_delete_and_push_the_same_blob(worker, kit):
    one, two = await worker(), await worker()
    digest = kit.digest_of(b"contended")
    for _ in range(20):
        await asyncio.gather(one.push_blob(b"contended"), two("DELETE", BLOBS + digest))
        await one.push_blob(b"contended")
        assert (await two("GET", BLOBS + digest)).content == b"contended"


async def test_what_is_recorded_of_a_push(worker, kit, rows):
    one = await worker()
    config = json.dumps({"os": "linux", "architecture": "arm64", "created": "2024-05-06T07:08:09.123456789Z"}).encode()
    await one.push_blob(config)
    layer = os.urandom(500)
    await one.push_blob(layer)
    body = json.loads(kit.manifest_of(config, [layer]))
    body["config"]["mediaType"] = "application/vnd.oci.image.config.v1+json"
    body["artifactType"] = "application/x.thing"
    assert (await one.push_manifest(json.dumps(body).encode(), "v")).status_code == 201
    sql = "SELECT os, architecture, artifact_type, config_digest, total_bytes, image_created_at FROM manifests"
    created = 1_714_979_289_123_456
    expected = ("linux", "arm64", "application/x.thing", kit.digest_of(config), len(config) + 500, created)
    assert rows(sql) == [expected]
    first = rows("SELECT digest FROM tags")[0][0]
    second = kit.digest_of(await one.push_image("v"))
    await one("DELETE", "/v2/team/app/manifests/v")
    moves = rows("SELECT repository, tag, digest, actor FROM tag_moves ORDER BY id")
    assert moves == [("team/app", "v", digest, None) for digest in (first, second, None)]


@pytest.mark.parametrize("count", [2, 501])
async def test_references_are_refused_without_the_write_lock_when_they_are_many(worker, kit, monkeypatch, count):
    one = await worker()
    written = []
    real = one.database.write
    monkeypatch.setattr(one.database, "write", lambda work: written.append(work) or real(work))
    layers = [b"%d" % number for number in range(count - 1)]
    answer = await one.push_manifest(kit.manifest_of(b"{}", [*layers, layers[0]]), "v")
    assert answer.status_code == 400
    missing = [entry["detail"]["digest"] for entry in answer.json()["errors"]]
    assert missing == [kit.digest_of(body) for body in (b"{}", *layers)]
    assert len(written) == (1 if count == 2 else 0)
