"""skopeo: an index of two platforms keeps its digests wherever it is copied."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile

import pytest

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture
def registry(start, e2e, free_port):
    if shutil.which("skopeo") is None:
        pytest.skip("needs skopeo")
    port = free_port()
    server = start(e2e.HATOBA, "serve", "--addr", f"127.0.0.1:{port}").ready()
    server.host = f"127.0.0.1:{port}"
    server.password = re.search(r"user admin and password (\S+)", server.out)[1]
    return server


@pytest.fixture
def skopeo(registry):
    def run(*arguments: object, check: bool = True) -> str:
        done = subprocess.run(["skopeo", *map(str, arguments)], text=True, capture_output=True, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout if done.returncode == 0 else ""

    return run


@pytest.fixture
def reach(registry):
    """Options that reach the registry, as source, destination or the only one."""

    def options(*sides: str) -> list[str]:
        prefixes = [f"--{side}-" if side else "--" for side in sides]
        return [
            option for at in prefixes for option in (f"{at}tls-verify=false", f"{at}creds=admin:{registry.password}")
        ]

    return options


class Layout:
    """An OCI layout folder with an index of two platforms."""

    def __init__(self, folder) -> None:
        self.folder = folder
        (folder / "blobs/sha256").mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        entries = [self.image(architecture) for architecture in ("amd64", "arm64")]
        self.index = self.add(self.json(mediaType=INDEX, manifests=entries), INDEX)
        (folder / "index.json").write_bytes(self.json(manifests=[self.index]))

    def json(self, **fields) -> bytes:
        return json.dumps({"schemaVersion": 2, **fields}).encode()

    def add(self, content: bytes, media_type: str, **fields) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        (self.folder / "blobs/sha256" / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content), **fields}

    def image(self, architecture: str) -> dict[str, object]:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            member = tarfile.TarInfo(f"{architecture}.txt")
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
        plain = packed.getvalue()
        layer = self.add(gzip.compress(plain, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")
        config = {
            "architecture": architecture,
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(plain).hexdigest()}"]},
        }
        described = self.add(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json")
        manifest = self.json(mediaType=MANIFEST, config=described, layers=[layer])
        return self.add(manifest, MANIFEST, platform={"os": "linux", "architecture": architecture})


def test_index_of_two_platforms(registry, skopeo, reach, tmp_path):
    layout = Layout(tmp_path / "layout")
    first, second = (f"docker://{registry.host}/{name}" for name in ("team/multi:v1", "other/multi:v2"))
    skopeo("copy", "--all", *reach("dest"), f"oci:{layout.folder}", first)
    skopeo("copy", "--all", *reach("src", "dest"), first, second)
    skopeo("copy", "--all", *reach("src"), second, f"oci:{tmp_path / 'back'}:v")
    raws = [skopeo("inspect", "--raw", *reach(""), where) for where in (first, second)]
    raws.append((tmp_path / "back/blobs/sha256" / str(layout.index["digest"])[7:]).read_text())
    assert {hashlib.sha256(raw.encode()).hexdigest() for raw in raws} == {str(layout.index["digest"])[7:]}
    for architecture in ("amd64", "arm64"):
        shown = json.loads(skopeo("--override-arch", architecture, "inspect", *reach(""), first))
        assert shown["Architecture"] == architecture
        assert shown["RepoTags"] == ["v1"]


def test_list_and_delete(registry, skopeo, reach, tmp_path):
    layout = Layout(tmp_path / "layout")
    where = f"docker://{registry.host}/team/tags"
    for tag in ("b", "a"):
        skopeo("copy", "--all", *reach("dest"), f"oci:{layout.folder}", f"{where}:{tag}")
    assert json.loads(skopeo("list-tags", *reach(""), where))["Tags"] == ["a", "b"]
    skopeo("delete", *reach(""), f"{where}:a")
    assert json.loads(skopeo("list-tags", *reach(""), where))["Tags"] == []


def test_docker_schema_by_conversion(registry, skopeo, reach, tmp_path):
    layout = Layout(tmp_path / "layout")
    where = f"docker://{registry.host}/team/converted:v1"
    skopeo("copy", "--format", "v2s2", *reach("dest"), f"oci:{layout.folder}", where)
    kind = json.loads(skopeo("inspect", "--raw", *reach(""), where))["mediaType"]
    assert kind == "application/vnd.docker.distribution.manifest.v2+json"
