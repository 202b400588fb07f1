"""end-7: what a manifest may hold, what is refused, and that what is refused changes nothing."""

from __future__ import annotations

import asyncio
import json
import os

import pytest


@pytest.mark.parametrize("sent", ["application/json", "application/octet-stream", "text/plain", "x"])
async def test_content_type_that_is_no_manifest_type(wire, kit, sent):
    """A Content-Type that disagrees with the body is MANIFEST_INVALID (issue 2)."""
    image = await wire.image()
    answer = await wire("PUT", wire.manifest_path("t"), content=image.body, headers={"content-type": sent})
    kit.check_error(answer, 400, "MANIFEST_INVALID")


@pytest.mark.parametrize("sent", ["OCI_MANIFEST", "DOCKER_MANIFEST", "OCI_INDEX", "DOCKER_LIST"])
@pytest.mark.parametrize("body_type", ["OCI_MANIFEST", "DOCKER_MANIFEST", "OCI_INDEX", "DOCKER_LIST", None])
async def test_content_type_and_body(wire, kit, sent, body_type):
    config = await wire.push_blob(kit.Content(b"{}", kit.EMPTY_CONFIG))
    body = {"schemaVersion": 2, "config": config.descriptor, "layers": []}
    if body_type in {"OCI_INDEX", "DOCKER_LIST"}:
        body = {"schemaVersion": 2, "manifests": []}
    if body_type:
        body["mediaType"] = getattr(kit, body_type)
    headers = {"content-type": getattr(kit, sent)}
    answer = await wire("PUT", wire.manifest_path("t"), content=json.dumps(body).encode(), headers=headers)
    if sent == (body_type or "OCI_MANIFEST"):
        assert answer.status_code == 201
    else:
        kit.check_error(answer, 400, "MANIFEST_INVALID")


async def test_same_descriptor_many_times(wire, kit):
    empty = await wire.push_blob(kit.Content(b"{}", kit.EMPTY_CONFIG))
    artifact = kit.manifest_of(empty, [empty, empty], artifactType="application/x.artifact")
    assert (await wire.push_manifest(artifact)).status_code == 201
    index = kit.index_of([artifact, artifact])
    assert (await wire.push_manifest(index, "t")).status_code == 201


async def test_zero_byte_layer(wire, kit):
    config = await wire.push_blob(kit.Content(kit.random_json(), kit.OCI_CONFIG))
    layer = await wire.push_blob(kit.Content(b"", "application/vnd.oci.image.layer.v1.tar"))
    assert (await wire.push_manifest(kit.manifest_of(config, [layer]), "t")).status_code == 201


async def test_index_of_blobs(wire, kit):
    """An index may list content that is no manifest (image-spec): buildx keeps its cache so."""
    layer = await wire.push_blob(kit.Content(os.urandom(50), kit.OCI_LAYER))
    cache = await wire.push_blob(kit.Content(kit.random_json(), "application/vnd.buildkit.cacheconfig.v0"))
    index = kit.index_of([layer, cache])
    assert (await wire.push_manifest(index, "cache")).status_code == 201
    assert (await wire("GET", wire.manifest_path("cache"))).content == index.body


async def test_sha512_descriptors(wire, kit):
    body = kit.random_json()
    digest = kit.digest_of(body, "sha512")
    start = await wire.start(query="?digest-algorithm=sha512")
    assert (await wire("PUT", kit.closing(start, digest), content=body)).status_code == 201
    config = {"mediaType": kit.OCI_CONFIG, "digest": digest, "size": len(body)}
    manifest = json.dumps({"schemaVersion": 2, "mediaType": kit.OCI_MANIFEST, "config": config, "layers": []}).encode()
    named = kit.digest_of(manifest, "sha512")
    answer = await wire("PUT", wire.manifest_path(named), content=manifest, headers={"content-type": kit.OCI_MANIFEST})
    assert (answer.status_code, answer.headers["docker-content-digest"]) == (201, named)
    entry = {"mediaType": kit.OCI_MANIFEST, "digest": named, "size": len(manifest)}
    index = json.dumps({"schemaVersion": 2, "mediaType": kit.OCI_INDEX, "manifests": [entry]}).encode()
    assert (await wire.push_manifest(kit.Content(index, kit.OCI_INDEX), "t")).status_code == 201


async def test_one_manifest_under_two_digests(wire, kit):
    image = await wire.push_image("v1")
    named = kit.digest_of(image.body, "sha512")
    assert (await wire.push_manifest(image, named)).status_code == 201
    for digest in (image.digest, named):
        answer = await wire("GET", wire.manifest_path(digest))
        assert (answer.content, answer.headers["docker-content-digest"]) == (image.body, digest)
    assert (await wire("DELETE", wire.manifest_path(named))).status_code == 202
    assert (await wire("GET", wire.manifest_path("v1"))).content == image.body


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"no json",
        b"[]",
        b'{"os": 5, "architecture": null, "created": 7}',
        b'{"created": "0001-01-01T00:00:00Z"}',
        b'{"created": "0001-01-01T00:00:00+14:00"}',
        b'{"created": "9999-12-31T23:59:59.999999999-14:00"}',
        b'{"created": "2026-11-24T09:00:00.123456789Z"}',
        b'{"created": ""}',
        b'{"created": "yesterday"}',
        b'{"os": "\\ud800", "architecture": "a\\u0000b"}',
        b"[" * 100_000,
        b'{"n": ' + b"9" * 10_000 + b"}",
    ],
    ids=range(13),
)
async def test_any_config(wire, kit, config):
    """With any config and layer types, whatever the config holds (issue 2)."""
    config = await wire.push_blob(kit.Content(config, kit.OCI_CONFIG))
    manifest = kit.manifest_of(config, [])
    assert (await wire.push_manifest(manifest, "t")).status_code == 201
    assert (await wire("GET", wire.manifest_path("t"))).content == manifest.body


