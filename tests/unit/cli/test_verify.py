"""`hatoba verify` as a person or a script sees it: lines, summary, exit codes, options."""

import os
import re

import apsw
import pytest

from hatoba.cli import verify
from hatoba.operations.verify import Verification
from hatoba.testing.images import random_image
from hatoba.wiring import commands

IMAGE = random_image(seed=0)
SUMMARY = re.compile(r"3 blobs \([\d.]+k?B read\), 1 manifest, 4 links: (\d+) findings?(, \d+ mended)?\n")


@pytest.fixture
def filled(shelf):
    shelf.push("team/app", IMAGE, "v1")
    return shelf


def layer_file(shelf):
    digest = IMAGE.layers[0].digest
    return shelf.root / f"docker/registry/v2/blobs/sha256/{digest.encoded[:2]}/{digest.encoded}/data"


def test_nothing_found(filled):
    result = filled.run("verify")
    assert (result.exit_code, result.stdout) == (0, "")
    assert SUMMARY.fullmatch(result.stderr)[1] == "0"


def test_each_finding_is_one_line_of_four_fields(filled):
    layer_file(filled).unlink()
    filled.tag_link("team/app", "v1").write_text("a\tb\x1b[2J\nc")
    result = filled.run("verify")
    assert result.exit_code == 1
    assert [line.count("\t") for line in result.stdout.splitlines()] == [3, 3]
    link, blob = (line.split("\t") for line in result.stdout.splitlines())
    assert link[:2] == ["link-wrong", str(filled.tag_link("team/app", "v1").relative_to(filled.root))]
    assert "\x1b" not in result.stdout
    assert blob[:2] == ["blob-missing", str(IMAGE.layers[0].digest)]
    assert blob[2:] == ["there is no file; needed by team/app:v1", "not served until it is pushed again"]
    assert SUMMARY.fullmatch(result.stderr)[1] == "2"


def test_mended_is_found_too(filled):
    filled.tag_link("team/app", "v1").unlink()
    result = filled.run("verify", "--fix")
    assert (result.exit_code, result.stdout.count("\tmended: ")) == (1, 1)
    assert SUMMARY.fullmatch(result.stderr)[2] == ", 1 mended"
    assert filled.tag_link("team/app", "v1").read_text() == str(IMAGE.manifest.digest)
    assert filled.run("verify").exit_code == 0


def test_what_is_beside_is_counted(filled):
    stray = filled.root / "docker/registry/v2/blobs/sha256/stray"
    stray.write_bytes(b"12345")
    result = filled.run("verify")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.endswith("\nbesides, no findings: 1 file that nothing names (5B)\n")
    assert stray.exists()


@pytest.mark.parametrize("rate", ["", "fast", "200MiB/m", "-1", "\x1b[2J"])
def test_a_rate_that_is_none(filled, rate):
    result = filled.run("verify", "--rate", rate)
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.fullmatch(r"hatoba: --rate .*: must be a size such as 200MiB, or 0\n", result.stderr)


@pytest.mark.parametrize("rate", ["0", "1GiB", "50MB/s", "200MiB/s"])
def test_a_rate(filled, rate):
    assert filled.run("verify", "--rate", rate).exit_code == 0


def test_readonly_forbids_mending_alone(filled, monkeypatch):
    monkeypatch.setenv("REGISTRY_STORAGE_MAINTENANCE_READONLY", "{enabled: true}")
    assert filled.run("verify").exit_code == 0
    result = filled.run("verify", "--fix")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "storage.maintenance.readonly.enabled is set" in result.stderr


def test_a_folder_that_has_not_been_read_in(filled):
    """Every link would be a finding."""
    connection = apsw.Connection(str(filled.root / "hatoba/metadata.db"))
    connection.execute("UPDATE tree SET state = 'unread'")
    connection.close()
    result = filled.run("verify")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "has not been read in yet" in result.stderr


def test_an_interrupted_check_says_so_and_goes_on(filled, monkeypatch):
    real = Verification.run

    async def stopped(self, *arguments, **options):
        self._save(str(IMAGE.layers[0].digest))
        raise KeyboardInterrupt

    monkeypatch.setattr(Verification, "run", stopped)
    result = filled.run("verify")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == "hatoba: stopped; the next `hatoba verify` goes on where this one was\n"
    monkeypatch.setattr(Verification, "run", real)
    result = filled.run("verify")
    assert result.exit_code == 0
    assert result.stderr.startswith(f"going on with an interrupted check, after {IMAGE.layers[0].digest}\n")


def test_without_uploads(filled):
    """A backup has none."""
    for path in (filled.root / "hatoba").glob("uploads.db*"):
        path.unlink()
    assert filled.run("verify").exit_code == 0
    assert list((filled.root / "hatoba").glob("uploads.db*")) == []


def test_a_damaged_database_is_one_line(filled):
    path = filled.root / "hatoba/metadata.db"
    connection = apsw.Connection(str(path))
    page = connection.pragma("page_size")
    number = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'tags_digest'").fetchone()[0]
    connection.close()
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), b"\xff" * 64, (number - 1) * page)
    result = filled.run("verify")
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    assert result.stdout.startswith("database-damaged\tmetadata.db\t")


def test_a_bar_on_a_terminal_alone(monkeypatch, capsys):
    with verify.shown() as bar:
        bar.begin("blobs", 10)
        bar.advance(10)
        bar.say("a finding")
    assert capsys.readouterr() == ("a finding\n", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with verify.shown() as bar:
        bar.begin("files", None)
        bar.begin("blobs", 10)
        bar.advance(10)
        bar.say("a finding")
    out, err = capsys.readouterr()
    assert out == "a finding\n"
    assert "blobs" in err


def test_no_other_user_checks(filled, monkeypatch):
    owner = commands.metadata_owner(filled.settings)[0]
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    result = filled.run("verify")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"it belongs to uid {owner}, run the command as that user" in result.stderr
