"""end-3 and end-7: pushing and pulling manifests."""

from __future__ import annotations

import json
import os

import httpx
import pytest


async def chunked(body: bytes):
    yield body[:10]
    yield body[10:]


async def test_push_by_tag_and_pull(wire, kit):
    image = await wire.image()
    answer = await wire.push_manifest(image, "v1")
    assert answer.status_code == 201
    assert answer.headers["docker-content-digest"] == image.digest
    assert httpx.URL(answer.headers["location"]).path.startswith(f"/v2/{wire.repository}/manifests/")
    for reference in ("v1", image.digest):
        answer = await wire("GET", wire.manifest_path(reference))
        assert answer.status_code == 200
        assert answer.content == image.body
        assert answer.headers["content-type"] == kit.OCI_MANIFEST
        assert answer.headers["docker-content-digest"] == image.digest
        assert answer.headers["content-length"] == str(len(image.body))
        assert answer.headers["etag"] == f'"{image.digest}"'
        answer = await wire("HEAD", wire.manifest_path(reference))
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-length"] == str(len(image.body))
        assert answer.headers["content-type"] == kit.OCI_MANIFEST


async def test_location_is_pullable(wire):
    image = await wire.image()
    answer = await wire.push_manifest(image)
    assert (await wire("GET", answer.headers["location"])).content == image.body


