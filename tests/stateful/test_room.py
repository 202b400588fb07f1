"""Uploads leave 64 MiB of the disk free, so that deleting still works; and no more are open than allowed."""

from __future__ import annotations

import os

import pytest

MIB = 1024 * 1024


class Disk:
    """What the file system says of itself: `free` bytes."""

    f_frsize = 4096

    def __init__(self, free: int) -> None:
        self.f_bavail = free // 4096


@pytest.fixture
def free(monkeypatch):
    """free(n): the disk has n bytes left, however many are written."""
    return lambda size: monkeypatch.setattr(os, "fstatvfs", lambda _descriptor: Disk(size))


def check(answer) -> None:
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (507, "UNAVAILABLE")


async def test_what_is_announced_and_does_not_fit_is_refused_at_once(worker, kit, free, monkeypatch):
    one = await worker()
    location = await one.start()
    assert (await one("PATCH", location, content=b"first")).status_code == 202
    free(64 * MIB + 4096)
    written = []
    real = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda *arguments: written.append(arguments) or real(*arguments))
    check(await one("PATCH", location, content=bytes(4097)))
    assert written == []
    assert (await one("GET", location)).headers["range"] == "0-4"
    assert (await one("PATCH", location, content=bytes(4096))).status_code == 202
    digest = kit.digest_of(b"first" + bytes(4096))
    assert (await one("PUT", f"{location}?digest={digest}")).status_code == 201


async def test_what_comes_unannounced_is_cut_back_when_the_disk_is_full(worker, kit, free, monkeypatch):
    one = await worker()
    location = await one.start()
    assert (await one("PATCH", location, content=b"first")).status_code == 202
    free(65 * MIB)

    async def body():
        yield b"x" * MIB
        free(64 * MIB)
        yield b"y" * MIB
        yield b"z"

    check(await one("PATCH", location, content=body()))
    assert (await one("GET", location)).headers["range"] == "0-4"
    free(100 * MIB)
    assert (await one("PATCH", location, content=b" second")).status_code == 202
    assert (await one("PUT", f"{location}?digest={kit.digest_of(b'first second')}")).status_code == 201


async def test_a_full_disk_leaves_nothing_of_a_push_in_one_request_and_deleting_works(worker, kit, free, tree, rows):
    one = await worker(**{"storage.delete.enabled": True})
    body = await one.push_image("v")
    free(64 * MIB)
    check(await one("POST", f"/v2/team/app/blobs/uploads/?digest={kit.digest_of(b'x')}", content=b"x"))
    assert not list(tree.glob("repositories/team/app/_uploads/*"))
    assert rows("SELECT count(*) FROM uploads", "uploads.db") == [(0,)]
    assert (await one("DELETE", f"/v2/team/app/manifests/{kit.digest_of(body)}")).status_code == 202


async def test_no_more_uploads_than_allowed(worker):
    """Over all workers: the count and the new row are one transaction."""
    limit = {"hatoba.limits.uploads": 3}
    one, other = await worker(**limit), await worker(**limit)
    locations = [await worker_.start() for worker_ in (one, other, one)]
    for worker_ in (one, other):
        answer = await worker_("POST", "/v2/team/app/blobs/uploads/")
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (429, "TOOMANYREQUESTS")
        assert int(answer.headers["retry-after"]) > 0
    assert (await one("PATCH", locations[0], content=b"goes on")).status_code == 202
    assert (await other("DELETE", locations[1])).status_code == 204
    assert (await other("POST", "/v2/team/app/blobs/uploads/")).status_code == 202
    assert (await one("POST", "/v2/team/app/blobs/uploads/")).status_code == 429
