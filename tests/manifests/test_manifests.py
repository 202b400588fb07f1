"""Every shape goes in, comes back byte for byte and stands in the listings (see README.md)."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from hatoba.config.load import load
from hatoba.oci import manifest
from hatoba.wiring import serving

HERE = Path(__file__).parent
FILES = sorted((HERE / "shapes").glob("*.json"))
NAMES = [path.stem for path in FILES]
REPOSITORY = "shapes/app"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def read(name):
    return json.loads((HERE / "shapes" / f"{name}.json").read_text(encoding="utf-8"))


def digest_of(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture
async def http(tmp_path):
    options = {"storage.filesystem.rootdirectory": str(tmp_path / "root"), "http.addr": "127.0.0.1:5000"}
    async with (
        serving.running(load(None, {}, options).settings) as app,
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://registry.test") as client,
    ):
        yield client


@pytest.fixture(params=NAMES)
def shape(request):
    return read(request.param)


async def push_blobs(http, shape):
    for encoded in shape["blobs"]:
        content = base64.b64decode(encoded)
        started = await http.post(f"/v2/{REPOSITORY}/blobs/uploads/")
        assert started.status_code == 202, started.text
        where = httpx.URL(started.headers["location"]).copy_merge_params({"digest": digest_of(content)})
        answer = await http.put(where, content=content, headers={"content-type": "application/octet-stream"})
        assert answer.status_code == 201, answer.text


async def put(http, entry, reference):
    return await http.put(
        f"/v2/{REPOSITORY}/manifests/{reference}",
        content=entry["body"].encode(),
        headers={"content-type": entry["media_type"]},
    )


async def push(http, shape):
    """Blobs, then each manifest by digest and under its tags, as clients do."""
    await push_blobs(http, shape)
    for entry in shape["manifests"]:
        for reference in (entry["digest"], *entry["tags"]):
            answer = await put(http, entry, reference)
            assert answer.status_code == 201, answer.text
            assert answer.headers["docker-content-digest"] == entry["digest"]
            assert answer.headers["location"] == f"/v2/{REPOSITORY}/manifests/{reference}"
            assert answer.headers.get("oci-subject") == entry["subject"]


def test_there_are_shapes():
    assert len(NAMES) >= 20


def test_the_script_gives_the_files_kept_here(tmp_path):
    subprocess.run([sys.executable, HERE / "make_shapes.py", tmp_path], check=True, timeout=60)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {p.name: p.read_bytes() for p in FILES}


def test_a_shape_is_whole(shape):
    """Digests are of the bytes, sizes are right, and whatever a manifest names stands before it."""
    sizes = {digest_of(content): len(content) for content in map(base64.b64decode, shape["blobs"])}
    assert "," in shape["source"]
    for entry in shape["manifests"]:
        body = json.loads(entry["body"])
        assert digest_of(entry["body"].encode()) == entry["digest"]
        assert body.get("mediaType", OCI_MANIFEST) == entry["media_type"]
        named = [*body.get("layers", []), *body.get("manifests", [])]
        named += [body[field] for field in ("config", "subject") if field in body]
        for descriptor in named:
            if "urls" not in descriptor:
                assert sizes[descriptor["digest"]] == descriptor["size"]
        sizes[entry["digest"]] = len(entry["body"].encode())


def test_what_is_read_from_it(shape):
    for entry in shape["manifests"]:
        parsed = manifest.parse(entry["body"].encode())
        assert parsed.media_type == entry["media_type"]
        assert parsed.artifact_type == entry["artifact_type"]
        assert (str(parsed.subject.digest) if parsed.subject else None) == entry["subject"]


async def test_pulled_back_byte_for_byte(http, shape):
    await push(http, shape)
    for entry in shape["manifests"]:
        for reference in (entry["digest"], *entry["tags"]):
            for method in ("HEAD", "GET"):
                answer = await http.request(method, f"/v2/{REPOSITORY}/manifests/{reference}")
                assert answer.status_code == 200
                assert answer.headers["content-type"] == entry["media_type"]
                assert answer.headers["docker-content-digest"] == entry["digest"]
                assert answer.headers["content-length"] == str(len(entry["body"].encode()))
                assert "warning" not in answer.headers
                assert answer.content == (entry["body"].encode() if method == "GET" else b"")
    for content in map(base64.b64decode, shape["blobs"]):
        answer = await http.get(f"/v2/{REPOSITORY}/blobs/{digest_of(content)}")
        assert (answer.status_code, answer.content) == (200, content)


CACHES = ["buildx-cache-index", "buildx-cache-docker-list"]


@pytest.mark.parametrize("name", CACHES)
async def test_a_blob_that_an_index_lists_is_in_use(http, name):
    """BuildKit's cache is an index of blobs: they are kept, and named as missing, like an image's layers."""
    shape = read(name)
    await push(http, shape)
    (entry,) = shape["manifests"]
    for content in map(base64.b64decode, shape["blobs"]):
        answer = await http.delete(f"/v2/{REPOSITORY}/blobs/{digest_of(content)}")
        assert answer.status_code == 405
        assert entry["digest"] in answer.text
    answer = await http.get(f"/v2/{REPOSITORY}/manifests/cache")
    assert (answer.status_code, answer.headers.get("warning")) == (200, None)


async def test_listed_by_tag(http, shape):
    await push(http, shape)
    tags = sorted(tag for entry in shape["manifests"] for tag in entry["tags"])
    answer = await http.get(f"/v2/{REPOSITORY}/tags/list")
    assert answer.json() == {"name": REPOSITORY, "tags": tags}


async def test_listed_as_referrers(http, shape):
    await push(http, shape)
    for entry in shape["manifests"]:
        expected = sorted(
            (listed(other) for other in shape["manifests"] if other["subject"] == entry["digest"]),
            key=lambda descriptor: descriptor["digest"],
        )
        answer = await http.get(f"/v2/{REPOSITORY}/referrers/{entry['digest']}")
        assert answer.status_code == 200
        assert answer.json()["manifests"] == expected
        for kind in {descriptor.get("artifactType") for descriptor in expected} - {None}:
            answer = await http.get(f"/v2/{REPOSITORY}/referrers/{entry['digest']}", params={"artifactType": kind})
            assert answer.json()["manifests"] == [d for d in expected if d["artifactType"] == kind]


def listed(entry):
    """The descriptor that a referrers listing shows (distribution-spec "Listing Referrers")."""
    body = json.loads(entry["body"])
    descriptor = {"mediaType": entry["media_type"], "digest": entry["digest"], "size": len(entry["body"].encode())}
    if entry["artifact_type"]:
        descriptor["artifactType"] = entry["artifact_type"]
    if body.get("annotations"):
        descriptor["annotations"] = body["annotations"]
    return descriptor


async def test_a_manifest_does_not_come_before_what_it_names(http, shape):
    """Nothing is pushed but the last manifest: it is refused, unless it names nothing that must be here."""
    entry = shape["manifests"][-1]
    answer = await put(http, entry, entry["digest"])
    body = json.loads(entry["body"])
    named = [*body.get("layers", []), *body.get("manifests", []), *([body["config"]] if "config" in body else [])]
    required = {d["digest"] for d in named if "urls" not in d}
    if not required:
        assert answer.status_code == 201
        return
    assert answer.status_code == 400
    errors = answer.json()["errors"]
    assert {error["code"] for error in errors} == {"MANIFEST_BLOB_UNKNOWN"}
    assert {error["detail"]["digest"] for error in errors} == required
