"""The mirror (docs/architecture.md): Docker's link files end true in whatever order workers write them."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
from datetime import timedelta

import pytest

from hatoba import wiring
from hatoba.operations import mirror as mirror_module
from hatoba.operations import readiness

TAG = "_manifests/tags/v/current"


@contextlib.contextmanager
def read_only(folder):
    """Nothing can be written below `folder`, not even by root: a file stands where a folder should be."""
    hidden = folder.with_name(folder.name + ".hidden")
    folder.rename(hidden)
    folder.write_text("in the way")
    yield
    folder.unlink()
    hidden.rename(folder)


async def test_links_are_written_before_the_answer(worker, kit, link):
    one = await worker()
    body = await one.push_image("v")
    digest = kit.digest_of(body)
    assert link(TAG) == digest
    assert link(f"_manifests/tags/v/index/sha256/{digest[7:]}") == digest
    assert link(f"_manifests/revisions/sha256/{digest[7:]}") == digest
    config = kit.digest_of(b"{}")
    assert link(f"_layers/sha256/{config[7:]}") == config


async def test_first_write_makes_both_folders(worker, tree):
    one = await worker()
    await one.push_blob(b"only a blob")
    for folder in ("_layers", "_manifests"):
        assert (tree / "repositories/team/app" / folder).is_dir()


async def test_deleting_takes_links_away(worker, kit, link, tree):
    one = await worker()
    body = await one.push_image("v")
    await one.push_manifest(body, "w")
    await one("DELETE", "/v2/team/app/manifests/w")
    assert not (tree / "repositories/team/app/_manifests/tags/w").exists()
    assert link(TAG) is not None
    await one("DELETE", f"/v2/team/app/manifests/{kit.digest_of(body)}")
    assert not (tree / "repositories/team/app/_manifests/tags/v").exists()
    assert link(f"_manifests/revisions/sha256/{kit.digest_of(body)[7:]}") is None
    await one("DELETE", f"/v2/team/app/blobs/{kit.digest_of(b'{}')}")
    assert link(f"_layers/sha256/{kit.digest_of(b'{}')[7:]}") is None


async def test_links_written_in_the_other_order_converge(worker, kit, link, monkeypatch):
    """The first push commits first but writes its link last: the link must name the second."""
    one, two = await worker(), await worker()
    held, go_on = asyncio.Event(), asyncio.Event()
    real = mirror_module.Mirror.write
    late = []

    async def write(self, rows):
        if self is one.mirror and any(row.kind == "tag" for row in rows) and not late:
            late.append(rows)
            held.set()
            await go_on.wait()
        await real(self, rows)

    monkeypatch.setattr(mirror_module.Mirror, "write", write)
    first = asyncio.ensure_future(one.push_image("v"))
    await held.wait()
    second = await two.push_image("v")
    assert link(TAG) == kit.digest_of(second)
    go_on.set()
    await first
    assert link(TAG) == kit.digest_of(second)
    assert (await one("GET", "/v2/team/app/manifests/v")).content == second


async def test_row_settled_by_an_older_generation_stays(worker, rows):
    """A mark made again while the first is being settled must not be removed with it."""
    one = await worker()
    await one.push_image("v")
    written = dict(one.mirror._written)
    await one.push_image("v")
    one.mirror._written = written
    await one.mirror.settle()
    assert [row[0] for row in rows("SELECT kind FROM mirror WHERE kind = 'tag'")] == ["tag"]


async def test_marks_that_another_worker_took_over_are_its_own_to_end(worker, rows):
    """What it wrote anew is not fsynced yet, whatever the first one, who was only slow, has fsynced."""
    one, two = await worker(), await worker()
    await one.push_image("v")
    marks = rows("SELECT count(*) FROM mirror")
    await two.mirror.catch_up()
    await one.mirror.settle()
    assert rows("SELECT count(*) FROM mirror") == marks
    await two.mirror.settle()
    assert rows("SELECT count(*) FROM mirror") == [(0,)]


async def test_settled_rows_are_gone_and_links_fsynced_first(worker, rows, monkeypatch):
    one = await worker()
    await one.push_image("v")
    assert rows("SELECT count(*) FROM mirror")[0][0] >= 3
    synced = []
    real = os.fsync

    def recorded(descriptor):
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), rows("SELECT count(*) FROM mirror")[0][0]))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    await one.mirror.settle()
    assert rows("SELECT count(*) FROM mirror") == [(0,)]
    links = [(name, left) for name, left in synced if name.endswith("tags/v/current/link")]
    assert links
    assert all(left > 0 for _, left in links)
    assert any(name.endswith("tags/v/current") for name, _ in synced), "its folder too"


async def test_link_that_cannot_be_written_fails_no_push(worker, kit, link, tree, monkeypatch):
    monkeypatch.setattr(readiness, "_OVERDUE", timedelta(0))
    one = await worker()
    await one.push_image("other")
    await one.mirror.settle()
    assert (await one("GET", "/healthz/ready")).status_code == 200
    with read_only(tree / "repositories/team/app/_manifests/tags"):
        body = await one.push_image("v")
        assert (await one("GET", "/v2/team/app/manifests/v")).content == body
        await one.mirror.settle()
        answer = await one("GET", "/healthz/ready")
        assert answer.status_code == 503
        assert "link files" in answer.text
        assert (await one("GET", "/healthz/live")).status_code == 200
    assert link(TAG) is None
    await one.mirror.catch_up()
    await one.mirror.settle()
    assert link(TAG) == kit.digest_of(body)
    assert (await one("GET", "/healthz/ready")).status_code == 200


async def test_leftovers_of_a_crash_are_written_at_the_next_start(worker, kit, link, monkeypatch):
    monkeypatch.setattr(mirror_module, "_SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(mirror_module, "_LEFTOVER_AGE", timedelta(0))
    one = await worker()

    async def crashed(_self, _rows):
        return None

    with monkeypatch.context() as patched:
        patched.setattr(mirror_module.Mirror, "write", crashed)
        patched.setattr(mirror_module.Mirror, "catch_up", crashed)
        body = await one.push_image("v")
    await one.aclose()
    await worker()
    for _ in range(100):
        if link(TAG) is not None:
            break
        await asyncio.sleep(0.05)
    assert link(TAG) == kit.digest_of(body)


async def test_link_of_another_program_is_followed(worker, kit, tree, rows):
    one = await worker()
    first = await one.push_image("v")
    second = await one.push_image("w")
    await one.mirror.settle()
    await one.aclose()
    (tree / "repositories/team/app/_manifests/tags/v/current/link").write_text(kit.digest_of(second))
    two = await worker()
    await until(lambda: rows("SELECT digest FROM tags WHERE name = 'v'") == [(kit.digest_of(second),)])
    assert (await two("GET", "/v2/team/app/manifests/v")).content == second
    assert rows("SELECT digest FROM tag_moves WHERE tag = 'v' ORDER BY id")[-1] == (kit.digest_of(second),)
    assert first != second


async def test_pending_link_is_not_taken_for_anothers(worker, kit, root, monkeypatch):
    """Between a commit and its link the link is old: the walk must not roll the tag back."""
    one = await worker()
    await one.push_image("v")
    await one.mirror.settle()

    async def later(_self, _rows):
        return None

    with monkeypatch.context() as patched:
        patched.setattr(mirror_module.Mirror, "write", later)
        second = await one.push_image("v")
        await one.compare()
    assert (await one("GET", "/v2/team/app/manifests/v")).content == second


async def test_lost_link_is_written_again_and_unknown_one_left_alone(worker, kit, link, tree):
    one = await worker()
    body = await one.push_image("v")
    await one.push_image("w")
    await one.mirror.settle()
    folder = tree / "repositories/team/app/_manifests/tags"
    kit.lose(folder / "v/current/link")
    (folder / "w/current/link").write_text("sha256:" + "0" * 64)
    kit.lose(tree / f"repositories/team/app/_manifests/revisions/sha256/{kit.digest_of(body)[7:]}/link")
    await one.compare()
    assert link(TAG) == kit.digest_of(body)
    assert link(f"_manifests/revisions/sha256/{kit.digest_of(body)[7:]}") == kit.digest_of(body)
    assert link("_manifests/tags/w/current") == "sha256:" + "0" * 64


async def until(condition) -> None:
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0.05)
    pytest.fail("it does not come to that")


async def test_no_half_written_link_is_ever_seen(worker, link, kit, tree):
    one = await worker()
    bodies = [await one.push_image("v") for _ in range(2)]
    digests = {kit.digest_of(body) for body in bodies}
    stop = asyncio.Event()
    seen = set()

    async def watch():
        while not stop.is_set():
            seen.add(link(TAG))
            names = {path.name for path in (tree / "repositories/team/app/_manifests/tags").rglob("*")}
            assert not any(name.endswith(".tmp") for name in names)
            await asyncio.sleep(0)

    watching = asyncio.ensure_future(watch())
    for number in range(50):
        await one.push_manifest(bodies[number % 2], "v")
    stop.set()
    await watching
    assert seen <= digests


def retag(root: str, bodies: list[bytes], times: int, seed: int) -> None:
    """A worker process that moves the tag `times` times."""
    import random  # noqa: PLC0415

    import httpx  # noqa: PLC0415

    from hatoba.config.load import load  # noqa: PLC0415

    chosen = random.Random(seed)  # noqa: S311

    async def main() -> None:
        settings = load(None, {}, {"storage.filesystem.rootdirectory": root}).settings
        async with (
            wiring.running(settings) as app,
            httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://t", timeout=60) as http,
        ):

            async def push() -> None:
                answer = await http.put(
                    "/v2/team/app/manifests/v", content=chosen.choice(bodies),
                    headers={"content-type": "application/vnd.oci.image.manifest.v1+json"},
                )  # fmt: skip
                assert answer.status_code == 201, answer.text

            for _ in range(0, times, 10):
                await asyncio.gather(*(push() for _ in range(10)))

    asyncio.run(main())


async def test_a_thousand_concurrent_retags(worker, kit, root, link, rows):
    one = await worker()
    bodies = [await one.push_image("v") for _ in range(5)]
    await one.aclose()
    context = multiprocessing.get_context("spawn")
    arguments = [(str(root), bodies, 500, seed) for seed in range(2)]
    processes = [context.Process(target=retag, args=given) for given in arguments]
    for process in processes:
        process.start()
    for process in processes:
        await asyncio.to_thread(process.join, 120)
        assert process.exitcode == 0
    ((digest,),) = rows("SELECT digest FROM tags WHERE name = 'v'")
    assert link(TAG) == digest
    assert digest in {kit.digest_of(body) for body in bodies}


async def test_a_broken_folder_stops_no_other_link_and_fills_no_log(worker, kit, link, tree, monkeypatch, capfd):
    monkeypatch.setattr(mirror_module, "_BATCH", 2)
    one = await worker()
    await one.push_image("other")
    with read_only(tree / "repositories/team/app/_manifests/tags"):
        body = await one.push_image("v")
        assert link(f"_manifests/revisions/sha256/{kit.digest_of(body)[7:]}") == kit.digest_of(body)
        for tag in ("w", "x"):
            await one.push_image(tag)
        monkeypatch.setattr(one.mirror, "write", nothing)
        later = await one.push_image("v", "another")
        monkeypatch.undo()
        monkeypatch.setattr(mirror_module, "_BATCH", 2)
        assert link(TAG, "another") is None
        for _ in range(5):
            await one.mirror.catch_up(again=False)
            await one.mirror.settle()
        assert link(TAG, "another") == kit.digest_of(later)
    assert "".join(capfd.readouterr()).count("stay pending") == 3
    assert link(TAG) is None
    while await one.mirror.catch_up():
        await one.mirror.settle()
    assert link(TAG) == kit.digest_of(body)


async def nothing(_rows):
    pass
