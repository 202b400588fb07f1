"""`hatoba users`: what it says, where, and with which exit code."""

import errno
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import bcrypt
import pytest
from typer.testing import CliRunner

from hatoba.auth.htpasswd_file import HtpasswdFile
from hatoba.cli.users import app

HASH = "$2y$04$" + "a" * 53


@pytest.fixture
def path(tmp_path):
    return tmp_path / "users"


def run(*arguments: str, stdin: str | bytes | None = None):
    return CliRunner().invoke(app, list(arguments), input=stdin)


def matches(path: Path, user: str, password: str) -> bool:
    return bcrypt.checkpw(password.encode(), HtpasswdFile(path).load()[user])


class TestAdd:
    def test_adds_and_then_changes(self, path):
        result = run("add", "alice", "--password-stdin", "--file", str(path), stdin="first\n")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"added alice to {path}\n")
        assert matches(path, "alice", "first")
        result = run("add", "alice", "--password-stdin", "--file", str(path), stdin="second\n")
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr == f"changed the password of alice in {path}\n"
        assert matches(path, "alice", "second")

    @pytest.mark.parametrize("stdin", ["secret", "secret\n", "secret\r\n", "secret\nignored\n"])
    def test_one_line_without_its_end(self, path, stdin):
        assert run("add", "alice", "--password-stdin", "--file", str(path), stdin=stdin).exit_code == 0
        assert matches(path, "alice", "secret")

    def test_spaces_belong_to_the_password(self, path):
        run("add", "alice", "--password-stdin", "--file", str(path), stdin="  two words \n")
        assert matches(path, "alice", "  two words ")

    @pytest.mark.parametrize(
        ("name", "stdin", "message"),
        [
            ("alice", "\n", "the password is empty"),
            ("alice", "", "the password is empty"),
            ("alice", "x" * 73, "the password has 73 bytes"),
            ("alice", "x" * 100_000, "the password has 4096 bytes"),
            ("alice", b"\xff\n", "the password is not UTF-8"),
            ("a:b", "secret\n", "a user's name holds no colon"),
        ],
    )
    def test_what_cannot_be_used(self, path, name, stdin, message):
        result = run("add", name, "--password-stdin", "--file", str(path), stdin=stdin)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.startswith(f"hatoba: {message}")
        assert result.stderr.count("\n") == 1
        assert not path.exists()

    def test_without_a_terminal_a_password_is_made_and_printed(self, path):
        result = run("add", "alice", "--file", str(path), stdin="secret\nsecret\n")
        assert (result.exit_code, result.stderr) == (0, f"added alice to {path}\n")
        password = result.stdout.removesuffix("\n")
        assert re.fullmatch("[0-9a-f]{32}", password)
        assert matches(path, "alice", password)
        assert run("add", "bob", "--file", str(path)).stdout != result.stdout

    def test_an_existing_user_gets_the_password_that_is_made(self, path):
        path.write_text(f"# ours\nalice:{HASH}\nbob:{HASH}\n")
        result = run("add", "alice", "--file", str(path))
        assert (result.exit_code, result.stderr) == (0, f"changed the password of alice in {path}\n")
        assert matches(path, "alice", result.stdout.removesuffix("\n"))
        assert path.read_text().startswith("# ours\nalice:")
        assert path.read_text().endswith(f"\nbob:{HASH}\n")

    def test_a_password_that_was_made_for_nothing_is_not_printed(self, path):
        path.mkdir()
        result = run("add", "alice", "--file", str(path))
        assert (result.exit_code, result.stdout) == (2, "")

    def test_a_file_that_cannot_be_replaced_is_rewritten_in_place(self, path, monkeypatch):
        """A file mounted by itself into a container: rename answers EBUSY."""
        path.write_text(f"alice:{HASH}\n")
        before = path.stat().st_ino

        def replace(source, target):
            raise OSError(errno.EBUSY, "mount point")

        monkeypatch.setattr(Path, "replace", replace)
        result = run("add", "bob", "--password-stdin", "--file", str(path), stdin="secret\n")
        assert (result.exit_code, path.stat().st_ino) == (0, before)
        assert matches(path, "bob", "secret")
        assert [found.name for found in path.parent.iterdir()] == [path.name]

    @pytest.mark.parametrize(("second", "code"), [("secret", 0), ("other", None)])
    def test_asks_twice_on_a_terminal_and_shows_nothing(self, path, second, code):
        shown, status = on_a_terminal(["add", "alice", "--file", str(path)], ["secret", second])
        assert "secret" not in shown
        assert "other" not in shown
        if code == 0:
            assert status == 0
            assert matches(path, "alice", "secret")
        else:
            assert status != 0
            assert "do not match" in shown
            assert not path.exists()

    def test_no_option_takes_a_password(self):
        assert run("add", "alice", "--password", "secret").exit_code == 2
        assert run("add", "alice", "secret").exit_code == 2


def on_a_terminal(arguments: list[str], answers: list[str]) -> tuple[str, int]:
    """What a terminal shows while the command asks and is answered, and the exit code; then the terminal goes away."""
    ours, theirs = pty.openpty()
    code = "import sys; from hatoba.cli.users import app; app(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    shown = b""
    asked = 0
    try:
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # how Linux says that the other side is closed
                break
            if not piece:
                break
            shown += piece
            if shown.count(b": ") > asked and shown.endswith(b": "):
                if asked == len(answers):
                    process.terminate()
                    continue
                os.write(ours, answers[asked].encode() + b"\n")
                asked += 1
        return shown.decode(), process.wait(30)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


