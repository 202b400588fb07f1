"""The shape of errors, the grammar of names, and paths that only look like endpoints."""

from __future__ import annotations

import httpx
import pytest


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
async def test_names_that_are_not(wire, kit, name, suffix):
    method = "POST" if "uploads" in suffix else "GET"
    answer = await wire(method, f"/v2/{name}/{suffix}")
    assert answer.status_code in {400, 404}
    if answer.headers["content-type"].startswith("application/json"):
        assert kit.code_of(answer) in kit.CODES


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
        assert error["code"] in kit.CODES
        assert error["message"]


async def test_text_of_a_client_cannot_break_the_answer(wire):
    answer = await wire("GET", "/v2/x/manifests/%22%3Cscript%3E%0d%0aX-Evil: 1")
    assert answer.status_code in {400, 404}
    assert "x-evil" not in answer.headers


async def test_long_unread_bodies_are_answered(wire, kit):
    answer = await wire("PUT", "/v2/Bad/manifests/v1", content=b"x" * 10_000)
    kit.check_error(answer, 400, "NAME_INVALID")
    answer = await wire("PUT", "/v2/Bad/manifests/v1", content=b"x" * 1_000_000)
    kit.check_error(answer, 400, "NAME_INVALID")
    assert answer.headers["connection"] == "close"


# --- one table of what each path allows; everything else is 405

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
ALLOWED = {
    "/v2/": "GET HEAD",
    "/v2/_catalog": "GET HEAD",
    "/v2/{name}/tags/list": "GET HEAD",
    "/v2/{name}/referrers/{digest}": "GET HEAD",
    "/v2/{name}/manifests/v1": "GET HEAD PUT DELETE",
    "/v2/{name}/manifests/{digest}": "GET HEAD PUT DELETE",
    "/v2/{name}/blobs/{digest}": "GET HEAD DELETE",
    "/v2/{name}/blobs/uploads/": "POST",
    "/v2/{name}/blobs/uploads/00000000-0000-0000-0000-000000000000": "GET HEAD PATCH PUT DELETE",
}
REFUSED = [(method, path) for path, allowed in ALLOWED.items() for method in METHODS if method not in allowed.split()]


@pytest.mark.parametrize(("method", "path"), REFUSED)
async def test_refused_methods(wire, kit, method, path):
    answer = await wire(method, path.format(name=wire.repository, digest=kit.ABSENT))
    assert answer.status_code == 405
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
    named = {allowed.strip() for allowed in answer.headers["allow"].split(",")}
    assert named <= {*ALLOWED[path].split(), "OPTIONS"}  # some registries name it, some do not
    assert named >= set(ALLOWED[path].split()) - {"HEAD"}


@pytest.mark.parametrize(("method", "path"), [case for case in REFUSED if case[0] != "HEAD"])
async def test_refused_methods_say_unsupported(wire, kit, method, path):
    """A non-JSON 4xx is an "unexpected response" to Docker (4.2)."""
    answer = await wire(method, path.format(name=wire.repository, digest=kit.ABSENT))
    kit.check_error(answer, 405, "UNSUPPORTED")


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/v2/", {}, 200),
        ("HEAD", "/v2/", {}, 200),
        ("GET", "/v2/{name}/blobs/{blob}", {}, 200),
        ("GET", "/v2/{name}/blobs/{blob}", {"range": "bytes=0-0"}, 206),
        ("GET", "/v2/{name}/blobs/{blob}", {"if-none-match": '"{blob}"'}, 304),
        ("GET", "/v2/{name}/blobs/{blob}", {"range": "bytes=900-"}, 416),
        ("GET", "/v2/{name}/blobs/{absent}", {}, 404),
        ("HEAD", "/v2/{name}/blobs/{absent}", {}, 404),
        ("GET", "/v2/{name}/manifests/absent", {}, 404),
        ("HEAD", "/v2/{name}/manifests/absent", {}, 404),
        ("PUT", "/v2/{name}/manifests/v1", {}, 400),
        ("DELETE", "/v2/{name}/blobs/{absent}", {}, 404),
        ("DELETE", "/v2/{name}/manifests/{absent}", {}, 404),
        ("POST", "/v2/{name}/blobs/uploads/", {}, 202),
        ("GET", "/v2/{name}/blobs/uploads/00000000-0000-0000-0000-000000000000", {}, 404),
        ("GET", "/v2/absent-{name}/tags/list", {}, 404),
        ("GET", "/v2/{name}/referrers/{absent}", {}, 200),
        ("GET", "/v2/_catalog?n=0", {}, 200),
        ("GET", "/v2/{name}/tags/list?n=-1", {}, 400),
        ("GET", "/v2/UPPER/tags/list", {}, 400),
        ("PATCH", "/v2/{name}/manifests/v1", {}, 405),
        ("GET", "/v2/no-endpoint", {}, 404),
        ("GET", "/v2/{name}/no/endpoint", {}, 404),
    ],
)
async def test_version_header(wire, kit, method, path, headers, status):
    blob = await wire.push_blob(b"some bytes")
    names = {"name": wire.repository, "blob": blob.digest, "absent": kit.ABSENT}
    headers = {key: value.format(**names) for key, value in headers.items()}
    answer = await wire(method, path.format(**names), headers=headers)
    assert answer.status_code == status
    assert answer.headers.get_list("docker-distribution-api-version") == ["registry/2.0"]


