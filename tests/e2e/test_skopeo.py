"""skopeo: an index of two platforms keeps its digests wherever it is copied; listing and deleting by another client."""

from __future__ import annotations

import hashlib
import json
import subprocess

import pytest

from hatoba.testing.images import index_of, random_image

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@pytest.fixture
def registry(serving, e2e, free_port, tmp_path):
    e2e.needed("skopeo")
    with serving(tmp_path / "data", "--addr", f"127.0.0.1:{free_port()}") as server:
        yield server
    assert server.errors == []


@pytest.fixture
def skopeo(registry):
    """skopeo("copy", …): names that begin with a slash are repositories of the registry."""

    def run(command: str, *arguments: object, check: bool = True) -> str:
        sides = ("src-", "dest-") if command == "copy" else ("",)
        options = [f"--{side}tls-verify=false" for side in sides]
        options += [f"--{side}creds=admin:{registry.password}" for side in sides]
        names = [str(argument) for argument in arguments]
        names = [f"docker://{registry.host}{name}" if name.startswith("/") else name for name in names]
        done = subprocess.run(["skopeo", command, *options, *names], text=True, capture_output=True, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout if done.returncode == 0 else ""

    return run


@pytest.fixture
def tags(skopeo):
    return lambda name: json.loads(skopeo("list-tags", name))["Tags"]


class Layout:
    """An OCI layout folder with an index of two platforms."""

    def __init__(self, folder) -> None:
        index = index_of([random_image(seed=0), random_image(seed=1)])
        self.folder = folder
        self.digest = str(index.manifest.digest)
        self.images = {image.platform["architecture"]: str(image.manifest.digest) for image in index.images}
        (folder / "blobs/sha256").mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [index.manifest.descriptor]}))
        for image in index.images:
            for content in (index.manifest, image.manifest, *image.blobs):
                (folder / "blobs/sha256" / content.digest.encoded).write_bytes(content.body)


@pytest.fixture
def layout(tmp_path):
    found = Layout(tmp_path / "layout")
    assert sorted(found.images) == ["amd64", "arm64"]
    return found


def digest_of(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def test_index_of_two_platforms_between_repositories(skopeo, layout):
    first, second = "/team/multi:v1", "/other/multi:v2"
    skopeo("copy", "--all", f"oci:{layout.folder}", first)
    skopeo("copy", "--all", first, second)
    for name in (first, second):
        assert digest_of(skopeo("inspect", "--raw", name)) == layout.digest
        for architecture, digest in layout.images.items():
            shown = json.loads(skopeo("inspect", f"--override-arch={architecture}", name))
            assert shown["Architecture"] == architecture
            assert shown["RepoTags"] == [name.partition(":")[2]]
            child = f"{name.partition(':')[0]}@{digest}"
            assert digest_of(skopeo("inspect", "--raw", child)) == digest


def test_out_to_a_layout_and_to_a_folder_and_back(skopeo, layout, tmp_path):
    skopeo("copy", "--all", f"oci:{layout.folder}", "/team/multi:v1")
    skopeo("copy", "--all", "/team/multi:v1", f"oci:{tmp_path / 'oci'}:v1")
    ours = {path.name: path.read_bytes() for path in (layout.folder / "blobs/sha256").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "oci/blobs/sha256").iterdir()} == ours
    skopeo("copy", "--all", "/team/multi:v1", f"dir:{tmp_path / 'dir'}")
    assert digest_of((tmp_path / "dir/manifest.json").read_text()) == layout.digest
    for number, source in enumerate((f"oci:{tmp_path / 'oci'}:v1", f"dir:{tmp_path / 'dir'}")):
        skopeo("copy", "--all", source, f"/back/from{number}:v1")
        assert digest_of(skopeo("inspect", "--raw", f"/back/from{number}:v1")) == layout.digest


def test_one_platform_alone(skopeo, layout):
    skopeo("copy", "--all", f"oci:{layout.folder}", "/team/multi:v1")
    skopeo("copy", "--override-arch=arm64", "/team/multi:v1", "/team/one:v1")
    assert digest_of(skopeo("inspect", "--raw", "/team/one:v1")) == layout.images["arm64"]


def test_list_and_delete(skopeo, layout, tags):
    skopeo("copy", "--all", f"oci:{layout.folder}", "/team/tags:b")
    skopeo("copy", "--all", f"oci:{layout.folder}", "/team/tags:a")
    skopeo("copy", "--override-arch=arm64", f"oci:{layout.folder}", "/team/tags:B")
    assert tags("/team/tags") == ["B", "a", "b"]
    skopeo("delete", "/team/tags:a")  # by the digest behind it: both tags go
    assert tags("/team/tags") == ["B"]
    assert skopeo("inspect", "--raw", "/team/tags:b", check=False) == ""
    assert skopeo("inspect", "--raw", f"/team/tags@{layout.digest}", check=False) == ""
    assert digest_of(skopeo("inspect", "--raw", "/team/tags:B")) == layout.images["arm64"]
    skopeo("delete", "/team/tags:B")
    assert tags("/team/tags") == []
    skopeo("copy", "--all", f"oci:{layout.folder}", "/team/tags:a")
    assert digest_of(skopeo("inspect", "--raw", "/team/tags:a")) == layout.digest


def test_docker_schema_by_conversion(skopeo, layout):
    skopeo("copy", "--format", "v2s2", f"oci:{layout.folder}", "/team/converted:v1")
    assert json.loads(skopeo("inspect", "--raw", "/team/converted:v1"))["mediaType"] == DOCKER_MANIFEST
