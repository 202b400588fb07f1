"""Every row of the route table is guarded: a call without the right credentials gets 401 and the right challenge."""

from types import SimpleNamespace
from typing import get_args

import httpx
import pytest

from hatoba.auth.htpasswd_file import HtpasswdFile
from hatoba.config.load import load
from hatoba.web.app import App
from hatoba.web.v2 import routes
from hatoba.web.v2.routes import ROUTES, Action, Route
from hatoba.wiring import serving

DIGEST = "sha256:" + "0" * 64


def path_of(route):
    return route.pattern.format(name="a/b", reference="latest", digest=DIGEST, id="4711")


def without_action(rows):
    return [f"{row.method} {row.pattern}" for row in rows if row.action not in get_args(Action)]


@pytest.fixture
def htpasswd(tmp_path):
    HtpasswdFile(tmp_path / "htpasswd", cost=4).add("alice", "secret")
    return tmp_path / "htpasswd"


@pytest.fixture
async def app(tmp_path, htpasswd):
    values = {
        "storage.filesystem.rootdirectory": str(tmp_path / "root"),
        "auth.htpasswd.realm": "hatoba",
        "auth.htpasswd.path": str(htpasswd),
        "log.accesslog.disabled": True,
    }
    async with serving.running(load(None, {}, values).settings) as app:
        yield app


@pytest.fixture
async def client(app):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hatoba") as client:
        yield client


async def unguarded(client, rows, headers=None, **request):
    """Rows that let the request in, or turn it away in another way than clients know."""
    found = []
    for number, row in enumerate(rows):
        # Each from an address of its own: too many wrong passwords from one are turned away otherwise.
        sent = {**(headers or {}), "x-forwarded-for": f"198.51.100.{number}"}
        answer = await client.request(row.method, path_of(row), headers=sent, **request)
        right = (
            answer.status_code == 401
            and answer.headers.get_list("www-authenticate") == ['Basic realm="hatoba"']
            and answer.headers["docker-distribution-api-version"] == "registry/2.0"
            and answer.headers["content-type"].startswith("application/json")
            and (row.method == "HEAD" or answer.json()["errors"][0]["code"] == "UNAUTHORIZED")
        )
        if not right:
            found.append(f"{row.method} {row.pattern}: {answer.status_code}")
    return found


def test_every_row_has_an_action():
    assert without_action(ROUTES) == []


def test_a_row_without_action_would_be_seen():
    rows = [*ROUTES, Route("GET", "/v2/{name}/new", "", None), SimpleNamespace(method="GET", pattern="/x", action=None)]
    assert without_action(rows) == ["GET /v2/{name}/new", "GET /x"]


async def test_nobody_unknown_gets_in_anywhere(client):
    assert await unguarded(client, ROUTES) == []


@pytest.mark.parametrize("header", ["Basic YWxpY2U6d3Jvbmc=", "Basic !", "Bearer secret", "", "Basic"])
async def test_nor_anybody_with_other_credentials(client, header):
    assert await unguarded(client, ROUTES, headers={"authorization": header}) == []


async def test_nor_with_a_body(client):
    assert await unguarded(client, ROUTES, content=b"x" * 1000) == []


async def test_who_has_the_password_gets_in(client):
    let_in = await unguarded(client, ROUTES, auth=("alice", "secret"))
    assert len(let_in) == len(ROUTES)
    assert "GET /v2/: 200" in let_in


async def test_a_door_left_open_would_be_seen(client, monkeypatch):
    real = App._authorize

    async def open_to_pull(self, request, action, repository):
        if action != "pull":
            await real(self, request, action, repository)

    monkeypatch.setattr(App, "_authorize", open_to_pull)
    found = await unguarded(client, ROUTES)
    assert len(found) == len([row for row in ROUTES if row.action == "pull"])


async def test_options_alone_needs_no_credentials_and_reaches_no_handler(client, monkeypatch):
    """Whatever credentials it carries, it is 204 and the same for what is there and what is not."""

    async def dispatch(*arguments):
        pytest.fail("a handler was reached")

    monkeypatch.setattr(routes, "dispatch", dispatch)
    assert {row.method for row in ROUTES}.isdisjoint({"OPTIONS"})
    paths = [*(path_of(row) for row in ROUTES), "/v2", "/v2/a", "/v2/a/unknown/b", "/v2/UPPER/tags/list"]
    for path in dict.fromkeys(paths):
        for headers in ({}, {"authorization": "Basic YWxpY2U6d3Jvbmc="}):
            answer = await client.options(path, headers=headers)
            assert (answer.status_code, answer.content) == (204, b""), path
            assert "www-authenticate" not in answer.headers
            assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
    for path in ("/v3/", "/api/v1/users"):
        assert (await client.options(path)).status_code == 404


async def test_a_path_that_is_no_row_reaches_no_handler(client, monkeypatch):
    reached = []

    async def dispatch(*arguments):
        reached.append(arguments)

    monkeypatch.setattr(routes, "dispatch", dispatch)
    for path in ("/v2/a", "/v2/a/tags/list/", "/v2/a/unknown/b", "/v3/", "/api/v1/users"):
        assert (await client.get(path)).status_code == 404
    assert (await client.put("/v2/a/tags/list")).status_code == 405
    assert reached == []
