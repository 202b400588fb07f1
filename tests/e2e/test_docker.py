"""Docker's own clients: what people type, what lies on the disk afterwards, and the way back to Docker's registry."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request

import pytest

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
HEX = "[0-9a-f]{64}"
# distribution-compat.md 2.4; nothing else may lie in docker/ when no upload is under way.
LAYOUT = re.compile(
    rf"registry/v2/(blobs/sha256/([0-9a-f]{{2}})/\2[0-9a-f]{{62}}/data"
    r"|repositories/[a-z0-9/-]+/("
    rf"_layers/sha256/{HEX}/link"
    rf"|_manifests/revisions/sha256/{HEX}/link"
    rf"|_manifests/tags/[\w.-]+/(current|index/sha256/{HEX})/link))"
)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def registry(serving, root, docker, free_port):
    """A hatoba with sign-in and two workers, where `docker` is signed in."""
    with serving(root, "--addr", f"127.0.0.1:{free_port()}", "--workers", "2") as server:
        docker("login", server.host, "-u", "admin", "--password-stdin", stdin=server.password)
        yield server


@pytest.fixture
def skopeo(registry, e2e):
    e2e.needed("skopeo")

    def run(command: str, name: str, target: str = "") -> str:
        side = "src-" if target else ""
        options = [f"--{side}tls-verify=false", f"--{side}creds=admin:{registry.password}"]
        arguments = [command, *options, f"docker://{name}", *filter(None, [target])]
        done = subprocess.run(["skopeo", *arguments], text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def blob_file(root):
    """Where the bytes of a blob lie."""
    return lambda hexadecimal: root / "docker/registry/v2/blobs/sha256" / hexadecimal[:2] / hexadecimal / "data"


@pytest.fixture
def largest_layer(root, blob_file):
    """The digest, without its algorithm, of a repository's largest blob."""

    def find(name: str) -> str:
        links = root / "docker/registry/v2/repositories" / name / "_layers/sha256"
        return max((path.name for path in links.iterdir()), key=lambda found: blob_file(found).stat().st_size)

    return find


def test_wrong_password_and_none(registry, docker, build):
    name = build(f"{registry.host}/team/secret:v1")
    docker("logout", registry.host)
    done = docker("login", registry.host, "-u", "admin", "--password-stdin", stdin="wrong", check=False)
    assert done.returncode != 0
    assert "unauthorized" in done.stderr.lower()
    done = docker("push", name, check=False)
    assert done.returncode != 0
    assert re.search("no basic auth credentials|unauthorized", done.stderr + done.stdout)
    assert registry.errors == []


def test_push_pull_run_delete(registry, docker, build, skopeo):
    name = build(f"{registry.host}/team/app:v1")
    digest = docker.push(name)
    docker("rmi", "-f", name)
    assert digest in docker("pull", name).stdout
    assert docker("run", "--rm", name, "echo", "hello").stdout == "hello\n"
    docker("rmi", "-f", name)
    assert digest in docker("pull", f"{registry.host}/team/app:v1@{digest}").stdout
    docker("pull", name)

    again = docker("push", name).stdout
    assert again.count("Layer already exists") == 2
    assert digest in again
    latest = f"{registry.host}/team/app:latest"
    docker("tag", name, latest)
    assert docker.push(latest) == digest
    assert json.loads(skopeo("list-tags", f"{registry.host}/team/app"))["Tags"] == ["latest", "v1"]

    copy = f"{registry.host}/other/copy:v2"
    docker("tag", name, copy)
    assert docker("push", copy).stdout.count("Mounted from team/app") == 2
    skopeo("delete", name)
    assert docker("pull", name, check=False).returncode != 0
    docker("rmi", "-f", name, latest, copy)
    docker("pull", copy)
    assert docker("run", "--rm", copy, "echo", "still here").stdout == "still here\n"
    assert registry.errors == []


def test_tag_that_moves(registry, docker, build, skopeo, root):
    name = build(f"{registry.host}/team/moving:v1")
    first = docker.push(name)
    docker("tag", build("other-content"), name)
    second = docker.push(name)
    assert second != first
    docker("rmi", "-f", name, "other-content")
    assert second in docker("pull", name).stdout
    assert first in docker("pull", f"{registry.host}/team/moving@{first}").stdout
    tag = root / "docker/registry/v2/repositories/team/moving/_manifests/tags/v1"
    assert (tag / "current/link").read_bytes() == second.encode()
    assert {path.name for path in (tag / "index/sha256").iterdir()} == {first[7:], second[7:]}


def test_layer_lost_behind_our_back_is_healed_by_the_next_push(registry, docker, build, blob_file, largest_layer):
    name = build(f"{registry.host}/team/healed:v1")
    docker.push(name)
    lost = largest_layer("team/healed")
    content = blob_file(lost).read_bytes()
    blob_file(lost).unlink()
    assert docker("push", name).stdout.count("Pushed") == 1
    assert blob_file(lost).read_bytes() == content
    docker("rmi", "-f", name)
    docker("pull", name)
    assert docker("run", "--rm", name, "echo", "whole").stdout == "whole\n"
    (error,) = registry.errors
    assert "missing or of another size" in error
    assert lost in error


