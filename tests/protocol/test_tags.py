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


async def test_answer_of_a_listing(wire):
    await push_tags(wire, "a")
    answer = await wire("GET", f"/v2/{wire.repository}/tags/list")
    assert answer.headers["content-type"].split(";")[0] == "application/json"
    assert answer.json() == {"name": wire.repository, "tags": ["a"]}
    assert "link" not in answer.headers


async def test_every_page_size(wire):
    tags = sorted(f"{letter}{number}" for letter in "aAzZ" for number in range(3))
    await push_tags(wire, *tags)
    for n in range(1, len(tags) + 2):
        pages = await wire.pages(f"/v2/{wire.repository}/tags/list?n={n}", "tags")
        assert [tag for page in pages for tag in page] == tags
        assert [len(page) for page in pages[:-1]] == [n] * (len(pages) - 1)
        assert 0 < len(pages[-1]) <= n


async def test_pages_by_last(wire):
    """Clients without Link: `last` is the last tag they have seen."""
    await push_tags(wire, "b", "a", "C", "1")
    seen = []
    for _ in range(5):
        seen += (await names(wire, f"?n=1&last={seen[-1]}" if seen else "?n=1"))[0]
    assert seen == ["1", "C", "a", "b"]


async def test_pages_while_tags_come_and_go(wire):
    await push_tags(wire, "a", "c", "e", "g")
    found, link = await names(wire, "?n=2")
    assert found == ["a", "c"]
    await push_tags(wire, "b", "f")
    assert (await wire("DELETE", wire.manifest_path("c"))).status_code == 202
    assert (await wire.pages(link[1 : link.index(">")], "tags")) == [["e", "f"], ["g"]]


async def test_listing_follows_changes(wire):
    image = await push_tags(wire, "a")
    assert (await names(wire))[0] == ["a"]
    await wire.push_manifest(image, "b")
    assert set((await names(wire))[0]) == {"a", "b"}
    await wire.push_image("a")
    await wire("DELETE", wire.manifest_path(image.digest))
    assert (await names(wire))[0] == ["a"]


async def test_default_maximum(wire):
    """n above 1000 is clamped, with Link; without n all are given (issue 2)."""
    image = await wire.image()
    tags = sorted(f"t{number}" for number in range(1010))
    for first in range(0, len(tags), 10):
        query = "?" + "&".join(f"tag={tag}" for tag in tags[first : first + 10])
        assert (await wire.push_manifest(image, query=query)).status_code == 201
    found, link = await names(wire, "?n=5000")
    assert (found, link is not None) == (tags[:1000], True)
    assert await names(wire, "?n=1010") == (found, link)
    assert await names(wire) == (tags, None)
    assert await wire.pages(f"/v2/{wire.repository}/tags/list?n=1000", "tags") == [tags[:1000], tags[1000:]]


@pytest.mark.parametrize("query", ["?n=-1", "?n=x", "?n=1x", "?n=%20", "?n=%ff", "?n=0.0", "?n=-0", "?n=1&n=x"])
async def test_odd_numbers(wire, query):
    await push_tags(wire, "a")
    answer = await wire("GET", f"/v2/{wire.repository}/tags/list{query}")
    assert answer.status_code in ({200, 400} if "&" in query or "-0" in query else {400})


@pytest.mark.parametrize("last", ["%ff", "%00", "%F0%9F%90%B3", "a%2Fb", "x" * 1000])
async def test_last_need_not_be_a_tag(wire, last):
    await push_tags(wire, "a")
    assert (await names(wire, f"?last={last}"))[0] in (["a"], [])


async def test_unknown_query_is_ignored(wire):
    await push_tags(wire, "a")
    assert await names(wire, "?x=1&ns=docker.io") == (["a"], None)


async def test_repositories_are_apart(wire):
    """A repository's name may begin another's."""
    name = wire.repository
    for number, repository in enumerate((name, f"{name}/sub", f"{name}-x")):
        await wire.push_image(f"v{number}", repository)
    assert (await names(wire))[0] == ["v0"]


# --- end-7b


def accepted(answer) -> list[str]:
    return [tag.strip() for value in answer.headers.get_list("oci-tag") for tag in value.split(",")]


@pytest.mark.parametrize("number", [1, 2, 10, 25])
async def test_tags_beside_a_digest(wire, number):
    image = await wire.image()
    tags = [f"v{n}" for n in range(number)]
    answer = await wire.push_manifest(image, query="?" + "&".join(f"tag={tag}" for tag in tags))
    assert answer.status_code == 201
    assert set(accepted(answer)) <= set(tags)
    assert len(accepted(answer)) >= min(number, 10)
    assert answer.headers["docker-content-digest"] == image.digest
    assert httpx.URL(answer.headers["location"]).path == wire.manifest_path(image.digest)
    assert (await names(wire))[0] == sorted(accepted(answer))


async def test_tags_move(wire):
    first = await wire.push_image("a")
    second = await wire.image()
    assert accepted(await wire.push_manifest(second, query="?tag=a&tag=b")) == ["a", "b"]
    assert (await wire("GET", wire.manifest_path("a"))).content == second.body
    assert (await wire("GET", wire.manifest_path(first.digest))).content == first.body


async def test_tag_twice(wire):
    answer = await wire.push_manifest(await wire.image(), query="?tag=a&tag=a")
    assert answer.status_code == 201
    assert set(accepted(answer)) == {"a"}
    assert (await names(wire))[0] == ["a"]


async def test_tags_of_an_index_with_a_subject(wire, kit):
    subject = await wire.push_image()
    index = kit.index_of([subject], subject=subject.descriptor)
    answer = await wire.push_manifest(index, query="?tag=a&tag=b")
    assert (answer.status_code, answer.headers["oci-subject"]) == (201, subject.digest)
    assert accepted(answer) == ["a", "b"]


@pytest.mark.parametrize("query", ["?tag=", "?tag=ok&tag=", "?tag=ok&tag=sha256:" + "0" * 64, "?tag=ok&tag=a/b"])
async def test_tags_that_are_none(wire, kit, query):
    image = await wire.image()
    kit.check_error(await wire.push_manifest(image, query=query), 400, "TAG_INVALID")
    assert (await wire("HEAD", wire.manifest_path("ok"))).status_code == 404
    assert (await wire("HEAD", wire.manifest_path(image.digest))).status_code == 404


async def test_tags_of_a_refused_manifest(wire, kit):
    image = await wire.image()
    path = wire.manifest_path(kit.ABSENT) + "?tag=a"
    answer = await wire("PUT", path, content=image.body, headers={"content-type": image.media_type})
    kit.check_error(answer, 400, "DIGEST_INVALID")
    assert (await wire("HEAD", wire.manifest_path("a"))).status_code == 404
