"""What Docker's registry changed while hatoba was away is taken over: not overwritten, and behind what clients do."""

from __future__ import annotations

import asyncio
import os
import shutil

import apsw
import pytest

from hatoba.config.load import load
from hatoba.db import tree as tree_rows
from hatoba.oci.reference import RepositoryName, Tag
from hatoba.operations import adoption, follow
from hatoba.operations.mirror import Mirror
from hatoba.wiring import commands

TAG = "_manifests/tags/v/current"


@pytest.fixture
def app(tree):
    return tree / "repositories/team/app"


@pytest.fixture
def walk_waits(monkeypatch):
    """The walk of a start does not begin before the event is set."""
    go_on, real = asyncio.Event(), follow.Following._walk

    async def wait(self):
        await go_on.wait()
        await real(self)

    monkeypatch.setattr(follow.Following, "_walk", wait)
    return go_on


async def stopped(worker, *tags: str):
    """A repository with a manifest a tag, and hatoba stopped; the bodies."""
    one = await worker()
    bodies = [await one.push_image(tag) for tag in tags]
    await stop(one)
    return bodies


async def stop(one) -> None:
    """Stop hatoba, and let the clock of the file system, which ticks every few milliseconds, go on."""
    await one.aclose()
    await asyncio.sleep(0.02)


async def digest(one, reference: str, name: str = "team/app") -> str | None:
    answer = await one("HEAD", f"/v2/{name}/manifests/{reference}")
    return answer.headers["docker-content-digest"] if answer.status_code == 200 else None


def writes_of(one, monkeypatch) -> list:
    """The transactions that the worker writes from now on."""
    written, real = [], one.database.write

    async def write(work):
        written.append(work)
        return await real(work)

    monkeypatch.setattr(one.database, "write", write)
    return written


async def test_a_repository_is_compared_before_it_is_asked_for(worker, app, kit, walk_waits):
    """Who pulls in the first second after the swap gets what Docker's registry was given last."""
    first, second = await stopped(worker, "v", "w")
    (app / "_manifests/tags/v/current/link").write_text(kit.digest_of(second))
    shutil.rmtree(app / "_manifests/tags/w")
    shutil.copytree(app, app.parent / "new")
    one = await worker()
    assert await digest(one, "v") == kit.digest_of(second)
    assert (await one("GET", "/v2/team/app/tags/list")).json()["tags"] == ["v"]
    assert (await one("GET", "/v2/team/new/manifests/v")).content == second
    assert await digest(one, kit.digest_of(first)) == kit.digest_of(first)
    walk_waits.set()
    await settled(one)


async def test_the_catalog_waits_for_the_walk_but_not_for_long(worker, app, walk_waits, monkeypatch):
    await stopped(worker, "v")
    shutil.copytree(app, app.parent / "new")
    one = await worker()
    monkeypatch.setattr(follow, "_CATALOG_SECONDS", 0.1)
    assert (await one("GET", "/v2/_catalog")).json()["repositories"] == ["team/app"]
    monkeypatch.setattr(follow, "_CATALOG_SECONDS", 60.0)
    asking = asyncio.ensure_future(one("GET", "/v2/_catalog"))
    await asyncio.sleep(0.1)
    assert not asking.done()
    walk_waits.set()
    assert (await asking).json()["repositories"] == ["team/app", "team/new"]


@pytest.mark.parametrize("lost", [False, True], ids=["removed", "lost"])
async def test_removed_is_followed_and_lost_is_written_again(worker, app, kit, rows, lost):
    """A link that somebody removed has left its folder's time later than hatoba's last look."""
    first, second = await stopped(worker, "v", "w")
    layer = kit.digest_of(b"{}")
    files = [app / TAG / "link", app / f"_manifests/revisions/sha256/{kit.digest_of(second)[7:]}/link"]
    files.append(app / f"_layers/sha256/{layer[7:]}/link")
    for file in files:
        kit.lose(file) if lost else file.unlink()
    one = await worker()
    await settled(one)
    assert await digest(one, "v") == (kit.digest_of(first) if lost else None)
    assert await digest(one, kit.digest_of(first)) == kit.digest_of(first), "the manifest of the tag stays"
    assert await digest(one, "w") == (kit.digest_of(second) if lost else None), "its manifest was removed"
    assert (await one("HEAD", f"/v2/team/app/blobs/{layer}")).status_code == (200 if lost else 404)
    assert [file.exists() for file in files] == [lost] * 3
    gone = rows("SELECT tag FROM tag_moves WHERE digest IS NULL ORDER BY tag")
    assert gone == ([] if lost else [("v",), ("w",)])