def test_layer_cut_short_is_not_served(registry, docker, build, skopeo, blob_file, largest_layer, tmp_path):
    name = build(f"{registry.host}/team/cut:v1")
    docker.push(name)
    file = blob_file(largest_layer("team/cut"))
    content = file.read_bytes()
    file.chmod(0o644)
    with file.open("r+b") as opened:
        opened.truncate(len(content) - 1)
    with pytest.raises(AssertionError, match="404"):
        skopeo("copy", name, f"dir:{tmp_path / 'cut'}")
    docker.push(name)
    assert file.read_bytes() == content
    skopeo("copy", name, f"dir:{tmp_path / 'whole'}")
    assert len(registry.errors) == 1


def test_tree_is_distributions(registry, docker, build, root):
    name = build(f"{registry.host}/team/tree:v1")
    digest = docker.push(name)
    repository = root / "docker/registry/v2/repositories/team/tree"
    assert (repository / "_manifests/tags/v1/current/link").read_bytes() == digest.encode()
    assert (repository / f"_manifests/tags/v1/index/sha256/{digest[7:]}/link").read_bytes() == digest.encode()
    assert (repository / f"_manifests/revisions/sha256/{digest[7:]}/link").read_bytes() == digest.encode()
    layers = list((repository / "_layers/sha256").iterdir())
    assert len(layers) == 3  # a config and two layers
    for folder in layers:
        assert (folder / "link").read_bytes() == f"sha256:{folder.name}".encode()
    paths = [path.relative_to(root / "docker") for path in (root / "docker").rglob("*") if path.is_file()]
    assert [str(path) for path in paths if not LAYOUT.fullmatch(str(path))] == []
    assert {path.name for path in root.iterdir()} == {"docker", "hatoba"}


def ask(host: str, path: str) -> tuple[str | None, dict]:
    """GET without sign-in: the digest in the header, and the JSON; nothing of an error's."""
    request = urllib.request.Request(f"http://{host}{path}", headers={"Accept": DOCKER_MANIFEST})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return answer.headers["Docker-Content-Digest"], json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return None, {"status": error.code}


def contents(host: str) -> dict[str, str | None]:
    """Every tag of every repository, as the registry at `host` lists them, with its digest."""
    found = {}
    for name in ask(host, "/v2/_catalog")[1]["repositories"]:
        for tag in ask(host, f"/v2/{name}/tags/list")[1]["tags"] or []:
            found[f"{name}:{tag}"] = ask(host, f"/v2/{name}/manifests/{tag}")[0]
    return found


def go_config(folder, host: str):
    path = folder.with_suffix(".yml")
    path.write_text(f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}}}}}\nhttp: {{addr: '{host}'}}\n")
    return path


def test_dockers_registry_takes_the_folder_over(registry, docker, build, e2e, start, serving, config, free_port, root):
    """Swap back on any day: the same tags and digests, nothing that its collector would delete, and pulls work."""
    e2e.needed("docker-registry")
    pushed = {}
    for name in ("app:v1", "team/deep/er:1.0", "team/deep/er:latest"):
        pushed[name] = docker.push(build(f"{registry.host}/{name}"))
    docker("tag", f"{registry.host}/app:v1", f"{registry.host}/team/mounted:v1")
    pushed["team/mounted:v1"] = docker.push(f"{registry.host}/team/mounted:v1")
    docker("tag", build("second"), f"{registry.host}/app:v1")
    pushed["app:v1"] = docker.push(f"{registry.host}/app:v1")
    assert registry.stop() == 0

    with serving(None, config(f"http: {{addr: '127.0.0.1:{free_port()}'}}\n"), name="anonymous") as anonymous:
        assert contents(anonymous.host) == pushed
    copy = shutil.copytree(root, root.with_name("copy"))
    host = f"127.0.0.1:{free_port()}"
    collected = subprocess.run(
        ["docker-registry", "garbage-collect", go_config(copy, host)], capture_output=True, text=True, check=True
    )
    assert "13 blobs marked, 0 blobs and 0 manifests eligible for deletion" in collected.stdout
    go = start("docker-registry", "serve", go_config(copy, host), name="go")
    e2e.wait_for(lambda: "listening on" in go.err, lambda: go.err)
    assert contents(host) == pushed
    for name, digest in pushed.items():
        docker("rmi", "-f", f"{registry.host}/{name}", "second", check=False)
        assert digest in docker("pull", f"{host}/{name}").stdout
        assert docker("run", "--rm", f"{host}/{name}@{digest}", "echo", "back").stdout == "back\n"
    assert go.process.poll() is None
