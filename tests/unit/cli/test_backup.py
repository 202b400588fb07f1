"""`hatoba backup`: what is copied and what is not, and what is left when it is broken off anywhere."""

import json
import os
import re

import apsw
import pytest

from hatoba.blobs import copying
from hatoba.operations.backup import Backup
from hatoba.operations.mirror import Mirror
from hatoba.testing.images import random_image

IMAGES = [random_image(seed=seed) for seed in range(3)]
LAYER = IMAGES[0].layers[0]


@pytest.fixture(autouse=True)
def filled(shelf):
    shelf.push("team/app", IMAGES[0], "v1")
    return shelf


def said(result):
    """The numbers of the summary: files copied, there already, links written."""
    found = re.search(r": (\d+) files? \(\S+\) copied.*, (\d+) were there, (\d+) links? written", result.stderr)
    return tuple(int(number) for number in found.groups())


def note(copy):
    return json.loads((copy.root / "hatoba/backup.json").read_text())


def listed(shelf):
    """What both registries must say alike."""
    return json.loads(shelf.run("ls", "team/app", "--json").stdout)


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "hatoba" not in path.parts[-2:]}


def test_a_backup_is_a_registry(filled, copy):
    result = copy.again()
    assert (result.exit_code, result.stdout) == (0, "")
    assert said(result) == (3, 0, 4)
    assert listed(copy) == listed(filled)
    checked = copy.run("verify")
    assert (checked.exit_code, checked.stdout) == (0, "")
    assert "besides" not in checked.stderr
    assert copy.get("team/app", "v1") == 200
    ours = {path.relative_to(filled.root) for path in (filled.root / "docker").rglob("*") if path.is_file()}
    theirs = {path.relative_to(copy.root) for path in (copy.root / "docker").rglob("*") if path.is_file()}
    assert theirs == ours
    assert not filled.blob_file(LAYER).samefile(copy.blob_file(LAYER)), "another file"
    assert copy.blob_file(LAYER).stat().st_mode & 0o777 == 0o444


def test_the_next_one_copies_what_is_new(filled, copy):
    copy.again()
    before = copy.blob_file(LAYER).stat().st_ino
    assert said(copy.again()) == (0, 3, 0)
    filled.push("team/app", IMAGES[1], "v2")
    filled.run("tag", "team/app:v2", "v1")
    assert said(copy.again()) == (3, 3, 5)
    assert listed(copy) == listed(filled)
    assert copy.blob_file(LAYER).stat().st_ino == before
    assert copy.tag_link("team/app", "v1").read_text() == str(IMAGES[1].manifest.digest)
    filled.run("rm", "team/app:v2")
    filled.run("rm", f"team/app@{IMAGES[0].manifest.digest}")
    copy.again()
    assert not copy.tag_link("team/app", "v2").exists()
    assert copy.run("verify").exit_code == 0
    assert copy.blob_file(LAYER).exists(), "nothing is removed"


def test_users_come_along_and_what_lies_elsewhere_is_named(filled, copy, hatoba, bare):
    (filled.root / "hatoba/htpasswd").chmod(0o640)
    (filled.root / "hatoba/secret").write_bytes(b"secret")
    (filled.root / "hatoba/secret").chmod(0o600)
    result = copy.again()
    assert "not copied" not in result.stderr
    for name, mode in (("htpasswd", 0o640), ("secret", 0o600)):
        assert (copy.root / "hatoba" / name).read_bytes() == (filled.root / "hatoba" / name).read_bytes()
        assert (copy.root / "hatoba" / name).stat().st_mode & 0o777 == mode
    users = bare / "users"
    (filled.root / "hatoba/htpasswd").rename(users)
    config = bare / "config.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {filled.root}}}}}\n"
        f"auth: {{htpasswd: {{realm: r, path: {users}}}}}\n"
    )
    result = hatoba("backup", copy.root, "--config", config)
    assert result.exit_code == 0
    assert f"not copied: {users}\nnot copied: {config}\n" in result.stderr


def test_a_new_folder_is_as_open_as_the_registry(filled, copy):
    filled.root.chmod(0o700)
    copy.again()
    assert copy.root.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("options", "shared"), [(["--hard-links"], True), ([], False)])
def test_hard_links_only_when_asked(filled, copy, options, shared):
    result = copy.again(*options)
    assert filled.blob_file(LAYER).samefile(copy.blob_file(LAYER)) is shared
    assert ("3 of them hard-linked" in result.stderr) is shared


def test_a_file_that_lies_elsewhere_is_copied_not_its_link(filled, copy, bare):
    filled.blob_file(LAYER).rename(bare / "elsewhere")
    filled.blob_file(LAYER).symlink_to("../../../../../../../../elsewhere")
    assert said(copy.again("--hard-links"))[0] == 3
    assert not copy.blob_file(LAYER).is_symlink()
    assert copy.blob_file(LAYER).read_bytes() == LAYER.body


