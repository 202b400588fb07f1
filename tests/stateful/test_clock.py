"""The wall clock is set, back or forth, while the registry works."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hatoba.blobs.driver import KeyMissing
from hatoba.db import mirror
from hatoba.db.engine import now
from hatoba.operations.mirror import _LEFTOVER_AGE


async def test_links_marked_before_the_clock_was_set_back_are_written(worker, link):
    one = await worker()
    await one.push_image("v")
    await one.mirror.settle()
    (digest,) = [row[0] for row in await one.database.all("SELECT digest FROM tags")]
    await one.driver.remove_tree("docker/registry/v2/repositories/team/app/_manifests/tags/v")
    in_a_year = now() + timedelta(days=365)
    await one.database.write(lambda transaction: mirror.mark(transaction, "team/app", "tag", "v", in_a_year))
    assert await one.mirror.catch_up(_LEFTOVER_AGE) == 1
    assert link("_manifests/tags/v/current") == digest


async def test_staged_manifest_that_looked_old_is_staged_again(worker, kit, monkeypatch, root):
    """A clock that was set forward lets purging take it for what a crash left."""
    one = await worker()
    await one.push_blob(b"{}")
    body = kit.manifest_of(b"{}", [])
    real, purged = one.driver.publish, []

    async def publish(source, key):
        if not purged:
            purged.append(source)
            (root / source).unlink()
        await real(source, key)

    monkeypatch.setattr(one.driver, "publish", publish)
    assert (await one.push_manifest(body, "v")).status_code == 201
    assert purged
    assert (await one("GET", "/v2/team/app/manifests/v")).content == body
    assert not list((root / "hatoba/tmp").iterdir())


async def test_files_that_always_go_away_end_in_503(worker, kit, monkeypatch, root):
    one = await worker()
    await one.push_blob(b"{}")

    async def publish(source, _key):
        raise KeyMissing(source)

    monkeypatch.setattr(one.driver, "publish", publish)
    answer = await one.push_manifest(kit.manifest_of(b"{}", []), "v")
    assert (answer.status_code, answer.headers.get("retry-after")) == (503, "1")
    assert not list((root / "hatoba/tmp").iterdir())


@pytest.mark.parametrize("age", [timedelta(0), timedelta(days=7)])
async def test_looking_for_what_a_crash_left_locks_no_session(worker, monkeypatch, age):
    """Its client would hear that another request writes to it."""
    one = await worker()
    await one("PATCH", await one.start(), content=b"body")
    locked = []
    real = one.driver.append

    def append(key):
        locked.append(key)
        return real(key)

    monkeypatch.setattr(one.driver, "append", append)
    assert await one.uploads.purge_files(age) == 0
    assert locked == []
