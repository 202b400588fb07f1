"""Commands on folders that are absent, broken, of another version or of another user: one line, and nothing changes."""

import fcntl
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import apsw
import pytest

from hatoba.cli import identity
from hatoba.db import sqlite
from hatoba.testing.images import random_image

IMAGE = random_image(seed=0)
READING = (["ls"], ["ls", "team/app"], ["show", "team/app:v1"])
WRITING = (["tag", "team/app:v1", "v2"], ["rm", "team/app:v1"], ["verify"])
COMMANDS = (*READING, *WRITING)
OWNER, STRANGER = 4711, 4712
# As a command in a process of its own. First it imports more of Python, which may lie where only root reads.
AS_ROOT = """
import sys
from importlib.metadata import version
from hatoba.cli import main
from hatoba.db.engine import migrations
migrations("metadata"), version("hatoba")
sys.argv[0] = "hatoba"
main()
"""
AS_STRANGER = f"import os\nos.setgroups([])\nos.setgid({STRANGER})\nos.setuid({STRANGER})\n"


@pytest.fixture
def filled(shelf):
    shelf.push("team/app", IMAGE, "v1")
    return shelf


def changed(shelf, sql: str) -> None:
    connection = apsw.Connection(str(shelf.root / "hatoba/metadata.db"))
    connection.execute(sql)
    connection.close()


def absent(shelf):
    shutil.rmtree(shelf.root)


def empty(shelf):
    absent(shelf)
    shelf.root.mkdir()


def a_file(shelf):
    absent(shelf)
    shelf.root.write_text("")


def of_dockers_registry(shelf):
    shutil.rmtree(shelf.root / "hatoba")


def a_folder_for_a_database(shelf):
    (shelf.root / "hatoba/metadata.db").unlink()
    (shelf.root / "hatoba/metadata.db").mkdir()


def an_empty_database(shelf):
    (shelf.root / "hatoba/metadata.db").write_bytes(b"")


def no_database(shelf):
    (shelf.root / "hatoba/metadata.db").write_bytes(b"no database " * 1000)


def half_a_database(shelf):
    path = shelf.root / "hatoba/metadata.db"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def older(shelf):
    changed(shelf, "DELETE FROM migrations")


def newer(shelf):
    changed(shelf, "INSERT INTO migrations (number, name, hatoba, applied_at) VALUES (99, 'x', '9.8.7', 1)")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (absent, "hatoba: no registry in {root}: there is no {path}"),
        (empty, "hatoba: no registry in {root}: there is no {path}"),
        (a_file, "hatoba: no registry in {root}: there is no {path}"),
        (of_dockers_registry, "hatoba: no registry in {root}: there is no {path}"),
        (a_folder_for_a_database, "hatoba: no registry in {root}: {path} is no file"),
        (an_empty_database, "hatoba: {path}: the database is older than this hatoba"),
        (no_database, "hatoba: {path} cannot be used by uid {uid}: file is not a database"),
        (half_a_database, "hatoba: {path} cannot be used by uid {uid}: database disk image is malformed"),
        (older, "hatoba: {path}: the database is older than this hatoba"),
        (newer, "hatoba: {path}: the database was written by hatoba 9.8.7"),
    ],
)
def test_a_folder_without_a_registry_that_can_be_used(filled, spoil, said, command):
    spoil(filled)

    def files():
        return {path: path.is_file() and path.read_bytes() for path in filled.root.parent.rglob("*")}

    before = files()
    result = filled.run(*command)
    after = files()
    path = filled.root / "hatoba/metadata.db"
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(said.format(root=filled.root, path=path, uid=os.geteuid()))
    assert result.stderr.count("\n") == 1
    assert after == before


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_registry_in_memory(hatoba, bare, command):
    path = bare / "config.yml"
    path.write_text("version: 0.1\nstorage: {inmemory: {}}\n")
    result = hatoba(*command, "--config", path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "hatoba: storage.inmemory exists only inside the server: a command has nothing to open\n"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_configuration_says_where(filled, hatoba, bare, command):
    path = bare / "config.yml"
    path.write_text(f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {filled.root}}}}}\n")
    assert hatoba(*command, "--config", path).exit_code == 0
    result = hatoba(*command, "--config", bare / "absent.yml")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"hatoba: {bare / 'absent.yml'}: no such file\n")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_database_elsewhere(filled, bare, monkeypatch, command):
    (filled.root / "hatoba/metadata.db").rename(bare / "elsewhere.db")
    assert filled.run(*command).exit_code == 1
    monkeypatch.setenv("REGISTRY_HATOBA_DATABASE_PATH", str(bare / "elsewhere.db"))
    assert filled.run(*command).exit_code == 0


def test_another_writer_that_does_not_end(filled, monkeypatch):
    monkeypatch.setattr(sqlite, "_WAIT_SECONDS", 0.2)
    with (filled.root / "hatoba/locks/write-metadata").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert filled.run("ls", "team/app").exit_code == 0, "a reader waits for nobody"
        ending = threading.Timer(1, fcntl.flock, (lock, fcntl.LOCK_UN))
        ending.start()
        result = filled.run("tag", "team/app:v1", "v2")
        ending.join()
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "hatoba: the database is busy\n")
    assert filled.run("show", "team/app:v2").exit_code == 1, "what was given up does not happen later"


# Users


@pytest.fixture
def owned(filled):
    """A registry that belongs to another user, as after `docker run --user`."""
    if os.geteuid() != 0:
        pytest.skip("needs root to give files to other users")
    with tempfile.TemporaryDirectory(prefix="hatoba-") as folder:  # nobody else enters pytest's
        Path(folder).chmod(0o755)
        filled.root = Path(shutil.move(filled.root, f"{folder}/data"))
        for path in (filled.root, *filled.root.rglob("*")):
            os.chown(path, OWNER, OWNER)
        yield filled