@pytest.mark.parametrize(
    "fields",
    [
        {"annotations": {"n": "a\u0000b"}},
        {"annotations": {"n": "\U0001f433"}},
        {"annotations": {}},
        {"annotations": None},
        {"x": int("9" * 4000)},
        {"x": 1e300},
        {"artifactType": "application/vnd.x+json"},
        {"artifactType": ""},
        {"subject": None},
    ],
    ids=str,
)
async def test_odd_fields_are_kept(wire, kit, fields):
    config = await wire.push_blob(kit.Content(b"{}", kit.EMPTY_CONFIG))
    manifest = kit.manifest_of(config, [], **fields)
    assert (await wire.push_manifest(manifest, "t")).status_code == 201
    assert (await wire("GET", wire.manifest_path("t"))).content == manifest.body


async def test_broken_text_is_no_defect(wire, kit):
    """Lone surrogates are JSON to some and not to others: taken or refused, never a 500 (checked for every answer)."""
    config = await wire.push_blob(kit.Content(b"{}", kit.EMPTY_CONFIG))
    for fields in ({"artifactType": "x/\ud800"}, {"annotations": {"\ud800": "\udfff"}}, {"x": "\ud800"}):
        for subject in ({}, {"subject": {"mediaType": kit.OCI_MANIFEST, "digest": kit.ABSENT, "size": 1}}):
            answer = await wire.push_manifest(kit.manifest_of(config, [], **fields, **subject), "t")
            assert answer.status_code in {201, 400}
    assert (await wire("GET", f"/v2/{wire.repository}/referrers/{kit.ABSENT}")).status_code == 200


async def test_subject_of_an_algorithm_nobody_knows(wire, kit):
    """Unknown algorithms that fit the grammar SHOULD pass validation (3.1), and a subject need not exist (3.4)."""
    config = await wire.push_blob(kit.Content(b"{}", kit.EMPTY_CONFIG))
    subject = {"mediaType": kit.OCI_MANIFEST, "digest": "blake3:" + "a" * 64, "size": 1}
    answer = await wire.push_manifest(kit.manifest_of(config, [], subject=subject), "t")
    assert answer.status_code == 201
    assert answer.headers["oci-subject"] == subject["digest"]


async def test_missing_config_and_layers_are_listed(wire, kit):
    absent = kit.Content(os.urandom(10), kit.OCI_LAYER)
    config = kit.Content(os.urandom(10), kit.OCI_CONFIG)
    answer = await wire.push_manifest(kit.manifest_of(config, [absent, absent]), "t")
    kit.check_error(answer, 400, "MANIFEST_BLOB_UNKNOWN")
    assert set(kit.missing(answer)) == {config.digest, absent.digest}


async def test_refused_push_moves_no_tag(wire, kit):
    image = await wire.push_image("v1")
    absent = kit.manifest_of(kit.Content(b"?", kit.OCI_CONFIG), [])
    kit.check_error(await wire.push_manifest(absent, "v1"), 400, "MANIFEST_BLOB_UNKNOWN")
    assert (await wire("GET", wire.manifest_path("v1"))).content == image.body
    assert (await wire("GET", wire.manifest_path(absent.digest))).status_code == 404


async def test_blob_is_no_manifest(wire, kit):
    blob = await wire.push_blob(kit.Content(kit.random_json(), kit.OCI_CONFIG))
    kit.check_error(await wire("GET", wire.manifest_path(blob.digest)), 404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_unknown_in_an_unknown_repository(wire, kit, method):
    for reference in ("v1", kit.ABSENT):
        answer = await wire(method, wire.manifest_path(reference, wire.fresh()))
        assert answer.status_code == 404
        if method == "GET":
            assert kit.code_of(answer) in {"MANIFEST_UNKNOWN", "NAME_UNKNOWN"}


@pytest.mark.parametrize(
    "reference", ["sha256:baddigeststring", "sha256:" + "A" * 64, "sha256:", "x:y", "sha512:" + "a" * 64]
)
async def test_push_by_a_digest_that_is_none(wire, kit, reference):
    image = await wire.image()
    kit.check_error(await wire.push_manifest(image, reference), 400, "DIGEST_INVALID")


async def test_one_tag_from_many_clients_at_once(wire):
    images = [await wire.image() for _ in range(6)]
    answers = await asyncio.gather(*(wire.push_manifest(image, "v1") for image in images))
    assert {answer.status_code for answer in answers} == {201}
    answer = await wire("GET", wire.manifest_path("v1"))
    assert answer.content in {image.body for image in images}
    for image in images:
        assert (await wire("GET", wire.manifest_path(image.digest))).content == image.body
