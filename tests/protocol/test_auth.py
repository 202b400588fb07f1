"""Sign-in: who gets in, who does not, and what they are told. hatoba only."""

from __future__ import annotations

import asyncio
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
async def test_every_route_asks(locked, route, kit):
    path = route.pattern.replace("{name}", "team/app").replace("{id}", "x").replace("{reference}", "v1")
    answer = await locked(route.method, path.replace("{digest}", "sha256:" + "0" * 64))
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == CHALLENGE
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
    if route.method != "HEAD":
        assert kit.code_of(answer) == "UNAUTHORIZED"


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


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.pattern}")
async def test_every_route_lets_in(locked, kit, route):
    path = route.pattern.replace("{name}", "team/app").replace("{id}", "x").replace("{reference}", "v1")
    answer = await locked(route.method, path.replace("{digest}", kit.ABSENT), auth=("bob", "secret"))
    assert answer.status_code != 401
    assert "www-authenticate" not in answer.headers


async def test_answer_in_full(locked, kit):
    answer = await locked("GET", "/v2/")
    error = kit.check_error(answer, 401, "UNAUTHORIZED")
    assert error["message"]
    assert answer.headers.get_list("www-authenticate") == [CHALLENGE]
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    "path", ["/v2/", "/v2/absent/manifests/v1", "/v2/absent/tags/list", "/v2/_catalog", "/v2/a/referrers/sha256:bad"]
)
async def test_nothing_is_told_before_sign_in(locked, kit, path):
    """What is there and what is not look the same."""
    kit.check_error(await locked("GET", path), 401, "UNAUTHORIZED")


async def test_nothing_happens_before_sign_in(locked, kit):
    body = b"x" * 300_000
    answer = await locked("POST", f"/v2/a/blobs/uploads/?digest={kit.digest_of(body)}", content=body)
    kit.check_error(answer, 401, "UNAUTHORIZED")
    manifest = kit.index_of([])
    kit.check_error(await locked.push_manifest(manifest, "v1", "a"), 401, "UNAUTHORIZED")
    locked.http.auth = ("bob", "secret")
    assert (await locked("HEAD", locked.blob_path(kit.digest_of(body), "a"))).status_code == 404
    assert (await locked("HEAD", locked.manifest_path("v1", "a"))).status_code == 404
    image = await locked.push_image("v1")
    locked.http.auth = None
    for method, path in (("DELETE", locked.manifest_path("v1")), ("DELETE", locked.manifest_path(image.digest))):
        kit.check_error(await locked(method, path), 401, "UNAUTHORIZED")
    locked.http.auth = ("bob", "secret")
    assert (await locked("GET", locked.manifest_path("v1"))).content == image.body


@pytest.mark.parametrize("header", ["Basic {}", "basic {}", "BASIC {}", "Basic  {}", "Basic {} "])
async def test_forms_of_the_header(locked, header):
    """The scheme is case-insensitive (RFC 9110)."""
    sent = header.format(base64.b64encode(b"bob:secret").decode())
    assert (await locked("GET", "/v2/", headers={"authorization": sent})).status_code == 200


@pytest.mark.parametrize("password", ["a:b:c", " ", "p\u00e4ss", "\U0001f433", "x" * 72])
async def test_passwords(locked, password):
    line = "eve:" + bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    locked.htpasswd.write_text(line + "\n")
    sent = {"authorization": "Basic " + base64.b64encode(f"eve:{password}".encode()).decode()}
    assert (await locked("GET", "/v2/", headers=sent)).status_code == 200
    sent = {"authorization": "Basic " + base64.b64encode(f"eve:{password[:-1]}".encode()).decode()}
    assert (await locked("GET", "/v2/", headers=sent)).status_code == 401


