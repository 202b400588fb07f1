"""end-11: mounting a blob of another repository."""

from __future__ import annotations

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
