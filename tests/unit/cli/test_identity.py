"""As whom the server works that root started: a real process that becomes somebody, on folders of every kind."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hatoba.blobs import layout

OWNER, STRANGER = 4711, 4712
# Everything that root must have read before: the package may lie where only root reads.
PROGRAM = """
import os, sys
from pathlib import Path
from hatoba import telemetry
from hatoba.cli.configured import configure
from hatoba.cli.identity import serve_as_owner
from hatoba.errors import HatobaError
telemetry.configure("info", "text")
uid, root = int(sys.argv[1]), Path(sys.argv[2])
settings = configure(None, root).settings
if uid:
    os.setgroups([]), os.setgid(uid), os.setuid(uid)
try:
    serve_as_owner(settings)
    print(os.geteuid(), os.getegid(), os.getgroups())
except HatobaError as error:
    print(error.message)
"""
AS_ROOT = "0 0 "


@pytest.fixture
def root():
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with tempfile.TemporaryDirectory(prefix="hatoba-") as folder:  # nobody else enters pytest's
        Path(folder).chmod(0o755)
        yield Path(folder) / "data"


def started(root: Path, uid: int = 0, **environment: str) -> tuple[str, str]:
    """What it goes on as, or why it does not; and what it logs."""
    command = [sys.executable, "-c", PROGRAM, str(uid), root]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("REGISTRY_")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/", env=clean | environment)
    return done.stdout.strip(), done.stderr


def folder_of(uid: int, *paths: Path) -> None:
    for path in paths:
        path.mkdir(parents=True, exist_ok=True)
        os.chown(path, uid, uid)


def test_root_becomes_the_owner(root):
    folder_of(OWNER, root)
    told, log = started(root)
    assert told == f"{OWNER} {OWNER} []"
    assert f'msg="serving as the owner of the data folder" uid={OWNER}' in log


def test_it_takes_the_owners_group(root):
    folder_of(OWNER, root)
    os.chown(root, OWNER, STRANGER)
    assert started(root)[0] == f"{OWNER} {STRANGER} []"


def test_root_stays_in_its_own_folder_and_without_one(root):
    assert started(root)[0].startswith(AS_ROOT)
    root.mkdir()
    assert started(root)[0].startswith(AS_ROOT)
    folder_of(OWNER, root / "other")
    assert started(root)[0].startswith(AS_ROOT)


@pytest.mark.parametrize("key", [layout.REPOSITORIES, layout.BLOBS, "docker", "hatoba"])
def test_folders_of_several_users_need_root(root, key):
    """Docker's registry, run as root, in a folder that somebody made."""
    folder_of(OWNER, root)
    (root / key).mkdir(parents=True)
    told, log = started(root)
    assert told.startswith(AS_ROOT)
    assert log == ""


def test_a_filled_folder_of_one_user(root):
    folder_of(OWNER, root, root / "hatoba", root / layout.REPOSITORIES, root / layout.BLOBS)
    (root / "hatoba/metadata.db").touch()
    assert started(root)[0].startswith(AS_ROOT)
    os.chown(root / "hatoba/metadata.db", OWNER, OWNER)
    assert started(root)[0].startswith(f"{OWNER} ")


def test_a_database_elsewhere_counts(root):
    folder_of(OWNER, root)
    elsewhere = root.parent / "db"
    elsewhere.mkdir()
    variable = {"REGISTRY_HATOBA_DATABASE_PATH": str(elsewhere / "metadata.db")}
    assert started(root, **variable)[0].startswith(AS_ROOT)
    os.chown(elsewhere, OWNER, OWNER)
    assert started(root, **variable)[0].startswith(f"{OWNER} ")


def test_another_user_is_told_what_to_type(root):
    root.mkdir()
    told, _ = started(root, STRANGER)
    assert told == (
        f"{root} belongs to uid 0 and cannot be written by uid {STRANGER}: chown -R {STRANGER}:{STRANGER} {root}, "
        "or on a container's host the folder that is mounted there"
    )


def test_another_user_in_a_tree_of_root(root):
    folder_of(STRANGER, root)
    (root / layout.BLOBS).mkdir(parents=True)
    told, _ = started(root, STRANGER)
    assert told.startswith(f"{root / 'docker/registry/v2'} belongs to uid 0 and cannot be written by uid {STRANGER}: ")
    readonly = {"REGISTRY_STORAGE_MAINTENANCE_READONLY_ENABLED": "true"}
    assert started(root, STRANGER, **readonly)[0].startswith(f"{STRANGER} ")


def test_nobody_else_changes(root):
    folder_of(OWNER, root)
    root.chmod(0o777)
    assert started(root, STRANGER)[0].startswith(f"{STRANGER} ")
