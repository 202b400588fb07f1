"""end-11: mounting a blob of another repository."""

from __future__ import annotations

import json
import os

import httpx
import pytest


async def test_mount(wire):
    source = wire.fresh()
    blob = await wire.push_blob(os.urandom(100), source)
    answer = await wire("POST", f"{wire.uploads_path()}?mount={blob.digest}&from={source}")
    assert answer.status_code == 201
    assert httpx.URL(answer.headers["location"]).path == wire.blob_path(blob.digest)
    assert answer.headers["docker-content-digest"] == blob.digest
    assert (await wire("GET", answer.headers["location"])).content == blob.body
    answer = await wire("HEAD", wire.blob_path(blob.digest))
    assert answer.headers["content-length"] == "100"


async def test_mount_twice(wire):
    source = wire.fresh()
    blob = await wire.push_blob(os.urandom(100), source)
    for _ in range(2):
        answer = await wire("POST", f"{wire.uploads_path()}?mount={blob.digest}&from={source}")
        assert answer.status_code == 201


async def test_mount_without_from_searches(wire):
    blob = await wire.push_blob(os.urandom(100), wire.fresh())
    answer = await wire("POST", f"{wire.uploads_path()}?mount={blob.digest}")
    assert answer.status_code in {201, 202}
    assert answer.headers["location"]


async def test_mount_without_from_is_found_by_hatoba(opened):
    wire = await opened()
    blob = await wire.push_blob(os.urandom(100), wire.fresh())
    assert (await wire("POST", f"{wire.uploads_path()}?mount={blob.digest}")).status_code == 201


@pytest.mark.parametrize("origin", ["absent/repository", "UPPER", "", "a//b", "../x"])
@pytest.mark.parametrize("wrong", ["sha256:" + "0" * 64, "sha256:bad", "nonsense"])
async def test_what_cannot_be_mounted_may_be_uploaded(wire, kit, origin, wrong):
    answer = await wire("POST", f"{wire.uploads_path()}?mount={wrong}&from={origin}")
    assert answer.status_code == 202
    where = httpx.URL(answer.headers["location"]).copy_merge_params({"digest": kit.digest_of(b"body")})
    assert (await wire("PUT", str(where), content=b"body", headers=kit.OCTETS)).status_code == 201


async def test_blob_that_the_source_does_not_hold(wire):
    blob = await wire.push_blob(os.urandom(100), wire.fresh())
    empty = wire.fresh()
    await wire.push_blob(b"something else", empty)
    answer = await wire("POST", f"{wire.uploads_path()}?mount={blob.digest}&from={empty}")
    assert answer.status_code == 202
    assert (await wire("HEAD", wire.blob_path(blob.digest))).status_code == 404


async def test_answer_of_a_mount(wire):
    source = wire.fresh()
    blob = await wire.push_blob(os.urandom(100), source)
    answer = await wire("POST", f"{wire.uploads_path()}?mount={blob.digest}&from={source}")
    assert (answer.status_code, answer.content) == (201, b"")
    assert answer.headers["content-length"] == "0"
    assert answer.headers["docker-content-digest"] == blob.digest
    assert httpx.URL(answer.headers["location"]).path == wire.blob_path(blob.digest)


@pytest.mark.parametrize("known", [True, False])
async def test_answer_of_a_mount_that_cannot_be(wire, kit, known):
    source = wire.fresh()
    if known:
        await wire.push_blob(b"something else", source)
    answer = await wire("POST", f"{wire.uploads_path()}?mount={kit.digest_of(os.urandom(9))}&from={source}")
    location = kit.check_session(answer, 202, "0-0")
    location = kit.check_session(await wire("PATCH", location, **kit.part(0, b"abc")), 202, "0-2")
    answer = await wire("PUT", kit.closing(location, kit.digest_of(b"abc")))
    await kit.check_blob(wire, answer, kit.digest_of(b"abc"), b"abc")


async def test_escaped_query(wire):
    source = wire.fresh()
    blob = await wire.push_blob(os.urandom(100), source)
    query = f"?from={source.replace('/', '%2F')}&mount={blob.digest.replace(':', '%3A')}"
    assert (await wire("POST", wire.uploads_path() + query)).status_code == 201


async def test_from_itself(wire):
    blob = await wire.push_blob(os.urandom(100))
    answer = await wire("POST", f"{wire.uploads_path()}?mount={blob.digest}&from={wire.repository}")
    assert answer.status_code == 201
    assert (await wire("GET", answer.headers["location"])).content == blob.body


async def test_sha512(wire, kit):
    source, body = wire.fresh(), os.urandom(100)
    digest = kit.digest_of(body, "sha512")
    start = await wire.start(source, "?digest-algorithm=sha512")
    assert (await wire("PUT", kit.closing(start, digest), content=body)).status_code == 201
    answer = await wire("POST", f"{wire.uploads_path()}?mount={digest}&from={source}")
    await kit.check_blob(wire, answer, digest, body)


async def test_mounted_blob_outlives_its_source(wire):
    source = wire.fresh()
    blob = await wire.push_blob(os.urandom(100), source)
    assert (await wire("POST", f"{wire.uploads_path()}?mount={blob.digest}&from={source}")).status_code == 201
    assert (await wire("DELETE", wire.blob_path(blob.digest, source))).status_code == 202
    assert (await wire("HEAD", wire.blob_path(blob.digest, source))).status_code == 404
    assert (await wire("GET", wire.blob_path(blob.digest))).content == blob.body


@pytest.mark.parametrize("named", [True, False], ids=["from", "no from"])
async def test_deleted_blob_is_not_mounted(wire, named):
    """No repository holds it any more: absent, so 202 (3.8)."""
    source = wire.fresh()
    blob = await wire.push_blob(os.urandom(100), source)
    assert (await wire("DELETE", wire.blob_path(blob.digest, source))).status_code == 202
    query = f"?mount={blob.digest}" + (f"&from={source}" if named else "")
    assert (await wire("POST", wire.uploads_path() + query)).status_code == 202
    assert (await wire("HEAD", wire.blob_path(blob.digest))).status_code == 404


async def test_mount_of_nothing_without_from(wire, kit):
    answer = await wire("POST", f"{wire.uploads_path()}?mount={kit.digest_of(os.urandom(9))}")
    kit.check_session(answer, 202, "0-0")


async def test_image_of_mounted_blobs(wire, kit):
    source = wire.fresh()
    image = await wire.push_image("v1", source)
    kit.check_error(await wire.push_manifest(image, "v1"), 400, "MANIFEST_BLOB_UNKNOWN")
    document = json.loads(image.body)
    for descriptor in (document["config"], *document["layers"]):
        answer = await wire("POST", f"{wire.uploads_path()}?mount={descriptor['digest']}&from={source}")
        assert answer.status_code == 201
    assert (await wire.push_manifest(image, "v1")).status_code == 201
