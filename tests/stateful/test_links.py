"""Links and their marks, step by step: when the truth is read, what is durable, what a failure leaves."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import shutil

import apsw
import pytest
import structlog
from structlog.testing import LogCapture

from hatoba.blobs.driver import KeyMissing
from hatoba.errors import Unavailable
from hatoba.operations import follow
from hatoba.operations import mirror as mirror_module


@pytest.fixture
def logged():
    capture = LogCapture()
    structlog.configure(processors=[capture])
    yield capture.entries
    structlog.reset_defaults()


@contextlib.contextmanager
def all_locks(root):
    """Another worker stands in every repository's lock."""
    with contextlib.ExitStack() as stack:
        for number in range(64):
            file = stack.enter_context((root / f"hatoba/locks/mirror-{number:02d}").open("ab"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


async def until(condition) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it does not come to that")


@pytest.mark.parametrize(
    ("path", "table"),
    [
        ("_manifests/tags/v/current", "tags"),
        ("_manifests/revisions/sha256/{manifest}", "manifests"),
        ("_layers/sha256/{config}", "repository_blobs"),
    ],
)
async def test_truth_is_read_under_the_lock(worker, kit, root, link, rows, path, table):
    """What was true before the lock may be another worker's past: the row is gone while this one waits."""
    one = await worker()
    body = kit.manifest_of(b"{}", [])
    if table != "repository_blobs":
        await one.push_blob(b"{}")
    with all_locks(root):
        pushing = asyncio.ensure_future(
            one.push_blob(b"{}") if table == "repository_blobs" else one.push_manifest(body, "v")
        )
        await until(lambda: rows(f"SELECT count(*) FROM {table}") == [(1,)])
        await asyncio.sleep(0.1)
        assert not pushing.done(), "links are written before the answer"
        connection = apsw.Connection(str(root / "hatoba/metadata.db"))
        tables = ("tags", "manifests") if table == "manifests" else (table,)
        for each in tables:
            connection.execute(f"DELETE FROM {each}")
        connection.close()
    await pushing
    assert link(path.format(manifest=kit.digest_of(body)[7:], config=kit.digest_of(b"{}")[7:])) is None


async def test_mark_made_again_is_young_again(worker, rows):
    """Other workers leave young marks to their own request: an old time would make them hurry."""
    one = await worker()
    await one.push_image("v")
    sql = "SELECT marked_at FROM mirror WHERE kind = 'tag'"
    (before,) = rows(sql)
    await asyncio.sleep(0.002)
    await one.push_image("v")
    (after,) = rows(sql)
    assert after > before


@pytest.fixture
def synced(monkeypatch, tree):
    """Paths below Docker's tree that were fsynced."""
    found: list[str] = []
    real = os.fsync

    def recorded(descriptor):
        found.append(os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(f"{tree}/repositories/team/app"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    return found


async def test_links_and_all_their_folders_are_fsynced(worker, kit, synced, tree, rows):
    one = await worker()
    digest = kit.digest_of(await one.push_image("v"))[7:]
    synced.clear()
    await one.mirror.settle()
    assert rows("SELECT count(*) FROM mirror") == [(0,)]
    config = kit.digest_of(b"{}")[7:]
    for path in (
        f"_layers/sha256/{config}", f"_manifests/revisions/sha256/{digest}", "_manifests/tags/v/current",
        f"_manifests/tags/v/index/sha256/{digest}",
    ):  # fmt: skip
        parts = path.split("/")
        wanted = {"/" + "/".join(parts[:depth]) for depth in range(1, len(parts) + 1)} | {f"/{path}/link", ""}
        assert wanted <= set(synced), wanted - set(synced)
    above = (f"{tree}/repositories/team", f"{tree}/repositories", str(tree))
    assert set(above) <= set(synced), "a repository is durable when the folder it lies in is"


async def test_removed_links_are_durable_too(worker, kit, synced):
    """Otherwise Docker's registry serves a deleted tag after a power cut, and no mark is left to say so."""
    one = await worker()
    digest = kit.digest_of(await one.push_image("v"))
    await one.push_image("w")
    await one.mirror.settle()
    for path, folder in (
        ("manifests/v", "/_manifests/tags"),
        (f"manifests/{digest}", f"/_manifests/revisions/sha256/{digest[7:]}"),
    ):
        synced.clear()
        assert (await one("DELETE", f"/v2/team/app/{path}")).status_code == 202
        await one.mirror.settle()
        assert folder in synced
    blob = await one.push_blob(b"unused")
    await one.mirror.settle()
    synced.clear()
    assert (await one("DELETE", f"/v2/team/app/blobs/{blob}")).status_code == 202
    await one.mirror.settle()
    assert f"/_layers/sha256/{blob[7:]}" in synced


@pytest.mark.parametrize("below", ["/current/link", "/tags", "/_layers"])
async def test_marks_stay_as_long_as_the_fsync_fails(worker, monkeypatch, rows, below):
    """The kernel tells a failed write-back once: the mark must not go with it, and the worker tries again."""
    one = await worker()
    await one.push_image("v")
    before = rows("SELECT * FROM mirror ORDER BY name")
    real = os.fsync

    def failing(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(below):
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing)
        with pytest.raises(Unavailable):
            await one.mirror.settle()
    assert rows("SELECT * FROM mirror ORDER BY name") == before
    await one.mirror.settle()
    assert rows("SELECT count(*) FROM mirror") == [(0,)]


@pytest.mark.parametrize("first", ["index", "blob", "mount"])
async def test_first_write_of_each_kind_makes_both_folders(worker, tree, first):
    """Docker's collector deletes the manifests of a repository without _layers, and an index alone has no layer."""
    one = await worker()
    if first == "index":
        index = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
        assert (await one("PUT", "/v2/new/app/manifests/v", content=index)).status_code == 201
    elif first == "blob":
        await one.push_blob(b"blob", "new/app")
    else:
        digest = await one.push_blob(b"blob")
        assert (await one("POST", f"/v2/new/app/blobs/uploads/?mount={digest}&from=team/app")).status_code == 201
    for folder in ("_layers", "_manifests"):
        assert (tree / "repositories/new/app" / folder).is_dir()


async def test_another_worker_does_not_hurry(worker, monkeypatch, link, rows):
    """A mark of this moment is about to be written by its own request, in order: others look for old ones alone."""
    monkeypatch.setattr(mirror_module, "_SETTLE_SECONDS", 0.02)
    other, one = await worker(), await worker()
    rounds = []
    real = other.mirror.catch_up

    async def catch_up(age, **options):
        rounds.append(age)
        return await real(age, **options)

    async def later(_rows):
        return None

    monkeypatch.setattr(other.mirror, "catch_up", catch_up)
    monkeypatch.setattr(one.mirror, "write", later)
    await one.push_image("v")
    begun = len(rounds)
    await until(lambda: len(rounds) > begun + 3)
    assert link("_manifests/tags/v/current") is None
    assert rows("SELECT count(*) FROM mirror") == [(3,)]


async def test_background_work_goes_on_after_an_error(worker, monkeypatch, rows):
    monkeypatch.setattr(mirror_module, "_SETTLE_SECONDS", 0.02)
    one = await worker()
    failed = []
    real = os.fsync

    def failing(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("/link"):
            failed.append(descriptor)
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing)
        await one.push_image("v")
        await until(lambda: len(failed) > 2)
        assert rows("SELECT count(*) FROM mirror") == [(3,)]
    await until(lambda: rows("SELECT count(*) FROM mirror") == [(0,)])


async def test_no_other_file_ever_lies_beside_a_link(worker, monkeypatch, tree, root):
    """Docker's registry lists folders of tags: what is unfinished lies in hatoba's own folder."""
    one = await worker()
    sources, seen = [], set()
    real = os.rename

    def recorded(source, target):
        if target.endswith("/link"):
            sources.append(source)
            names = {path.name for path in (tree / "repositories").rglob("*") if path.is_file()}
            seen.update(names)
        real(source, target)

    monkeypatch.setattr(os, "rename", recorded)
    for _ in range(2):
        await one.push_image("v")
    assert len(sources) > 5
    assert all(source.startswith(f"{root}/hatoba/tmp/") for source in sources)
    assert seen <= {"link", "data", "startedat"}


async def test_link_that_cannot_be_renamed_leaves_no_file(worker, monkeypatch, root, logged):
    one = await worker()
    real = os.rename

    def failing(source, target):
        if target.endswith("/link"):
            raise OSError(errno.EROFS, "Read-only file system", target)
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", failing)
        await one.push_image("v")
    assert not list((root / "hatoba/tmp").iterdir())
    assert [entry["repository"] for entry in logged if "stay pending" in entry["event"]]


async def test_walk_rests_between_repositories_and_survives_errors(worker, monkeypatch, logged):
    """It runs beside pushes and pulls, over a tree of any size, and one bad repository must not end it."""
    one = await worker()
    names = [f"team/app{number}" for number in range(3)]
    for name in names:
        await one.push_blob(b"{}", name)
    events, found = [], []
    sleep = asyncio.sleep

    async def rest(_seconds):
        events.append("rest")
        await sleep(0)

    async def compare(_self, name, _seen_at):
        events.append(name)
        if name in names[:2]:
            raise [Unavailable("the disk fails"), KeyMissing(name)][names.index(name)]

    monkeypatch.setattr(follow.asyncio, "sleep", rest)
    monkeypatch.setattr(follow.Adoption, "repository", compare)
    await follow.read_tree(one.database, one.driver, one.mirror, found.append, lambda *_: None, patient=True)
    monkeypatch.undo()
    assert events == [names[0], "rest", names[1], "rest", names[2], "rest"]
    assert [(one.path.rpartition("/")[2], one.kind) for one in found] == [
        ("app0", "unreadable"),
        ("app1", "unreadable"),
    ]


async def test_index_link_comes_before_the_current_one(worker, monkeypatch):
    """Distribution's order: a reader that finds the tag finds its history too."""
    one = await worker()
    targets = []
    real = os.rename

    def recorded(source, target):
        if "/tags/v/" in target:
            targets.append(target.partition("/tags/v/")[2].partition("/")[0])
        real(source, target)

    monkeypatch.setattr(os, "rename", recorded)
    await one.push_image("v")
    assert targets == ["index", "current"]


async def test_walk_leaves_what_is_pending_to_its_request(worker, kit, monkeypatch, link, rows):
    one = await worker()

    async def later(_rows):
        return None

    with monkeypatch.context() as patched:
        patched.setattr(one.mirror, "write", later)
        digest = kit.digest_of(await one.push_image("v"))
    before = rows("SELECT * FROM mirror ORDER BY name")
    await one.compare()
    assert rows("SELECT * FROM mirror ORDER BY name") == before
    assert link("_manifests/tags/v/current") is None
    assert link(f"_manifests/revisions/sha256/{digest[7:]}") is None
    assert link(f"_layers/sha256/{kit.digest_of(b'{}')[7:]}") is None


@pytest.mark.parametrize("pushed", ["the same and pending", "another and settled"])
async def test_push_between_the_walks_look_and_its_transaction(worker, kit, monkeypatch, tree, link, rows, pushed):
    """The link of another program is seen; before it is followed a client pushes: the client was last."""
    one = await worker()
    first, other, third = [await one.push_image(tag) for tag in ("v", "w", "x")]
    await one.mirror.settle()
    (tree / "repositories/team/app/_manifests/tags/v/current/link").write_text(kit.digest_of(other))
    real = one.database.write
    body = first if pushed == "the same and pending" else third

    async def late(work):
        monkeypatch.undo()
        assert (await one.push_manifest(body, "v")).status_code == 201
        if pushed == "another and settled":
            await one.mirror.settle()
        return await real(work)

    monkeypatch.setattr(one.database, "write", late)
    await one.compare()
    assert rows("SELECT digest FROM tags WHERE name = 'v'") == [(kit.digest_of(body),)]
    assert link("_manifests/tags/v/current") == kit.digest_of(body)


async def test_absent_links_of_layers_are_written_again(worker, kit, tree, link):
    """Docker's registry gives 404 for a layer without its link, and its collector takes the blob."""
    one = await worker()
    digests = [await one.push_blob(b"%d" % number) for number in range(3)]
    await one.mirror.settle()
    for digest, content in zip(digests, (None, "", "sha256:" + "0" * 64), strict=True):
        file = tree / f"repositories/team/app/_layers/sha256/{digest[7:]}/link"
        kit.lose(file) if content is None else file.write_text(content)
    await one.compare()
    assert [link(f"_layers/sha256/{digest[7:]}") for digest in digests] == digests


async def test_folder_that_goes_away_before_the_rename_is_made_again(worker, kit, monkeypatch, tree, link):
    """Docker's registry beside us removes a tag's empty folder."""
    one = await worker()
    await one.push_image("w")
    real = os.rename
    removed = []

    def late(source, target):
        if target.endswith("/tags/v/current/link") and not removed:
            removed.append(target)
            shutil.rmtree(tree / "repositories/team/app/_manifests/tags/v")
        real(source, target)

    monkeypatch.setattr(os, "rename", late)
    digest = kit.digest_of(await one.push_image("v"))
    assert removed
    assert link("_manifests/tags/v/current") == digest


async def test_cancelled_waiter_stays_until_its_thread_has_the_lock(worker, root, rows, link):
    """The thread waits on the lock's descriptor: closed under it, the number would be another file's."""
    one = await worker()
    with all_locks(root):
        pushing = asyncio.ensure_future(one.push_blob(b"{}"))
        await until(lambda: rows("SELECT count(*) FROM repository_blobs") == [(1,)])
        await asyncio.sleep(0.1)
        pushing.cancel()
        await asyncio.sleep(0.1)
        assert not pushing.done()
    with pytest.raises(asyncio.CancelledError):
        await pushing
    assert await one.mirror.catch_up() > 0
    assert await one.push_blob(b"{}")


async def test_links_are_settled_at_the_end(worker, rows):
    one = await worker()
    await one.push_image("v")
    await one.aclose()
    assert rows("SELECT count(*) FROM mirror") == [(0,)]


DELETES = {"tag": "manifests/v", "manifest": "manifests/{manifest}", "blob": "blobs/{unused}"}


@pytest.mark.parametrize("what", DELETES)
async def test_marks_of_a_delete_are_in_its_transaction(worker, kit, rows, monkeypatch, what):
    """Killed right behind the commit: what is gone is named, so that another worker takes the link away."""
    one = await worker()
    manifest = kit.digest_of(await one.push_image("v"))
    unused = await one.push_blob(b"unused")
    await one.mirror.settle()
    real = one.database.write
    seen = []

    async def write(work):
        result = await real(work)
        seen.append(sorted(rows("SELECT kind, name FROM mirror")))
        return result

    monkeypatch.setattr(one.database, "write", write)
    path = DELETES[what].format(manifest=manifest, unused=unused)
    assert (await one("DELETE", f"/v2/team/app/{path}")).status_code == 202
    expected = {
        "tag": [("tag", "v")], "manifest": [("revision", manifest), ("tag", "v")], "blob": [("layer", unused)],
    }  # fmt: skip
    assert seen == [expected[what]]


@pytest.mark.parametrize("what", ["blob", "mount", "manifest"])
async def test_marks_of_a_push_are_in_its_transaction(worker, kit, rows, monkeypatch, what):
    one = await worker()
    config = await one.push_blob(b"{}")
    await one.mirror.settle()
    real = one.database.write
    seen = []

    async def write(work):
        result = await real(work)
        seen.append(sorted(rows("SELECT repository, kind, name FROM mirror")))
        return result

    monkeypatch.setattr(one.database, "write", write)
    body = kit.manifest_of(b"{}", [])
    if what == "blob":
        await one.push_blob(b"blob", "other")
        expected = [("other", "layer", kit.digest_of(b"blob"))]
    elif what == "mount":
        assert (await one("POST", f"/v2/other/blobs/uploads/?mount={config}&from=team/app")).status_code == 201
        expected = [("other", "layer", config)]
    else:
        assert (await one.push_manifest(body, "v")).status_code == 201
        expected = [("team/app", "revision", kit.digest_of(body)), ("team/app", "tag", "v")]
    assert seen == [expected]
