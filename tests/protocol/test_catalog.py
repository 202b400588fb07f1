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
