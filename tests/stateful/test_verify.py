"""`hatoba verify` beside a worker: what is wrong is found, what is right is not, and nothing rotten is served again."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
from pathlib import Path

import apsw
import pytest

from hatoba.errors import InsufficientStorage, Unavailable
from hatoba.operations import heal

BLOBS = "/v2/team/app/blobs/"
LAYER = b"some content of a layer"


@pytest.fixture
async def filled(worker, kit):
    """A worker with one image: (worker, digest of its layer, digest of its manifest, push it again)."""
    one = await worker()
    body = kit.manifest_of(b"{}", [LAYER])

    async def push():
        await one.push_blob(b"{}")
        await one.push_blob(LAYER)
        assert (await one.push_manifest(body, "v")).status_code == 201

    await push()
    await one.mirror.settle()
    return one, kit.digest_of(LAYER), kit.digest_of(body), push


async def test_nothing_is_wrong_with_what_was_pushed(filled, check):
    one, *_ = filled
    checked = await check(one)
    assert checked.found == []
    report = checked.report
    assert (report.blobs, report.manifests, report.links) == (3, 1, 4)
    assert report.hashed_bytes == sum(len(body) for body in (b"{}", LAYER)) + len(
        (await one("GET", "/v2/team/app/manifests/v")).content
    )


async def test_what_a_crash_leaves_is_counted_and_no_finding(filled, check, tree, root):
    one, *_ = filled
    await one.push_blob(b"its link is written, not settled")
    started = await one.start()
    await one("PATCH", started, content=b"unfinished")
    gone = await one.start()
    (tree / "repositories/team/app/_uploads" / gone.split("/")[-1].split("?")[0] / "data").unlink()
    orphan = tree / "blobs/sha256/ab" / f"ab{'0' * 62}" / "data"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"four")
    abandoned = tree / "repositories/team/app/_uploads/0c5e7d7e-6b39-4a0e-8d2e-3a1f7f1f6a55"
    abandoned.mkdir(parents=True)
    (abandoned / "data").write_bytes(b"")
    (abandoned / "startedat").write_bytes(b"")
    (tree / "strange").write_bytes(b"12")
    (tree / os.fsdecode(b"no\xff utf8")).write_bytes(b"1")
    (root / "hatoba/tmp/left").write_bytes(b"not looked at")
    checked = await check(one)
    assert checked.found == []
    report = checked.report
    assert (report.strays, report.stray_bytes) == (3, 7)
    assert (report.abandoned, report.fileless, report.pending) == (1, 1, 1)


# Blobs


def rotten(file):
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"X")


def shorter(file):
    os.truncate(file, 3)


def gone(file):
    file.unlink()


def a_folder(file):
    file.unlink()
    file.mkdir()


def a_link_to_nothing(file):
    file.unlink()
    file.symlink_to("/nowhere")


def a_link_to_something_else(file):
    other = file.with_name("other")
    other.write_bytes(bytes(file.stat().st_size))
    file.unlink()
    file.symlink_to(other)


SPOILT = [
    (rotten, "blob-rotten"),
    (shorter, "blob-wrong-size"),
    (gone, "blob-missing"),
    (a_folder, "blob-strange"),
    (a_link_to_nothing, "blob-missing"),
    (a_link_to_something_else, "blob-rotten"),
]


@pytest.mark.parametrize("fix", [False, True])
@pytest.mark.parametrize(("spoil", "kind"), SPOILT)
async def test_a_spoilt_blob_is_not_served_and_its_next_push_heals_it(filled, check, blob_file, spoil, kind, fix, root):
    one, layer, _, push = filled
    spoil(blob_file(layer))
    checked = await check(one, fix=fix)
    (finding,) = checked.found
    assert (finding.kind, finding.subject, finding.mended) == (kind, layer, False)
    assert "needed by team/app:v" in finding.meaning
    assert (await one("GET", BLOBS + layer)).status_code == 404
    aside = list((root / "hatoba/aside").iterdir()) if (root / "hatoba/aside").exists() else []
    if fix:
        assert len(aside) == (spoil is not gone)
        assert not os.path.lexists(blob_file(layer))
        assert spoil is gone or f"hatoba/aside/{aside[0].name}" in finding.fix
    else:
        assert aside == []
    assert (await check(one)).kinds == (["blob-missing"] if fix else [kind]), "it is still not what it should be"
    if spoil is a_folder and not fix:
        return  # nothing can be renamed onto a folder: `--fix` makes way
    await push()
    answer = await one("GET", BLOBS + layer)
    assert (answer.status_code, answer.content) == (200, LAYER)
    assert (await check(one)).found == []


async def test_a_rotten_file_does_not_flap(filled, check, blob_file, rows):
    one, layer, *_ = filled
    rotten(blob_file(layer))
    await check(one)
    healing = heal.Healing(one.database, one.driver)
    for _ in range(2):
        assert await healing.turn() == 0
        assert rows(f"SELECT state FROM blobs WHERE digest = '{layer}'") == [("missing",)]
        assert (await check(one)).kinds == ["blob-rotten"]


async def test_a_file_that_came_back_is_said_and_with_fix_served(filled, check, blob_file):
    one, layer, *_ = filled
    kept = blob_file(layer).read_bytes()
    blob_file(layer).unlink()
    assert (await one("HEAD", BLOBS + layer)).status_code == 404
    blob_file(layer).write_bytes(kept)
    assert (await check(one)).kinds == ["blob-returned"]
    assert (await one("HEAD", BLOBS + layer)).status_code == 404
    (finding,) = (await check(one, fix=True)).found
    assert (finding.kind, finding.mended) == ("blob-returned", True)
    assert (await one("GET", BLOBS + layer)).content == LAYER


@pytest.mark.parametrize(("spoil", "kind"), SPOILT)
async def test_the_file_of_a_manifest_is_written_again(filled, check, blob_file, spoil, kind):
    one, _, manifest, _ = filled
    body = blob_file(manifest).read_bytes()
    spoil(blob_file(manifest))
    (finding,) = (await check(one)).found
    assert (finding.kind, finding.mended) == (kind, False)
    assert (await one("GET", "/v2/team/app/manifests/v")).content == body, "from the database"
    (finding,) = (await check(one, fix=True)).found
    assert (finding.kind, finding.mended) == (kind, True)
    assert blob_file(manifest).read_bytes() == body
    assert blob_file(manifest).stat().st_mode & 0o777 == 0o444
    assert (await check(one)).found == []


async def test_a_file_that_cannot_be_read_is_marked_but_not_for_want_of_descriptors(filled, check, monkeypatch, rows):
    one, layer, *_ = filled
    real = one.driver.open

    def failing(number):
        async def fail(key):
            if layer[7:] in key:
                raise Unavailable("a file cannot be read") from OSError(number, os.strerror(number))
            return await real(key)

        return fail

    monkeypatch.setattr(one.driver, "open", failing(24))
    with pytest.raises(Unavailable):
        await check(one)
    assert rows("SELECT count(*) FROM blobs WHERE state = 'missing'") == [(0,)]
    monkeypatch.setattr(one.driver, "open", failing(5))
    assert (await check(one)).kinds == ["blob-unreadable"]
    assert rows("SELECT digest FROM blobs WHERE state = 'missing'") == [(layer,)]


def failing(monkeypatch, call, path):
    """From now on the disk fails whenever somebody calls this for the path."""
    real = getattr(os, call)

    def fail(there, *arguments, **options):
        if str(there) == str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(there))
        return real(there, *arguments, **options)

    monkeypatch.setattr(os, call, fail)


@pytest.mark.parametrize("fix", [False, True])
async def test_a_file_whose_folder_cannot_be_read_stops_nothing(filled, check, blob_file, rows, monkeypatch, fix):
    one, layer, manifest, _ = filled
    for call in ("lstat", "stat"):
        for digest in (layer, manifest):
            failing(monkeypatch, call, blob_file(digest))
    checked = await check(one, fix=fix)
    found = {finding.subject: (finding.kind, finding.mended) for finding in checked.found}
    assert found == {layer: ("blob-unreadable", False), manifest: ("blob-unreadable", fix)}
    assert (layer,) in rows("SELECT digest FROM blobs WHERE state = 'missing'")
    assert checked.report.blobs == 3


@pytest.mark.parametrize("above", [0, 1])
async def test_a_file_where_a_manifests_folder_should_be(filled, check, blob_file, above):
    one, _, manifest, _ = filled
    folder = blob_file(manifest).parents[above]
    shutil.rmtree(folder)
    folder.touch()
    (finding,) = (await check(one, fix=True)).found
    assert (finding.kind, finding.mended) == ("blob-missing", False)
    assert "--fix fails: a file stands where a folder should be" in finding.fix


async def test_a_folder_that_cannot_be_read_is_named_and_the_others_are_looked_at(filled, check, tree, monkeypatch):
    one, *_ = filled
    folders = [str(tree / "blobs"), str(tree / "repositories")]
    for folder in folders:
        (Path(folder) / "stray").touch()
    real, failed = os.scandir, []

    def first(path):
        if path in folders and not failed:
            failed.append(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return real(path)

    monkeypatch.setattr(os, "scandir", first)
    checked = await check(one)
    (finding,) = checked.found
    assert [finding.kind, finding.subject] == ["folder-unreadable", *failed]
    assert "Input/output error" in finding.meaning
    assert (checked.report.strays, checked.report.blobs) == (1, 3)


async def test_a_path_that_is_too_long_is_named(filled, check, tree):
    one, *_ = filled
    folder, names = tree / "repositories", ["f" * 200] * 25
    descriptor = os.open(folder, os.O_RDONLY)
    for name in names:
        os.mkdir(name, dir_fd=descriptor)
        inner = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    (finding,) = (await check(one)).found
    assert finding.kind == "folder-unreadable"
    assert "File name too long" in finding.meaning


@pytest.mark.parametrize("fix", [False, True])
async def test_what_cannot_be_mended_is_marked(filled, check, blob_file, monkeypatch, rows, fix):
    """Nothing can be moved out of the tree, as when `hatoba` is a disk of its own."""
    one, layer, manifest, _ = filled
    for digest in (layer, manifest):
        rotten(blob_file(digest))
    with monkeypatch.context() as broken:
        failing(broken, "rename", blob_file(layer))
        failing(broken, "rename", blob_file(manifest))
        checked = await check(one, fix=fix)
    assert checked.kinds == ["blob-rotten"] * 2
    assert checked.report.mended == 0
    assert all(("--fix fails" in finding.fix) is fix for finding in checked.found)
    assert sorted(rows("SELECT digest FROM blobs WHERE state = 'missing'")) == sorted([(layer,), (manifest,)])
    assert (await one("GET", BLOBS + layer)).status_code == 404


async def test_a_blob_that_is_pushed_again_while_it_is_read_is_no_finding(filled, check, blob_file, monkeypatch):
    """The bytes that were hashed are not those that lie there when the finding would be said."""
    one, layer, _, push = filled
    rotten(blob_file(layer))
    from hatoba.operations import blob_check  # noqa: PLC0415  the module under test

    real = blob_check.read_back
    healed = []

    async def meanwhile(*arguments, **options):
        found = await real(*arguments, **options)
        if arguments[1] == len(LAYER) and not healed:
            healed.append(True)
            await asyncio.to_thread(blob_file(layer).unlink)
            assert (await one("HEAD", BLOBS + layer)).status_code == 404
            await push()
        return found

    monkeypatch.setattr(blob_check, "read_back", meanwhile)
    assert (await check(one)).found == []
    assert healed
    assert (await one("GET", BLOBS + layer)).content == LAYER


@pytest.mark.parametrize("fix", [False, True])
async def test_a_full_disk_hides_no_finding(filled, check, blob_file, monkeypatch, fix, kit, root, tree, worker):
    """Nothing can be marked or mended; what is found is said, and the rest is read."""
    one, layer, manifest, _ = filled
    for each in (one, await worker()):
        await each.push_blob(os.urandom(8))  # its link is not settled yet
    for digest in (layer, manifest):
        rotten(blob_file(digest))
    changed(root, f"DELETE FROM repository_blobs WHERE digest = '{kit.digest_of(b'{}')}'")
    (tree / "repositories/team/app/_manifests/tags/v/current/link").unlink()
    real = one.database.write

    async def full(_work):
        raise InsufficientStorage

    monkeypatch.setattr(one.database, "write", full)
    checked = await check(one, fix=fix)
    kinds = ["blob-rotten", "blob-rotten", "link-extra", "link-missing", "reference-missing"]
    assert sorted(checked.kinds) == kinds
    rot = [finding for finding in checked.found if finding.kind == "blob-rotten"]
    assert {finding.subject for finding in rot} == {layer, manifest}
    assert all("the disk is full" in finding.fix for finding in rot)
    assert (checked.report.blobs, checked.report.mended) == (5, 0)
    monkeypatch.setattr(one.database, "write", real)
    assert sorted((await check(one)).kinds) == kinds


# Manifests and references


def changed(root, *statements):
    connection = apsw.Connection(str(root / "hatoba/metadata.db"))
    connection.pragma("foreign_keys", 0)
    for statement in statements:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize("heal_by", ["fix", "push"])
async def test_a_manifest_that_the_database_spoilt_is_not_served(worker, filled, check, root, heal_by):
    _, _, manifest, push = filled
    body = (await filled[0]("GET", "/v2/team/app/manifests/v")).content
    changed(root, "UPDATE manifest_bodies SET body = CAST(replace(CAST(body AS TEXT), 'config', 'konfig') AS BLOB)")
    one = await worker()
    for reference in ("v", manifest):
        assert (await one("GET", f"/v2/team/app/manifests/{reference}")).status_code == 404
    (finding,) = (await check(one)).found
    assert (finding.kind, finding.subject, finding.mended) == ("manifest-rotten", manifest, False)
    if heal_by == "fix":
        (finding,) = (await check(one, fix=True)).found
        assert finding.mended
    else:
        await push()
    assert (await one("GET", "/v2/team/app/manifests/v")).content == body
    assert (await check(one)).found == []


async def test_a_manifest_that_cannot_be_mended_on_a_full_disk(filled, check, root, monkeypatch):
    one, *_ = filled
    changed(root, "UPDATE manifest_bodies SET body = X'00'")

    async def full(_work):
        raise InsufficientStorage

    monkeypatch.setattr(one.database, "write", full)
    (finding,) = (await check(one, fix=True)).found
    assert (finding.kind, finding.mended) == ("manifest-rotten", False)


async def test_a_manifest_that_is_right_nowhere(filled, check, root, blob_file):
    one, _, manifest, push = filled
    changed(root, "UPDATE manifest_bodies SET body = X'00'")
    rotten(blob_file(manifest))
    assert (await check(one, fix=True)).kinds == ["manifest-rotten", "blob-rotten"]
    await push()
    assert (await check(one)).found == []


async def test_a_reference_that_the_repository_does_not_hold(filled, check, root):
    one, layer, manifest, _ = filled
    changed(root, f"DELETE FROM repository_blobs WHERE digest = '{layer}'")
    finding, extra = (await check(one)).found
    assert (finding.kind, finding.subject) == ("reference-missing", f"team/app@{manifest}")
    assert extra.kind == "link-extra", "its link is still there"
    assert layer in finding.meaning
    (finding,) = (await check(one, fix=True)).found
    assert finding.mended
    assert (await one("GET", BLOBS + layer)).content == LAYER
    assert (await check(one)).found == []


async def test_a_manifest_that_is_deleted_before_it_is_mended_lacks_nothing(filled, check, root, monkeypatch):
    one, layer, manifest, _ = filled
    changed(root, f"DELETE FROM repository_blobs WHERE digest = '{layer}'")
    real = one.database.write

    async def write(work):
        monkeypatch.setattr(one.database, "write", real)
        assert (await one("DELETE", f"/v2/team/app/manifests/{manifest}")).status_code == 202
        return await real(work)

    monkeypatch.setattr(one.database, "write", write)
    assert "reference-missing" not in (await check(one, fix=True)).kinds
    assert one.database.write is real


async def test_layers_that_lie_elsewhere_are_no_findings(worker, check, kit):
    import json  # noqa: PLC0415

    one = await worker()
    await one.push_blob(b"{}")
    document = json.loads(kit.manifest_of(b"{}", []))
    kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    document["layers"] = [
        {"mediaType": kind, "size": 9, "digest": kit.digest_of(b"x"), "urls": ["https://example.org/"]}
    ]
    assert (await one.push_manifest(json.dumps(document).encode(), "v")).status_code == 201
    assert (await check(one)).found == []


async def test_what_the_engine_finds_in_the_database(filled, check, root):
    one, layer, *_ = filled
    changed(root, f"DELETE FROM blobs WHERE digest = '{layer}'")
    checked = await check(one)
    assert "database-damaged" in checked.kinds
    assert {finding.subject for finding in checked.found if finding.kind == "database-damaged"} == {"metadata.db"}
    assert any("names a row of blobs that is not there" in finding.meaning for finding in checked.found)


# Links


async def test_links_that_are_gone_or_wrong_are_written_again(filled, check, tree, link):
    one, layer, manifest, _ = filled
    folder = tree / "repositories/team/app"
    (folder / "_manifests/tags/v/current/link").write_bytes(b"")
    (folder / f"_manifests/revisions/sha256/{manifest[7:]}/link").unlink()
    (folder / f"_layers/sha256/{layer[7:]}/link").write_text("sha256:rubbish")
    expected = ["link-wrong", "link-missing", "link-wrong"]
    checked = await check(one)
    assert sorted(checked.kinds) == sorted(expected)
    assert not any(finding.mended for finding in checked.found)
    checked = await check(one, fix=True)
    assert sorted(checked.kinds) == sorted(expected)
    assert all(finding.mended for finding in checked.found)
    assert (link("_manifests/tags/v/current"), link(f"_layers/sha256/{layer[7:]}")) == (manifest, layer)
    assert (await check(one)).found == []


async def test_a_tag_whose_index_entry_is_gone(filled, check, tree):
    one, _, manifest, _ = filled
    (tree / f"repositories/team/app/_manifests/tags/v/index/sha256/{manifest[7:]}/link").unlink()
    assert (await check(one)).kinds == ["link-missing"]
    assert (await check(one, fix=True)).report.mended == 1
    assert (await check(one)).found == []


async def test_a_repository_that_dockers_collector_would_empty(worker, check, kit, tree):
    one = await worker()
    index = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
    headers = {"content-type": "application/vnd.oci.image.index.v1+json"}
    assert (await one("PUT", "/v2/team/app/manifests/v", content=index, headers=headers)).status_code == 201
    await one.mirror.settle()
    (tree / "repositories/team/app/_layers").rmdir()
    other = await worker()  # the first has made the folder, and does not look again
    assert (await check(other)).kinds == ["link-missing"]
    assert (await check(other, fix=True)).report.mended == 1
    assert (tree / "repositories/team/app/_layers").is_dir()


async def test_what_another_program_wrote_is_said_and_never_removed(filled, check, tree, kit, rows):
    one, layer, manifest, _ = filled
    other = await one.push_image("w")
    await one.mirror.settle()
    folder = tree / "repositories/team/app/_manifests/tags"
    (folder / "v/current/link").write_text(kit.digest_of(other))
    (folder / "foreign/current").mkdir(parents=True)
    (folder / "foreign/current/link").write_text(manifest)
    (folder / "nowhere/current").mkdir(parents=True)
    (folder / "nowhere/current/link").write_text(kit.digest_of(b"nothing"))
    theirs = tree / f"repositories/other/_layers/sha256/{layer[7:]}"
    theirs.mkdir(parents=True)
    (theirs / "link").write_text(layer)
    torn = theirs.with_name(kit.digest_of(b"{}")[7:])
    torn.mkdir()
    (torn / "link").write_text(layer)
    for fix in (False, True):
        checked = await check(one, fix=fix)
        assert sorted(checked.kinds) == ["link-extra", "link-extra", "link-wrong"]
        assert checked.report.mended == 0
        assert checked.report.strays == 2, "links that lead nowhere, or elsewhere, harm nobody"
    assert (folder / "v/current/link").read_text() == kit.digest_of(other)
    assert rows("SELECT digest FROM tags WHERE name = 'v'") == [(manifest,)]


async def test_a_tag_that_names_no_manifest_is_written_again(filled, check, link, tree):
    """No program moves a tag to a layer: that is damage, and the server leaves it alone."""
    one, layer, manifest, _ = filled
    (tree / "repositories/team/app/_manifests/tags/v/current/link").write_text(layer)
    (finding,) = (await check(one)).found
    assert (finding.kind, finding.fix.partition(" ")[0]) == ("link-wrong", "verify")
    assert (await check(one, fix=True)).report.mended == 1
    assert link("_manifests/tags/v/current") == manifest


async def test_what_dockers_registry_pushed_meanwhile_is_said_and_kept(
    filled, check, tree, blob_file, kit, link, worker
):
    """hatoba was stopped, and knows neither the manifest nor the layer; a check must not move the tag back."""
    one, *_ = filled
    files = {b"their layer": "_layers", kit.manifest_of(b"{}", [b"their layer"]): "_manifests/revisions"}
    for body, folder in files.items():
        digest = kit.digest_of(body)
        blob_file(digest).parent.mkdir(parents=True)
        blob_file(digest).write_bytes(body)
        theirs = tree / f"repositories/team/app/{folder}/sha256/{digest[7:]}"
        theirs.mkdir(parents=True)
        (theirs / "link").write_text(digest)
    (tree / "repositories/team/app/_manifests/tags/v/current/link").write_text(digest)
    for fix in (False, True):
        checked = await check(one, fix=fix)
        assert sorted(checked.kinds) == ["link-extra", "link-extra", "link-wrong"]
        assert checked.report.mended == 0
        assert link("_manifests/tags/v/current") == digest
    assert (await (await worker())("GET", "/v2/team/app/manifests/v")).headers["docker-content-digest"] == digest


async def test_a_link_that_cannot_be_written(filled, check, tree):
    one, *_ = filled
    folder = tree / "repositories/team/app/_manifests/tags/v"
    (folder / "current/link").unlink()
    (folder / "current").rmdir()
    (folder / "current").write_text("in the way")
    checked = await check(one, fix=True)
    assert checked.kinds == ["link-missing"]
    assert (checked.report.mended, checked.report.pending) == (0, 1)
    assert (await check(one)).kinds == [], "it is known, and counted"


# Beside clients


async def test_nothing_is_found_while_clients_push_delete_mount_and_retag(worker, check, kit):
    one, other = await worker(), await worker()
    source = random.Random(7)  # noqa: S311  which of two
    ended = False

    async def client(number: int) -> None:
        name = f"team/app{number % 2}"
        layer = b"shared layer"
        while not ended:
            active = source.choice((one, other))
            await active.push_blob(b"{}", name)
            await active.push_blob(layer, name)
            await active("POST", f"/v2/team/mounted/blobs/uploads/?mount={kit.digest_of(layer)}&from={name}")
            body = kit.manifest_of(b"{}", [layer], note=os.urandom(4).hex())
            for tag in ("a", "b"):
                await active.push_manifest(body, tag, name)
            await active("DELETE", f"/v2/{name}/manifests/{source.choice(('a', 'b', kit.digest_of(body)))}")
            await active("DELETE", f"/v2/team/mounted/blobs/{kit.digest_of(layer)}")

    clients = [asyncio.get_running_loop().create_task(client(number)) for number in range(4)]
    looked = 0
    try:
        for turn in range(8):
            checked = await check((one, other)[turn % 2], fix=turn % 3 == 2, restart=True)
            assert checked.found == []
            looked += checked.report.links
    finally:
        ended = True
        await asyncio.gather(*clients)
    assert looked > 30
    assert (await check(one, restart=True)).found == []