def test_where_no_hard_link_can_be_it_is_copied(filled, copy, monkeypatch):
    monkeypatch.setattr(
        copying.os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(18, "Invalid cross-device link"))
    )
    assert said(copy.again("--hard-links"))[0] == 3
    assert not filled.blob_file(LAYER).samefile(copy.blob_file(LAYER))


# What the registry lacks


def rotten(path):
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"X")


def gone(path):
    path.unlink()


def short(path):
    path.chmod(0o644)
    os.truncate(path, 5)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [(rotten, "its file's content is sha256:"), (gone, "there is no file"), (short, "its file has 5 bytes instead of")],
)
def test_a_blob_that_is_lost_is_named_and_the_rest_is_copied(filled, copy, spoil, why):
    spoil(filled.blob_file(LAYER))
    result = copy.again()
    assert result.exit_code == 1
    kind, subject, meaning, _ = result.stdout.split("\t")
    assert (kind, subject) == ("blob-missing", str(LAYER.digest))
    assert why in meaning
    assert said(result)[0] == 2
    assert ", 1 missing" in result.stderr
    assert note(copy)["missing"] == 1
    assert note(copy)["finished"] is not None
    assert not copy.blob_file(LAYER).exists(), "nothing rotten comes into a backup"
    assert list((copy.root / "hatoba/tmp").iterdir()) == []
    filled.push("team/app", IMAGES[0], "v1") if spoil is not rotten else filled.run("verify")
    filled.push("team/app", IMAGES[0], "v1")
    assert copy.again().exit_code == 0
    assert note(copy)["missing"] == 0
    assert copy.run("verify").exit_code == 0


def test_an_older_backup_keeps_what_the_registry_lost(filled, copy):
    copy.again()
    gone(filled.blob_file(LAYER))
    filled.run("verify")
    result = copy.again()
    assert (result.exit_code, result.stdout) == (0, "")
    assert copy.blob_file(LAYER).read_bytes() == LAYER.body
    assert copy.run("verify", "--fix").exit_code == 1
    assert copy.run("verify").exit_code == 0, "and it is served from there"


@pytest.mark.parametrize("fix", [[], ["--fix"]])
def test_what_a_check_of_the_backup_found_rotten_is_copied_again(copy, fix):
    copy.again()
    rotten(copy.blob_file(LAYER))
    assert said(copy.again())[0] == 0, "the size is right, and nobody has looked closer"
    assert copy.run("verify", *fix).exit_code == 1
    assert said(copy.again())[0] == 1
    assert copy.run("verify").exit_code == 0


def test_what_is_rotten_in_both_is_served_from_neither(filled, copy):
    copy.again()
    for shelf in (filled, copy):
        rotten(shelf.blob_file(LAYER))
        assert shelf.run("verify").exit_code == 1
    assert copy.again().exit_code == 1
    connection = apsw.Connection(str(copy.root / "hatoba/metadata.db"))
    assert connection.execute("SELECT digest FROM blobs WHERE state = 'missing'").fetchall() == [(str(LAYER.digest),)]
    connection.close()


def test_what_the_copy_lost_and_the_registry_has_rotten_unnoticed(filled, copy):
    copy.again()
    for shelf in (filled, copy):
        rotten(shelf.blob_file(LAYER))
    assert copy.run("verify").exit_code == 1
    assert copy.again().exit_code == 1
    assert copy.run("verify").exit_code == 1, "the new database does not say that it is good"
    connection = apsw.Connection(str(copy.root / "hatoba/metadata.db"))
    assert connection.execute("SELECT count(*) FROM blobs WHERE state = 'missing'").fetchall() == [(1,)]
    connection.close()


@pytest.mark.parametrize("state", ["known", "unsure"])
def test_a_manifest_whose_file_is_lost_is_whole_in_the_backup(filled, copy, state):
    """Its bytes are in the database, too; without its file the copy's server would take it for removed."""
    manifest = IMAGES[0].manifest
    connection = apsw.Connection(str(filled.root / "hatoba/metadata.db"))
    connection.execute("UPDATE tree SET state = ?", (state,))
    connection.close()
    gone(filled.blob_file(manifest))
    result = copy.again()
    assert (result.exit_code, result.stdout) == (0, "")
    assert copy.blob_file(manifest).read_bytes() == manifest.body
    copy.serve()
    assert copy.get("team/app", "v1") == 200
    assert copy.run("verify").exit_code == 0
    assert copy.again().exit_code == 0


def test_all_files_are_durable_before_the_database_that_names_them_takes_its_place(filled, copy, monkeypatch):
    """The order on the disk is that of the syncs; `test_copying` shows that each is one."""
    events = []
    real_sync, real_rename = copying.sync, copying.rename

    def sync(folder):
        named = [path for path in (copy.root / "docker").rglob("*") if path.is_file()]
        events.append(("sync", len(named)))
        real_sync(folder)

    def rename(source, target):
        events.append(("rename", target.name))
        real_rename(source, target)

    monkeypatch.setattr(copying, "sync", sync)
    monkeypatch.setattr(copying, "rename", rename)
    assert copy.again().exit_code == 0
    swap = events.index(("rename", "metadata.db"))
    assert ("sync", 3) in events[:swap]
    assert events[swap - 1] == ("rename", "backup.json"), "which knows of both databases"
    assert ("sync", 8) in events[swap:], "and links before their marks end"


