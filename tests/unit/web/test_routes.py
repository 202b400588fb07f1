"""Which endpoint a path names: repository names may hold slashes and the very words that endpoints are made of."""

import inspect
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatoba.errors import NameInvalid, NotFound, Unsupported
from hatoba.oci.reference import parse_name
from hatoba.web.messages import Request
from hatoba.web.v2 import routes
from hatoba.web.v2.routes import (
    BLOB,
    CATALOG,
    MANIFEST,
    PING,
    REFERRERS,
    ROUTES,
    TAGS,
    UPLOAD,
    UPLOADS,
    Action,
    Target,
    split,
)

DIGEST = "sha256:" + "0" * 64


def route_of(asked):
    target = routes.locate(asked)
    return routes.choose(asked, target), target


NAMES = [
    "a",
    "library/alpine",
    "blobs",
    "manifests",
    "uploads",
    "tags",
    "list",
    "referrers",
    "v2",
    "a/blobs",
    "blobs/uploads",
    "a/blobs/uploads",
    "a/blobs/uploads/b",
    "a/manifests/latest",
    "a/tags/list",
    "tags/list",
    "a/referrers/b",
    "blobs/blobs/blobs",
    "uploads/uploads",
    "a/blobs/uploads/blobs/uploads",
]
WORDS = st.sampled_from(["a", "blobs", "manifests", "uploads", "tags", "list", "referrers", "v2", "catalog", "b.c"])
NAME = st.lists(WORDS, min_size=1, max_size=6).map("/".join)


def request(method, path):
    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b""}
    return Request(scope, None, 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_may_hold_the_words_of_endpoints(name):
    assert parse_name(name) == name
    for reference in ("latest", DIGEST, "uploads", "list", "manifests", "tags"):
        assert split(f"/v2/{name}/manifests/{reference}") == Target(MANIFEST, name, reference)
    assert split(f"/v2/{name}/blobs/{DIGEST}") == Target(BLOB, name, DIGEST)
    assert split(f"/v2/{name}/blobs/uploads/") == Target(UPLOADS, name, "")
    assert split(f"/v2/{name}/blobs/uploads") == Target(UPLOADS, name, "")
    assert split(f"/v2/{name}/blobs/uploads/4711-ab") == Target(UPLOAD, name, "4711-ab")
    assert split(f"/v2/{name}/tags/list") == Target(TAGS, name, "")
    assert split(f"/v2/{name}/referrers/{DIGEST}") == Target(REFERRERS, name, DIGEST)


@given(NAME, st.sampled_from(["latest", "list", "uploads", "blobs", DIGEST]))
def test_whatever_the_name_the_path_is_read_from_its_end(name, reference):
    assert split(f"/v2/{name}/manifests/{reference}") == Target(MANIFEST, name, reference)
    assert split(f"/v2/{name}/blobs/{DIGEST}") == Target(BLOB, name, DIGEST)
    assert split(f"/v2/{name}/blobs/uploads/id") == Target(UPLOAD, name, "id")
    assert split(f"/v2/{name}/blobs/uploads/") == Target(UPLOADS, name, "")
    assert split(f"/v2/{name}/tags/list") == Target(TAGS, name, "")
    assert split(f"/v2/{name}/referrers/{DIGEST}") == Target(REFERRERS, name, DIGEST)


def test_what_concerns_no_repository():
    assert split("/v2/") == Target(PING, "", "")
    assert split("/v2/_catalog") == Target(CATALOG, "", "")


@pytest.mark.parametrize(
    "path",
    [
        "/v2/a",
        "/v2/a/",
        "/v2//",
        "/v2/_catalog/",
        "/v2/a/_catalog",
        "/v2/a/tags",
        "/v2/a/tags/",
        "/v2/a/tags/latest",
        "/v2/tags/list",
        "/v2/manifests/latest",
        "/v2/blobs/uploads/",
        "/v2/blobs/uploads",
        "/v2/blobs/uploads/id",
        f"/v2/blobs/{DIGEST}",
        f"/v2/referrers/{DIGEST}",
        "/v2//manifests/latest",
        "/v2/a/uploads/id",
        "/v2/a/other/latest",
        "/v2/a/manifests",
        "/v2/_oci/ext/discover",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "BREW"])
def test_what_is_no_endpoint(path, method):
    with pytest.raises(NotFound) as raised:
        route_of(request(method, path))
    assert raised.value.status == 404
    assert raised.value.detail == {"path": path}


def test_the_split_does_not_judge_names_and_references():
    assert split("/v2/a/manifests/") == Target(MANIFEST, "a", "")
    assert split(f"/v2/a/blobs/{DIGEST}/") is None
    for name in ("A", "/a", "a//b", "a/", "../a", "a b", "a" * 256):
        assert split(f"/v2/{name}/tags/list") == Target(TAGS, name, "")
        with pytest.raises(NameInvalid):
            parse_name(name)


@given(st.text(max_size=60))
def test_no_path_breaks_the_split(tail):
    target = split(f"/v2/{tail}")
    assert target is None or target.pattern in {route.pattern for route in ROUTES}


def test_a_long_path_is_cut_in_the_answer():
    with pytest.raises(NotFound) as raised:
        route_of(request("GET", "/v2/" + "x" * 5000))
    assert len(raised.value.detail["path"]) == 255


# The table


def test_every_route_names_an_action():
    assert {route.action for route in ROUTES} == set(get_args(Action))


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.pattern}")
def test_each_action_fits_its_method(route):
    expected = {"PUT": {"push"}, "POST": {"push"}, "PATCH": {"push"}, "DELETE": {"delete"}}
    reading = {PING: {"ping"}, CATALOG: {"catalog"}, UPLOAD: {"push"}}
    if route.pattern == UPLOAD:
        assert route.action == "push", "whoever pushes asks how far and gives up"
    else:
        assert route.action in expected.get(route.method, reading.get(route.pattern, {"pull"}))