# --- names that hold the words of the routes


@pytest.mark.parametrize(
    "word",
    ["blobs", "manifests", "uploads", "tags", "referrers", "list", "blobs/uploads", "tags/list", "manifests/v1", "v2",
     "referrers/x", "blobs/uploads/blobs/uploads", "manifests/manifests", "uploads/uploads"],
)  # fmt: skip
async def test_everything_in_a_repository_named_like_a_route(wire, kit, word):
    source = wire.repository
    mounted = await wire.push_blob(kit.Content(kit.random_json(), kit.OCI_CONFIG), source)
    wire.repository = name = f"{source}/{word}"
    location = await wire.start()
    location = kit.check_session(await wire("PATCH", location, **kit.part(0, b"ab")), 202, "0-1")
    location = kit.check_session(await wire("GET", location), 204, "0-1")
    answer = await wire("PUT", kit.closing(location, kit.digest_of(b"abc")), **kit.part(2, b"c"))
    await kit.check_blob(wire, answer, kit.digest_of(b"abc"), b"abc")
    assert (await wire("DELETE", await wire.start())).status_code == 204
    answer = await wire("POST", f"{wire.uploads_path()}?mount={mounted.digest}&from={source}")
    await kit.check_blob(wire, answer, mounted.digest, mounted.body)
    manifest = kit.manifest_of(mounted, [kit.Content(b"abc", kit.OCI_LAYER)])
    assert (await wire.push_manifest(manifest, "v1")).status_code == 201
    for reference in ("v1", manifest.digest):
        assert (await wire("GET", wire.manifest_path(reference))).content == manifest.body
    assert (await wire("GET", f"/v2/{name}/tags/list")).json() == {"name": name, "tags": ["v1"]}
    assert (await wire("DELETE", wire.manifest_path(manifest.digest))).status_code == 202
    assert (await wire("DELETE", wire.blob_path(kit.digest_of(b"abc")))).status_code == 202
    assert (await wire("HEAD", wire.blob_path(mounted.digest, source))).status_code == 200


@pytest.mark.parametrize("name", ["a" * 255, "/".join(["ab"] * 85), "a/" * 127 + "a"], ids=["long", "deep", "deepest"])
async def test_longest_name(opened, kit, name):
    wire = await opened()
    assert len(name) <= 255
    assert (await wire.push_manifest(kit.index_of([]), "v1", name)).status_code == 201
    assert (await wire("GET", f"/v2/{name}/tags/list")).json() == {"name": name, "tags": ["v1"]}
    assert (await wire("GET", "/v2/_catalog")).json() == {"repositories": [name]}


# --- what a client may not smuggle in


