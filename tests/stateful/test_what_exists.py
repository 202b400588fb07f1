"""*Exists* is row and file of the right size: each way to ask, for each way a file can differ, asked first."""

from __future__ import annotations

import asyncio
import errno
import os

import apsw
import pytest

BLOBS = "/v2/team/app/blobs/"


def change(file, how: str) -> None:
    file.chmod(0o644)
    if how == "removed":
        file.unlink()
    elif how == "a folder":
        file.unlink()
        file.mkdir()
    elif how == "truncated":
        os.truncate(file, 3)
    else:
        with file.open("ab") as data:
            data.write(b"longer")


@pytest.mark.parametrize("how", ["removed", "a folder", "truncated", "grown"])
@pytest.mark.parametrize("first", ["HEAD", "GET", "mount", "mount from", "manifest"])
async def test_first_look_sees_it(worker, kit, blob_file, rows, first, how):
    """The look that marks the row must not be another one's."""
    one = await worker()
    digest = await one.push_blob(b"some content")
    change(blob_file(digest), how)
    if first.startswith("mount"):
        source = "&from=team/app" if first == "mount from" else ""
        answer = await one("POST", f"/v2/other/app/blobs/uploads/?mount={digest}{source}")
        assert answer.status_code == 202
    elif first == "manifest":
        answer = await one.push_manifest(kit.manifest_of(b"some content", []), "v")
        assert answer.json()["errors"][0]["code"] == "MANIFEST_BLOB_UNKNOWN"
    else:
        assert (await one(first, BLOBS + digest)).status_code == 404
    assert rows("SELECT state FROM blobs") == [("missing",)]


async def test_push_heals_what_was_short_from_the_beginning(worker, kit, root, blob_file, rows):
    """Row and file agree, and both are wrong: the bytes that were hashed just now are right."""
    one = await worker()
    digest = await one.push_blob(b"some content")
    change(blob_file(digest), "truncated")
    connection = apsw.Connection(str(root / "hatoba/metadata.db"))
    connection.execute("UPDATE blobs SET size = 3")
    connection.close()
    await one.push_blob(b"some content", "other/app")
    assert blob_file(digest).read_bytes() == b"some content"
    assert rows("SELECT state, size FROM blobs") == [("ready", 12)]


@pytest.mark.parametrize("how", ["removed", "truncated", "grown"])
@pytest.mark.parametrize("name", ["team/app", "other/app"])
async def test_push_heals_what_nobody_has_noticed(worker, kit, blob_file, rows, name, how):
    """The row still says ready: its push must look at the file before it drops its own bytes."""
    one = await worker()
    body = b"some content"
    digest = await one.push_blob(body)
    change(blob_file(digest), how)
    await one.push_blob(body, name)
    assert blob_file(digest).read_bytes() == body
    assert rows("SELECT state, size FROM blobs") == [("ready", len(body))]
    assert (await one("GET", f"/v2/{name}/blobs/{digest}")).content == body


@pytest.mark.parametrize("how", ["removed", "truncated", "grown"])
async def test_push_of_a_manifest_heals_what_nobody_has_noticed(worker, kit, blob_file, how):
    one = await worker()
    body = await one.push_image("v")
    file = blob_file(kit.digest_of(body))
    change(file, how)
    assert (await one.push_manifest(body, "w")).status_code == 201
    assert file.read_bytes() == body
    assert file.stat().st_mode & 0o777 == 0o444


async def test_manifest_file_that_goes_away_before_the_transaction(worker, kit, blob_file, monkeypatch, root):
    """The push saw the file and brought none: inside the transaction it is gone, so it comes again with its own."""
    one = await worker()
    body = await one.push_image("v")
    file = blob_file(kit.digest_of(body))
    real = one.database.write

    async def late(work):
        if not turns:
            await asyncio.to_thread(file.unlink)
        turns.append(work)
        return await real(work)

    turns = []
    with monkeypatch.context() as patched:
        patched.setattr(one.database, "write", late)
        assert (await one.push_manifest(body, "w")).status_code == 201
    assert len(turns) == 2
    assert file.read_bytes() == body
    assert not list((root / "hatoba/tmp").iterdir())


