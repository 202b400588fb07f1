"""Descriptors: lenient with what hatoba does not use, strict with digest and size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hatoba.oci.descriptor import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    FOREIGN_LAYERS,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
)
from hatoba.oci.digest import Digest

DIGEST = "sha256:" + "0123456789abcdef" * 4
MINIMAL = {"mediaType": "a/b", "digest": DIGEST, "size": 1}


def read(**fields):
    return Descriptor.model_validate({**MINIMAL, **fields})


def test_minimal():
    found = read()
    assert (found.media_type, found.digest, found.size) == ("a/b", Digest.parse(DIGEST), 1)
    assert (found.urls, found.artifact_type, found.annotations, found.platform) == ([], None, None, None)
    assert not found.foreign


def test_everything():
    found = read(
        urls=["https://a.example/x"],
        artifactType="c/d",
        annotations={"k": "", "ü": "値"},
        platform={"architecture": "arm", "os": "linux", "variant": "v7", "os.version": "1", "os.features": ["x"]},
        data="e30=",
    )
    assert found.urls == ["https://a.example/x"]
    assert found.artifact_type == "c/d"
    assert found.annotations == {"k": "", "ü": "値"}
    assert (found.platform.architecture, found.platform.os, found.platform.variant) == ("arm", "linux", "v7")


def test_type_may_be_missing():
    found = Descriptor.model_validate({"digest": DIGEST, "size": 0})
    assert found.media_type == ""


@pytest.mark.parametrize("extra", [{"data": 5}, {"unknown": [1, {"x": None}]}, {"platform": {"os": "linux", "x": 1}}])
def test_unknown_fields_pass(extra):
    assert read(**extra).size == 1


@pytest.mark.parametrize("size", [0, 1, 2**31, 2**53 + 1, 2**63 - 1])
def test_sizes(size):
    assert read(size=size).size == size


BAD_SIZES = [-1, -(2**63), 2**63, 2**64, 10**4000, True, False, 1.0, 1.5, float("nan"), float("inf"), "1", None, [], {}]


@pytest.mark.parametrize("size", BAD_SIZES, ids=lambda size: repr(size)[:12] if not isinstance(size, int) else None)
def test_bad_sizes(size):
    with pytest.raises(ValidationError):
        read(size=size)


@pytest.mark.parametrize("field", ["digest", "size"])
def test_demanded(field):
    with pytest.raises(ValidationError):
        Descriptor.model_validate({name: value for name, value in MINIMAL.items() if name != field})


@pytest.mark.parametrize(
    "digest",
    [
        None,
        5,
        True,
        [],
        {},
        b"x",
        "",
        "latest",
        DIGEST + "\n",
        DIGEST.upper(),
        "md5:" + "a" * 32,
        "\ud800",
        "a" * 10_000,
    ],
)
def test_bad_digests(digest):
    with pytest.raises(ValidationError):
        read(digest=digest)


@pytest.mark.parametrize(
    "fields",
    [
        {"mediaType": None},
        {"mediaType": 5},
        {"mediaType": "a/" + "b" * 254},
        {"urls": "https://a.example"},
        {"urls": [5]},
        {"artifactType": 5},
        {"annotations": []},
        {"annotations": {"k": 1}},
        {"annotations": {"k": None}},
        {"platform": []},
        {"platform": {"os": 5}},
    ],
    ids=repr,
)
def test_bad_fields(fields):
    with pytest.raises(ValidationError):
        read(**fields)


def test_a_digest_is_taken_as_it_is():
    digest = Digest.of(b"x", "sha512")
    found = read(digest=digest)
    assert found.digest is digest
    assert found.model_dump()["digest"] == str(digest)


def test_only_the_names_of_the_spec_count():
    found = Descriptor.model_validate({"media_type": "a/b", "artifact_type": "c/d", "digest": DIGEST, "size": 1})
    assert (found.media_type, found.artifact_type) == ("", None)


def test_frozen():
    with pytest.raises(ValidationError):
        read().size = 2


@pytest.mark.parametrize(
    ("media_type", "foreign"),
    [
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", True),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar", True),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", True),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", True),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", True),
        ("application/vnd.oci.image.layer.v1.tar+gzip", False),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", False),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip ", False),
        ("Application/vnd.oci.image.layer.nondistributable.v1.tar", False),
        ("", False),
    ],
)
def test_foreign(media_type, foreign):
    assert read(mediaType=media_type).foreign is foreign


def test_urls_alone_do_not_make_it_foreign():
    assert not read(urls=["https://a.example/x"]).foreign


def test_the_constants_are_the_specs():
    assert len(FOREIGN_LAYERS) == 5
    assert OCI_MANIFEST == "application/vnd.oci.image.manifest.v1+json"
    assert OCI_INDEX == "application/vnd.oci.image.index.v1+json"
    assert DOCKER_MANIFEST == "application/vnd.docker.distribution.manifest.v2+json"
    assert DOCKER_LIST == "application/vnd.docker.distribution.manifest.list.v2+json"
    assert {OCI_INDEX, DOCKER_LIST} == INDEX_TYPES
    assert INDEX_TYPES | {OCI_MANIFEST, DOCKER_MANIFEST} == MANIFEST_TYPES


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys([*MINIMAL, "urls", "annotations", "platform"], anything)))
def test_any_values(fields):
    """Read or refused, never another error; and what is read fits a database's integer."""
    try:
        found = read(**fields)
    except ValidationError:
        return
    assert type(found.size) is int
    assert 0 <= found.size < 2**63
