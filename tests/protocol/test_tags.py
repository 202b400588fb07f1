"""end-8 and end-7b: listing tags, pages, several tags with one push."""

from __future__ import annotations

import httpx
import pytest


async def push_tags(wire, *tags):
    image = await wire.image()
    for tag in tags:
        assert (await wire.push_manifest(image, tag)).status_code == 201
    return image


async def names(wire, query=""):
    answer = await wire("GET", f"/v2/{wire.repository}/tags/list{query}")
    assert answer.status_code == 200
    assert answer.json()["name"] == wire.repository
    return answer.json()["tags"], answer.headers.get("link")


async def test_all_in_byte_order(wire):
    await push_tags(wire, "b", "a", "B", "10", "2", "_x", "a.b", "a-b")
    assert await names(wire) == (["10", "2", "B", "_x", "a", "a-b", "a.b", "b"], None)


async def test_unknown_repository(wire, kit):
    kit.check_error(await wire("GET", f"/v2/{wire.repository}/tags/list"), 404, "NAME_UNKNOWN")


async def test_known_repository_without_tags(wire):
    await wire.push_image()
    assert await names(wire) == ([], None)


async def test_pages(wire):
    await push_tags(wire, "a", "b", "c", "d", "e")
    found, link = await names(wire, "?n=2")
    assert found == ["a", "b"]
    assert link.endswith('>; rel="next"')
    seen = [*found]
    while link:
        answer = await wire("GET", link[1 : link.index(">")])
        seen += answer.json()["tags"]
        link = answer.headers.get("link")
    assert seen == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("query", "expected", "more"),
    [
        ("?n=0", [], False),
        ("?n=5", ["a", "b", "c", "d", "e"], False),
        ("?n=9", ["a", "b", "c", "d", "e"], False),
        ("?n=4", ["a", "b", "c", "d"], True),
        ("?last=c", ["d", "e"], False),
        ("?last=bb", ["c", "d", "e"], False),
        ("?last=e", [], False),
        ("?last=zz&n=2", [], False),
        ("?n=2&last=b", ["c", "d"], True),
        ("?n=3&last=b", ["c", "d", "e"], False),
        ("?last=%00", ["a", "b", "c", "d", "e"], False),
        ("?n=99999999999999999999999", ["a", "b", "c", "d", "e"], False),
    ],
)
async def test_n_and_last(wire, query, expected, more):
    await push_tags(wire, "a", "b", "c", "d", "e")
    found, link = await names(wire, query)
    assert found == expected
    assert (link is not None) is more


@pytest.mark.parametrize("n", ["-1", "x", "1.5", "0x5", "\uff11", "1e3", "+1"])
async def test_n_that_is_no_number(wire, kit, n):
    await push_tags(wire, "a")
    answer = await wire("GET", f"/v2/{wire.repository}/tags/list", params={"n": n})
    kit.check_error(answer, 400, "PAGINATION_NUMBER_INVALID")


async def test_n_above_the_maximum_is_clamped(opened):
    wire = await opened(**{"tags.maxtags": 3})
    await push_tags(wire, "a", "b", "c", "d")
    found, link = await names(wire, "?n=1000")
    assert found == ["a", "b", "c"]
    assert link
    assert (await names(wire))[0] == ["a", "b", "c", "d"]


async def test_several_tags_with_one_push(wire):
    image = await wire.image()
    tags = [f"t{number}" for number in range(12)]
    answer = await wire.push_manifest(image, query="?" + "&".join(f"tag={tag}" for tag in tags))
    assert answer.status_code == 201
    accepted = [tag.strip() for value in answer.headers.get_list("oci-tag") for tag in value.split(",")]
    assert accepted == tags
    assert answer.headers["docker-content-digest"] == image.digest
    for tag in tags:
        assert (await wire("GET", wire.manifest_path(tag))).content == image.body


async def test_too_many_tags(wire):
    image = await wire.image()
    answer = await wire.push_manifest(image, query="?" + "&".join(f"tag=t{number}" for number in range(500)))
    assert answer.status_code == 414
    assert (await wire("GET", wire.manifest_path("t0"))).status_code == 404


async def test_one_bad_tag_among_several(wire, kit):
    image = await wire.image()
    kit.check_error(await wire.push_manifest(image, query="?tag=good&tag=-bad"), 400, "TAG_INVALID")
    assert (await wire("GET", wire.manifest_path("good"))).status_code == 404


async def test_link_is_a_path(opened):
    wire = await opened()
    await push_tags(wire, "a", "b")
    _, link = await names(wire, "?n=1")
    assert link.startswith(f"</v2/{wire.repository}/tags/list?")


@pytest.mark.parametrize(
    ("overrides", "headers", "start"),
    [
        ({"http.host": "https://registry.example.com"}, {}, "https://registry.example.com/v2/"),
        ({"http.relativeurls": False}, {}, "http://registry.test/v2/"),
        ({"http.relativeurls": False}, {"x-forwarded-proto": "https"}, "https://registry.test/v2/"),
        ({"http.relativeurls": True}, {}, "/v2/"),
        ({"http.prefix": "/p/"}, {}, "/p/v2/"),
    ],
)
async def test_addresses(opened, overrides, headers, start):
    wire = await opened(**overrides)
    prefix = "/p" if "http.prefix" in overrides else ""
    answer = await wire("POST", prefix + wire.uploads_path(), headers=headers)
    assert answer.headers["location"].startswith(start)
    assert (await wire("GET", httpx.URL(answer.headers["location"]).path)).status_code == 204