async def test_missing_until_its_next_push(worker, kit, blob_file, tree, rows):
    """A file that comes back by itself, a backup's or a mount point's, was not compared with its digest."""
    one = await worker()
    digest = await one.push_blob(b"some content")
    file, aside = blob_file(digest), tree / "aside"
    file.rename(aside)
    assert (await one("HEAD", BLOBS + digest)).status_code == 404
    aside.rename(file)
    before = file.stat().st_ino
    assert (await one("HEAD", BLOBS + digest)).status_code == 404
    assert (await one("GET", BLOBS + digest)).status_code == 404
    for source in ("", "&from=team/app"):
        answer = await one("POST", f"/v2/other/app/blobs/uploads/?mount={digest}{source}")
        assert answer.status_code == 202
    assert (await one.push_manifest(kit.manifest_of(b"some content", []), "v")).status_code == 400
    await one.push_blob(b"some content")
    assert file.stat().st_ino != before, "the pushed bytes, not those that came back"
    assert rows("SELECT state FROM blobs") == [("ready",)]
    assert (await one.push_manifest(kit.manifest_of(b"some content", []), "v")).status_code == 201


async def test_file_that_is_there_at_the_second_look_is_not_missing(worker, monkeypatch, rows):
    """A push was half-way when the file was looked for: only inside a transaction can nobody be half-way."""
    one = await worker()
    digest = await one.push_blob(b"some content")
    real = one.driver.stat
    looks = []

    async def stat(key):
        looks.append(key)
        return None if len(looks) == 1 else await real(key)

    with monkeypatch.context() as patched:
        patched.setattr(one.driver, "stat", stat)
        assert (await one("HEAD", BLOBS + digest)).status_code == 404
    assert len(looks) == 2
    assert rows("SELECT state FROM blobs") == [("ready",)]
    assert (await one("HEAD", BLOBS + digest)).status_code == 200


@pytest.mark.parametrize("source", ["", "&from=team/app"])
async def test_blob_taken_from_its_repository_before_the_transaction(worker, monkeypatch, rows, source):
    """Row and file are there as before; who may read them has changed, and with it what may be mounted."""
    one = await worker()
    digest = await one.push_blob(b"some content")
    real = one.database.write

    async def late(work):
        monkeypatch.undo()
        assert (await one("DELETE", BLOBS + digest)).status_code == 202
        return await real(work)

    monkeypatch.setattr(one.database, "write", late)
    answer = await one("POST", f"/v2/other/app/blobs/uploads/?mount={digest}{source}")
    assert answer.status_code == 202
    assert rows("SELECT count(*) FROM repository_blobs") == [(0,)]
    assert rows("SELECT state FROM blobs") == [("ready",)]


async def test_ready_manifest_file_is_not_replaced(worker, kit, blob_file, root):
    """Docker's registry beside us may be reading it; the second push writes no file at all."""
    one, two = await worker(), await worker()
    body = await one.push_image("v")
    before = blob_file(kit.digest_of(body)).stat()
    await two.push_blob(b"{}", "other/app")
    assert (await one.push_manifest(body, "w")).status_code == 201
    assert (await two.push_manifest(body, "v", "other/app")).status_code == 201
    after = blob_file(kit.digest_of(body)).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not list((root / "hatoba/tmp").iterdir())


@pytest.mark.parametrize("name", ["team/app", "other/app"])
async def test_linking_a_known_manifest_is_noted_in_its_blobs_row(worker, kit, rows, name):
    """Its file is a blob that a collector may look at, and nothing is renamed that would set the time."""
    one = await worker()
    body = await one.push_image("v")
    await one.push_blob(b"{}", name)
    sql = f"SELECT linked_at FROM blobs WHERE digest = '{kit.digest_of(body)}'"
    (before,) = rows(sql)
    await asyncio.sleep(0.002)
    assert (await one.push_manifest(body, "v", name)).status_code == 201
    (after,) = rows(sql)
    assert after > before


