"""The images that tests push are real ones: readable tars, right digests, the same every time."""

import gzip
import hashlib
import io
import json
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hatoba.oci import config, manifest
from hatoba.oci.descriptor import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from hatoba.testing.images import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    OCI_CONFIG,
    OCI_LAYER,
    artifact,
    index_of,
    random_image,
)


def digest_of(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize(
    ("docker", "types"),
    [(False, (OCI_MANIFEST, OCI_CONFIG, OCI_LAYER)), (True, (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER))],
)
def test_an_image(docker, types):
    image = random_image(3, 5000, seed=7, docker=docker)
    body = json.loads(image.manifest.body)
    assert (body["schemaVersion"], body["mediaType"]) == (2, image.manifest.media_type)
    assert (body["mediaType"], body["config"]["mediaType"], body["layers"][0]["mediaType"]) == types
    named = [body["config"], *body["layers"]]
    assert len(image.blobs) == len(named) == 4
    for descriptor, content in zip(named, image.blobs, strict=True):
        assert descriptor == {
            "mediaType": content.media_type,
            "digest": digest_of(content.body),
            "size": len(content.body),
        }
    assert len({blob.body for blob in image.blobs}) == 4


def test_layers_are_gzip_tars():
    image = random_image(2, 3000, seed=1)
    diff_ids = json.loads(image.config.body)["rootfs"]["diff_ids"]
    for number, layer in enumerate(image.layers):
        tar = gzip.decompress(layer.body)
        assert digest_of(tar) == diff_ids[number]
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            (member,) = archive.getmembers()
            assert (member.name, member.size, member.isreg()) == (f"1/layer-{number}", 3000, True)
        assert len(layer.body) > 3000
        assert layer.body[4:8] == b"\0\0\0\0", "gzip's time would make every run another image"


def test_the_config_is_read():
    image = random_image(seed=1)
    found = config.parse(image.config.body)
    assert (found.os, found.architecture) == ("linux", "arm64")
    assert found.created is not None
    assert image.platform == {"os": "linux", "architecture": "arm64"}


@settings(max_examples=30)
@given(st.integers(0, 4), st.integers(0, 3000), st.integers(0, 2**64), st.booleans())
def test_the_same_for_the_same_seed(layers, layer_bytes, seed, docker):
    image = random_image(layers, layer_bytes, seed, docker=docker)
    assert image == random_image(layers, layer_bytes, seed, docker=docker)
    assert len(image.layers) == layers
    assert image.manifest.body != random_image(layers, layer_bytes, seed + 1, docker=docker).manifest.body
    parsed = manifest.parse(image.manifest.body)
    assert parsed.media_type == image.manifest.media_type
    assert [r.descriptor.digest for r in parsed.references] == [b.digest for b in (image.config, *image.layers)]


def test_another_one_without_seed():
    assert len({random_image().manifest.digest for _ in range(10)}) == 10
    assert len(random_image().layers) == 1


def test_pinned():
    """Not the gzip, which is zlib's affair: the tars of one seed, for ever."""
    diff_ids = json.loads(random_image(1, 10, seed=42).config.body)["rootfs"]["diff_ids"]
    assert diff_ids == ["sha256:6756f4b7b76a84203458c16f9b5249495b4bd25dafa841da7e088fe70bf6c930"]


@pytest.mark.parametrize(("docker", "media_type"), [(False, OCI_INDEX), (True, DOCKER_LIST)])
def test_an_index(docker, media_type):
    images = [random_image(seed=seed) for seed in range(3)]
    index = index_of(images, docker=docker)
    assert index.images == tuple(images)
    parsed = manifest.parse(index.manifest.body)
    assert parsed.media_type == index.manifest.media_type == media_type
    assert [str(r.descriptor.digest) for r in parsed.references] == [digest_of(i.manifest.body) for i in images]
    assert [p.architecture for p in parsed.platforms] == ["amd64", "arm64", "s390x"]


def test_an_index_of_nothing():
    assert manifest.parse(index_of([]).manifest.body).is_index


@pytest.mark.parametrize("subject", [random_image(seed=0), index_of([random_image(seed=0)])], ids=["image", "index"])
def test_an_artifact(subject):
    made = artifact(subject, "application/x.sbom", {"a": "1", "ü": "2"})
    parsed = manifest.parse(made.manifest.body)
    assert parsed.artifact_type == "application/x.sbom"
    assert parsed.annotations == {"a": "1", "ü": "2"}
    assert parsed.subject.digest == subject.manifest.digest
    assert parsed.subject.media_type == subject.manifest.media_type
    assert [blob.body for blob in made.blobs] == [b"{}"]
    assert made.platform is None


def test_an_artifact_without_annotations():
    assert b"annotations" not in artifact(random_image(), "a/b").manifest.body
    entry = json.loads(index_of([artifact(random_image(), "a/b")]).manifest.body)["manifests"][0]
    assert "platform" not in entry
