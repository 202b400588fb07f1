"""A blob whose file was gone for a while is read again once the file is back and hashes to its name; else not."""

from __future__ import annotations

import asyncio
import logging

import pytest

from hatoba.errors import Unavailable
from hatoba.operations import heal

BLOBS = "/v2/team/app/blobs/"


@pytest.fixture
async def lost(worker, blob_file, tmp_path):
    """A worker with a blob that was asked for while its file was elsewhere: worker, digest, the file's two places."""
    one = await worker()
    digest = await one.push_blob(b"some content")
    file, elsewhere = blob_file(digest), tmp_path / "elsewhere"
    file.rename(elsewhere)
    assert (await one("HEAD", BLOBS + digest)).status_code == 404
    return one, digest, file, elsewhere


@pytest.fixture
async def healing(lost):
    return heal.Healing(lost[0].database, lost[0].driver)


async def test_a_file_that_came_back_is_read_again(lost, healing, rows):
    one, digest, file, elsewhere = lost
    assert await healing.turn() == 0
    assert (await one("GET", BLOBS + digest)).status_code == 404
    elsewhere.rename(file)
    assert await healing.turn() == 1
    answer = await one("GET", BLOBS + digest)
    assert (answer.status_code, answer.content) == (200, b"some content")
    assert rows("SELECT state FROM blobs") == [("ready",)]
    assert await healing.turn() == 0


@pytest.mark.parametrize("content", [b"same length!", b"some conten", b"some content!", b""])
async def test_another_file_is_not(lost, healing, rows, content):
    one, digest, file, _ = lost
    file.write_bytes(content)
    assert await healing.turn() == 0
    assert (await one("GET", BLOBS + digest)).status_code == 404
    assert rows("SELECT state FROM blobs") == [("missing",)]


async def test_a_file_that_is_replaced_while_it_is_read_is_not(lost, healing, rows, monkeypatch):
    _, _, file, elsewhere = lost
    elsewhere.rename(file)
    elsewhere.write_bytes(b"same length!")
    real = heal.read_back

    async def meanwhile(*arguments):
        found = await real(*arguments)
        await asyncio.to_thread(elsewhere.rename, file)
        return found

    monkeypatch.setattr(heal, "read_back", meanwhile)
    assert await healing.turn() == 0
    assert rows("SELECT state FROM blobs") == [("missing",)]


async def test_one_that_cannot_be_read_stops_no_other(worker, blob_file, healing, monkeypatch, rows):
    one = await worker()
    digests = sorted([await one.push_blob(b"%d" % number) for number in range(3)])
    for digest in digests:
        blob_file(digest).rename(blob_file(digest).with_name("kept"))
        assert (await one("HEAD", BLOBS + digest)).status_code == 404
        blob_file(digest).with_name("kept").rename(blob_file(digest))
    real = one.driver.open

    async def forbidden(key):
        if digests[0][7:] in key:
            raise Unavailable("a file cannot be read: Permission denied")
        return await real(key)

    monkeypatch.setattr(healing._driver, "open", forbidden)
    assert await healing.turn() == 2
    assert rows(f"SELECT state FROM blobs WHERE digest = '{digests[0]}'") == [("missing",)]


async def test_a_wrong_file_is_hashed_only_now_and_then(lost, healing, monkeypatch, caplog):
    _, _, file, elsewhere = lost
    file.write_bytes(b"same length!")
    with caplog.at_level(logging.ERROR):
        await healing.turn()
        elsewhere.rename(file)  # not noticed now, for nobody hashes it
        assert await healing.turn() == 0
    monkeypatch.setattr(heal.time, "monotonic", lambda: 1e12)
    assert await healing.turn() == 1


async def test_every_page_is_looked_at(worker, blob_file, healing, monkeypatch):
    monkeypatch.setattr(heal, "_PAGE", 2)
    one = await worker()
    digests = [await one.push_blob(b"%d" % number) for number in range(5)]
    for digest in digests:
        blob_file(digest).rename(blob_file(digest).with_name("kept"))
        assert (await one("HEAD", BLOBS + digest)).status_code == 404
        blob_file(digest).with_name("kept").rename(blob_file(digest))
    assert await healing.turn() == 5


async def test_a_file_that_goes_again_meanwhile_stays_missing(lost, healing, rows, monkeypatch):
    _, _, file, elsewhere = lost
    elsewhere.rename(file)
    real = heal.read_back

    async def slow(*arguments):
        found = await real(*arguments)
        await asyncio.to_thread(file.unlink)
        return found

    monkeypatch.setattr(heal, "read_back", slow)
    assert await healing.turn() == 0
    assert rows("SELECT state FROM blobs") == [("missing",)]


async def test_a_running_worker_does_so_by_itself(worker, blob_file, monkeypatch):
    monkeypatch.setattr(heal, "_SECONDS", 0.01)
    one = await worker()
    await worker()
    digest = await one.push_blob(b"some content")
    file = blob_file(digest)
    file.rename(file.with_name("kept"))
    assert (await one("HEAD", BLOBS + digest)).status_code == 404
    file.with_name("kept").rename(file)
    for _ in range(2000):
        if (await one("HEAD", BLOBS + digest)).status_code == 200:
            return
        await asyncio.sleep(0.01)
    pytest.fail("the blob is still missing")
