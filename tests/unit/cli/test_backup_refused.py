"""`hatoba backup`: which folders it refuses, and that it never undoes what was pushed to a copy."""

import fcntl
import json

import apsw
import pytest

from hatoba.errors import InsufficientStorage
from hatoba.operations.backup import Backup
from hatoba.testing.images import random_image

IMAGES = [random_image(seed=seed) for seed in range(3)]


@pytest.fixture(autouse=True)
def filled(shelf):
    shelf.push("team/app", IMAGES[0], "v1")
    return shelf


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "hatoba" not in path.parts[-2:]}


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("data", "is the registry itself"),
        ("data/backup", "lies in the registry"),
        ("data/hatoba/backup", "lies in the registry"),
        (".", "holds the registry"),
        ("link/inner", "lies in the registry"),
        ("half", "is the registry itself"),
    ],
)
def test_one_in_the_other(filled, bare, place, message):
    (bare / "link").symlink_to(filled.root)
    (bare / "half").mkdir()
    (bare / "half/hatoba").symlink_to(filled.root / "hatoba")
    before = sorted(bare.rglob("*"))
    result = filled.run("backup", bare / place)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(bare.rglob("*")) == before


def test_a_folder_with_something_else_in_it(filled, copy):
    copy.root.mkdir()
    (copy.root / "photo.jpg").touch()
    result = copy.again()
    assert (result.exit_code, result.stdout) == (1, "")
    assert "is not empty and was not made by `hatoba backup`" in result.stderr
    assert [path.name for path in copy.root.iterdir()] == ["photo.jpg"]


def test_a_disk_of_its_own(copy):
    (copy.root / "lost+found").mkdir(parents=True)
    assert copy.again().exit_code == 0


def test_a_backup_of_another_registry(filled, copy, bare):
    copy.again()
    connection = apsw.Connection(str(filled.root / "hatoba/metadata.db"))
    connection.execute("UPDATE migrations SET applied_at = applied_at + 1")
    connection.close()
    before = files(copy.root)
    result = copy.again()
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"is a backup of another registry, {filled.root}" in result.stderr
    assert files(copy.root) == before


@pytest.mark.parametrize("content", ["", "[]", "{}", "7"])
def test_a_marker_that_cannot_be_read(copy, content):
    copy.again()
    (copy.root / "hatoba/backup.json").write_text(content)
    result = copy.again()
    assert (result.exit_code, result.stdout) == (1, "")
    assert "backup.json cannot be read" in result.stderr


@pytest.mark.parametrize(
    ("lock", "message"),
    [
        ("serve.lock", "a hatoba serves it"),
        ("locks/backup", "another backup is being made there"),
        ("locks/verify", "`hatoba verify` is checking it"),
    ],
)
def test_somebody_is_at_work_there(copy, lock, message):
    copy.again()
    with (copy.root / "hatoba" / lock).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = copy.again()
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"hatoba: {copy.root}: {message}\n" or message in result.stderr
    assert copy.again().exit_code == 0


@pytest.mark.parametrize("error", [InsufficientStorage(), OSError(28, "No space left on device")])
def test_no_space_left(copy, monkeypatch, error):
    async def full(*_):
        raise error

    monkeypatch.setattr(Backup, "run", full)
    result = copy.again()
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"hatoba: {copy.root}: no space left\n")


def test_one_that_was_killed_before_its_note(copy):
    (copy.root / "hatoba/locks").mkdir(parents=True)
    for name in ("serve.lock", "locks/backup", "locks/verify", "backup.json.new"):
        (copy.root / "hatoba" / name).touch()
    assert copy.again().exit_code == 0


def test_a_folder_that_has_not_been_read_in(filled, copy):
    connection = apsw.Connection(str(filled.root / "hatoba/metadata.db"))
    connection.execute("UPDATE tree SET state = 'unread'")
    connection.close()
    result = copy.again()
    assert (result.exit_code, result.stdout) == (1, "")
    assert "has not been read in yet" in result.stderr


# What happened to the copy itself


def refused(result, words):
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert words in result.stderr
    return True


def untagged(copy):
    copy.push("team/app", IMAGES[1])


def tagged(copy):
    copy.push("team/other", IMAGES[1], "v1")


def retagged(copy):
    copy.push("team/app", IMAGES[1], "v1")


def deleted(copy):
    assert copy.run("rm", "team/app:v1").exit_code == 0


@pytest.mark.parametrize("change", [untagged, tagged, retagged, deleted])
def test_what_was_pushed_to_a_copy_or_deleted_there_is_not_undone(filled, copy, change):
    copy.again()
    copy.serve()
    change(copy)
    filled.push("team/new", IMAGES[2], "v1")
    before = copy.run("ls", "team/app", "--json").stdout
    assert refused(copy.again(), "was changed since its last backup")
    assert copy.run("ls", "team/app", "--json").stdout == before
    assert copy.run("verify").exit_code == 0


def test_a_copy_may_be_served_and_checked(filled, copy):
    """That is how a restore is tested."""
    copy.again()
    copy.serve()
    assert copy.get("team/app", "v1") == 200
    assert copy.run("verify", "--fix").exit_code == 0
    filled.push("team/app", IMAGES[1], "v2")
    assert copy.again().exit_code == 0
    copy.serve()
    assert copy.again().exit_code == 0
    assert copy.get("team/app", "v2") == 200


def a_new_tag(copy):
    link = copy.tag_link("team/app", "theirs")
    link.parent.mkdir(parents=True)
    return link


def a_moved_tag(copy):
    return copy.tag_link("team/app", "v2")


@pytest.mark.parametrize("place", [a_new_tag, a_moved_tag])
def test_what_dockers_registry_wrote_into_a_copy_is_not_undone(filled, copy, place):
    filled.push("team/app", IMAGES[1], "v2")
    copy.again()
    link = place(copy)
    link.write_text(str(IMAGES[0].manifest.digest))
    assert refused(copy.again(), f"{link} was written by another program")
    assert link.exists()
    link.write_text(str(IMAGES[2].manifest.digest))
    assert copy.again().exit_code == 0, "what leads nowhere is no loss"


def test_a_registry_that_was_put_back_to_an_earlier_state(filled, copy):
    """Its backup is all that is left of what came later."""
    database = filled.root / "hatoba/metadata.db"
    earlier = database.read_bytes()
    filled.push("team/app", IMAGES[1], "v2")
    copy.again()
    database.write_bytes(earlier)
    assert refused(copy.again(), "knows of pushes that the registry does not")
    filled.push("team/app", IMAGES[2], "v2")
    assert refused(copy.again(), "knows of pushes that the registry does not")
    assert copy.get("team/app", str(IMAGES[1].manifest.digest)) == 200


def test_a_copy_that_became_the_registry(filled, copy, bare):
    copy.again()
    copy.serve()
    copy.push("team/app", IMAGES[1], "v2")
    assert refused(copy.run("backup", filled.root), "was not made by `hatoba backup`"), "what was the registry once"
    assert copy.run("backup", bare / "new").exit_code == 0
    assert refused(copy.again(), "was changed since"), "of the old one, back again"
    (copy.root / "hatoba/backup.json").unlink()
    assert refused(copy.again(), "was not made by `hatoba backup`")
    assert json.loads((bare / "new/hatoba/backup.json").read_text())["root"] == str(copy.root)
