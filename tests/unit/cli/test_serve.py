"""`hatoba serve` with a password file that cannot be used: one line that says what to do, and exit code 2."""

import asyncio
import errno
import os

import pytest
import typer
from typer.testing import CliRunner

from hatoba import server, telemetry
from hatoba.auth.htpasswd_file import HtpasswdFile
from hatoba.cli import serve
from hatoba.wiring import serving


@pytest.fixture
def path(tmp_path):
    return tmp_path / "htpasswd"


@pytest.fixture
def run(tmp_path, path, monkeypatch):
    """Start as far as the folder is prepared; the port and the workers are the end-to-end tests' business."""
    monkeypatch.setattr(telemetry, "configure", lambda *_: None)  # logging is the process's own
    monkeypatch.setattr(server, "serve", lambda settings, _announce: asyncio.run(serving.prepare(settings)))
    config = tmp_path / "config.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path / 'root'}}}}}\n"
        f"auth: {{htpasswd: {{realm: hatoba, path: {path}}}}}\n"
    )
    app = typer.Typer()
    app.command()(serve.serve)
    return lambda: CliRunner().invoke(app, [str(config)])


def test_a_usable_file(run, path):
    HtpasswdFile(path, cost=4).add("alice", "secret")
    result = run()
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_directory_that_docker_made(run, path):
    path.mkdir()
    result = run()
    assert result.exit_code == 2
    assert result.stderr == (
        f"hatoba: {path}: is a directory: Docker made it because the file did not exist on the host; "
        "remove it and create the file\n"
    )
    assert path.is_dir()


def test_an_unreadable_file_names_the_uid_that_tried(run, path, monkeypatch):
    HtpasswdFile(path, cost=4).add("alice", "secret")
    real = os.open

    def refuse(name, *arguments, **options):
        if str(name) == str(path) and not arguments[0] & os.O_CREAT:
            raise PermissionError(errno.EACCES, "no")
        return real(name, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    result = run()
    assert result.exit_code == 2
    assert result.stderr == f"hatoba: {path}: cannot be read by uid 4711: Permission denied\n"