def test_the_rows_are_unique_and_every_get_has_its_head():
    rows = [(route.pattern, route.method) for route in ROUTES]
    assert len(set(rows)) == len(rows)
    assert {pattern for pattern, method in rows if method == "GET"} == {
        pattern for pattern, method in rows if method == "HEAD"
    }


def test_every_endpoint_of_the_spec_is_there():
    ends = {
        ("GET", PING),
        ("GET", BLOB),
        ("HEAD", BLOB),
        ("GET", MANIFEST),
        ("HEAD", MANIFEST),
        ("POST", UPLOADS),
        ("PATCH", UPLOAD),
        ("PUT", UPLOAD),
        ("PUT", MANIFEST),
        ("GET", TAGS),
        ("DELETE", MANIFEST),
        ("DELETE", BLOB),
        ("GET", REFERRERS),
        ("GET", UPLOAD),
        ("DELETE", UPLOAD),
        ("GET", CATALOG),
    }
    assert ends <= {(route.method, route.pattern) for route in ROUTES}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.pattern}")
def test_each_row_is_found_by_a_path_of_its_pattern(route):
    path = route.pattern.format(name="a/b", reference="latest", digest=DIGEST, id="4711")
    found, target = route_of(request(route.method, path))
    assert found is route
    assert target.pattern == route.pattern
    assert target.name == ("a/b" if "{name}" in route.pattern else "")


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.pattern}")
def test_each_handler_takes_what_it_is_given(route):
    taken = len(inspect.signature(route.handler).parameters)
    assert taken == (2 if route.pattern in {PING, CATALOG} else 4)
    assert inspect.iscoroutinefunction(route.handler)


@pytest.mark.parametrize("pattern", list(dict.fromkeys(route.pattern for route in ROUTES)))
def test_another_method_is_405_naming_those_there_are(pattern):
    path = pattern.format(name="a", reference="latest", digest=DIGEST, id="4711")
    there = {route.method for route in ROUTES if route.pattern == pattern}
    for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "B" * 500} - there:
        with pytest.raises(Unsupported) as raised:
            route_of(request(method, path))
        assert raised.value.status == 405
        assert set(dict(raised.value.headers)["Allow"].split(", ")) == there | {"OPTIONS"}
        assert len(raised.value.message) < 100


@pytest.mark.parametrize("pattern", list(dict.fromkeys(route.pattern for route in ROUTES)))
def test_options_names_the_methods_there_are(pattern):
    path = pattern.format(name="a", reference="latest", digest=DIGEST, id="4711")
    answer = routes.preflight(path)
    assert (answer.status, answer.body) == (204, b"")
    allowed = dict(answer.headers)["allow"].split(", ")
    assert set(allowed) == {route.method for route in ROUTES if route.pattern == pattern} | {"OPTIONS"}


@pytest.mark.parametrize("path", ["/v2", "/v2/a", "/v2//", "/v2/a/unknown/b", "/v2/UPPER/tags", "/v2/" + "x" * 5000])
def test_options_of_what_is_no_endpoint(path):
    assert routes.preflight(path) == routes.Response(204)


class WritableRegistry:
    def require_writable(self, action):
        """Read-only mode is another test's business."""


async def test_dispatch_hands_over_name_and_reference():
    calls = []

    async def handler(*arguments):
        calls.append(arguments)

    registry, asked = WritableRegistry(), request("GET", "/v2/a/b/manifests/latest")
    asked.repository = "a/b"
    _, target = route_of(asked)
    await routes.dispatch(registry, asked, routes.Route("GET", MANIFEST, "pull", handler), target)
    await routes.dispatch(registry, asked, routes.Route("GET", PING, "ping", handler), Target(PING, "", ""))
    assert calls == [(registry, asked, "a/b", "latest"), (registry, asked)]
