"""Sign-in: who gets in, who does not, and what they are told. hatoba only."""

from __future__ import annotations

import base64

import bcrypt
import pytest

from hatoba.web.v2.routes import ROUTES

CHALLENGE = 'Basic realm="Registry Realm"'


@pytest.fixture
async def locked(opened, tmp_path):
    line = "bob:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    path = tmp_path / "htpasswd"
    path.write_text(line + "\n")
    wire = await opened(**{"auth.htpasswd": {"realm": "Registry Realm", "path": str(path)}})
    wire.htpasswd = path
    return wire


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.pattern}")
async def test_every_route_asks(locked, route):
    path = route.pattern.replace("{name}", "team/app").replace("{id}", "x").replace("{reference}", "v1")
    answer = await locked(route.method, path.replace("{digest}", "sha256:" + "0" * 64))
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == CHALLENGE
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
    if route.method != "HEAD":
        assert answer.json()["errors"][0]["code"] == "UNAUTHORIZED"


async def test_right_password(locked):
    assert (await locked("GET", "/v2/", auth=("bob", "secret"))).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        "Basic " + base64.b64encode(b"bob:wrong").decode(),
        "Basic " + base64.b64encode(b"eve:secret").decode(),
        "Basic " + base64.b64encode(b"bob:").decode(),
        "Basic " + base64.b64encode(b"nocolon").decode(),
        "Basic " + base64.b64encode(b"bob:sec\x00ret").decode(),
        "Basic " + base64.b64encode(b"bob:" + b"s" * 5000).decode(),
        "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode(),
        "Basic !!!",
        "Basic",
        "",
        "Bearer abc",
        "Digest username=bob",
    ],
)
async def test_wrong_credentials(locked, header):
    answer = await locked("GET", "/v2/", headers={"authorization": header})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == CHALLENGE


async def test_health_is_open(locked):
    assert (await locked("GET", "/healthz/ready")).status_code == 200


async def test_file_is_read_again(locked):
    assert (await locked("GET", "/v2/", auth=("eve", "other"))).status_code == 401
    line = "eve:" + bcrypt.hashpw(b"other", bcrypt.gensalt(4)).decode()
    locked.htpasswd.write_text(line + "\n")
    assert (await locked("GET", "/v2/", auth=("eve", "other"))).status_code == 200
    assert (await locked("GET", "/v2/", auth=("bob", "secret"))).status_code == 401


async def test_push_records_who(locked, kit, tmp_path):
    locked.http.auth = ("bob", "secret")
    await locked.push_image("v1")
    import apsw  # noqa: PLC0415

    database = apsw.Connection(str(tmp_path / "root/hatoba/metadata.db"))
    assert database.execute("SELECT pushed_by, os, architecture FROM manifests").fetchall() == [
        ("bob", "linux", "amd64")
    ]
    assert database.execute("SELECT pushed_by FROM tags").fetchall() == [("bob",)]
    assert database.execute("SELECT tag, actor FROM tag_moves").fetchall() == [("v1", "bob")]
    database.close()