async def settled(one) -> None:
    async with asyncio.timeout(60):
        while not one.app._tree.known:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_after_a_crash_removed_is_followed_too(worker, app, kit, monkeypatch):
    """Nobody recorded a stop; the moment of the last links that were settled is in the database."""
    one = await worker()
    await one.push_image("v")
    await one.push_image("w")
    await one.mirror.settle()
    crashed = await worker()  # `one` still has everything open, as a killed process leaves it
    await settled(crashed)
    await asyncio.sleep(0.02)
    shutil.rmtree(app / "_manifests/tags/v")
    two = await worker()
    await settled(two)
    assert (await two("GET", "/v2/team/app/tags/list")).json()["tags"] == ["w"]


async def test_a_mark_tells_of_our_own_link(worker, app, kit, monkeypatch):
    """Killed between commit and link: the link is absent and its folder new, but it is ours to write."""
    one = await worker()
    await one.push_image("w")
    await one.mirror.settle()

    async def later(_self, _rows):
        return None

    with monkeypatch.context() as patched:
        patched.setattr(Mirror, "write", later)
        body = await one.push_image("v")
        (app / "_manifests/tags/other").mkdir()
        await one.compare()
    assert await digest(one, "v") == kit.digest_of(body)


async def test_a_push_during_the_walk_does_not_hide_what_was_removed(worker, app, kit, walk_waits):
    """Its links are settled, but that says nothing of the repositories that the walk has not come to."""
    one = await worker()
    await one.push_image("v")
    await one.push_image("v", "another")
    await stop(one)
    shutil.rmtree(app / "_manifests/tags/v")
    two = await worker()
    await two.push_image("w", "another")
    await two.mirror.settle()
    walk_waits.set()
    await settled(two)
    assert await digest(two, "v") is None
    assert await digest(two, "w", "another")


async def test_a_tree_that_is_not_mounted_ends_nothing(worker, tree, kit):
    """All links are absent and the folder is new: no registry does that."""
    (body,) = await stopped(worker, "v")
    tree.rename(tree.with_name("elsewhere"))
    for folder in (None, tree, tree / "repositories"):
        if folder is not None:
            folder.mkdir()
        one = await worker()
        await settled(one)
        assert await digest(one, "v") == kit.digest_of(body)
        assert not (tree / "repositories/team").exists(), "nothing is written where a disk may be missing"
        await one.aclose()
    (tree / "repositories").rmdir()
    tree.rmdir()
    tree.with_name("elsewhere").rename(tree)
    assert await digest(await worker(), "v") == kit.digest_of(body)


async def test_a_repository_that_was_removed_by_hand_is_gone(worker, app, rows):
    one = await worker()
    await one.push_image("v")
    await one.push_image("v", "another")
    await stop(one)
    shutil.rmtree(app)
    two = await worker()
    await settled(two)
    assert (await two("GET", "/v2/_catalog")).json()["repositories"] == ["another"]
    assert (await two("GET", "/v2/team/app/tags/list")).status_code == 404
    assert rows("SELECT name FROM repositories") == [("another",)]


@pytest.mark.parametrize("how", ["pushed", "deleted"])
@pytest.mark.parametrize("away", ["moved", "removed", "added"])
async def test_what_a_client_does_meanwhile_goes_before(worker, app, kit, monkeypatch, how, away):
    """The walk has read the folder; before its transaction a client pushes or deletes the tag."""
    _, second = await stopped(worker, "v", "w")
    folder = app / "_manifests/tags/v"
    if away == "moved":
        (folder / "current/link").write_text(kit.digest_of(second))
    elif away == "removed":
        shutil.rmtree(folder)
    else:
        shutil.copytree(folder, app / "_manifests/tags/x")
    tag = "x" if away == "added" else "v"
    monkeypatch.setattr(follow.Following, "compare", nothing)
    monkeypatch.setattr(follow.Following, "_walk", forever)
    one = await worker()
    real, pushed = adoption.Adoption.flush, []

    async def late(self):
        if not pushed:
            pushed.append(await one.push_image(tag))
            await one.mirror.settle()
            if how == "deleted":
                assert (await one("DELETE", f"/v2/team/app/manifests/{tag}")).status_code == 202
                await one.mirror.settle()
        await real(self)

    monkeypatch.setattr(adoption.Adoption, "flush", late)
    await one.compare()
    assert await digest(one, tag) == (kit.digest_of(pushed[0]) if how == "pushed" else None)
    link = app / f"_manifests/tags/{tag}/current/link"
    assert (link.read_text() if link.exists() else None) == await digest(one, tag)


