"""The wheel in an empty environment: migrations and everything else travel, both commands are there."""

from __future__ import annotations

import hashlib
import http.client
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def run(*command: object, **options: object) -> str:
    done = subprocess.run([str(part) for part in command], text=True, capture_output=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def call(host: str, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, PROJECT)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory):
    """The folder of `hatoba` and `registry` in an environment that holds nothing else."""
    venv = tmp_path_factory.mktemp("empty") / "venv"
    run(sys.executable, "-m", "venv", venv)
    command = [venv / "bin/pip", "install", "--quiet", "--constraint", PROJECT / "constraints.txt", wheel]
    done = subprocess.run([str(part) for part in command], text=True, capture_output=True, check=False)
    if "connection broken" in done.stderr and done.returncode:
        pytest.skip("needs a package index for hatoba's dependencies")
    assert done.returncode == 0, done.stderr
    return venv / "bin"


def test_every_file_travels(wheel):
    source = PROJECT / "src"
    ours = {str(path.relative_to(source)) for path in (source / "hatoba").rglob("*") if path.is_file()}
    travelled = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in ours - travelled if "__pycache__" not in name} == set()
    assert any(name.endswith(".sql") for name in travelled)
    assert {name.split("/")[0] for name in travelled} == {"hatoba", f"{wheel.name.rsplit('-', 3)[0]}.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in travelled)


def test_commands_say_their_version(programs, wheel, tmp_path, e2e):
    told = f"hatoba {wheel.name.split('-')[1]}\n"
    options = {"cwd": tmp_path, "env": e2e.clean_environment()}
    assert run(programs / "hatoba", "version", **options) == told
    assert run(programs / "registry", "--version", **options) == told
    assert run(programs / "python", "-m", "hatoba", "version", **options) == told
    where = run(programs / "python", "-c", "import hatoba; print(hatoba.__file__)", **options)
    assert Path(where).is_relative_to(programs.parent)


def test_it_serves_and_takes_a_push(programs, serving, config, free_port, tmp_path):
    path = config(f"http: {{addr: '127.0.0.1:{free_port()}'}}\n")
    with serving(None, path, program=programs / "registry") as server:
        digest = f"sha256:{hashlib.sha256(b'{}').hexdigest()}"
        assert call(server.host, "POST", f"/v2/a/b/blobs/uploads/?digest={digest}", b"{}")[0] == 201
        empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest, "size": 2}
        body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": empty, "layers": []}).encode()
        assert call(server.host, "PUT", "/v2/a/b/manifests/v1", body, **{"Content-Type": MANIFEST})[0] == 201
        assert call(server.host, "GET", "/v2/a/b/manifests/v1") == (200, body)
    assert server.errors == []
    assert (tmp_path / "data/docker/registry/v2/repositories/a/b/_manifests/tags/v1/current/link").is_file()


def test_its_first_run_needs_nothing_but_the_wheel(programs, serving, free_port, tmp_path):
    with serving(None, "--addr", f"127.0.0.1:{free_port()}", program=programs / "hatoba") as server:
        assert server.password
        assert call(server.host, "GET", "/v2/")[0] == 401
    assert (tmp_path / "hatoba-data/hatoba/metadata.db").is_file()