@pytest.mark.parametrize("accept", ["", "*/*", "text/html", "application/vnd.docker.distribution.manifest.v1+json"])
async def test_stored_type_whatever_accept_says(wire, kit, accept):
    await wire.push_image("v1")
    answer = await wire("GET", wire.manifest_path("v1"), headers={"accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, kit.OCI_MANIFEST)


async def test_if_none_match(wire):
    image = await wire.push_image("v1")
    for reference in ("v1", image.digest):
        headers = {"if-none-match": f'"{image.digest}"'}
        answer = await wire("GET", wire.manifest_path(reference), headers=headers)
        assert (answer.status_code, answer.content) == (304, b"")
    assert (await wire("GET", wire.manifest_path("v1"), headers={"if-none-match": '"x"'})).status_code == 200


async def test_chunked_body(wire):
    image = await wire.image()
    answer = await wire(
        "PUT", wire.manifest_path("v1"), content=chunked(image.body), headers={"content-type": image.media_type}
    )
    assert answer.status_code == 201
    assert (await wire("GET", wire.manifest_path("v1"))).content == image.body


@pytest.mark.parametrize("media_type", ["OCI_MANIFEST", "DOCKER_MANIFEST"])
async def test_image_types(wire, kit, media_type):
    config = await wire.push_blob(kit.Content(kit.random_json(), "application/vnd.docker.container.image.v1+json"))
    manifest = kit.manifest_of(config, [], getattr(kit, media_type))
    assert (await wire.push_manifest(manifest, "t")).status_code == 201
    assert (await wire("GET", wire.manifest_path("t"))).headers["content-type"] == getattr(kit, media_type)


@pytest.mark.parametrize("media_type", ["OCI_INDEX", "DOCKER_LIST"])
async def test_index_types(wire, kit, media_type):
    index = kit.index_of([await wire.push_image(), await wire.push_image()], getattr(kit, media_type))
    assert (await wire.push_manifest(index, "t")).status_code == 201
    answer = await wire("GET", wire.manifest_path("t"))
    assert (answer.content, answer.headers["content-type"]) == (index.body, getattr(kit, media_type))
    assert "warning" not in answer.headers


async def test_nested_and_empty_index(wire, kit):
    empty = kit.index_of([])
    assert (await wire.push_manifest(empty)).status_code == 201
    outer = kit.index_of([empty, await wire.push_image()])
    assert (await wire.push_manifest(outer, "nested")).status_code == 201


@pytest.mark.parametrize("layers", [[], None])
async def test_no_layers(wire, kit, layers):
    config = await wire.push_blob(kit.Content(b"{}", kit.EMPTY_CONFIG))
    body = {"schemaVersion": 2, "mediaType": kit.OCI_MANIFEST, "config": config.descriptor, "layers": layers}
    assert (await wire.push_manifest(kit.Content(json.dumps(body).encode(), kit.OCI_MANIFEST), "t")).status_code == 201


async def test_unknown_fields_whitespace_and_data_stay(wire, kit):
    config = await wire.push_blob(kit.Content(b"{}", kit.EMPTY_CONFIG, {"data": "e30="}))
    body = json.dumps(
        {
            "x-unknown": {"deep": [1, 2.5, None]},
            "schemaVersion": 2,
            "mediaType": kit.OCI_MANIFEST,
            "config": config.descriptor,
            "layers": [],
            "annotations": {"org.example": "höhe\u0001"},
        },
        indent=7,
    ).encode()
    manifest = kit.Content(b" \n" + body + b"\n", kit.OCI_MANIFEST)
    assert (await wire.push_manifest(manifest, "t")).status_code == 201
    assert (await wire("GET", wire.manifest_path("t"))).content == manifest.body


async def test_foreign_layer_need_not_be_there(wire, kit):
    config = await wire.push_blob(kit.Content(kit.random_json(), kit.OCI_CONFIG))
    foreign = kit.Content(
        b"elsewhere",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        {"urls": ["https://example.com/layer"]},
    )
    assert (await wire.push_manifest(kit.manifest_of(config, [foreign]), "t")).status_code == 201


@pytest.mark.parametrize("declared", [True, False])
async def test_type_is_derived_from_the_body(wire, kit, declared):
    config = await wire.push_blob(kit.Content(b"{}", kit.EMPTY_CONFIG))
    body = json.dumps({"schemaVersion": 2, "config": config.descriptor, "layers": []}).encode()
    headers = {"content-type": kit.OCI_MANIFEST} if declared else {}
    answer = await wire("PUT", wire.manifest_path("t"), content=body, headers=headers)
    assert answer.status_code == 201
    assert (await wire("GET", wire.manifest_path("t"))).headers["content-type"] == kit.OCI_MANIFEST


async def test_parameters_of_content_type_are_ignored(wire, kit):
    image = await wire.image()
    headers = {"content-type": f"{kit.OCI_MANIFEST}; charset=utf-8"}
    assert (await wire("PUT", wire.manifest_path("t"), content=image.body, headers=headers)).status_code == 201
    assert (await wire("GET", wire.manifest_path("t"))).headers["content-type"] == kit.OCI_MANIFEST


async def test_content_type_that_disagrees(wire, kit):
    image = await wire.image()
    headers = {"content-type": kit.OCI_INDEX}
    answer = await wire("PUT", wire.manifest_path("t"), content=image.body, headers=headers)
    kit.check_error(answer, 400, "MANIFEST_INVALID")


@pytest.mark.parametrize(
    "media_type",
    ["application/vnd.docker.distribution.manifest.v1+prettyjws", "application/json", "text/plain", "", 5],
)
async def test_other_types_are_refused_naming_the_four(wire, kit, media_type):
    body = json.dumps({"schemaVersion": 2, "mediaType": media_type}).encode()
    answer = await wire("PUT", wire.manifest_path("t"), content=body)
    error = kit.check_error(answer, 400, "MANIFEST_INVALID")
    if isinstance(media_type, str):
        for accepted in (kit.OCI_MANIFEST, kit.OCI_INDEX, kit.DOCKER_MANIFEST, kit.DOCKER_LIST):
            assert accepted in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"schemaVersion": 1}',
        b'{"schemaVersion": 2}',
        b'{"schemaVersion": "2", "manifests": []}',
        b'{"schemaVersion": 2, "manifests": {}}',
        b'{"schemaVersion": 2, "manifests": [1]}',
        b'{"schemaVersion": 2, "manifests": [{"digest": "x", "size": 1}]}',
        b'{"schemaVersion": 2, "manifests": [{"digest": "sha256:bad", "size": -1}]}',
        b'{"schemaVersion": 2, "manifests": [], "config": {}}',
        b'{"schemaVersion": 2, "layers": []}',
        b'{"schemaVersion": NaN, "manifests": []}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schemaVersion": 2, "manifests": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    ],
)
async def test_bodies_that_are_no_manifest(wire, kit, body):
    answer = await wire("PUT", wire.manifest_path("t"), content=body)
    kit.check_error(answer, 400, "MANIFEST_INVALID")
    assert (await wire("GET", wire.manifest_path("t"))).status_code == 404


async def test_both_image_and_index_is_refused(wire, kit):
    image = await wire.image()
    body = json.dumps({**json.loads(image.body), "manifests": []}).encode()
    answer = await wire.push_manifest(kit.Content(body, kit.OCI_MANIFEST), "t")
    kit.check_error(answer, 400, "MANIFEST_INVALID")


