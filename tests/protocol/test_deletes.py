"""end-9 and end-10: deleting tags, manifests and blobs."""

from __future__ import annotations

import json
import re

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
async def test_unknown_repository(wire, reference, kit):
    answer = await wire("DELETE", wire.manifest_path(reference))
    assert answer.status_code == 404
    assert kit.code_of(answer) in {"NAME_UNKNOWN", "MANIFEST_UNKNOWN"}


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


@pytest.mark.parametrize("kind", ["tag", "manifest", "blob"])
async def test_answer_of_a_delete(wire, kit, kind):
    image = await wire.push_image("a")
    blob = await wire.push_blob(kit.random_json())
    path = {
        "tag": wire.manifest_path("a"),
        "manifest": wire.manifest_path(image.digest),
        "blob": wire.blob_path(blob.digest),
    }[kind]
    answer = await wire("DELETE", path)
    assert (answer.status_code, answer.content) == (202, b"")
    assert answer.headers["content-length"] == "0"
    for method in ("HEAD", "GET", "DELETE"):
        assert (await wire(method, path)).status_code == 404


@pytest.mark.parametrize(
    ("path", "statuses"),
    [
        ("manifests/sha256:totallywrong", {400, 404}),
        ("manifests/sha256:", {400, 404}),
        ("manifests/.INVALID_MANIFEST_NAME", {400, 404}),
        ("manifests/absent", {404}),
        ("manifests/sha256:" + "0" * 64, {404}),
        ("blobs/sha256:totallywrong", {400, 404}),
        ("blobs/latest", {400, 404}),
        ("blobs/sha256:" + "0" * 64, {404}),
    ],
)
async def test_what_is_not_there(wire, path, statuses, kit):
    await wire.push_image("v1")
    answer = await wire("DELETE", f"/v2/{wire.repository}/{path}")
    assert answer.status_code in statuses
    assert kit.code_of(answer) in {"MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "DIGEST_INVALID", "TAG_INVALID"}


@pytest.mark.parametrize("path", ["manifests/v1", "manifests/sha256:" + "0" * 64, "blobs/sha256:" + "0" * 64])
async def test_in_an_unknown_repository(wire, path):
    assert (await wire("DELETE", f"/v2/{wire.repository}/{path}")).status_code == 404


async def test_tag_goes_and_its_manifest_stays(wire):
    image = await wire.push_image("only")
    assert (await wire("DELETE", wire.manifest_path("only"))).status_code == 202
    assert (await wire("GET", wire.manifest_path(image.digest))).content == image.body
    assert (await wire("GET", f"/v2/{wire.repository}/tags/list")).json()["tags"] == []
    assert (await wire.push_manifest(image, "only")).status_code == 201
    assert (await wire("GET", wire.manifest_path("only"))).content == image.body


async def test_manifest_stays_in_other_repositories(wire, kit):
    other = wire.fresh()
    empty = kit.index_of([])
    for repository in (wire.repository, other):
        assert (await wire.push_manifest(empty, "v1", repository)).status_code == 201
    assert (await wire("DELETE", wire.manifest_path(empty.digest))).status_code == 202
    for reference in ("v1", empty.digest):
        assert (await wire("HEAD", wire.manifest_path(reference))).status_code == 404
        assert (await wire("GET", wire.manifest_path(reference, other))).content == empty.body


async def test_index_goes_and_its_manifests_stay(wire, kit):
    children = [await wire.push_image("child"), await wire.push_image()]
    index = kit.index_of(children)
    await wire.push_manifest(index, "multi")
    assert (await wire("DELETE", wire.manifest_path(index.digest))).status_code == 202
    assert (await wire("HEAD", wire.manifest_path("multi"))).status_code == 404
    for reference in ("child", children[1].digest):
        answer = await wire("GET", wire.manifest_path(reference))
        assert answer.status_code == 200
        assert "warning" not in answer.headers


@pytest.mark.parametrize("role", ["config", "layers", "index"])
async def test_blob_in_use(wire, kit, role):
    """Referenced as config, as layer, or by an index that lists blobs: 405, and the blob is still pulled (issue 2)."""
    if role == "index":
        blob = await wire.push_blob(kit.Content(kit.random_json(), kit.OCI_LAYER))
        user, digest = kit.index_of([blob]), blob.digest
        assert (await wire.push_manifest(user)).status_code == 201
    else:
        user = await wire.push_image()
        document = json.loads(user.body)
        digest = (document["config"] if role == "config" else document["layers"][0])["digest"]
    answer = await wire("DELETE", wire.blob_path(digest))
    error = kit.check_error(answer, 405, "UNSUPPORTED")
    assert user.digest in json.dumps(error)
    assert (await wire("GET", wire.blob_path(digest))).status_code == 200
    assert (await wire("DELETE", wire.manifest_path(user.digest))).status_code == 202
    assert (await wire("DELETE", wire.blob_path(digest))).status_code == 202
    assert (await wire("HEAD", wire.blob_path(digest))).status_code == 404


async def test_blob_used_elsewhere_only(wire):
    """The rule counts manifests of this repository; another's keep their own link."""
    other = wire.fresh()
    image = await wire.push_image("v1", other)
    layer = json.loads(image.body)["layers"][0]["digest"]
    assert (await wire("POST", f"{wire.uploads_path()}?mount={layer}&from={other}")).status_code == 201
    assert (await wire("DELETE", wire.blob_path(layer))).status_code == 202
    assert (await wire("GET", wire.blob_path(layer, other))).status_code == 200


async def test_warning_is_short_and_quoted(wire, kit):
    """At most 4096 bytes (3.7), however many manifests are gone."""
    children = [kit.index_of([], annotations={"n": str(number)}) for number in range(120)]
    for child in children:
        assert (await wire.push_manifest(child)).status_code == 201
    index = kit.index_of(children)
    await wire.push_manifest(index, "multi")
    for child in children:
        assert (await wire("DELETE", wire.manifest_path(child.digest))).status_code == 202
    answer = await wire("GET", wire.manifest_path("multi"))
    warnings = answer.headers.get_list("warning")
    assert warnings
    assert sum(len(warning) for warning in warnings) <= 4096
    for warning in warnings:
        assert re.fullmatch(r'299 - "(?:[^"\\]|\\.)*"', warning)
    assert (answer.status_code, answer.content) == (200, index.body)


async def test_warning_is_only_for_the_index_concerned(wire, kit):
    gone, stays = await wire.push_image(), await wire.push_image()
    await wire.push_manifest(kit.index_of([gone, stays]), "warned")
    await wire.push_manifest(kit.index_of([stays]), "whole")
    await wire("DELETE", wire.manifest_path(gone.digest))
    assert "warning" in (await wire("GET", wire.manifest_path("warned"))).headers
    assert "warning" not in (await wire("GET", wire.manifest_path("whole"))).headers
    assert "warning" not in (await wire("GET", wire.manifest_path(stays.digest))).headers


async def test_deleting_a_tag_of_a_child_warns_of_nothing(wire, kit):
    child = await wire.push_image("child")
    await wire.push_manifest(kit.index_of([child]), "multi")
    await wire("DELETE", wire.manifest_path("child"))
    assert "warning" not in (await wire("GET", wire.manifest_path("multi"))).headers


async def test_blob_that_is_deleted_is_not_referenced(wire, kit):
    config = await wire.push_blob(kit.Content(kit.random_json(), kit.OCI_CONFIG))
    assert (await wire("DELETE", wire.blob_path(config.digest))).status_code == 202
    answer = await wire.push_manifest(kit.manifest_of(config, []), "t")
    kit.check_error(answer, 400, "MANIFEST_BLOB_UNKNOWN")