async def nothing(*_arguments):
    return None


async def forever(*_arguments):
    await asyncio.Event().wait()


@pytest.mark.parametrize("kind", ["revision", "layer"])
async def test_what_a_client_deleted_meanwhile_does_not_come_back(worker, app, kit, monkeypatch, kind):
    one = await worker()
    manifest = kit.digest_of(await one.push_image("v"))
    blob = await one.push_blob(b"unused")
    await one.mirror.settle()
    path = f"manifests/{manifest}" if kind == "revision" else f"blobs/{blob}"
    real = adoption.tree.links

    async def late(driver, name, section, report):
        found = await real(driver, name, section, report)
        if section == adoption._SECTIONS[kind]:
            assert (await one("DELETE", f"/v2/team/app/{path}")).status_code == 202
            await one.mirror.settle()
        return found

    monkeypatch.setattr(adoption.tree, "links", late)
    # The rows are read after the client's delete: the link in the old listing then seems new.
    order = adoption.Adoption._all

    async def rows_later(self, page, key, value=lambda _row: ""):
        found = await order(self, page, key, value)
        gone = manifest if kind == "revision" else blob
        return {name: what for name, what in found.items() if name != gone}

    monkeypatch.setattr(adoption.Adoption, "_all", rows_later)
    await one.compare()
    assert (await one("HEAD", f"/v2/team/app/{path}")).status_code == 404


async def test_a_collected_blob_is_gone_and_one_in_use_is_missing(worker, kit, blob_file, rows, app):
    one = await worker()
    body = await one.push_image("v")
    unused = await one.push_blob(b"unused")
    await stop(one)
    for each in (unused, kit.digest_of(b"{}")):
        shutil.rmtree(blob_file(each).parent)
    two = await worker()
    await settled(two)
    assert rows(f"SELECT count(*) FROM blobs WHERE digest = '{unused}'") == [(0,)]
    assert rows(f"SELECT state FROM blobs WHERE digest = '{kit.digest_of(b'{}')}'") == [("missing",)]
    await two.mirror.catch_up()
    assert not (app / f"_layers/sha256/{unused[7:]}/link").exists()
    assert await digest(two, "v") == kit.digest_of(body)
    await two.push_blob(b"{}")
    assert (await two("HEAD", f"/v2/team/app/blobs/{kit.digest_of(b'{}')}")).status_code == 200


async def test_a_collected_manifest_takes_its_tags_along(worker, kit, blob_file, rows, app):
    first, second = await stopped(worker, "v", "w")
    shutil.rmtree(blob_file(kit.digest_of(first)).parent)
    one = await worker()
    await settled(one)
    assert (await one("GET", "/v2/team/app/tags/list")).json()["tags"] == ["w"]
    assert await digest(one, kit.digest_of(first)) is None
    assert rows("SELECT digest FROM manifest_bodies") == [(kit.digest_of(second),)]
    await one.mirror.catch_up()
    assert not (app / "_manifests/tags/v").exists()


async def test_a_lost_blob_file_ends_no_row(worker, kit, blob_file):
    """Nobody removed it: that is for whoever asks for it, and for `verify`."""
    (body,) = await stopped(worker, "v")
    folder = blob_file(kit.digest_of(body)).parent
    kit.lose(folder / "data")
    os.utime(folder.parent, ns=(0, 0))
    one = await worker()
    await settled(one)
    assert (await one("GET", "/v2/team/app/manifests/v")).content == body


async def test_only_a_new_start_doubts(worker, rows):
    """A worker that is replaced finds the tree known."""
    one = await worker()
    await one.push_image("v")
    assert rows("SELECT state FROM tree") == [("known",)]
    await one.database.write(tree_rows.doubt)
    assert rows("SELECT state FROM tree") == [("unsure",)]


