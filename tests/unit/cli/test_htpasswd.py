"""The image's htpasswd beside Apache's: what is typed, what is said, how it ends, and what is in the file then."""

import re
import shutil
import subprocess
import sys

import bcrypt
import pytest

from hatoba.cli import htpasswd

OURS = [sys.executable, "-c", "from hatoba.cli.htpasswd import main; main()"]
RIGHT = bcrypt.hashpw(b"right", b"$2y$04$......................").decode()
HASH = re.compile(r"\$2y\$\d\d\$[./A-Za-z0-9]{53}")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def typed(folder, monkeypatch, capsys):
    """typed("-Bbn", …): exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["htpasswd", *arguments])
        code = 0
        try:
            htpasswd.main()
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def apaches(folder, *arguments: str) -> tuple[int, str, str]:
    if shutil.which("htpasswd") is None:
        pytest.skip("needs htpasswd")
    done = subprocess.run(["htpasswd", *arguments], cwd=folder, text=True, capture_output=True, check=False, input="")
    return done.returncode, done.stdout, done.stderr


def shape(text: str) -> str:
    return HASH.sub("HASH", text)


@pytest.mark.parametrize(
    "line",
    [
        "-Bbn busy bee",
        "-nbB busy bee",
        "-B -b -n -C 4 busy bee",
        "-C04 -Bbn busy bee",
        "-Bbc new busy bee",
        "-Bbc users busy bee",
        "-Bb users ada new",
        "-Bb users busy bee",
        "-vb users ada right",
        "-vb users ada wrong",
        "-vb users busy bee",
        "-D users ada",
        "-D users busy",
        "-bB -C 3 users ada x",
        "-bB -C 18 users ada x",
        "-bB -C 0 users ada x",
        "-bB -C 5x users ada x",
        "-Bb users a:b x",
        "-Bbn a:b x",
        "-B",
        "-Bbn busy",
        "-Bn",
        "-Bbn busy bee more",
        "-Bb users busy bee -C 5",
        "-Bbcn users busy bee",
        "-cD users ada",
        "-vD users ada",
        "-Bbi users ada x",
        "-Bb absent ada x",
        "-vb absent ada x",
        "-D absent ada",
        "-Bb . ada x",
        "-Bbc absent/users ada x",
        "-Bb broken ada x",
        "-x",
        "-C",
        f"-Bbn {'u' * 190} x",
        f"-Bbn {'u' * 256} x",
        f"-Bbn busy {'p' * 257}",
    ],
)
def test_it_ends_as_apaches_does(folder, typed, line):
    def fresh():
        (folder / "users").write_text(f"# team\nada:{RIGHT}\n")
        (folder / "broken").write_text("no colon\n")

    fresh()
    theirs = apaches(folder, *line.split())
    their_files = {path.name: shape(path.read_text()) for path in folder.iterdir()}
    for path in folder.iterdir():
        path.unlink()
    fresh()
    ours = typed(*line.split())
    assert {path.name: shape(path.read_text()) for path in folder.iterdir()} == their_files
    assert (ours[0], shape(ours[1])) == (theirs[0], shape(theirs[1]))
    if ours[0] == 0:
        assert ours[2] == theirs[2]
    assert bool(ours[2]) == bool(theirs[2])


def test_apache_and_hatoba_read_each_other(folder, typed):
    assert typed("-Bbc", "users", "ada", "lovelace")[0] == 0
    assert apaches(folder, "-vb", "users", "ada", "lovelace")[0] == 0
    assert apaches(folder, "-Bb", "users", "busy", "bee")[0] == 0
    assert typed("-vb", "users", "busy", "bee") == (0, "", "Password for user busy correct.\n")


@pytest.mark.parametrize("option", ["-m", "-2", "-5", "-d", "-s", "-p"])
def test_other_algorithms_are_refused(folder, typed, option):
    code, out, err = typed(f"{option}bc", "users", "busy", "bee")
    assert (code, out, err) == (2, "", f"htpasswd: {option}: hatoba takes bcrypt only, use -B\n")
    assert list(folder.iterdir()) == []


def test_bcrypt_is_what_it_is_without_an_option(typed):
    assert HASH.search(typed("-nb", "busy", "bee")[1])[0].startswith("$2y$10$")
    assert HASH.search(typed("-nb", "-C", "5", "busy", "bee")[1])[0].startswith("$2y$05$")


def test_a_hash_that_lets_nobody_in(folder, typed):
    (folder / "users").write_text("old:$apr1$x$y\n")
    code, _, err = typed("-vb", "users", "old", "x")
    assert code == 3
    assert "not bcrypt" in err


@pytest.mark.parametrize(("password", "code"), [("", 2), ("p" * 73, 5)])
def test_passwords_that_would_not_count_whole(folder, typed, password, code):
    """Apache's takes both: the empty one, and 72 bytes of the other."""
    (folder / "users").write_text("# team\n")
    ended, out, err = typed("-Bbc", "users", "busy", password)
    assert (ended, out) == (code, "")
    assert err.count("\n") == 1
    assert (folder / "users").read_text() == "# team\n", "not emptied for nothing"


@pytest.mark.parametrize(
    ("options", "stdin", "expected"),
    [
        ("-Bni", "bee\n", (0, "busy:HASH\n\n", "")),
        ("-Bni", "bee", (0, "busy:HASH\n\n", "")),
        ("-Bni", "", (2, "", "htpasswd: the password is empty or holds a NUL character\n")),
        ("-Bn", "bee\n", (0, "busy:HASH\n\n", "")),
    ],
)
def test_the_password_from_standard_input(folder, options, stdin, expected):
    done = subprocess.run([*OURS, options, "busy"], text=True, capture_output=True, check=False, input=stdin)
    assert (done.returncode, shape(done.stdout), done.stderr) == expected


@pytest.mark.parametrize(
    ("answers", "code", "said"),
    [(["bee", "bee"], 0, ""), (["bee", "bea"], 3, "htpasswd: password verification error\n")],
)
def test_the_password_is_asked_for_twice(typed, monkeypatch, answers, code, said):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    asked = []
    monkeypatch.setattr(htpasswd.getpass, "getpass", lambda words: (asked.append(words), answers[len(asked) - 1])[1])
    assert typed("-Bn", "busy")[::2] == (code, said)
    assert asked == ["New password: ", "Re-type new password: "]