async def test_realm_is_quoted(opened, tmp_path):
    path = tmp_path / "htpasswd"
    path.write_text("bob:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode() + "\n")
    wire = await opened(**{"auth.htpasswd": {"realm": 'a "b" \\ c', "path": str(path)}})
    answer = await wire("GET", "/v2/")
    assert answer.headers["www-authenticate"] == 'Basic realm="a \\"b\\" \\\\ c"'


async def test_right_after_a_few_wrong(locked):
    for number in range(8):
        assert (await locked("GET", "/v2/", auth=("bob", f"wrong{number}"))).status_code == 401
    assert (await locked("GET", "/v2/", auth=("bob", "secret"))).status_code == 200
    assert (await locked("GET", "/v2/", auth=("bob", "wrong0"))).status_code == 401


@pytest.mark.parametrize("user", ["bob", "nobody"])
async def test_guessing_ends(locked, kit, user):
    for number in range(10):
        assert (await locked("GET", "/v2/", auth=(user, f"wrong{number}"))).status_code == 401
    for password in ("wrong", "secret"):
        answer = await locked("GET", "/v2/", auth=(user, password))
        assert kit.check_error(answer, 429, "TOOMANYREQUESTS") == {
            "code": "TOOMANYREQUESTS",
            "message": "too many failed sign-ins; come back later",
        }
        assert 0 < int(answer.headers["retry-after"]) <= 60
        assert "www-authenticate" not in answer.headers
    assert (await locked("GET", "/v2/")).status_code == 401


async def test_guessing_shuts_nobody_out_who_is_in(locked):
    assert (await locked("GET", "/v2/", auth=("bob", "secret"))).status_code == 200
    for number in range(20):
        answer = await locked("GET", "/v2/", auth=("bob", f"wrong{number}"))
        assert answer.status_code == (401 if number < 10 else 429)
    locked.http.auth = ("bob", "secret")
    image = await locked.push_image("v1")
    mounted = await locked("POST", f"{locked.uploads_path('b')}?mount={image.digest}&from={locked.repository}")
    assert mounted.status_code in {201, 202}


async def test_guessing_behind_a_proxy_shuts_out_the_guesser_alone(locked):
    """The proxy is 127.0.0.1; a client that makes up addresses of its own is still one client."""
    for number in range(11):
        headers = {"x-forwarded-for": f"8.8.8.{number}, 203.0.113.9"}
        answer = await locked("GET", "/v2/", auth=("bob", f"wrong{number}"), headers=headers)
    assert answer.status_code == 429
    answer = await locked("GET", "/v2/", auth=("bob", "secret"), headers={"x-forwarded-for": "198.51.100.1"})
    assert answer.status_code == 200


async def test_addresses_made_up_without_a_proxy(opened, tmp_path):
    path = tmp_path / "htpasswd"
    path.write_text("bob:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode() + "\n")
    wire = await opened(**{"auth.htpasswd": {"realm": "r", "path": str(path)}, "hatoba.trustedproxies": []})
    for number in range(11):
        headers = {"x-forwarded-for": f"203.0.113.{number}"}
        answer = await wire("GET", "/v2/", auth=("bob", f"wrong{number}"), headers=headers)
    assert answer.status_code == 429


async def test_a_flood_of_wrong_passwords_does_not_hold_up_who_is_in(opened, tmp_path):
    """With bcrypt as slow as it is: requests with known credentials go past the queue."""
    path = tmp_path / "htpasswd"
    path.write_text("bob:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(10)).decode() + "\n")
    wire = await opened(**{"auth.htpasswd": {"realm": "r", "path": str(path)}})
    assert (await wire("GET", "/v2/", auth=("bob", "secret"))).status_code == 200
    flood = [asyncio.create_task(wire("GET", "/v2/", auth=(f"user{number}", "wrong"))) for number in range(40)]
    await asyncio.sleep(0)
    for _ in range(10):
        assert (await wire("GET", "/v2/", auth=("bob", "secret"))).status_code == 200
    waiting = sum(not asked.done() for asked in flood)
    assert waiting > 20
    assert {answer.status_code for answer in await asyncio.gather(*flood)} == {401}