class TestRemove:
    def test_removes(self, path):
        path.write_text(f"alice:{HASH}\nbob:{HASH}\n")
        result = run("remove", "alice", "--file", str(path))
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"removed alice from {path}\n")
        assert path.read_text() == f"bob:{HASH}\n"

    def test_unknown_user(self, path):
        path.write_text(f"alice:{HASH}\n")
        result = run("remove", "bob", "--file", str(path))
        assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"hatoba: {path} has no user bob\n")

    def test_no_file(self, path):
        result = run("remove", "bob", "--file", str(path))
        assert (result.exit_code, result.stderr) == (2, f"hatoba: {path}: no such file\n")


class TestList:
    def test_one_name_a_line(self, path):
        path.write_text(f"zoe:{HASH}\n# nobody\nadam:{HASH}\n")
        result = run("list", "--file", str(path))
        assert (result.exit_code, result.stdout, result.stderr) == (0, "zoe\nadam\n", "")

    def test_whoever_cannot_log_in_is_no_user_but_is_named(self, path):
        path.write_text(f"old:plain\nadam:{HASH}\n")
        result = run("list", "--file", str(path))
        assert result.stdout == "adam\n"
        assert result.stderr == "warning: old cannot log in: the hash is not bcrypt\n"

    def test_a_name_cannot_write_to_the_terminal(self, path):
        path.write_text(f"a\x1b[2Jb:{HASH}\n")
        assert run("list", "--file", str(path)).stdout == "a\\x1b[2Jb\n"

    def test_json(self, path):
        path.write_text(f"old:plain\nadam:{HASH}\na\x1bb:{HASH}\n")
        result = run("list", "--json", "--file", str(path))
        assert json.loads(result.stdout) == [{"name": "adam"}, {"name": "a\x1bb"}]
        assert "\x1b" not in result.stdout
        assert result.stderr.startswith("warning: old cannot log in")
        path.write_text("")
        assert run("list", "--json", "--file", str(path)).stdout == "[]\n"

    def test_a_broken_file_is_named_without_its_content(self, path):
        path.write_text("hunter2\n")
        result = run("list", "--file", str(path))
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == f"hatoba: {path}: line 1: there is no colon after a user's name\n"

    def test_a_directory(self, path):
        path.mkdir()
        result = run("list", "--file", str(path))
        assert result.exit_code == 2
        assert result.stderr.startswith(f"hatoba: {path}: is a directory: Docker made it")


class TestWhichFile:
    """An option, then the path's variable, then the data folder, then the usual data folder."""

    def put(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{path.parent.parent.name or 'x'}-{path.name}:{HASH}\n")

    def test_the_usual_data_folder(self, tmp_path):
        self.put(tmp_path / "hatoba-data" / "hatoba" / "htpasswd")
        assert run("list").stdout == "hatoba-data-htpasswd\n"

    def test_the_data_folder_of_option_or_variable(self, tmp_path, monkeypatch):
        self.put(tmp_path / "one" / "hatoba" / "htpasswd")
        self.put(tmp_path / "two" / "hatoba" / "htpasswd")
        monkeypatch.setenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", str(tmp_path / "one"))
        assert run("list").stdout == "one-htpasswd\n"
        assert run("list", "--root", str(tmp_path / "two")).stdout == "two-htpasswd\n"
        monkeypatch.delenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY")
        assert run("list", "--root", str(tmp_path / "two")).stdout == "two-htpasswd\n"

    def test_the_path_goes_before_the_folder(self, tmp_path, monkeypatch):
        self.put(tmp_path / "one" / "hatoba" / "htpasswd")
        self.put(tmp_path / "two" / "x" / "users")
        self.put(tmp_path / "three" / "x" / "users")
        monkeypatch.setenv("REGISTRY_AUTH_HTPASSWD_PATH", str(tmp_path / "two" / "x" / "users"))
        assert run("list", "--root", str(tmp_path / "one")).stdout == "two-users\n"
        assert run("list", "--file", str(tmp_path / "three" / "x" / "users")).stdout == "three-users\n"

    def test_an_empty_folder_says_nothing(self, tmp_path, monkeypatch):
        self.put(tmp_path / "hatoba-data" / "hatoba" / "htpasswd")
        monkeypatch.setenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", "")
        monkeypatch.setenv("REGISTRY_CONFIGURATION_PATH", "")
        assert run("list").stdout == "hatoba-data-htpasswd\n"

    def test_an_empty_path_is_refused_as_the_server_does(self, monkeypatch):
        monkeypatch.setenv("REGISTRY_AUTH_HTPASSWD_PATH", "")
        result = run("list")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "auth.htpasswd.realm is required" in result.stderr

    def test_the_configuration_names_it(self, tmp_path, monkeypatch):
        self.put(tmp_path / "one" / "x" / "users")
        self.put(tmp_path / "two" / "x" / "users")
        for name in ("one", "two"):
            (tmp_path / f"{name}.yml").write_text(
                f"version: 0.1\nauth: {{htpasswd: {{realm: r, path: {tmp_path / name / 'x' / 'users'}}}}}\n"
            )
        assert run("list", "--config", str(tmp_path / "one.yml")).stdout == "one-users\n"
        monkeypatch.setenv("REGISTRY_CONFIGURATION_PATH", str(tmp_path / "two.yml"))
        assert run("list").stdout == "two-users\n"
        assert run("list", "--root", "elsewhere").stdout == "two-users\n"
        assert run("list", "--config", str(tmp_path / "one.yml")).stdout == "one-users\n"
        assert run("add", "eve", "--config", str(tmp_path / "one.yml")).exit_code == 0
        assert run("list", "--config", str(tmp_path / "one.yml")).stdout == "one-users\neve\n"

    def test_a_configuration_without_users(self, tmp_path):
        path = tmp_path / "config.yml"
        path.write_text("version: 0.1\n")
        result = run("list", "--config", str(path))
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("hatoba: auth.htpasswd is not configured")
        assert result.stderr.count("\n") == 1
