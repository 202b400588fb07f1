"""`hatoba import` after the database was lost or broken: the same answer to every request as before."""

from __future__ import annotations

import asyncio
import random
import shutil

import apsw
import pytest

from hatoba.config.load import load
from hatoba.testing import images
from hatoba.wiring import commands

NAMES = ("app", "team/app", "team/app/deep", "emptied")
MANIFEST_HEADERS = {"accept": "application/vnd.oci.image.manifest.v1+json"}


@pytest.fixture
def settings(root):
    return load(None, {}, {"storage.filesystem.rootdirectory": str(root), "http.addr": "127.0.0.1:5000"}).settings


@pytest.fixture
def imported(settings):
    """Run `hatoba import`: where the broken database went, what was read, what was skipped."""

    async def run():
        found = []
        aside = await asyncio.to_thread(commands.set_aside, settings)  # the command has no loop yet
        read = await commands.import_tree(settings, found.append, lambda *_: None)
        return aside, read, found

    return run


class Contents:
    """Pushes of all kinds, and all that can be asked about them."""

    def __init__(self, one, seed: int) -> None:
        self.one = one
        self.chance = random.Random(seed)  # noqa: S311
        self.manifests: dict[str, images.Content] = {}
        self.blobs: set[str] = set()

    async def push(self, name: str, tags: list[str], content: images.Content, blobs=()) -> None:
        for blob in blobs:
            await self.one.push_blob(blob.body, name)
            self.blobs.add(str(blob.digest))
        self.manifests[str(content.digest)] = content
        for reference in [str(content.digest), *tags]:
            headers = {"content-type": content.media_type}
            path = f"/v2/{name}/manifests/{reference}"
            assert (await self.one("PUT", path, content=content.body, headers=headers)).status_code == 201

    async def make(self) -> None:
        for number in range(12):
            name = self.chance.choice(NAMES[:3])
            image = images.random_image(2, 50, number, docker=number % 3 == 0)
            await self.push(name, [f"v{self.chance.randrange(4)}"], image.manifest, image.blobs)
            if number % 3 == 1:
                index = images.index_of([image])
                await self.push(name, ["latest"], index.manifest)
                note = {"n": str(number)}
                for artifact in (images.artifact(image, "text/a", note), images.artifact(index, "text/b")):
                    await self.push(name, [], artifact.manifest, artifact.blobs)
        image = images.random_image(1, 50, 99)
        await self.push("emptied", ["v"], image.manifest, image.blobs)
        for path in (f"emptied/manifests/{image.manifest.digest}", "app/manifests/v1", "team/app/manifests/v2"):
            assert (await self.one("DELETE", f"/v2/{path}")).status_code in {202, 404}
        blob = await self.one.push_blob(b"of no manifest", "app")
        self.blobs.add(blob)

    async def answers(self, one) -> dict[str, object]:
        """Status, headers and body of everything."""
        paths = ["/v2/_catalog"]
        for name in NAMES:
            paths += [f"/v2/{name}/tags/list", *(f"/v2/{name}/manifests/{tag}" for tag in ("latest", "v0", "v1"))]
            paths += [f"/v2/{name}/{kind}/{d}" for d in sorted(self.manifests) for kind in ("manifests", "referrers")]
            paths += [f"/v2/{name}/blobs/{digest}" for digest in sorted(self.blobs)]
        found = {}
        for path in paths:
            answer = await one("GET", path)
            found[path] = (answer.status_code, sorted(answer.headers.items()), answer.content)
        return found


@pytest.fixture
async def before(worker):
    """A registry with contents, stopped; and what it answered."""
    one = await worker()
    contents = Contents(one, seed=5)
    await contents.make()
    answers = await contents.answers(one)
    assert {status for status, _, _ in answers.values()} == {200, 404}
    await one.aclose()
    return contents, answers


@pytest.mark.parametrize("broken", ["gone", "no database", "torn", "empty"])
async def test_a_lost_or_broken_database_is_built_anew(before, worker, imported, root, broken):
    contents, answers = before
    path = root / "hatoba/metadata.db"
    old = path.read_bytes()
    match broken:
        case "gone":
            shutil.rmtree(root / "hatoba")
        case "no database":
            path.write_bytes(b"\0" * 5000)
        case "torn":
            path.write_bytes(old[:4096] + bytes(4096) + old[8192:])
        case "empty":
            path.write_bytes(b"")
    left = None if broken == "gone" else path.read_bytes()
    aside, read, found = await imported()
    assert found == []
    assert read.new_manifests == sum(
        status == 200 and "/manifests/sha256:" in asked for asked, (status, _, _) in answers.items()
    )
    if broken in {"gone", "empty"}:
        assert aside is None
    else:
        assert aside.read_bytes() == left, "it is kept as it was"
        assert aside.name.startswith("metadata.db.broken-")
    assert await contents.answers(await worker()) == answers


async def test_starting_without_a_database_does_the_same(before, worker, root):
    contents, answers = before
    shutil.rmtree(root / "hatoba")
    one = await worker()
    await one.ready()
    assert await contents.answers(one) == answers


async def test_a_whole_database_stays_and_takes_the_difference(before, worker, imported, root, rows):
    """What only the database knows is kept: who pushed, and the moves of tags."""
    contents, answers = before
    who = "SELECT name, digest, pushed_at, pushed_by FROM tags ORDER BY name"
    known, moves = rows(who), rows("SELECT * FROM tag_moves")
    connection = apsw.Connection(str(root / "hatoba/metadata.db"))
    ((digest,),) = connection.execute(
        "SELECT digest FROM manifests WHERE subject IS NOT NULL ORDER BY digest LIMIT 1"
    ).fetchall()
    connection.execute("DELETE FROM manifests WHERE digest = ?", (digest,))  # a row is lost
    connection.close()
    aside, read, found = await imported()
    assert (aside, found, read.new_manifests > 0, read.ended) == (None, [], True, 0)
    assert (rows(who), rows("SELECT * FROM tag_moves")) == (known, moves)
    assert await contents.answers(await worker()) == answers
    assert (await imported())[1].new_manifests == 0


async def test_wal_of_a_lost_database_is_not_read_into_the_new_one(before, worker, imported, root):
    """SQLite would take its pages for the new database's."""
    contents, answers = before
    one = await worker()
    await one.push_blob(b"in the WAL alone")
    (root / "hatoba/copy").write_bytes((root / "hatoba/metadata.db-wal").read_bytes())
    await one.aclose()
    for file in (root / "hatoba").glob("metadata.db*"):
        file.unlink()
    (root / "hatoba/copy").rename(root / "hatoba/metadata.db-wal")
    await imported()
    assert await contents.answers(await worker()) == answers