async def test_changed_tags_are_counted_in_the_log(worker, app, kit, capfd):
    _, second = await stopped(worker, "v", "w")
    (app / TAG / "link").write_text(kit.digest_of(second))
    shutil.copytree(app / "_manifests/tags/w", app / "_manifests/tags/x")
    shutil.rmtree(app / "_manifests/tags/w")
    await settled(await worker())
    assert "3 tags changed while hatoba was away" in "".join(capfd.readouterr())
    await settled(await worker())
    assert "while hatoba was away" not in "".join(capfd.readouterr())


async def test_a_command_does_not_hide_what_was_removed_elsewhere(worker, tree, root, kit):
    """Docker's registry removed a tag; then, with no server, a command changed another repository."""
    one = await worker()
    await one.push_image("v")
    await one.push_image("v", "team/other")
    await stop(one)
    shutil.rmtree(tree / "repositories/team/app/_manifests/tags/v")
    await asyncio.sleep(0.02)
    settings = load(None, {}, {"storage.filesystem.rootdirectory": str(root)}).settings
    other = RepositoryName("team/other")
    async with commands.opened(settings, changing=other) as rules:
        await rules.tags.delete(other, Tag("v"), None)
    two = await worker()
    await settled(two)
    assert await digest(two, "v") is None
    assert await digest(two, "v", "team/other") is None


async def test_asking_for_what_is_nowhere_writes_nothing(worker, walk_waits, monkeypatch):
    """Else strangers could keep the disk busy with it until the walk ends."""
    await stopped(worker, "v")
    one = await worker()
    written = writes_of(one, monkeypatch)
    assert (await one("GET", "/v2/team/nowhere/tags/list")).status_code == 404
    assert not written
    assert not one.app._tree._compared, "or fill the memory with names"
    assert not one.app._tree._comparing


async def test_a_comparison_that_failed_is_made_again(worker, app, kit, walk_waits, monkeypatch):
    """Else a disk that failed once would hide what Docker's registry was given until the walk comes by."""
    _first, second = await stopped(worker, "v", "w")
    (app / "_manifests/tags/v/current/link").write_text(kit.digest_of(second))
    real, failures = adoption.Adoption.repository, [OSError(5, "Input/output error")]

    async def fail_once(self, name, seen_at):
        if failures:
            raise failures.pop()
        await real(self, name, seen_at)

    monkeypatch.setattr(adoption.Adoption, "repository", fail_once)
    one = await worker()
    assert await digest(one, "v") != kit.digest_of(second)
    assert await digest(one, "v") == kit.digest_of(second)


async def test_many_lost_links_are_marked_together(worker, app, kit, walk_waits, monkeypatch):
    """A transaction for each would be an fsync for each."""
    tags = [f"v{number}" for number in range(30)]
    await stopped(worker, *tags)
    files = [app / f"_manifests/tags/{tag}/current/link" for tag in tags]
    for file in files:
        kit.lose(file)
    one = await worker()
    marked = writes_of(one, monkeypatch)
    walk_waits.set()
    await settled(one)
    assert all(file.exists() for file in files)
    assert len(marked) < len(tags) / 2


async def test_rows_of_a_hatoba_that_knew_no_tree_are_served_at_once(worker, root, app, kit, walk_waits):
    """After an upgrade; what is in the folder besides is found by whoever asks for it."""
    (body,) = await stopped(worker, "v")
    shutil.copytree(app, app.parent / "new")
    shutil.rmtree(app / "_manifests/tags/v")
    connection = apsw.Connection(str(root / "hatoba/metadata.db"))
    connection.execute("DELETE FROM tree")
    connection.close()
    one = await worker()
    for name in ("app", "new"):
        answer = await one("GET", f"/v2/team/{name}/manifests/v")
        assert (answer.status_code, answer.content) == (200, body)
    walk_waits.set()
    await settled(one)
    assert (app / TAG / "link").exists(), "nobody knows that it was removed: it was lost"


async def test_a_clock_that_was_ahead_once_does_no_lasting_harm(worker, root, app):
    """Else whatever Docker's registry removes for years to come would be taken for lost, and written again."""
    await stopped(worker, "v")
    connection = apsw.Connection(str(root / "hatoba/metadata.db"))
    connection.execute("UPDATE tree SET seen_at = seen_at + 100000000000000")
    connection.close()
    one = await worker()
    await settled(one)
    await stop(one)
    shutil.rmtree(app / "_manifests/tags/v")
    two = await worker()
    await settled(two)
    assert await digest(two, "v") is None
