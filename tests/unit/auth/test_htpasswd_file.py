"""The file: its grammar, the edits, and what is said about files that cannot be used."""

import errno
import fcntl
import multiprocessing
import os
import re
import stat
import string
import tempfile
import threading
from pathlib import Path

import bcrypt
import pytest

from hatoba.auth import htpasswd_file
from hatoba.auth.htpasswd_file import HtpasswdFile, create, parse
from hatoba.errors import ConfigError

HASH = "$2y$04$" + "a" * 53
OTHER = "$2b$10$" + "b" * 53
APR1 = "$apr1$RandSalt$PgCXHRrkpSt4cbyC2C6bm/"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "htpasswd"


@pytest.fixture
def file(path):
    return HtpasswdFile(path, cost=4)


def matches(file: HtpasswdFile, user: str, password: str) -> bool:
    return bcrypt.checkpw(password.encode(), file.load()[user])


class TestParse:
    def test_users_comments_and_blank_lines(self):
        text = f"# people\n\nalice:{HASH}\n  \t\n   # more\n  bob:{OTHER}  \r\n"
        assert parse(text) == {"alice": HASH.encode(), "bob": OTHER.encode()}

    def test_empty(self):
        assert parse("") == {}

    @pytest.mark.parametrize("prefix", ["$2a$", "$2b$", "$2y$"])
    def test_the_three_kinds_of_bcrypt(self, prefix):
        assert parse(f"a:{prefix}04${'a' * 53}") == {"a": f"{prefix}04${'a' * 53}".encode()}

    @pytest.mark.parametrize(
        "stored",
        [
            APR1,
            "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
            "plain",
            "",
            "$2x$04$" + "a" * 53,
            "$2$04$" + "a" * 53,
            "$2y$03$" + "a" * 53,
            "$2y$32$" + "a" * 53,
            "$2y$4$" + "a" * 54,
            "$2y$04$" + "a" * 52,
            "$2y$04$" + "a" * 54,
            "$2y$04$" + "a" * 52 + "!",
            "$2y$04$" + "a" * 53 + ":extra",
            "$2y$٠٤$" + "a" * 53,
        ],
    )
    def test_other_hashes_are_left_out(self, stored):
        assert parse(f"alice:{stored}\nbob:{HASH}") == {"bob": HASH.encode()}

    def test_the_later_line_counts(self):
        assert parse(f"a:{HASH}\na:{OTHER}") == {"a": OTHER.encode()}

    def test_the_later_line_counts_even_if_it_locks_out(self):
        assert parse(f"a:{HASH}\na:{APR1}") == {}

    def test_the_empty_name_is_left_out(self):
        assert parse(f":{HASH}") == {}

    def test_a_line_without_colon_is_named_by_number_and_never_quoted(self):
        with pytest.raises(ConfigError) as raised:
            parse(f"# one\na:{HASH}\nhunter2\n")
        assert raised.value.message == "line 3: there is no colon after a user's name"

    @pytest.mark.parametrize("separator", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
    def test_only_newlines_end_a_line(self, separator):
        # str.splitlines would see a second line here, and a user whom Docker's registry does not.
        assert parse(f"#x{separator}mallory:{HASH}") == {}

    def test_byte_order_mark(self):
        assert parse(f"\ufeffalice:{HASH}") == {"alice": HASH.encode()}


class TestRead:
    def test_names_in_the_order_of_the_file(self, path, file):
        path.write_text(f"zoe:{HASH}\nold:{APR1}\nadam:{OTHER}\n")
        assert file.names() == ["zoe", "adam"]
        assert file.entries() == {"zoe": HASH.encode(), "old": None, "adam": OTHER.encode()}

    def test_latin_1_and_utf_8_names(self, path, file):
        path.write_bytes("jürgen:".encode("latin-1") + HASH.encode() + b"\n" + f"zoë:{HASH}".encode())
        assert file.names() == ["jürgen", "zoë"]

    def test_utf_16_is_explained(self, path, file):
        path.write_bytes(f"alice:{HASH}\n".encode("utf-16"))
        with pytest.raises(ConfigError, match="is UTF-16"):
            file.load()

    def test_missing(self, path, file):
        with pytest.raises(ConfigError) as raised:
            file.load()
        assert raised.value.message == f"{path}: no such file"

    def test_broken_names_the_file_and_line(self, path, file):
        path.write_text("secret\n")
        with pytest.raises(ConfigError) as raised:
            file.load()
        assert raised.value.message == f"{path}: line 1: there is no colon after a user's name"

    def test_directory(self, path, file):
        path.mkdir()
        for action in (file.load, lambda: file.add("a", "b"), lambda: file.remove("a"), lambda: create(path)):
            with pytest.raises(ConfigError) as raised:
                action()
            assert raised.value.message == (
                f"{path}: is a directory: Docker made it because the file did not exist on the host; "
                "remove it and create the file"
            )

    def test_pipe_is_refused_and_not_waited_for(self, path, file):
        os.mkfifo(path)
        with pytest.raises(ConfigError, match="is not a regular file"):
            file.load()

    def test_unreadable_names_the_uid(self, path, file, monkeypatch):
        path.write_text("")

        def refuse(*_):
            raise PermissionError(errno.EACCES, "no")

        monkeypatch.setattr(os, "open", refuse)
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        with pytest.raises(ConfigError) as raised:
            file.load()
        assert raised.value.message == f"{path}: cannot be read by uid 4711: Permission denied"


class TestAdd:
    def test_makes_the_file_and_its_folder_for_the_owner_alone(self, tmp_path):
        path = tmp_path / "new" / "folder" / "htpasswd"
        assert HtpasswdFile(path, cost=4).add("alice", "secret")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert re.fullmatch(r"alice:\$2y\$04\$.{53}\n", path.read_text())
        assert matches(HtpasswdFile(path), "alice", "secret")

    def test_the_usual_cost_is_dockers(self, path):
        HtpasswdFile(path).add("alice", "secret")
        assert path.read_text().startswith("alice:$2y$10$")

    def test_keeps_every_other_byte(self, path, file):
        before = f"\n# people\r\nalice:{HASH}\r\n\n  old:{APR1} \nj\xfc:{HASH}\n\n".encode("latin-1")
        path.write_bytes(before)
        assert file.add("bob", "secret")
        after = path.read_bytes()
        assert after.startswith(before)
        assert re.fullmatch(rb"bob:\S{60}\n", after[len(before) :])

    def test_a_last_line_without_newline(self, path, file):
        # As Docker's registry writes its first user.
        path.write_text(f"docker:{HASH}")
        file.add("bob", "secret")
        assert file.names() == ["docker", "bob"]

    def test_changes_a_password_in_place_and_leaves_one_line(self, path, file):
        path.write_text(f"# top\nalice:{HASH}\nbob:{OTHER}\nalice:{OTHER}\n# end\n")
        assert not file.add("alice", "new")
        lines = path.read_text().split("\n")
        assert [lines[0], *lines[2:]] == ["# top", f"bob:{OTHER}", "# end", ""]
        assert matches(file, "alice", "new")

    def test_gives_a_usable_hash_to_a_user_without(self, path, file):
        path.write_text(f"old:{APR1}\n")
        assert not file.add("old", "new")
        assert matches(file, "old", "new")

    def test_a_broken_file_is_left_alone(self, path, file):
        path.write_text("broken\n")
        with pytest.raises(ConfigError, match="line 1"):
            file.add("alice", "secret")
        assert path.read_text() == "broken\n"

    @pytest.mark.parametrize(
        "name",
        ["", "a:b", "a\nb", "a\rb", "a\0b", "a\x1bb", "a\u2028b", "#a", " a", "a ", "\ufeffa", "x" * 256, "é" * 128],
    )
    def test_names_that_cannot_be_used(self, path, file, name):
        with pytest.raises(ConfigError, match="a user's name"):
            file.add(name, "secret")
        assert not path.exists()

    @pytest.mark.parametrize("name", ["a", "x" * 255, "é" * 127, "a b", "me@example.com", "a#b"])
    def test_names_that_can(self, file, name):
        file.add(name, "secret")
        assert file.names() == [name]

    @pytest.mark.parametrize(
        ("password", "message"),
        [
            ("", "empty"),
            ("a\0b", "NUL"),
            ("x" * 73, r"has 73 bytes: bcrypt looks at the first 72 only"),
            ("é" * 37, r"has 74 bytes: bcrypt looks at the first 72 only"),
            ("\udcff", "not UTF-8"),
        ],
    )
    def test_passwords_that_cannot_be_used(self, path, file, password, message):
        with pytest.raises(ConfigError, match=message) as raised:
            file.add("alice", password)
        assert not password or password not in raised.value.message
        assert not path.exists()

    def test_the_longest_password(self, file):
        file.add("alice", "x" * 72)
        assert matches(file, "alice", "x" * 72)
        assert not matches(file, "alice", "x" * 71)


class TestRemove:
    def test_takes_every_line_of_the_user(self, path, file):
        # Taking out the last one alone would bring the first back into force.
        path.write_text(f"# top\nalice:{HASH}\n\nbob:{OTHER}\n alice:{APR1}\n")
        assert file.remove("alice")
        assert path.read_text() == f"# top\n\nbob:{OTHER}\n"

    def test_unknown_user_leaves_the_file_untouched(self, path, file):
        path.write_text(f"alice:{HASH}")
        before = path.stat()
        assert not file.remove("bob")
        assert not file.remove("ali")
        after = path.stat()
        assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)

    def test_a_missing_file_is_an_error_and_stays_missing(self, path, file):
        with pytest.raises(ConfigError, match="no such file"):
            file.remove("alice")
        assert not path.exists()

    def test_a_comment_is_no_user(self, path, file):
        path.write_text(f"#alice:{HASH}\n")
        assert not file.remove("#alice")
        assert not file.remove("alice")