async def test_every_missing_blob_is_listed(wire, kit):
    config = await wire.push_blob(kit.Content(kit.random_json(), kit.OCI_CONFIG))
    absent = [kit.Content(os.urandom(10), kit.OCI_LAYER) for _ in range(3)]
    answer = await wire.push_manifest(kit.manifest_of(config, absent), "t")
    kit.check_error(answer, 400, "MANIFEST_BLOB_UNKNOWN")
    assert set(kit.missing(answer)) == {layer.digest for layer in absent}
    assert (await wire("GET", wire.manifest_path("t"))).status_code == 404


async def test_blob_of_another_repository_does_not_count(wire, kit):
    image = await wire.image(wire.fresh())
    kit.check_error(await wire.push_manifest(image, "t"), 400, "MANIFEST_BLOB_UNKNOWN")


async def test_missing_manifest_of_an_index(wire, kit):
    absent = await wire.image()
    answer = await wire.push_manifest(kit.index_of([absent]), "t")
    kit.check_error(answer, 400, "MANIFEST_BLOB_UNKNOWN")


async def test_by_digest_with_other_bytes(wire, kit):
    image = await wire.image()
    answer = await wire.push_manifest(image, kit.digest_of(b"other"))
    kit.check_error(answer, 400, "DIGEST_INVALID")
    answer = await wire.push_manifest(image, "sha256:baddigeststring")
    kit.check_error(answer, 400, "DIGEST_INVALID")
    assert (await wire("GET", wire.manifest_path("sha256:baddigeststring"))).status_code in {400, 404}


async def test_sha512(wire, kit):
    index = kit.index_of([await wire.push_image()])
    digest = kit.digest_of(index.body, "sha512")
    answer = await wire.push_manifest(index, digest)
    assert answer.status_code == 201
    assert answer.headers["docker-content-digest"] == digest
    answer = await wire("GET", wire.manifest_path(digest))
    assert answer.content == index.body
    assert answer.headers["docker-content-digest"] == digest


@pytest.mark.parametrize("size", [3_900_000, 4_194_304])
async def test_large_manifest(wire, kit, size):
    config = await wire.push_blob(kit.Content(b"{}", kit.EMPTY_CONFIG))
    manifest = kit.manifest_of(config, [], annotations={"fill": ""})
    body = manifest.body.replace(b'"fill": ""', b'"fill": "' + b"a" * (size - len(manifest.body)) + b'"')
    assert len(body) == size
    assert (await wire.push_manifest(kit.Content(body, kit.OCI_MANIFEST), "large")).status_code == 201
    assert (await wire("GET", wire.manifest_path("large"))).content == body


@pytest.mark.parametrize("announced", [True, False])
async def test_too_large_manifest(wire, kit, announced):
    body = b" " * (4 * 1024 * 1024 + 1)
    content = body if announced else chunked(body)
    answer = await wire("PUT", wire.manifest_path("t"), content=content, headers={"content-type": kit.OCI_MANIFEST})
    assert answer.status_code == 413
    assert answer.json()["errors"]


@pytest.mark.parametrize("tag", ["-x", ".x", "a" * 129, "a!", "ä", "a%0A"])
async def test_bad_tag(wire, tag, kit):
    image = await wire.image()
    answer = await wire.push_manifest(image, tag)
    assert answer.status_code in {400, 404}
    assert kit.code_of(answer) in {"TAG_INVALID", "MANIFEST_INVALID", "NAME_INVALID"}


@pytest.mark.parametrize("reference", ["absent", ".INVALID_MANIFEST_NAME", "sha256:totallywrong", "sha256:" + "0" * 64])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_unknown(wire, reference, method):
    await wire.push_image("v1")
    answer = await wire(method, wire.manifest_path(reference))
    assert answer.status_code in ({400, 404} if "wrong" in reference else {404})


async def test_retag_and_push_again(wire):
    first, second = await wire.push_image("v"), await wire.push_image("v")
    assert (await wire("GET", wire.manifest_path("v"))).content == second.body
    assert (await wire.push_manifest(first, "v")).status_code == 201
    assert (await wire("GET", wire.manifest_path("v"))).content == first.body
    assert (await wire("GET", wire.manifest_path(second.digest))).content == second.body


async def test_manifest_of_another_repository_is_unknown(wire, kit):
    image = await wire.push_image("v", wire.fresh())
    kit.check_error(await wire("GET", wire.manifest_path(image.digest)), 404, "MANIFEST_UNKNOWN")


