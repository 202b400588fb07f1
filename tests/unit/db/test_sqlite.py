"""What `Sqlite` refuses to open, how it opens the rest, and what becomes of SQLite's errors."""

import json
from datetime import datetime
from pathlib import Path

import apsw
import httpx
import pytest

from hatoba.config.load import load
from hatoba.db import sqlite
from hatoba.db.engine import now
from hatoba.db.sqlite import DatabaseFailed, Sqlite, check_filesystem
from hatoba.errors import InsufficientStorage, StartError, Unavailable
from hatoba.oci.digest import Digest
from hatoba.web import errors
from hatoba.wiring import parts, serving

INSERT = "INSERT INTO repositories (name, created_at) VALUES (:name, 1)"


def adding(name):
    async def add(transaction):
        await transaction.run(INSERT, name=name)

    return add


# The library


@pytest.mark.parametrize("version", ["3.7.0", "3.40.1", "3.51.2", "3.9.99"])
def test_a_sqlite_that_corrupts_is_refused(monkeypatch, folder, version):
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: version)
    with pytest.raises(StartError, match=rf"{version}.*3\.51\.3 or newer"):
        Sqlite(folder / "metadata.db", folder / "locks", "metadata", "FULL")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("version", ["3.51.3", "3.52.0", "3.100.0", "4.0.0"])
def test_a_sqlite_that_does_not_is_taken(monkeypatch, version):
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: version)
    sqlite.check_library()


