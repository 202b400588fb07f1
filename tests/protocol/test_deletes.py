"""end-9 and end-10: deleting tags, manifests and blobs."""

from __future__ import annotations

import json

import pytest


async def test_tag(wire, kit):
    image = await wire.push_image("a")
    await wire.push_manifest(image, "b")
    assert (await wire("DELETE", wire.manifest_path("a"))).status_code == 202
    kit.check_error(await wire("GET", wire.manifest_path("a")), 404, "MANIFEST_UNKNOWN")
    assert (await wire("HEAD", wire.manifest_path("b"))).status_code == 200
    assert (await wire("HEAD", wire.manifest_path(image.digest))).status_code == 200
    assert (await wire("GET", f"/v2/{wire.repository}/tags/list")).json()["tags"] == ["b"]
    assert (await wire("DELETE", wire.manifest_path("a"))).status_code == 404


async def test_manifest_takes_its_tags(wire):
    image = await wire.push_image("a")
    await wire.push_manifest(image, "b")
    other = await wire.push_image("c")
    assert (await wire("DELETE", wire.manifest_path(image.digest))).status_code == 202
    for reference in ("a", "b", image.digest):
        assert (await wire("HEAD", wire.manifest_path(reference))).status_code == 404
    assert (await wire("GET", wire.manifest_path("c"))).content == other.body
    assert (await wire("GET", f"/v2/{wire.repository}/tags/list")).json()["tags"] == ["c"]
    assert (await wire("DELETE", wire.manifest_path(image.digest))).status_code == 404


async def test_manifest_pushed_again_after_deletion(wire):
    image = await wire.push_image("a")
    await wire("DELETE", wire.manifest_path(image.digest))
    assert (await wire.push_manifest(image, "a")).status_code == 201
    assert (await wire("GET", wire.manifest_path("a"))).content == image.body


@pytest.mark.parametrize("reference", ["tag", "sha256:" + "0" * 64])
async def test_unknown_repository(wire, reference):
    answer = await wire("DELETE", wire.manifest_path(reference))
    assert answer.status_code == 404
    assert answer.json()["errors"][0]["code"] in {"NAME_UNKNOWN", "MANIFEST_UNKNOWN"}


async def test_blob(wire, kit):
    blob = await wire.push_blob(b"delete me " + kit.random_json())
    assert (await wire("DELETE", wire.blob_path(blob.digest))).status_code == 202
    assert (await wire("HEAD", wire.blob_path(blob.digest))).status_code == 404
    kit.check_error(await wire("DELETE", wire.blob_path(blob.digest)), 404, "BLOB_UNKNOWN")
    await wire.push_blob(blob.body)
    assert (await wire("GET", wire.blob_path(blob.digest))).content == blob.body


async def test_blob_stays_in_other_repositories(wire, kit):
    body = kit.random_json()
    blob = await wire.push_blob(body)
    other = wire.fresh()
    await wire.push_blob(body, other)
    assert (await wire("DELETE", wire.blob_path(blob.digest))).status_code == 202
    assert (await wire("GET", wire.blob_path(blob.digest, other))).content == body


async def test_unknown_blob(wire, kit):
    kit.check_error(await wire("DELETE", wire.blob_path(kit.digest_of(b"?"))), 404, "BLOB_UNKNOWN")
    await wire.push_image()
    kit.check_error(await wire("DELETE", wire.blob_path(kit.digest_of(b"?"))), 404, "BLOB_UNKNOWN")


async def test_blob_in_use_names_up_to_five_manifests(wire, kit):
    config = await wire.push_blob(kit.Content(b"{}", kit.EMPTY_CONFIG))
    users = [kit.manifest_of(config, [], annotations={"n": str(number)}) for number in range(7)]
    for user in users:
        await wire.push_manifest(user)
    answer = await wire("DELETE", wire.blob_path(config.digest))
    error = kit.check_error(answer, 405, "UNSUPPORTED")
    named = error["detail"]["manifests"]
    assert len(named) == 5
    assert set(named) <= {user.digest for user in users}
    assert (await wire("HEAD", wire.blob_path(config.digest))).status_code == 200
    for user in users:
        await wire("DELETE", wire.manifest_path(user.digest))
    assert (await wire("DELETE", wire.blob_path(config.digest))).status_code == 202


async def test_manifest_of_an_index_leaves_a_warning(wire, kit):
    children = [await wire.push_image(), await wire.push_image()]
    index = kit.index_of(children)
    await wire.push_manifest(index, "multi")
    assert "warning" not in (await wire("GET", wire.manifest_path("multi"))).headers
    assert (await wire("DELETE", wire.manifest_path(children[0].digest))).status_code == 202
    for reference in ("multi", index.digest):
        answer = await wire("GET", wire.manifest_path(reference))
        assert answer.content == index.body
        warning = answer.headers["warning"]
        assert warning.startswith('299 - "')
        assert warning.endswith('"')
        assert len(warning) < 4096
    await wire.push_manifest(children[0])
    assert "warning" not in (await wire("GET", wire.manifest_path("multi"))).headers


async def test_repository_without_manifests_has_no_tags(wire):
    image = await wire.push_image("a")
    await wire("DELETE", wire.manifest_path(image.digest))
    answer = await wire("GET", f"/v2/{wire.repository}/tags/list")
    assert (answer.status_code, answer.json()["tags"]) == (200, [])


@pytest.mark.parametrize("what", ["tag", "manifest", "blob"])
async def test_switched_off(opened, kit, what):
    wire = await opened(**{"storage.delete.enabled": False})
    image = await wire.push_image("a")
    config = json.loads(image.body)["config"]["digest"]
    path = {
        "tag": wire.manifest_path("a"),
        "manifest": wire.manifest_path(image.digest),
        "blob": wire.blob_path(config),
    }[what]
    kit.check_error(await wire("DELETE", path), 405, "UNSUPPORTED")
    assert (await wire("HEAD", path)).status_code == 200


@pytest.mark.parametrize(
    ("overrides", "status"),
    [
        ({"http.addr": "127.0.0.1:5000"}, 202),
        ({"http.addr": "[::1]:5000"}, 202),
        ({"http.addr": ":5000"}, 405),
        ({"http.addr": "0.0.0.0:5000"}, 405),
        ({"http.addr": ":5000", "storage.delete.enabled": True}, 202),
    ],
)
async def test_default_depends_on_who_can_reach_it(opened, overrides, status):
    wire = await opened(**overrides)
    await wire.push_image("a")
    assert (await wire("DELETE", wire.manifest_path("a"))).status_code == status


async def test_read_only(opened, kit):
    wire = await opened(**{"storage.maintenance.readonly.enabled": True})
    kit.check_error(await wire("POST", wire.uploads_path()), 405, "UNSUPPORTED")
    kit.check_error(await wire("DELETE", wire.manifest_path("a")), 405, "UNSUPPORTED")
    assert (await wire("GET", "/v2/")).status_code == 200
