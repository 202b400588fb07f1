"""Docker's own clients: what people type."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest


@pytest.fixture
def registry(start, e2e, docker, free_port):
    """A hatoba with sign-in where `docker` is signed in."""
    port = free_port()
    server = start(e2e.HATOBA, "serve", "--addr", f"127.0.0.1:{port}", "--workers", "2").ready()
    server.host = f"127.0.0.1:{port}"
    server.password = re.search(r"user admin and password (\S+)", server.out)[1]
    docker("login", server.host, "-u", "admin", "--password-stdin", stdin=server.password)
    return server


def push(docker, name: str) -> str:
    return re.search(r"digest: (sha256:\w+)", docker("push", name).stdout)[1]


def skopeo(*arguments, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["skopeo", *map(str, arguments)], text=True, capture_output=True, check=check)


def test_wrong_password(registry, docker):
    done = docker("login", registry.host, "-u", "admin", "--password-stdin", stdin="wrong", check=False)
    assert done.returncode != 0
    assert "unauthorized" in done.stderr.lower()


def test_push_pull_run_delete(registry, docker, build):
    name = f"{registry.host}/team/app:v1"
    build(name)
    digest = push(docker, name)
    by_digest = f"{registry.host}/team/app:v1@{digest}"
    docker("rmi", "-f", name)
    docker("pull", name)
    assert docker("run", "--rm", name, "echo", "hello").stdout == "hello\n"
    docker("rmi", "-f", name)
    docker("pull", by_digest)
    docker("pull", name)

    docker("tag", name, f"{registry.host}/other/copy:v2")
    pushed = docker("push", f"{registry.host}/other/copy:v2").stdout
    assert "Mounted from team/app" in pushed
    docker("tag", name, f"{registry.host}/team/app:latest")
    assert "Layer already exists" in docker("push", f"{registry.host}/team/app:latest").stdout

    credentials = f"admin:{registry.password}"
    listed = skopeo("list-tags", "--tls-verify=false", "--creds", credentials, f"docker://{registry.host}/team/app")
    assert json.loads(listed.stdout)["Tags"] == ["latest", "v1"]
    skopeo("delete", "--tls-verify=false", "--creds", credentials, f"docker://{name}")
    assert docker("pull", name, check=False).returncode != 0
    docker("pull", f"{registry.host}/other/copy:v2")


def test_layer_lost_behind_our_back_is_healed_by_the_next_push(registry, docker, build, tmp_path):
    name = f"{registry.host}/team/healed:v1"
    build(name)
    push(docker, name)
    root = tmp_path / "hatoba-data/docker/registry/v2"
    layers = [path.name for path in (root / "repositories/team/healed/_layers/sha256").iterdir()]
    sizes = {layer: (root / "blobs/sha256" / layer[:2] / layer / "data").stat().st_size for layer in layers}
    largest = max(sizes, key=sizes.get)
    file = root / "blobs/sha256" / largest[:2] / largest / "data"
    file.unlink()
    assert "Pushed" in docker("push", name).stdout
    assert file.stat().st_size == sizes[largest]
    docker("rmi", "-f", name)
    docker("pull", name)
    assert docker("run", "--rm", name, "echo", "whole").stdout == "whole\n"
    assert registry.err.count("missing or of another size") == 1
    assert largest in registry.err


def test_tree_is_distributions(registry, docker, build, tmp_path):
    name = f"{registry.host}/team/tree:v1"
    build(name)
    digest = push(docker, name)
    repository = tmp_path / "hatoba-data/docker/registry/v2/repositories/team/tree"
    assert (repository / "_manifests/tags/v1/current/link").read_bytes() == digest.encode()
    assert (repository / f"_manifests/tags/v1/index/sha256/{digest[7:]}/link").read_bytes() == digest.encode()
    assert (repository / f"_manifests/revisions/sha256/{digest[7:]}/link").read_bytes() == digest.encode()
    assert len(list((repository / "_layers/sha256").iterdir())) == 3
    for path in (tmp_path / "hatoba-data/docker").rglob("*"):
        if path.is_file():
            assert path.name in {"data", "link", "startedat"}, path


def test_dockers_registry_reads_the_folder(registry, docker, build, free_port, start, tmp_path):
    if shutil.which("docker-registry") is None:
        pytest.skip("needs docker-registry")
    name = f"{registry.host}/team/back:v1"
    build(name)
    digest = push(docker, name)
    assert registry.stop() == 0
    port = free_port()
    config = tmp_path / "go.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path / 'hatoba-data'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    start("docker-registry", "serve", config, name="go")
    docker("rmi", "-f", name)
    there = f"127.0.0.1:{port}/team/back"
    for _ in range(50):
        pulled = docker("pull", f"{there}:v1", check=False)
        if pulled.returncode == 0:
            break
    assert digest in pulled.stdout
    assert docker("run", "--rm", f"{there}@{digest}", "echo", "back").stdout == "back\n"