@pytest.mark.parametrize(
    "path",
    ["/v2/a%2Fb/tags/list", "/v2/%2e%2e%2f%2e%2e%2fetc/tags/list", "/v2/x%00/tags/list", "/v2/x%ff/tags/list",
     "/v2/x%c0%ae/tags/list", "/v2/x/manifests/..%2f..%2fetc", "/v2/x/manifests/%00", "/v2/x/manifests/%ff",
     "/v2/x/blobs/sha256:..%2f..%2fetc", "/v2/x/blobs/%2e%2e", "/v2/x/blobs/uploads/..%2f..%2fx", "/v2/x;y/tags/list",
     "/v2/x%3Fn=1/tags/list", "/v2/x%23/tags/list", "/v2/x%0d%0aA:b/tags/list", "/v2/x/manifests/" + "a" * 8000,
     "/v2/" + "a/" * 3000 + "tags/list", "/v2/x/referrers/..%2f..%2fetc", "/v2/%5c/tags/list", "/v2/x/tags%2Flist"],
    ids=range(20),
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
async def test_tricks(wire, method, path):
    """Never a 5xx (checked for every answer), never a success for a name that is none."""
    answer = await wire(method, path, content=b"x" if method == "PUT" else b"")
    assert 300 <= answer.status_code < 500
    assert "a" not in answer.headers


@pytest.mark.parametrize("where", ["header", "query", "path"])
async def test_huge_requests(wire, where):
    """Any answer but a 5xx, or a closed connection; and the registry goes on."""
    huge = "a" * 300_000
    path = {"header": "/v2/", "query": f"/v2/?{huge}", "path": f"/v2/{huge}/tags/list"}[where]
    try:
        answer = await wire("GET", path, headers={"x-huge": huge} if where == "header" else {})
        assert answer.status_code in {200, 400, 404, 413, 414, 431}
    except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError, httpx.InvalidURL):
        pass
    assert (await wire("GET", "/v2/")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "codes"),
    [
        ("GET", "/v2/{name}/blobs/{absent}", 404, "BLOB_UNKNOWN"),
        ("GET", "/v2/{name}/blobs/sha256:bad", 400, "DIGEST_INVALID"),
        ("GET", "/v2/{name}/manifests/absent", 404, "MANIFEST_UNKNOWN"),
        ("GET", "/v2/{name}/manifests/{absent}", 404, "MANIFEST_UNKNOWN"),
        ("GET", "/v2/{name}/absent/tags/list", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/{name}/-bad/tags/list", 400, "NAME_INVALID"),
        ("GET", "/v2/{name}/BAD/manifests/v1", 400, "NAME_INVALID"),
        ("GET", "/v2/{name}/b__ad_/blobs/{absent}", 400, "NAME_INVALID"),
        ("PUT", "/v2/{name}/manifests/-bad", 400, "TAG_INVALID"),
        ("PUT", "/v2/{name}/manifests/sha256:bad", 400, "DIGEST_INVALID MANIFEST_INVALID"),
        ("PUT", "/v2/{name}/manifests/v1", 400, "MANIFEST_INVALID"),
        (
            "GET",
            "/v2/{name}/blobs/uploads/00000000-0000-0000-0000-000000000000",
            404,
            "BLOB_UPLOAD_UNKNOWN BLOB_UPLOAD_INVALID",
        ),
        (
            "PATCH",
            "/v2/{name}/blobs/uploads/00000000-0000-0000-0000-000000000000",
            404,
            "BLOB_UPLOAD_UNKNOWN BLOB_UPLOAD_INVALID",
        ),
        (
            "DELETE",
            "/v2/{name}/blobs/uploads/00000000-0000-0000-0000-000000000000",
            404,
            "BLOB_UPLOAD_UNKNOWN BLOB_UPLOAD_INVALID",
        ),
        ("DELETE", "/v2/{name}/blobs/{absent}", 404, "BLOB_UNKNOWN"),
        ("DELETE", "/v2/{name}/manifests/absent", 404, "MANIFEST_UNKNOWN"),
        ("DELETE", "/v2/{name}/manifests/{absent}", 404, "MANIFEST_UNKNOWN"),
        ("GET", "/v2/{name}/tags/list?n=x", 400, "PAGINATION_NUMBER_INVALID"),
        ("GET", "/v2/_catalog?n=x", 400, "PAGINATION_NUMBER_INVALID"),
        ("GET", "/v2/{name}/referrers/sha256:bad", 400, "DIGEST_INVALID"),
    ],
)
async def test_codes(wire, kit, method, path, status, codes):
    await wire.push_image("v1")
    answer = await wire(method, path.format(name=wire.repository, absent=kit.ABSENT))
    assert answer.status_code == status
    assert kit.code_of(answer) in codes.split()
    assert answer.json()["errors"][0]["message"]
    assert answer.headers["content-length"] == str(len(answer.content))


@pytest.mark.parametrize("path", ["/v2/{name}/blobs/{absent}", "/v2/{name}/manifests/absent", "/v2/UPPER/manifests/v1"])
async def test_head_tells_what_get_would(wire, kit, path):
    await wire.push_image("v1")
    path = path.format(name=wire.repository, absent=kit.ABSENT)
    get, head = await wire("GET", path), await wire("HEAD", path)
    assert head.status_code == get.status_code
    assert head.headers["content-type"] == get.headers["content-type"]
    assert head.headers.get("content-length", get.headers["content-length"]) == get.headers["content-length"]


async def test_too_large_manifest_leaves_the_connection_usable(wire, kit):
    for _ in range(3):
        body = b" " * (4 * 1024 * 1024 + 1)
        answer = await wire("PUT", wire.manifest_path("t"), content=body, headers={"content-type": kit.OCI_MANIFEST})
        assert answer.status_code == 413
        assert kit.code_of(answer) in {"MANIFEST_INVALID", "SIZE_INVALID"}
        assert (await wire("GET", "/v2/")).status_code == 200
    assert (await wire("HEAD", wire.manifest_path("t"))).status_code == 404
