"""The part of the driver contract that is about looking around: `children`, `listing`, `read_each`, `changed_at`.

`driver_contract.DriverContract` has it among its classes.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from hatoba.blobs import layout
from hatoba.blobs.driver import BlobDriver, Child

_SLACK = timedelta(seconds=2)  # clocks of disks are coarse
_TAGS = layout.tags("library/alpine")
_LINKS = {f"{_TAGS}/{tag}/current/link": tag.encode() * size for size, tag in enumerate(("a", "b-2", "c"), 1)}


async def _write(driver: BlobDriver) -> None:
    for key, content in _LINKS.items():
        await driver.write_link(key, content)
    await driver.write_link(f"{_TAGS}/note", b"beside")
    await driver.write_link(layout.tag_link("library/alpine-2", "d"), b"of another")


class ListingContract:
    """What lies where, how big it is and since when."""

    async def test_children_are_what_lies_directly_in_a_folder(self, driver: BlobDriver) -> None:
        await _write(driver)
        found = await driver.children(_TAGS)
        assert sorted(found, key=lambda child: child.name) == [
            Child("a", is_folder=True),
            Child("b-2", is_folder=True),
            Child("c", is_folder=True),
            Child("note", is_folder=False),
        ]
        assert Child("alpine", is_folder=True) in await driver.children(f"{layout.REPOSITORIES}/library")

    async def test_where_nothing_is_there_are_no_children(self, driver: BlobDriver) -> None:
        await _write(driver)
        for folder in (layout.BLOBS, f"{_TAGS}/note", f"{_TAGS}/a/current/link", f"{_TAGS}/absent"):
            assert await driver.children(folder) == []
            assert await driver.listing(folder) == []

    async def test_a_listing_has_every_file_with_size_and_time(self, driver: BlobDriver) -> None:
        before = datetime.now(UTC)
        await _write(driver)
        found = {file.key: file for file in await driver.listing(_TAGS)}
        expected = {**_LINKS, f"{_TAGS}/note": b"beside"}
        assert {key: file.size for key, file in found.items()} == {key: len(text) for key, text in expected.items()}
        for file in found.values():
            assert before - _SLACK <= file.written_at <= datetime.now(UTC) + _SLACK

    async def test_a_file_that_is_written_again_is_newer(self, driver: BlobDriver) -> None:
        await _write(driver)
        key = next(iter(_LINKS))
        (before,) = (file.written_at for file in await driver.listing(_TAGS) if file.key == key)
        await asyncio.sleep(0.02)
        await driver.write_link(key, b"again")
        (after,) = (file.written_at for file in await driver.listing(_TAGS) if file.key == key)
        assert after > before

    async def test_many_are_read_at_once_in_order(self, driver: BlobDriver) -> None:
        await _write(driver)
        keys = [*reversed(_LINKS), f"{_TAGS}/absent", _TAGS, f"{_TAGS}/note/below"]
        assert await driver.read_each(keys, 100) == [*reversed(_LINKS.values()), None, None, None]
        assert await driver.read_each(keys[:2], 1) == [b"c", b"b"]
        assert await driver.read_each([], 1) == []

    async def test_a_folder_changes_when_something_goes(self, driver: BlobDriver) -> None:
        """What is removed leaves its folder's time; nobody knows on a store without folders."""
        await _write(driver)
        key = layout.tag_link("library/alpine", "a")
        before = await driver.changed_at(key)
        await asyncio.sleep(0.02)
        await driver.remove(key)
        after = await driver.changed_at(key)
        if before is None or after is None:
            assert (before, after) == (None, None)
            return
        assert after > before
        await asyncio.sleep(0.02)
        await driver.remove_tree(layout.tag("library/alpine", "a"))
        assert (await driver.changed_at(key) or before) > after, "that of the nearest folder that is there"