def run(shelf, before: str, command: str, *arguments: str):
    environ = {key: value for key, value in os.environ.items() if not key.startswith("REGISTRY_")}
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    program = AS_ROOT.replace("sys.argv[0]", f"{before}sys.argv[0]")
    full = [sys.executable, "-c", program, command, "--root", str(shelf.root), *arguments]
    return subprocess.run(full, capture_output=True, text=True, check=False, env=environ)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_root_leaves_nothing_that_the_server_cannot_write(owned, command):
    result = run(owned, "", *command)
    assert result.returncode == 0, result.stderr
    assert {path.stat().st_uid for path in owned.root.rglob("*")} == {OWNER}
    assert {path.stat().st_gid for path in owned.root.rglob("*")} == {OWNER}


def test_a_backup_by_root_belongs_to_the_owner(owned):
    copy = owned.root.parent / "backups/copy"
    for _ in range(2):
        result = run(owned, "", "backup", str(copy))
        assert result.returncode == 0, result.stderr
    assert {path.stat().st_uid for path in (copy, *copy.rglob("*"))} == {OWNER}
    assert copy.parent.stat().st_uid == 0
    assert {path.stat().st_uid for path in owned.root.rglob("*")} == {OWNER}


@pytest.mark.parametrize("closed", [False, True])
def test_a_backup_by_whoever_may_only_read(owned, closed):
    copy = owned.root.parent / "copy"
    copy.mkdir()
    os.chown(copy, STRANGER, STRANGER)
    (owned.root / "hatoba/htpasswd").chmod(0o600 if closed else 0o644)
    result = run(owned, AS_STRANGER, "backup", str(copy))
    assert "Traceback" not in result.stderr
    if closed:
        path = owned.root / "hatoba/htpasswd"
        assert (result.returncode, result.stderr) == (1, f"hatoba: {path}: Permission denied\n")
    else:
        assert result.returncode == 0, result.stderr
        assert (copy / "hatoba/metadata.db").exists()


def test_root_builds_a_lost_database_as_its_owner(owned):
    for file in (owned.root / "hatoba").glob("*.db*"):
        file.unlink()
    result = run(owned, "", "import")
    assert result.returncode == 0, result.stderr
    assert "new: 1 manifests" in result.stderr
    assert {path.stat().st_uid for path in owned.root.rglob("*")} == {OWNER}
    result = run(owned, AS_STRANGER, "import")
    assert (result.returncode, f"belongs to uid {OWNER}" in result.stderr) == (1, True), result.stderr


def test_root_that_may_not_become_the_owner(owned, monkeypatch):
    def refuse(groups):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setgroups", refuse)
    assert owned.run("ls").exit_code == 0
    result = owned.run("tag", "team/app:v1", "v2")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"hatoba: the registry belongs to uid {OWNER}, which root may not become here")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_whoever_may_only_read(owned, command):
    result = run(owned, AS_STRANGER, *command)
    assert "Traceback" not in result.stderr
    if command in WRITING:
        assert (result.returncode, result.stdout) == (1, "")
        path = owned.root / "hatoba/metadata.db"
        assert result.stderr == (
            f"hatoba: {path} cannot be written by uid {STRANGER}: "
            f"it belongs to uid {OWNER}, run the command as that user\n"
        )
    else:
        assert (result.returncode, result.stderr) == (0, "")
        assert "v1" in result.stdout or command == ["ls"]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_nobody_else_leaves_files_that_the_server_cannot_write(owned, command):
    """A group that may write in the folder: what it makes there belongs to whoever made it."""
    for path in [owned.root, *owned.root.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o644)
    assert run(owned, AS_STRANGER, *command).returncode == (1 if command in WRITING else 0)
    assert [path for path in owned.root.rglob("*") if path.stat().st_uid == STRANGER] == []


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("closed", ["hatoba", "hatoba/metadata.db"])
def test_whoever_may_not_even_read(owned, command, closed):
    (owned.root / closed).chmod(0o700 if closed == "hatoba" else 0o600)
    result = run(owned, AS_STRANGER, *command)
    assert (result.returncode, result.stdout) == (1, "")
    path = owned.root / "hatoba/metadata.db"
    assert result.stderr.startswith(f"hatoba: {path} cannot be ")
    assert f" by uid {STRANGER}" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("user", ["root", "stranger"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_folder_that_is_closed_further_up(owned, command, user):
    owned.root.parent.chmod(0o700)
    result = run(owned, "" if user == "root" else AS_STRANGER, *command)
    if user == "root" and command not in WRITING:
        assert (result.returncode, result.stderr) == (0, "")
        return
    assert (result.returncode, result.stdout) == (1, "")
    uid = OWNER if user == "root" else STRANGER
    assert re.search(rf" cannot be (used|read) by uid {uid}: ", result.stderr)
    assert result.stderr.count("\n") == 1


def test_a_lock_that_may_not_be_taken_is_named(owned):
    lock = owned.root / "hatoba/locks/write-metadata"
    lock.touch()
    os.chown(lock, 0, 0)
    lock.chmod(stat.S_IRUSR)
    result = run(owned, "", "tag", "team/app:v1", "v2")
    assert (result.returncode, result.stdout) == (1, "")
    assert str(lock) in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_owner_stays_who_they_are(shelf, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: OWNER)
    monkeypatch.setattr(os, "setuid", lambda _: pytest.fail("nobody but root becomes somebody"))
    identity.become(STRANGER, STRANGER)
