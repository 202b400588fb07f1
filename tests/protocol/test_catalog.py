"""_catalog: repositories that hold a manifest."""

from __future__ import annotations

import pytest


async def catalog(wire, query=""):
    answer = await wire("GET", f"/v2/_catalog{query}")
    assert answer.status_code == 200
    return answer.json()["repositories"], answer.headers.get("link")


async def test_lists_repositories_with_a_manifest(wire):
    image = await wire.push_image("v1")
    blobs_only = wire.fresh()
    await wire.push_blob(b"only a blob", blobs_only)
    found, _ = await catalog(wire, f"?n=1000&last={wire.repository[:-1]}")
    assert wire.repository in found
    assert blobs_only not in found
    await wire("DELETE", wire.manifest_path(image.digest))
    assert wire.repository not in (await catalog(wire, "?n=1000"))[0]


async def test_byte_order_and_pages(opened):
    wire = await opened()
    names = ["b", "a/b", "a-b", "a", "a/a", "b.c", "a0"]
    for name in names:
        await wire.push_image("v", name)
    assert await catalog(wire) == (sorted(names), None)
    seen, link = await catalog(wire, "?n=2")
    assert seen == ["a", "a-b"]
    assert link == '</v2/_catalog?n=2&last=a-b>; rel="next"'
    while link:
        answer = await wire("GET", link[1 : link.index(">")])
        seen += answer.json()["repositories"]
        link = answer.headers.get("link")
    assert seen == sorted(names)


@pytest.mark.parametrize(
    ("query", "expected"),
    [("?n=0", []), ("?last=a", ["b", "c"]), ("?last=aa&n=1", ["b"]), ("?last=z", []), ("?n=3", ["a", "b", "c"])],
)
async def test_n_and_last(opened, query, expected):
    wire = await opened()
    for name in ("a", "b", "c"):
        await wire.push_image("v", name)
    assert (await catalog(wire, query))[0] == expected


@pytest.mark.parametrize("n", ["-1", "x", "1.0"])
async def test_n_that_is_no_number(wire, kit, n):
    kit.check_error(await wire("GET", f"/v2/_catalog?n={n}"), 400, "PAGINATION_NUMBER_INVALID")


async def test_clamped_to_the_maximum(opened):
    wire = await opened(**{"catalog.maxentries": 2})
    for name in ("a", "b", "c"):
        await wire.push_image("v", name)
    for query in ("", "?n=50"):
        found, link = await catalog(wire, query)
        assert found == ["a", "b"]
        assert link


async def test_answer(wire, kit):
    await wire.push_manifest(kit.index_of([]))
    answer = await wire("GET", "/v2/_catalog")
    assert answer.status_code == 200
    assert answer.headers["content-type"].split(";")[0] == "application/json"
    assert set(answer.json()) == {"repositories"}


async def test_last_is_exclusive_and_need_not_exist(wire):
    names = [f"{wire.repository}/{letter}" for letter in "abc"]
    for name in names:
        await wire.push_image("v", name)
    assert (await catalog(wire, f"?n=3&last={wire.repository}/0"))[0] == names
    assert (await catalog(wire, f"?n=2&last={names[0]}"))[0] == names[1:]
    assert (await catalog(wire, f"?n=1&last={names[0]}a"))[0] == names[1:2]
    found, link = await catalog(wire, f"?n=1&last={wire.repository}/0")
    assert found == names[:1]
    assert link in {f'</v2/_catalog?n=1&last={q}>; rel="next"' for q in (names[0], names[0].replace("/", "%2F"))} | {
        f'</v2/_catalog?last={q}&n=1>; rel="next"' for q in (names[0], names[0].replace("/", "%2F"))
    }


async def test_a_hundred_by_default(opened, kit):
    wire = await opened()
    names = sorted(f"r{number}" for number in range(103))
    for name in names:
        await wire.push_manifest(kit.index_of([]), "v", name)
    found, link = await catalog(wire)
    assert (found, link is not None) == (names[:100], True)
    assert await catalog(wire, "?n=103") == (names, None)
    assert await wire.pages("/v2/_catalog", "repositories") == [names[:100], names[100:]]


async def test_empty(opened):
    wire = await opened()
    assert await catalog(wire) == ([], None)
    assert await catalog(wire, "?n=0") == ([], None)
    await wire.push_blob(b"a blob makes no entry")
    assert await catalog(wire) == ([], None)


async def test_repository_without_tags_is_listed(wire):
    image = await wire.push_image("only")
    await wire("DELETE", wire.manifest_path("only"))
    before = wire.repository[:-1]
    assert (await catalog(wire, f"?n=1&last={before}"))[0] == [wire.repository]
    await wire("DELETE", wire.manifest_path(image.digest))
    assert wire.repository not in (await catalog(wire, f"?n=1&last={before}"))[0]


@pytest.mark.parametrize("n", ["0x5", "%20", "%ff", "1e1", "+1", "-5"])
async def test_n_of_another_form(wire, kit, n):
    answer = await wire("GET", f"/v2/_catalog?n={n.replace('+', '%2B')}")
    kit.check_error(answer, 400, "PAGINATION_NUMBER_INVALID")


async def test_huge_n_is_clamped(wire, kit):
    await wire.push_manifest(kit.index_of([]))
    assert (await wire("GET", "/v2/_catalog?n=99999999999999999999")).status_code == 200