class TestWriting:
    def test_replaces_the_file_and_keeps_mode_and_owner(self, path, file):
        path.write_text(f"alice:{HASH}\n")
        path.chmod(0o640)
        if os.geteuid() == 0:
            os.chown(path, 1234, 2345)
        before = path.stat()
        with path.open() as reader:
            file.add("bob", "secret")
            assert reader.read() == f"alice:{HASH}\n"  # whoever has the old file open sees the old file
        after = path.stat()
        assert after.st_ino != before.st_ino
        assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
        assert [entry.name for entry in path.parent.iterdir()] == ["htpasswd"]

    def test_a_symbolic_link_stays(self, tmp_path, file, path):
        target = tmp_path / "elsewhere" / "users"
        target.parent.mkdir()
        target.write_text("")
        path.symlink_to(target)
        file.add("alice", "secret")
        assert path.is_symlink()
        assert HtpasswdFile(target).names() == ["alice"]

    def test_is_durable_before_and_after_the_rename(self, path, file, monkeypatch):
        path.write_text("")
        steps = []
        fsync, replace = os.fsync, Path.replace
        monkeypatch.setattr(os, "fsync", lambda fd: (steps.append(stat.S_IFMT(os.fstat(fd).st_mode)), fsync(fd))[1])
        monkeypatch.setattr(Path, "replace", lambda self, to: (steps.append("rename"), replace(self, to))[1])
        file.add("alice", "secret")
        assert steps == [stat.S_IFREG, "rename", stat.S_IFDIR]

    @pytest.mark.parametrize("code", [errno.EBUSY, errno.EXDEV])
    def test_a_mount_point_is_overwritten(self, path, file, monkeypatch, code):
        path.write_text(f"alice:{HASH}\nbob:{OTHER}\n")
        before = path.stat()
        synced = []
        fsync = os.fsync
        monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_ino), fsync(fd))[1])

        def refuse(*_):
            raise OSError(code, "mount point")

        monkeypatch.setattr(Path, "replace", refuse)
        assert file.remove("alice")
        assert path.read_text() == f"bob:{OTHER}\n"
        assert path.stat().st_ino == before.st_ino
        assert synced[-1] == before.st_ino
        assert [entry.name for entry in path.parent.iterdir()] == ["htpasswd"]

    @pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
    def test_no_room_beside_the_file(self, path, file, monkeypatch, code):
        path.write_text("")

        def refuse(*_, **__):
            raise OSError(code, "no")

        monkeypatch.setattr(tempfile, "mkstemp", refuse)
        file.add("alice", "secret")
        assert file.names() == ["alice"]

    def test_an_owner_that_cannot_be_given_is_kept(self, path, file, monkeypatch):
        path.write_text("")
        before = path.stat().st_ino

        def refuse(*_):
            raise PermissionError(errno.EPERM, "not root")

        monkeypatch.setattr(os, "fchown", refuse)
        file.add("alice", "secret")
        assert path.stat().st_ino == before
        assert file.names() == ["alice"]

    def test_a_full_disk_changes_nothing(self, path, file, monkeypatch):
        path.write_text(f"alice:{HASH}\n")

        def full(*_):
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(ConfigError, match=r"cannot be written by uid .*: No space left on device"):
            file.add("bob", "secret")
        assert path.read_text() == f"alice:{HASH}\n"
        assert [entry.name for entry in path.parent.iterdir()] == ["htpasswd"]

    def test_a_disk_that_fills_up_while_overwriting_gets_the_old_content_back(self, path, file, monkeypatch):
        old = f"alice:{HASH}\nbob:{OTHER}\n"
        path.write_text(old)
        inode = path.stat().st_ino
        pwrite = os.pwrite
        failures = []

        def refuse(*_):
            raise OSError(errno.EBUSY, "mount point")

        def fill(fd, content, offset):
            if os.fstat(fd).st_ino == inode and not failures:
                if offset:
                    failures.append(offset)
                    raise OSError(errno.ENOSPC, "full")
                return pwrite(fd, content[:40], offset)
            return pwrite(fd, content, offset)

        monkeypatch.setattr(Path, "replace", refuse)
        monkeypatch.setattr(os, "pwrite", fill)
        with pytest.raises(ConfigError, match="No space left"):
            file.add("alice", "secret")
        assert failures == [40]
        assert path.read_text() == old

    def test_the_lock_is_waited_for_and_the_file_of_then_is_edited(self, path, file):
        path.write_text(f"alice:{HASH}\n")
        with path.open("r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            other = threading.Thread(target=file.add, args=("bob", "secret"))
            other.start()
            other.join(0.3)
            assert other.is_alive()
            # The holder replaces the file, as `add` does: what it wrote must not be undone.
            fresh = path.with_name("fresh")
            fresh.write_text(f"alice:{HASH}\ncarol:{HASH}\n")
            fresh.replace(path)
        other.join(10)
        assert file.names() == ["alice", "carol", "bob"]

    def test_many_at_once_lose_nothing(self, path):
        users = [f"user{number}" for number in range(40)]
        edits = [(HtpasswdFile(path, cost=4), user, "secret") for user in users]
        with multiprocessing.get_context("spawn").Pool(4) as pool:
            added = pool.starmap_async(HtpasswdFile.add, edits, chunksize=1).get(60)
        assert added == [True] * 40
        assert sorted(HtpasswdFile(path).names()) == sorted(users)


class TestCreate:
    def test_one_user_with_a_password_that_is_easy_to_copy(self, tmp_path):
        path = tmp_path / "a" / "b" / "htpasswd"
        password = create(path)
        assert matches(HtpasswdFile(path), "admin", password)
        assert HtpasswdFile(path).names() == ["admin"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert set(password) <= set(string.ascii_letters + string.digits)
        assert len(set(htpasswd_file._ALPHABET)) ** len(password) >= 2**128

    def test_another_name_and_another_password(self, tmp_path):
        first, second = create(tmp_path / "1", "root"), create(tmp_path / "2", "root")
        assert first != second
        assert HtpasswdFile(tmp_path / "1").names() == ["root"]

    def test_never_replaces_anything(self, path):
        path.write_text("")
        with pytest.raises(FileExistsError):
            create(path)
        assert path.read_text() == ""

    def test_never_follows_a_link_to_nowhere(self, tmp_path, path):
        path.symlink_to(tmp_path / "nowhere")
        with pytest.raises(FileExistsError):
            create(path)
        assert not (tmp_path / "nowhere").exists()

    def test_leaves_nothing_behind_when_it_fails(self, path):
        with pytest.raises(ConfigError):
            create(path, "a:b")
        assert not path.exists()

    def test_a_file_where_a_folder_should_be(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match=r"cannot be created by uid .*: Not a directory"):
            create(tmp_path / "file" / "htpasswd")
