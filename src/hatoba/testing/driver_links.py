"""The part of the driver contract that is about the mirror's small files.

`driver_contract.DriverContract` has it among its classes.
"""

from __future__ import annotations

import asyncio

from hatoba.blobs import layout
from hatoba.blobs.driver import BlobDriver
from hatoba.oci.digest import Digest
from hatoba.testing.driver_steps import content_of, keys, publish

_LINK = layout.tag_link("library/alpine", "latest")
_BLOB = layout.blob(Digest.of(b"blob"))


class LinksContract:
    """`write_link`, `make_folder`, `remove_tree`, `sync_links`, `walk`: the mirror's small files."""

    async def test_a_link_is_replaced(self, driver: BlobDriver) -> None:
        for content in (b"sha256:1", b"sha256:22", b""):
            await driver.write_link(_LINK, content)
            assert await driver.read(_LINK, 100) == content
            assert await driver.stat(_LINK) == len(content)
        assert await keys(driver) == [_LINK]

    async def test_links_at_once(self, driver: BlobDriver) -> None:
        contents = [f"sha256:{number:064x}".encode() for number in range(100)]
        await asyncio.gather(*(driver.write_link(_LINK, content) for content in contents))
        assert await driver.read(_LINK, 100) in contents
        assert await keys(driver) == [_LINK]

    async def test_a_tree_goes_and_its_neighbours_stay(self, driver: BlobDriver) -> None:
        gone = [layout.tag_link("a", "v1"), layout.tag_index_link("a", "v1", Digest.of(b"1"))]
        stay = [layout.tag_link("a", "v10"), layout.tag_link("a/b", "v1"), layout.tag_link("b", "v1")]
        for key in (*gone, *stay):
            await driver.write_link(key, b"x")
        await driver.make_folder(f"{layout.tag('a', 'v1')}/empty")
        await driver.remove_tree(layout.tag("a", "v1"))
        assert await keys(driver) == sorted(stay)
        await driver.remove_tree(layout.tag("a", "v1"))
        await driver.write_link(gone[0], b"again")
        assert await driver.read(gone[0], 10) == b"again"

    async def test_syncing_what_is_gone(self, driver: BlobDriver) -> None:
        await driver.write_link(_LINK, b"x")
        await driver.make_folder(layout.layers("library/alpine"))
        await driver.remove_tree(layout.repository("library/alpine"))
        await driver.sync_links([_LINK, layout.layers("library/alpine"), layout.tag_link("never", "was")])
        await driver.sync_links([])
        assert await keys(driver) == []

    async def test_a_folder_may_be_made_twice(self, driver: BlobDriver) -> None:
        await driver.make_folder(layout.layers("a"))
        await driver.make_folder(layout.layers("a"))
        assert await keys(driver) == []

    async def test_a_walk_finds_what_is_under_a_prefix(self, driver: BlobDriver) -> None:
        links = [layout.tag_link(name, tag) for name in ("a", "a/b", "ab") for tag in ("1", "2")]
        for key in links:
            await driver.write_link(key, b"x")
        await publish(driver, _BLOB, b"blob")
        assert await keys(driver) == sorted([*links, _BLOB])
        assert await keys(driver, layout.BLOBS) == [_BLOB]
        assert await keys(driver, f"/{layout.repository('ab')}/") == sorted(links[4:])
        assert await keys(driver, layout.repository("a")) == sorted(links[:4])
        assert await keys(driver, layout.repository("nothing")) == []

    async def test_a_walk_under_a_file_finds_nothing(self, driver: BlobDriver) -> None:
        await driver.write_link(_LINK, b"x")
        assert await keys(driver, _LINK) == []

    async def test_a_walk_may_remove_what_it_finds(self, driver: BlobDriver) -> None:
        for number in range(20):
            await driver.write_link(layout.tag_link("a", f"v{number}"), b"x")
        async for key in driver.walk(layout.REPOSITORIES):
            await driver.remove(key)
        assert await keys(driver) == []

    async def test_a_walk_never_sees_hatobas_own_folder(self, driver: BlobDriver) -> None:
        staged = await driver.stage(b"staged")
        await driver.write_link(layout.tag_link("hatoba", "v1"), b"x")
        for prefix in ("", "/", "docker"):
            assert await keys(driver, prefix) == [layout.tag_link("hatoba", "v1")]
        for prefix in ("hatoba", "/hatoba/", staged.rpartition("/")[0]):
            assert await keys(driver, prefix) == []
        await driver.remove(staged)

    async def test_old_temporary_files_go(self, driver: BlobDriver) -> None:
        staged = [await driver.stage(b"staged") for _ in range(3)]
        await publish(driver, _BLOB, b"published")
        assert await driver.stale(3600) == 0
        assert [await driver.stat(key) for key in staged] == [6, 6, 6]
        assert await driver.stale(-1) == 3
        assert [await driver.stat(key) for key in staged] == [None, None, None]
        assert await driver.stale(-1) == 0
        assert await content_of(driver, _BLOB) == b"published"