def test_a_damaged_database_takes_no_backups_place(filled, copy):
    copy.again()
    before = files(copy.root)
    connection = apsw.Connection(str(filled.root / "hatoba/metadata.db"))
    connection.pragma("foreign_keys", 0)
    connection.execute(f"DELETE FROM blobs WHERE digest = '{LAYER.digest}'")
    connection.close()
    result = copy.again()
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("hatoba: the database is damaged, and is not copied: ")
    assert files(copy.root) == before
    assert copy.run("verify").exit_code == 0


# Broken off

STEPS = ["_copy_database", "_copy_blobs", "batch", "_mark_links", "_swap", "_write_links"]


class StoppedError(Exception):
    pass


def stop_before(monkeypatch, step):
    if step == "_copy_blobs":

        async def blobs(*_):
            raise StoppedError
            yield

        monkeypatch.setattr(Backup, step, blobs)
    elif step in {"batch", "_swap"}:

        def stopped(*_):
            raise StoppedError

        monkeypatch.setattr(Backup if step == "_swap" else copying.Copier, step, stopped)
    else:

        async def other(*_):
            raise StoppedError

        monkeypatch.setattr(Backup, step, other)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("first", [True, False])
def test_one_that_is_broken_off_leaves_a_backup(filled, copy, monkeypatch, step, first):
    if not first:
        copy.again()
        older = listed(copy)
        filled.push("team/app", IMAGES[1], "v2")
        filled.run("tag", "team/app:v2", "v1")
    with monkeypatch.context() as broken:
        stop_before(broken, step)
        assert isinstance(copy.again().exception, StoppedError)
    if step == "_write_links":
        assert listed(copy) == listed(filled)
        checked = copy.run("verify")
        assert checked.exit_code == 0, checked.stdout
        assert "yet to be written" in checked.stderr
        assert copy.get("team/app", "v1") == 200
        assert copy.run("verify", "--fix").exit_code == 0
        assert copy.tag_link("team/app", "v1").exists(), "a server, and so a check, writes them"
    elif not first:
        assert listed(copy) == older
        assert copy.run("verify").exit_code == 0
    assert copy.again().exit_code == 0
    assert listed(copy) == listed(filled)
    checked = copy.run("verify")
    assert checked.exit_code == 0
    assert "besides" not in checked.stderr
    assert list((copy.root / "hatoba/tmp").iterdir()) == []
    assert not list((copy.root / "hatoba").glob("metadata-new.db*"))


def test_an_interrupted_one_says_so(copy, monkeypatch):
    async def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Backup, "run", stopped)
    result = copy.again()
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == "hatoba: stopped; the next backup goes on with what is copied already\n"
    assert note(copy)["finished"] is None


def test_a_log_that_was_left_is_not_taken_for_the_new_databases(filled, copy):
    """A hatoba that served the backup was killed: its log is folded in, and the swap leaves none behind."""
    copy.again()
    connection = apsw.Connection(str(copy.root / "hatoba/metadata.db"))
    connection.execute("UPDATE tags SET pushed_by = 'served from the backup'")
    log = copy.root / "hatoba/metadata.db-wal"
    kept = log.read_bytes()
    assert kept
    connection.close()
    log.write_bytes(kept)
    filled.push("team/app", IMAGES[1], "v2")
    assert copy.again().exit_code == 0
    assert not log.exists()
    assert listed(copy) == listed(filled)


@pytest.mark.parametrize("content", [b"no database" * 100, b""])
def test_an_older_database_that_cannot_be_used_is_replaced(filled, copy, content):
    copy.again()
    (copy.root / "hatoba/metadata.db").write_bytes(content)
    assert copy.again().exit_code == 0
    assert listed(copy) == listed(filled)


@pytest.mark.parametrize("table", ["tags", "blobs"])
def test_an_older_database_that_is_damaged_is_replaced(filled, copy, table):
    copy.again()
    path = copy.root / "hatoba/metadata.db"
    connection = apsw.Connection(str(path))
    size, find = connection.pragma("page_size"), "SELECT rootpage FROM sqlite_schema WHERE name = ?"
    page = connection.execute(find, (table,)).fetchone()[0]
    connection.close()
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), b"\xff" * 64, (page - 1) * size)
    assert copy.again().exit_code == 0
    assert listed(copy) == listed(filled)


def test_links_that_cannot_be_written(copy, monkeypatch):
    async def never(*_, **__):
        return 0

    monkeypatch.setattr(Mirror, "catch_up", never)
    result = copy.again()
    assert (result.exit_code, result.stdout) == (1, "")
    assert "4 link files of the backup cannot be written" in result.stderr