# The file system

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:31 / /srv/nfs rw,relatime shared:12 - nfs4 filer:/export rw,vers=4.2
31 30 254:1 / /srv/nfs/local rw - xfs /dev/vdb rw
32 22 0:33 / /mnt/old rw - nfs filer:/old rw
33 22 0:34 / /mnt/windows\\040share rw - cifs //server/share rw
34 22 0:35 / /mnt/smb rw master:3 shared:9 - smb3 //server/share rw
35 22 0:36 / /mnt/vm rw - 9p hostshare rw
36 22 0:37 / /mnt/ssh rw - fuse.sshfs me@there: rw
37 22 0:38 / /mnt/gr\u00f6\u00dfe rw - nfs4 filer:/umlaut rw
38 22 0:39 / /mnt/twice rw - nfs4 filer:/below rw
39 22 254:2 / /mnt/twice rw - ext4 /dev/vdc rw
40 22 0:41 / /mnt/plain rw - fuse someone rw
41 22 0:42 / /dev/shm rw - tmpfs tmpfs rw
42 22 254:3 / /mnt/ntfs rw - fuseblk /dev/sdb1 rw
43 22 254:4 / /mnt/back\\134slash\\011tab rw - nfs4 filer:/odd rw
"""


@pytest.fixture
def mounts(tmp_path):
    path = tmp_path / "mountinfo"
    path.write_bytes(MOUNTS.encode() + b"50 22 0:50 / /mnt/\xff\xfe rw - nfs4 filer:/latin rw\n")
    return str(path)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/nfs/hatoba/metadata.db", "nfs4"),
        ("/mnt/old/metadata.db", "nfs"),
        ("/mnt/windows share/a/b.db", "cifs"),
        ("/mnt/smb/metadata.db", "smb3"),
        ("/mnt/vm/metadata.db", "9p"),
        ("/mnt/ssh/metadata.db", "fuse.sshfs"),
        ("/mnt/plain/metadata.db", "fuse"),
        ("/mnt/größe/metadata.db", "nfs4"),
        ("/mnt/\udcff\udcfe/metadata.db", "nfs4"),
        ("/mnt/back\\slash\ttab/metadata.db", "nfs4"),
        ("/srv/../srv/nfs/metadata.db", "nfs4"),
    ],
)
def test_a_file_system_of_several_machines_is_refused(mounts, path, kind):
    with pytest.raises(StartError, match=rf"lies on {kind} .*hatoba\.database\.path"):
        check_filesystem(Path(path), mounts)


@pytest.mark.parametrize(
    "path",
    [
        "/var/lib/registry/hatoba/metadata.db",
        "/srv/nfs/local/metadata.db",
        "/srv/nfs2/metadata.db",
        "/mnt/twice/metadata.db",
        "/dev/shm/metadata.db",  # noqa: S108
        "/mnt/ntfs/metadata.db",
    ],
)
def test_a_local_file_system_is_taken(mounts, path):
    check_filesystem(Path(path), mounts)


def test_without_a_list_of_mounts_nothing_is_refused(tmp_path):
    check_filesystem(tmp_path / "metadata.db", str(tmp_path / "none"))


def test_the_file_system_is_looked_at_before_anything_is_made(monkeypatch, tmp_path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 1 0:1 / {tmp_path.resolve()} rw - nfs4 filer:/export rw\n")
    monkeypatch.setattr(check_filesystem, "__defaults__", (str(mounts),))
    with pytest.raises(StartError, match="nfs4"):
        Sqlite(tmp_path / "hatoba" / "metadata.db", tmp_path / "hatoba" / "locks", "metadata", "FULL")
    assert not (tmp_path / "hatoba").exists()


# Opening


@pytest.mark.parametrize(("name", "synchronous", "number"), [("metadata", "FULL", 2), ("uploads", "NORMAL", 1)])
async def test_pragmas_hold_on_every_connection(open_sqlite, name, synchronous, number):
    database = open_sqlite(name, synchronous)
    await database.migrate()

    async def pragmas(reader):
        names = ("journal_mode", "synchronous", "foreign_keys", "query_only", "busy_timeout")
        return [(await reader.one(f"PRAGMA {name}"))[0] for name in names]

    assert await pragmas(database) == ["wal", number, 1, 1, 30_000]
    assert await database.scan(pragmas) == ["wal", number, 1, 1, 30_000]
    assert await database.write(pragmas) == ["wal", number, 1, 0, 30_000]


async def test_wiring_asks_full_for_content_and_normal_for_sessions(tmp_path):
    settings = load(None, {}, {"storage.filesystem.rootdirectory": str(tmp_path)}).settings
    metadata, sessions = parts.open_metadata(settings, tmp_path), parts.open_sessions(settings, tmp_path)
    try:
        assert await metadata.one("PRAGMA synchronous") == (2,)
        assert await sessions.one("PRAGMA synchronous") == (1,)
    finally:
        metadata.close()
        sessions.close()


async def test_both_databases_go_where_the_setting_says(tmp_path):
    """A root on NFS needs a local disk for each of them."""
    path = tmp_path / "local" / "registry.db"
    options = {"storage.filesystem.rootdirectory": str(tmp_path / "root"), "hatoba.database.path": str(path)}
    await serving.prepare(load(None, {}, options).settings)
    assert sorted(file.name for file in path.parent.glob("*.db")) == ["registry-uploads.db", "registry.db"]
    assert list((tmp_path / "root").rglob("*.db*")) == []


@pytest.mark.parametrize("name", ["journal_mode", "synchronous", "foreign_keys", "query_only"])
def test_a_pragma_that_does_not_take_is_noticed(monkeypatch, folder, name):
    closed = []

    class Deaf(apsw.Connection):
        def pragma(self, asked, *value):
            return None if asked == name and value else super().pragma(asked, *value)

        def close(self, *force):
            closed.append(self)
            super().close(*force)

    monkeypatch.setattr(apsw, "Connection", Deaf)
    with pytest.raises(StartError, match=f"PRAGMA {name}"):
        Sqlite(folder / "uploads.db", folder / "locks", "uploads", "NORMAL")
    assert len(closed) == 1


async def test_the_reading_connections_cannot_write(database):
    with pytest.raises(DatabaseFailed):
        await database.one(INSERT, name="a")
    with pytest.raises(DatabaseFailed):
        await database.scan(lambda reader: reader.one(INSERT, name="a"))


@pytest.mark.parametrize("name", ["metadata", "uploads"])
async def test_every_table_is_strict(open_sqlite, name):
    database = open_sqlite(name)
    await database.migrate()
    lax = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND NOT strict AND name NOT LIKE 'sqlite_%'"
    assert await database.all(lax) == []
    assert len(await database.all("SELECT name FROM pragma_table_list WHERE strict")) >= 2
    await database.write(lambda transaction: transaction.run("CREATE TABLE lax (a TEXT)"))
    assert await database.all(lax) == [("lax",)]


async def test_a_value_of_another_type_is_no_row(database):
    with pytest.raises(apsw.ConstraintError):
        await database.write(lambda t: t.run("INSERT INTO repositories (name, created_at) VALUES ('a', 'now')"))


async def test_foreign_keys_are_enforced(database):
    insert = "INSERT INTO repository_blobs (repository_id, digest, linked_at) VALUES (1, 'sha256:nothing', 1)"
    with pytest.raises(apsw.ConstraintError, match="FOREIGN KEY"):
        await database.write(lambda transaction: transaction.run(insert))


async def test_parameters_are_of_known_types(database):
    digest = Digest.of(b"")
    assert await database.one("SELECT :a, :b, :c, :d", a=None, b=b"x", c=digest, d=5) == (None, b"x", str(digest), 5)
    for value in (1.5, True, [1], Path("/"), object()):
        with pytest.raises(TypeError, match="no type of a database parameter"):
            await database.one("SELECT :a", a=value)
    with pytest.raises(TypeError):
        await database.one("SELECT :a", a=datetime(2026, 1, 1))  # noqa: DTZ001  that is what must not pass
    assert isinstance((await database.one("SELECT :a", a=now()))[0], int)


# Errors


TRANSLATIONS = {
    apsw.FullError: InsufficientStorage,
    apsw.BusyError: Unavailable,
    apsw.LockedError: Unavailable,
    apsw.IOError: DatabaseFailed,
    apsw.CantOpenError: DatabaseFailed,
    apsw.ReadOnlyError: DatabaseFailed,
    apsw.CorruptError: DatabaseFailed,
    apsw.NotADBError: DatabaseFailed,
}


@pytest.mark.parametrize("way", ["one", "all", "write", "scan"])
@pytest.mark.parametrize("raised", TRANSLATIONS)
async def test_errors_of_sqlite_are_translated_and_their_text_stays_here(database, monkeypatch, raised, way):
    def fail(*_):
        raise raised("secret words of /srv/hatoba/metadata.db")

    async def failing(_):
        fail()

    monkeypatch.setattr(sqlite, "_one", fail)
    monkeypatch.setattr(sqlite, "_all", fail)
    with pytest.raises(TRANSLATIONS[raised]) as caught:
        await getattr(database, way)(failing if way in {"write", "scan"} else "SELECT 1")
    assert isinstance(caught.value.__cause__, raised), "the log has the reason"
    response = errors.render(caught.value)
    assert response.status == (507 if raised is apsw.FullError else 503)
    assert json.loads(response.body)["errors"][0]["code"] == "UNAVAILABLE"
    assert b"secret" not in response.body
    assert b"srv" not in response.body
    assert response.status == 507 or int(dict(response.headers)["retry-after"]) > 0


class Broken:
    def __init__(self, cursor):
        self.close = cursor.close

    def execute(self, _):
        raise apsw.IOError("disk I/O error")


def test_an_error_of_the_version_is_translated(open_sqlite):
    database = open_sqlite()
    database._version = Broken(database._version)
    with pytest.raises(DatabaseFailed):
        database.version()


@pytest.mark.parametrize("raised", [apsw.CorruptError, apsw.BusyError])
async def test_a_client_hears_no_word_of_what_broke(tmp_path, monkeypatch, raised):
    def fail(*_):
        raise raised(f"database disk image is malformed: {tmp_path}")

    settings = load(None, {}, {"storage.filesystem.rootdirectory": str(tmp_path)}).settings
    async with serving.running(settings) as app:
        with monkeypatch.context() as patched:
            patched.setattr(sqlite, "_one", fail)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hatoba") as client:
                answer = await client.get("/v2/a/manifests/latest")
    assert answer.status_code == 503
    assert answer.json()["errors"][0]["code"] == "UNAVAILABLE"
    assert int(answer.headers["retry-after"]) > 0
    assert "malformed" not in answer.text
    assert str(tmp_path) not in answer.text


async def test_a_defect_is_not_hidden_behind_503(database):
    with pytest.raises(apsw.SQLError):
        await database.one("SELECT no_such_column")


async def test_a_full_disk_is_507_and_the_database_goes_on(database):
    async def limit(transaction):
        pages = (await transaction.one("PRAGMA page_count"))[0]
        await transaction.one(f"PRAGMA max_page_count = {pages + 2}")

    async def fill(transaction):
        for number in range(50):
            await transaction.run(INSERT, name=str(number) * 5000)

    await database.write(limit)
    with pytest.raises(InsufficientStorage):
        await database.write(fill)
    assert await database.one("SELECT count(*) FROM repositories") == (0,)
    await database.write(adding("small"))


async def test_a_file_that_is_no_database_is_told_to_nobody_but_the_log(folder):
    (folder / "metadata.db").write_bytes(b"certainly no database" * 1000)
    with pytest.raises(DatabaseFailed) as raised:
        Sqlite(folder / "metadata.db", folder / "locks", "metadata", "FULL")
    assert raised.value.message == "the registry's database fails"
    assert "not a database" in raised.value.reason


async def test_pages_that_were_overwritten_are_unavailable(database, open_sqlite, folder):
    for number in range(200):
        await database.write(adding(f"name{number}" * 50))
    database._reader.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    database.close()
    content = (folder / "metadata.db").read_bytes()
    (folder / "metadata.db").write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with pytest.raises(DatabaseFailed) as raised:
        await open_sqlite().all("SELECT name FROM repositories")
    assert "malformed" in raised.value.reason
    assert "malformed" not in str(raised.value.entries())