@pytest.mark.parametrize("how", ["mount", "mount from", "manifest"])
async def test_blob_found_missing_before_the_transaction(worker, kit, root, rows, monkeypatch, how):
    """Linking begins with an UPDATE of the ready row: no row changed, nothing is linked."""
    one = await worker()
    digest = await one.push_blob(b"{}")
    real = one.database.write

    async def late(work):
        connection = apsw.Connection(str(root / "hatoba/metadata.db"))
        connection.execute("UPDATE blobs SET state = 'missing'")
        connection.close()
        return await real(work)

    with monkeypatch.context() as patched:
        patched.setattr(one.database, "write", late)
        if how == "manifest":
            assert (await one.push_manifest(kit.manifest_of(b"{}", []), "v")).status_code == 400
        else:
            source = "&from=team/app" if how == "mount from" else ""
            answer = await one("POST", f"/v2/other/app/blobs/uploads/?mount={digest}{source}")
            assert answer.status_code == 202
    assert rows("SELECT r.name FROM repository_blobs AS l JOIN repositories AS r ON r.id = l.repository_id") == [
        ("team/app",)
    ]
    assert rows("SELECT count(*) FROM manifests") == [(0,)]


async def test_refused_manifest_leaves_nothing(worker, kit, blob_file, rows, root):
    """Its file was staged before the transaction said no."""
    one = await worker()
    body = kit.manifest_of(b"never pushed", [])
    assert (await one.push_manifest(body, "v")).status_code == 400
    assert not list((root / "hatoba/tmp").iterdir())
    assert not blob_file(kit.digest_of(body)).exists()
    assert rows("SELECT count(*) FROM blobs") == [(0,)]


async def test_config_and_manifest_lie_where_their_rows_say(worker, kit, root, rows, blob_file):
    """Also for what a push only reads, the image's config, and for a manifest that is pushed again."""
    one = await worker()
    config = b'{"os": "linux", "architecture": "arm64"}'
    digest = await one.push_blob(config)
    body = kit.manifest_of(config, []).replace(
        b'"application/octet-stream"', b'"application/vnd.oci.image.config.v1+json"', 1
    )

    def move(digest: str) -> None:
        blob_file(digest).rename(root / digest[7:])
        connection = apsw.Connection(str(root / "hatoba/metadata.db"))
        connection.execute("UPDATE blobs SET key = ? WHERE digest = ?", (digest[7:], digest))
        connection.close()

    move(digest)
    assert (await one.push_manifest(body, "v")).status_code == 201
    assert rows("SELECT os, architecture FROM manifests") == [("linux", "arm64")]
    move(kit.digest_of(body))
    assert (await one.push_manifest(body, "w")).status_code == 201
    assert not blob_file(kit.digest_of(body)).exists()
    assert rows("SELECT count(*) FROM blobs WHERE state = 'ready' AND key LIKE '%/%'") == [(0,)]


async def test_file_is_looked_for_where_the_row_says_before_it_is_called_missing(worker, kit, root, blob_file, rows):
    one = await worker()
    digest = await one.push_blob(b"some content")
    connection = apsw.Connection(str(root / "hatoba/metadata.db"))
    connection.execute("UPDATE blobs SET key = 'elsewhere'")
    connection.close()
    assert blob_file(digest).exists()
    assert (await one("HEAD", BLOBS + digest)).status_code == 404
    assert rows("SELECT state FROM blobs") == [("missing",)]


@pytest.mark.parametrize(("call", "number"), [("open", errno.EMFILE), ("open", errno.EIO), ("stat", errno.EIO)])
@pytest.mark.parametrize("method", ["HEAD", "GET", "manifest"])
async def test_failing_disk_is_not_a_missing_file(worker, kit, monkeypatch, blob_file, rows, call, number, method):
    """404 would be wrong, and the row marked missing for nothing: the client is told to come back."""
    one = await worker()
    digest = await one.push_blob(b"some content")
    await one.mirror.settle()
    real = getattr(os, call)
    calls = []

    def failing(path, *arguments, **options):
        if str(path) == str(blob_file(digest)):
            calls.append(path)
            raise OSError(number, os.strerror(number), path)
        return real(path, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing)
        if method == "manifest":
            answer = await one.push_manifest(kit.manifest_of(b"some content", []), "v")
        else:
            answer = await one(method, BLOBS + digest)
    assert answer.status_code == (503 if calls else {"manifest": 201}.get(method, 200))
    assert rows(f"SELECT state FROM blobs WHERE digest = '{digest}'") == [("ready",)]
    assert (await one("GET", BLOBS + digest)).status_code == 200


async def test_file_of_another_size_is_closed_again(worker, blob_file):
    one = await worker()
    digest = await one.push_blob(b"some content")
    change(blob_file(digest), "grown")
    assert (await one("GET", BLOBS + digest)).status_code == 404
    opened = {os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")}
    assert str(blob_file(digest)) not in opened