async def test_configured_limit(opened, kit):
    wire = await opened(**{"hatoba.limits.manifest": 100})
    image = await wire.image()
    assert (await wire.push_manifest(image, "t")).status_code == 413


# --- answers in full


async def test_answer_of_a_push(wire):
    image = await wire.image()
    for reference in (image.digest, "v1", "v1"):
        answer = await wire.push_manifest(image, reference)
        assert (answer.status_code, answer.content) == (201, b"")
        assert answer.headers["content-length"] == "0"
        assert answer.headers["docker-content-digest"] == image.digest
        assert "oci-subject" not in answer.headers
        assert "oci-tag" not in answer.headers
        path = httpx.URL(answer.headers["location"]).path
        assert path in {wire.manifest_path(reference), wire.manifest_path(image.digest)}
        assert (await wire("GET", answer.headers["location"])).content == image.body


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("kind", ["OCI_MANIFEST", "DOCKER_MANIFEST", "OCI_INDEX", "DOCKER_LIST"])
async def test_answer_of_a_pull(wire, kit, kind, method):
    media_type = getattr(kit, kind)
    if kind in {"OCI_INDEX", "DOCKER_LIST"}:
        manifest = kit.index_of([await wire.push_image()], media_type)
    else:
        manifest = kit.Content((await wire.image(media_type=media_type)).body, media_type)
    assert (await wire.push_manifest(manifest, "v1")).status_code == 201
    for reference in ("v1", manifest.digest, manifest.digest.replace(":", "%3A")):
        answer = await wire(method, wire.manifest_path(reference))
        assert answer.status_code == 200
        assert answer.headers["content-type"] == media_type
        assert answer.headers["content-length"] == str(len(manifest.body))
        assert answer.headers["docker-content-digest"] == manifest.digest
        assert answer.headers["etag"] == f'"{manifest.digest}"'
        assert answer.content == (manifest.body if method == "GET" else b"")


async def test_never_compressed(wire, kit):
    config = await wire.push_blob(kit.Content(b"{}", kit.EMPTY_CONFIG))
    manifest = kit.manifest_of(config, [], annotations={"fill": "a" * 10_000})
    await wire.push_manifest(manifest, "v1")
    headers = {"accept-encoding": "gzip, br, zstd"}
    for method in ("GET", "HEAD"):
        answer = await wire(method, wire.manifest_path("v1"), headers=headers)
        assert "content-encoding" not in answer.headers
        assert answer.headers["content-length"] == str(len(manifest.body))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("form", ['"{0}"', 'W/"{0}"', '"x", "{0}"', '"{0}","y"', "*"])
async def test_not_modified(wire, method, form):
    image = await wire.push_image("v1")
    headers = {"if-none-match": form.format(image.digest)}
    answer = await wire(method, wire.manifest_path("v1"), headers=headers)
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == f'"{image.digest}"'


async def test_condition_follows_the_tag(wire):
    first = await wire.push_image("v1")
    headers = {"if-none-match": f'"{first.digest}"'}
    assert (await wire("GET", wire.manifest_path("v1"), headers=headers)).status_code == 304
    second = await wire.push_image("v1")
    answer = await wire("GET", wire.manifest_path("v1"), headers=headers)
    assert (answer.status_code, answer.content) == (200, second.body)
    await wire("DELETE", wire.manifest_path(second.digest))
    assert (await wire("GET", wire.manifest_path("v1"), headers=headers)).status_code == 404


async def test_namespace_of_a_mirror_is_accepted(wire):
    image = await wire.push_image("v1")
    assert (await wire("GET", wire.manifest_path("v1") + "?ns=docker.io")).content == image.body


@pytest.mark.parametrize(
    "tag", ["a", "A", "_", "0", "1.2.3", "a" * 128, "A-b_c.D--e..f__g", "latest", "list", "uploads"]
)
async def test_good_tag(wire, tag):
    image = await wire.push_image(tag)
    answer = await wire("GET", wire.manifest_path(tag))
    assert (answer.status_code, answer.content) == (200, image.body)


async def test_tags_differ_in_case(wire):
    lower, upper = await wire.push_image("tag"), await wire.push_image("TAG")
    for tag, image in (("tag", lower), ("TAG", upper)):
        assert (await wire("GET", wire.manifest_path(tag))).content == image.body
