"""end-1 and what every answer carries."""

from __future__ import annotations

import pytest


async def test_ping(wire):
    answer = await wire("GET", "/v2/")
    assert answer.status_code == 200
    assert answer.json() == {}
    assert answer.headers["content-type"].startswith("application/json")


async def test_without_slash_leads_to_ping(wire):
    answer = await wire("GET", "/v2")
    assert answer.status_code in {301, 308}
    assert answer.headers["location"].endswith("/v2/")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/", 200),
        ("GET", "/v2/absent/manifests/latest", 404),
        ("GET", "/v2/absent/tags/list", 404),
        ("DELETE", "/v2/absent/tags/list", 405),
        ("GET", "/v2/UPPER/tags/list", 400),
    ],
)
async def test_version_header_is_on_every_answer(wire, method, path, status):
    answer = await wire(method, path)
    assert answer.status_code == status
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


async def test_head_of_ping_has_no_body(wire):
    answer = await wire("HEAD", "/v2/")
    assert answer.status_code == 200
    assert answer.content == b""


@pytest.mark.parametrize("path", ["/healthz/live", "/healthz/ready", "/healthz"])
async def test_health(opened, path):
    wire = await opened()
    answer = await wire("GET", path)
    assert (answer.status_code, answer.text) == (200, "ok\n")


async def test_configured_headers_are_on_every_answer(opened):
    wire = await opened(**{"http.headers": {"X-Content-Type-Options": ["nosniff"], "X-Two": ["a", "b"]}})
    for path in ("/v2/", "/v2/absent/tags/list", "/nowhere"):
        answer = await wire("GET", path)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers.get_list("x-two") == ["a", "b"]


async def test_body_of_ping(wire):
    answer = await wire("GET", "/v2/")
    assert (answer.content, answer.headers["content-length"]) == (b"{}", "2")
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


@pytest.mark.parametrize("query", ["?", "?ns=docker.io", "?%ff=%00"])
async def test_query_of_ping_is_ignored(wire, query):
    assert (await wire("GET", f"/v2/{query}")).status_code == 200


async def test_root(wire):
    assert (await wire("GET", "/")).status_code == 200


async def test_credentials_that_nobody_asked_for(opened):
    wire = await opened()
    for value in ("Basic Ym9iOnNlY3JldA==", "Bearer x", "nonsense"):
        assert (await wire("GET", "/v2/", headers={"authorization": value})).status_code == 200
