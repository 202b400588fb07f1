"""`hatoba import` and adoption at a start, as an operator meets them: words, exit codes, owners, kills."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def tree(data):
    """tree(n): a folder as Docker's registry has it, with n manifests."""

    def make(manifests: int) -> Path:
        program = "import sys, pathlib, adoption; adoption.make_tree(pathlib.Path(sys.argv[1]), int(sys.argv[2]))"
        command = [sys.executable, "-c", program, data, str(manifests)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "bench")})
        return data

    return make


@pytest.fixture
def run(e2e):
    def call(*arguments, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [str(part) for part in (e2e.HATOBA, *arguments)]
        environment = e2e.clean_environment()
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == code, done.stderr
        return done

    return call


def test_a_folder_is_imported_and_what_is_skipped_reported(tree, run, tmp_path):
    root = tree(120)
    (root / "docker/registry/v2/repositories/README").write_text("do not touch")
    report = tmp_path / "report.jsonl"
    done = run("import", "--root", root, "--report", report)
    assert done.stdout == ""
    assert "read 3 repositories with 120 manifests; new: 120 manifests, 252 blobs; 120 tags changed" in done.stderr
    assert f"skipped or not as they should be: 1 foreign; listed in {report}" in done.stderr
    assert [json.loads(line) for line in report.read_text().splitlines()] == [
        {
            "path": "docker/registry/v2/repositories/README",
            "kind": "foreign",
            "reason": "no registry writes a file here",
        }
    ]
    done = run("import", "--root", root, "--report", "-")
    assert "new: 0 manifests, 0 blobs; 0 tags changed" in done.stderr
    assert json.loads(done.stdout)["kind"] == "foreign"
    assert run("ls", "--root", root).stdout.count("\n") == 4


def test_what_stands_in_the_way_is_said(tree, run, serving, config, tmp_path):
    assert "nothing to import: there is no" in run("import", "--root", tmp_path / "typo", code=1).stderr
    tree(3)
    with serving(None, config("http: {addr: '127.0.0.1:0'}\n")) as server:
        done = run("import", "--config", tmp_path / "config.yml", code=1)
        assert f"is served by another hatoba, pid {server.process.pid}" in done.stderr


def test_a_broken_database_is_set_aside(tree, run, start, data, e2e):
    root = tree(3)
    (root / "hatoba").mkdir()
    (root / "hatoba/metadata.db").write_bytes(b"x" * 8192)
    failed = start(e2e.HATOBA, "serve", "--root", root, "--addr", "127.0.0.1:0")
    assert failed.process.wait(60) == 1
    assert "`hatoba import` sets the broken one aside" in failed.err
    done = run("import", "--root", root)
    (aside,) = (root / "hatoba").glob("metadata.db.broken-*")
    assert f"the broken database is now {aside}" in done.stderr
    assert aside.read_bytes() == b"x" * 8192
    assert "new: 3 manifests" in done.stderr


def test_killed_at_any_moment_the_next_start_goes_on(tree, start, config, e2e, data):
    """`kill -9` of the whole group while a folder is read; no file of it has changed in the end."""
    tree(300)
    chance = random.Random(1)  # noqa: S311
    files = [path for path in (data / "docker").rglob("*") if path.is_file()]
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}
    command = (e2e.HATOBA, "serve", "--config", config("http: {addr: '127.0.0.1:0'}\nhatoba: {workers: 2}\n"))
    for number in range(3):
        server = start(*command, name=f"killed-{number}")
        e2e.wait_for(lambda s=server: "new to hatoba" in s.err or "listening" in s.err, lambda s=server: s.err)
        time.sleep(chance.uniform(0, 0.3))
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait(30)
    server = start(*command, name="last").ready()
    http = httpx.Client(base_url=f"http://{server.host}", timeout=60)
    e2e.wait_for(lambda: http.get("/healthz/ready").status_code == 200, lambda: server.err, 120)
    names = http.get("/v2/_catalog").json()["repositories"]
    assert len(names) == 6
    for name in names:
        assert len(http.get(f"/v2/{name}/tags/list").json()["tags"]) == 50
    http.close()
    assert server.errors == []
    assert server.stop() == 0
    files = [path for path in (data / "docker").rglob("*") if path.is_file()]
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files} == before


def test_a_small_run_of_the_measurement(tmp_path):
    """`make adoption` with another number; it fails unless all manifests are read."""
    command = [sys.executable, ROOT / "bench/adoption.py", "100", "--folder", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "| 100 |" in done.stdout
