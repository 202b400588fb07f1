"""Location and Link behind proxies (user-demand 3.3): the address by which the client came, whatever stands between."""

from __future__ import annotations

import re

import httpx
import pytest

ABSOLUTE = {"http.relativeurls": False}
PROXY = {"x-forwarded-proto": "https", "x-forwarded-host": "reg.example:8443"}
FORWARDED = {"forwarded": 'for=198.51.100.1;proto=https;host="reg.example:8443"'}
PUBLIC = {"hatoba.trustedproxies": ["10.0.0.0/8"]}


async def addresses(wire, kit, headers, before=""):
    """Every address that a push, a listing and /v2 name; each is followed by a client that sees what the proxy sees."""
    name = f"{before}/v2/{wire.repository}"
    found = {}
    answer = await wire("POST", f"{name}/blobs/uploads/", headers=headers)
    found["session"] = answer.headers["location"]
    config = kit.Content(kit.random_json(), kit.OCI_CONFIG)
    answer = await wire("POST", f"{name}/blobs/uploads/?digest={config.digest}", headers=headers, content=config.body)
    found["blob"] = answer.headers["location"]
    image = kit.manifest_of(config, [])
    for tag in ("a", "b"):
        answer = await wire(
            "PUT",
            f"{name}/manifests/{tag}",
            headers={**headers, "content-type": image.media_type},
            content=image.body,
        )
        found["manifest"] = answer.headers["location"]
    answer = await wire("GET", f"{name}/tags/list?n=1", headers=headers)
    found["link"] = re.fullmatch('<(.+)>; rel="next"', answer.headers["link"])[1]
    answer = await wire("GET", f"{before}/v2", headers=headers)
    found["ping"] = answer.headers["location"]
    return found


@pytest.mark.parametrize(
    ("overrides", "headers", "start"),
    [
        # A path alone, whatever the proxy says or leaves out.
        ({}, {}, ""),
        ({"http.relativeurls": True}, PROXY, ""),
        ({}, {**PROXY, **FORWARDED}, ""),
        # The operator's word goes before all.
        ({"http.host": "https://registry.example.com"}, {}, "https://registry.example.com"),
        ({"http.host": "https://registry.example.com/", **ABSOLUTE}, PROXY, "https://registry.example.com"),
        ({"http.host": "https://example.com/r/"}, {"x-forwarded-prefix": "/x"}, "https://example.com/r"),
        # The whole URL: from Forwarded, then X-Forwarded-*, then the connection and Host.
        (ABSOLUTE, {}, "http://registry.test"),
        (ABSOLUTE, {"host": "registry.test:5443"}, "http://registry.test:5443"),
        (ABSOLUTE, {"host": "[2001:db8::1]:5443"}, "http://[2001:db8::1]:5443"),
        (ABSOLUTE, {"x-forwarded-proto": "https"}, "https://registry.test"),
        (ABSOLUTE, {"x-forwarded-proto": "https", "x-forwarded-port": "8443"}, "https://registry.test:8443"),
        (ABSOLUTE, PROXY, "https://reg.example:8443"),
        (ABSOLUTE, FORWARDED, "https://reg.example:8443"),
        (ABSOLUTE, {"x-forwarded-host": "other.example", **FORWARDED}, "https://reg.example:8443"),
        (ABSOLUTE, {"forwarded": 'host="[2001:db8::1]:8443"'}, "http://[2001:db8::1]:8443"),
        # A proxy that took a path away.
        ({}, {"x-forwarded-prefix": "/registry"}, "/registry"),
        (ABSOLUTE, {"x-forwarded-prefix": "/registry/", **PROXY}, "https://reg.example:8443/registry"),
        # From a stranger none of it counts.
        ({**ABSOLUTE, **PUBLIC}, {**PROXY, **FORWARDED, "x-forwarded-port": "1"}, "http://registry.test"),
        (PUBLIC, {"x-forwarded-prefix": "/registry"}, ""),
    ],
)
async def test_addresses(opened, kit, overrides, headers, start):
    wire = await opened(**overrides)
    for what, address in (await addresses(wire, kit, headers)).items():
        assert address.startswith(f"{start}/v2/"), what
        path = address.removeprefix(start)
        assert (await wire("GET", path, headers=headers)).status_code in {200, 204}, what


@pytest.mark.parametrize(
    ("headers", "before", "start"),
    [
        # The proxy keeps the path; takes it away and says nothing; takes it away and says so.
        ({}, "/registry", "/registry"),
        ({}, "", "/registry"),
        ({"x-forwarded-prefix": "/registry"}, "", "/registry"),
        # One in front takes away a piece of its own.
        ({"x-forwarded-prefix": "/out"}, "/registry", "/out/registry"),
    ],
)
async def test_http_prefix(opened, kit, headers, before, start):
    wire = await opened(**{"http.prefix": "/registry/"})
    for what, address in (await addresses(wire, kit, headers, before)).items():
        assert address.startswith(f"{start}/v2/"), what
        path = address.removeprefix(start.removesuffix(before))
        assert (await wire("GET", path, headers=headers)).status_code in {200, 204}, what


async def test_host_and_prefix(opened, kit):
    wire = await opened(**{"http.prefix": "/r/", "http.host": "https://example.com"})
    for address in (await addresses(wire, kit, {"x-forwarded-prefix": "/x"})).values():
        assert address.startswith("https://example.com/r/v2/")


HOSTILE = [
    "a\r\nset-cookie: x",
    "javascript:alert(1)",
    "//evil.test",
    "evil.test/x",
    "u@evil.test",
    "a" * 5000,
    '"><b>',
]


@pytest.mark.parametrize(
    "name", ["host", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-forwarded-prefix"]
)
async def test_hostile_values_reach_no_header(opened, kit, name):
    """Also when they come by a trusted proxy that passes on what the client sent."""
    wire = await opened(**ABSOLUTE)
    for value in HOSTILE:
        headers = {"forwarded": f'host="{value}";proto="{value}"', name: value}
        for address in (await addresses(wire, kit, headers)).values():
            assert re.fullmatch(r"(http://registry\.test)?/v2/[\w./:?=&-]*", address, re.ASCII), address


async def test_no_usable_host_is_a_path_alone(opened):
    wire = await opened(**ABSOLUTE)
    answer = await wire("POST", wire.uploads_path(), headers={"host": "a b"})
    assert answer.headers["location"].startswith("/v2/")
    assert httpx.URL(answer.headers["location"]).path == answer.headers["location"]


async def test_guessing_is_counted_by_forwarded(opened, tmp_path, kit):
    """The proxy is 127.0.0.1; a client that makes up elements of its own is still one client."""
    import bcrypt  # noqa: PLC0415

    (tmp_path / "htpasswd").write_text("bob:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode() + "\n")
    wire = await opened(**{"auth.htpasswd": {"realm": "r", "path": str(tmp_path / "htpasswd")}})
    for number in range(11):
        headers = {"forwarded": f"for=8.8.8.{number}, for=203.0.113.9"}
        answer = await wire("GET", "/v2/", auth=("bob", f"wrong{number}"), headers=headers)
    kit.check_error(answer, 429, "TOOMANYREQUESTS")
    answer = await wire("GET", "/v2/", auth=("bob", "secret"), headers={"forwarded": "for=198.51.100.1"})
    assert answer.status_code == 200
