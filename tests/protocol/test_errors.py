"""The shape of errors, the grammar of names, and paths that only look like endpoints."""

from __future__ import annotations

import pytest

CODES = {
    "BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED", "DENIED",
    "UNSUPPORTED", "TOOMANYREQUESTS", "RANGE_INVALID", "TAG_INVALID", "PAGINATION_NUMBER_INVALID",
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["a", "a/b/c", "a.b", "a_b", "a__b", "a-b", "a---b", "0", "a/0.1", "x/blobs", "x/blobs/uploads", "manifests",
     "x/manifests/y", "tags/list", "x/tags/list", "referrers", "blobs/blobs", "a" * 200],
)  # fmt: skip
async def test_names_that_are_valid(opened, name):
    wire = await opened()
    image = await wire.push_image("v1", name)
    assert (await wire("GET", wire.manifest_path("v1", name))).content == image.body
    assert (await wire("GET", f"/v2/{name}/tags/list")).json() == {"name": name, "tags": ["v1"]}
    assert (await wire("GET", f"/v2/{name}/referrers/{image.digest}")).status_code == 200
    assert (await wire("DELETE", wire.manifest_path("v1", name))).status_code == 202


@pytest.mark.parametrize(
    "name",
    ["A", "a/B", "_a", "a_", "-a", "a-", ".a", "a.", "a..b", "a___b", "a._b", "a//b", "/a", "a/", "ä", "a b", "a%0A",
     "a@b", "a:b", "a" * 256, "a%2F%2Fb", "%2e%2e", "a%00"],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["tags/list", "manifests/v1", "blobs/uploads/"])
async def test_names_that_are_not(wire, name, suffix):
    method = "POST" if "uploads" in suffix else "GET"
    answer = await wire(method, f"/v2/{name}/{suffix}")
    assert answer.status_code in {400, 404}
    if answer.headers["content-type"].startswith("application/json"):
        assert answer.json()["errors"][0]["code"] in CODES


@pytest.mark.parametrize(
    "path", ["/v2/x", "/v2/x/y", "/v2/x/tags", "/v2/x/tags/other", "/v2/tags/list", "/v2/_x", "/v2/_oci/ext/discover",
             "/v3/", "/other", "/v2//", "/v2/x/blobs/", "/v2/x/manifests/"],
)  # fmt: skip
async def test_paths_that_are_no_endpoint(wire, path):
    answer = await wire("GET", path)
    assert answer.status_code in {400, 404, 405}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/"),
        ("POST", "/v2/x/manifests/v1"),
        ("PATCH", "/v2/x/manifests/v1"),
        ("PUT", "/v2/x/tags/list"),
        ("POST", "/v2/_catalog"),
        ("PUT", "/v2/x/blobs/sha256:" + "0" * 64),
        ("BREW", "/v2/x/manifests/v1"),
    ],
)
async def test_methods_that_are_not_there(wire, method, path):
    answer = await wire(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"]


async def test_bodies_are_json_with_known_codes(opened, kit):
    wire = await opened()
    for method, path in [("GET", "/v2/x/manifests/v"), ("GET", "/v2/X/tags/list"), ("GET", "/v2/x/y"), ("PUT", "/v2/")]:
        answer = await wire(method, path)
        assert answer.headers["content-type"].startswith("application/json")
        (error,) = answer.json()["errors"]
        assert error["code"] in CODES
        assert error["message"]


async def test_text_of_a_client_cannot_break_the_answer(wire):
    answer = await wire("GET", "/v2/x/manifests/%22%3Cscript%3E%0d%0aX-Evil: 1")
    assert answer.status_code == 400
    assert "x-evil" not in answer.headers


async def test_long_unread_bodies_are_answered(wire, kit):
    answer = await wire("PUT", "/v2/Bad/manifests/v1", content=b"x" * 10_000)
    kit.check_error(answer, 400, "NAME_INVALID")
    answer = await wire("PUT", "/v2/Bad/manifests/v1", content=b"x" * 1_000_000)
    kit.check_error(answer, 400, "NAME_INVALID")
    assert answer.headers["connection"] == "close"
