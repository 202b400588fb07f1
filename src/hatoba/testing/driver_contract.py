"""The contract of `blobs.driver.BlobDriver` as pytest classes that any driver can join.

A subclass gives the fixture `driver`, empty. What several processes on one store owe each other is `SharedContract`:
it wants `other` too, a second driver on the same bytes. Durability cannot be seen from here; each driver shows its own.
"""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from hatoba.blobs import layout
from hatoba.blobs.driver import BlobDriver, BlobWriter, KeyBusy, KeyMissing
from hatoba.oci.digest import Digest
from hatoba.testing.driver_links import LinksContract
from hatoba.testing.driver_listings import ListingContract
from hatoba.testing.driver_steps import content_of, driven, keys, move, publish

_UPLOAD = layout.upload("library/alpine", "0c5e7d7e-6b39-4a0e-8d2e-3a1f7f1f6a55")
_SECOND = layout.upload("library/alpine", "7f6f1a3e-1d1c-4c3e-9f0e-5b0a7d9a2a11")
_LINK = layout.tag_link("library/alpine", "latest")
_BLOB = layout.blob(Digest.of(b"blob"))
# What the grammar of names allows and a store may trip over.
_NAMES = ["a", "a/b", "a-b", "a.b/c__d", "/".join(["x"] * 128), "a" * 255, "v2", "blobs/manifests", "0"]


class ReadingContract:
    """`stat`, `open`, `read`, `publish`, `remove`: bytes that are there, and what their readers see."""

    async def test_nothing_is_there(self, driver: BlobDriver) -> None:
        assert await driver.stat(_BLOB) is None
        with pytest.raises(KeyMissing):
            await driver.open(_BLOB)
        with pytest.raises(KeyMissing):
            await driver.read(_BLOB, 10)
        await driver.remove(_BLOB)
        await driver.remove_tree(layout.repository("library/alpine"))

    @pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 1_000_000])
    async def test_what_is_published_is_there(self, driver: BlobDriver, size: int) -> None:
        content = os.urandom(size)
        await publish(driver, _BLOB, content)
        assert await driver.stat(_BLOB) == size
        assert await content_of(driver, _BLOB) == content
        assert await driver.read(_BLOB, size + 1) == content
        assert await driver.read(_BLOB, 100) == content[:100]

    async def test_a_folder_is_nothing(self, driver: BlobDriver) -> None:
        await publish(driver, _BLOB, b"blob")
        await driver.make_folder(layout.layers("a"))
        for folder in (_BLOB.rpartition("/")[0], layout.layers("a")):
            assert await driver.stat(folder) is None
            with pytest.raises(KeyMissing):
                await driver.open(folder)
            with pytest.raises(KeyMissing):
                await driver.read(folder, 10)
            with pytest.raises(KeyMissing):
                async with driver.append(folder):
                    pytest.fail("a folder is no upload")
            await driver.remove(folder)
        assert await content_of(driver, _BLOB) == b"blob"

    async def test_looking_and_opening_never_suspend(self, driver: BlobDriver) -> None:
        """A write transaction and the answer to a HEAD run on the loop's thread in one piece."""
        await publish(driver, _BLOB, b"blob")
        assert driven(driver.stat(_BLOB)) == 4
        assert driven(driver.stat(_LINK)) is None
        driven(driver.open(_BLOB)).close()

    async def test_under_a_file_is_nothing(self, driver: BlobDriver) -> None:
        await publish(driver, _BLOB, b"blob")
        assert await driver.stat(f"{_BLOB}/below") is None
        with pytest.raises(KeyMissing):
            await driver.open(f"{_BLOB}/below")
        await driver.remove(f"{_BLOB}/below")
        assert await content_of(driver, _BLOB) == b"blob"

    async def test_inspecting_says_what_lies_there_and_whether_it_is_the_same(self, driver: BlobDriver) -> None:
        assert await driver.inspect(_BLOB) is None
        await publish(driver, _BLOB, b"blob")
        found = driven(driver.inspect(_BLOB))
        assert found is not None
        assert (found.kind, found.size) == ("file", 4)
        assert await driver.inspect(_BLOB) == found
        await publish(driver, _BLOB, b"blob")
        assert await driver.inspect(_BLOB) != found

    async def test_what_is_set_aside_is_kept_outside_of_the_tree(self, driver: BlobDriver) -> None:
        await publish(driver, _BLOB, b"blob")
        aside = await asyncio.to_thread(lambda: driven(driver.set_aside(_BLOB, "kept")))
        assert await content_of(driver, aside) == b"blob"
        assert await driver.stat(_BLOB) is None
        assert await keys(driver) == []
        with pytest.raises(KeyMissing):
            await asyncio.to_thread(lambda: driven(driver.set_aside(_BLOB, "kept")))

    async def test_reads_are_positional(self, driver: BlobDriver) -> None:
        content = os.urandom(300_000)
        await publish(driver, _BLOB, content)
        chance = random.Random(7)  # noqa: S311
        reader = await driver.open(_BLOB)
        assert reader.size == len(content)
        spans = [(chance.randrange(300_001), chance.randrange(100_000)) for _ in range(200)]
        found = await asyncio.gather(*(reader.read(offset, length) for offset, length in spans))
        assert list(found) == [content[offset : offset + length] for offset, length in spans]
        assert await reader.read(300_000, 1) == b""
        assert await reader.read(1_000_000, 1) == b""
        reader.close()
        reader.close()

    async def test_a_reader_keeps_what_it_opened(self, driver: BlobDriver) -> None:
        await publish(driver, _BLOB, b"first")
        first = await driver.open(_BLOB)
        await publish(driver, _BLOB, b"the second")
        second = await driver.open(_BLOB)
        await driver.remove(_BLOB)
        assert await driver.stat(_BLOB) is None
        assert (first.size, await first.read(0, 100)) == (5, b"first")
        assert (second.size, await second.read(0, 100)) == (10, b"the second")
        first.close()
        second.close()

    async def test_a_reader_keeps_the_link_it_opened(self, driver: BlobDriver) -> None:
        await driver.write_link(_LINK, b"sha256:old")
        reader = await driver.open(_LINK)
        await driver.write_link(_LINK, b"sha256:new, and longer")
        assert (reader.size, await reader.read(0, 100)) == (10, b"sha256:old")
        await driver.remove_tree(layout.tag("library/alpine", "latest"))
        assert await reader.read(0, 100) == b"sha256:old"
        reader.close()

    async def test_publishing_moves(self, driver: BlobDriver) -> None:
        staged = await driver.stage(b"staged")
        assert await driver.stat(_BLOB) is None
        await driver.prepare(_BLOB)
        await move(driver, staged, _BLOB)
        assert await driver.stat(staged) is None
        with pytest.raises(KeyMissing):
            await move(driver, staged, _BLOB)
        assert await content_of(driver, _BLOB) == b"staged"

    async def test_each_staging_is_its_own(self, driver: BlobDriver) -> None:
        staged = [await driver.stage(b"same") for _ in range(20)]
        assert len(set(staged)) == 20
        await driver.remove(staged[0])
        assert [await driver.stat(key) for key in staged] == [None] + [4] * 19
        for key in staged:
            await driver.remove(key)

    @pytest.mark.parametrize("name", _NAMES, ids=range(len(_NAMES)))
    async def test_names_of_every_form(self, driver: BlobDriver, name: str) -> None:
        upload, link, tag = layout.upload(name, "id"), layout.tag_link(name, "v1"), layout.tag_link(name, "_" * 128)
        await driver.create(upload)
        await driver.write_link(link, b"1")
        await driver.write_link(tag, b"2")
        assert await keys(driver, layout.repository(name)) == sorted([upload, link, tag])
        assert [await driver.read(key, 9) for key in (upload, link, tag)] == [b"", b"1", b"2"]


class WritingContract:
    """`create`, `append` and the writer: uploads, one writer at a time."""

    @pytest.fixture
    async def upload(self, driver: BlobDriver) -> str:
        """The key of an empty upload."""
        await driver.create(_UPLOAD)
        return _UPLOAD

    async def test_an_upload_begins_empty(self, driver: BlobDriver, upload: str) -> None:
        assert await driver.stat(upload) == 0
        with pytest.raises(FileExistsError):
            await driver.create(upload)

    async def test_an_upload_that_is_not_there(self, driver: BlobDriver) -> None:
        with pytest.raises(KeyMissing):
            async with driver.append(_UPLOAD):
                pytest.fail("there is nothing to append to")

    async def test_from_the_first_byte_to_the_blob(self, driver: BlobDriver, upload: str) -> None:
        async with driver.append(upload) as writer:
            await writer.truncate(0)
            await writer.write(0, [b"first ", b"", b"second "])
            await writer.sync()
        async with driver.append(upload) as writer:
            await writer.truncate(13)
            await writer.write(13, [b"third"])
            assert await writer.read(6, 6) == b"second"
            assert await writer.seal() == 18
            assert await writer.read(0, 100) == b"first second third"
            await driver.prepare(_BLOB)
            await move(driver, upload, _BLOB)
        assert await content_of(driver, _BLOB) == b"first second third"
        assert await driver.stat(upload) is None

    @pytest.mark.parametrize("pieces", [1, 511, 512, 513, 1024, 1025, 3000])
    async def test_many_pieces(self, driver: BlobDriver, upload: str, pieces: int) -> None:
        chance = random.Random(pieces)  # noqa: S311
        chunks = [chance.randbytes(chance.randrange(50)) for _ in range(pieces)]
        async with driver.append(upload) as writer:
            await writer.write(0, chunks)
            assert await writer.seal() == sum(map(len, chunks))
        assert await content_of(driver, upload) == b"".join(chunks)

    async def test_sealed_is_for_good(self, driver: BlobDriver, upload: str) -> None:
        async with driver.append(upload) as writer:
            await writer.write(0, [b"whole"])
            assert await writer.seal() == 5
            with pytest.raises(ValueError, match="sealed"):
                await writer.write(5, [b" and more"])
            with pytest.raises(ValueError, match="sealed"):
                await writer.truncate(3)
            with pytest.raises(KeyBusy):
                async with driver.append(upload):
                    pytest.fail("it is locked until the context ends")
        assert await content_of(driver, upload) == b"whole"

    async def test_a_closing_that_failed_is_done_again(self, driver: BlobDriver, upload: str) -> None:
        async with driver.append(upload) as writer:
            await writer.write(0, [b"whole"])
            await writer.seal()
        async with driver.append(upload) as writer:
            await writer.truncate(5)
            assert await writer.seal() == 5
        async with driver.append(upload) as writer:
            await writer.write(5, [b"!"])
            assert await writer.seal() == 6
        assert await content_of(driver, upload) == b"whole!"

    async def test_bytes_go_where_they_belong(self, driver: BlobDriver, upload: str) -> None:
        async with driver.append(upload) as writer:
            await writer.write(0, [b"0123456789"])
            await writer.write(3, [b"a", b"bc"])
            await writer.write(8, [b"xyz"])
            await writer.write(5, [])
            assert await writer.read(0, 20) == b"012abc67xyz"
            await writer.write(13, [b"!"])
        assert await content_of(driver, upload) == b"012abc67xyz\0\0!"

    async def test_a_new_upload_at_the_key_of_a_published_one(self, driver: BlobDriver, upload: str) -> None:
        async with driver.append(upload) as writer:
            await writer.write(0, [b"blob"])
            await writer.seal()
            await driver.prepare(_BLOB)
            await move(driver, upload, _BLOB)
        await driver.create(upload)
        async with driver.append(upload) as writer:
            await writer.write(0, [b"another"])
        assert await content_of(driver, _BLOB) == b"blob"

    async def test_seal_of_nothing_written(self, driver: BlobDriver, upload: str) -> None:
        async with driver.append(upload) as writer:
            assert await writer.seal() == 0
        assert await driver.stat(upload) == 0

    async def test_cut_back_and_written_again(self, driver: BlobDriver, upload: str) -> None:
        async with driver.append(upload) as writer:
            await writer.write(0, [b"acknowledged, not acknowledged"])
        async with driver.append(upload) as writer:
            await writer.truncate(12)
            await writer.truncate(12)
            assert await writer.read(0, 100) == b"acknowledged"
            await writer.write(12, [b"!"])
        assert await content_of(driver, upload) == b"acknowledged!"

    async def test_shorter_than_acknowledged(self, driver: BlobDriver, upload: str) -> None:
        async with driver.append(upload) as writer:
            await writer.write(0, [b"12345"])
            with pytest.raises(KeyMissing):
                await writer.truncate(6)
            assert await writer.read(0, 10) == b"12345"

    async def test_one_writer_at_a_time(self, driver: BlobDriver, upload: str) -> None:
        await driver.create(_SECOND)
        async with driver.append(upload), driver.append(_SECOND):
            for key in (upload, _SECOND):
                with pytest.raises(KeyBusy):
                    async with driver.append(key):
                        pytest.fail("two writers")
        async with driver.append(upload):
            pass

    async def test_free_after_an_error_and_a_cancellation(self, driver: BlobDriver, upload: str) -> None:
        with pytest.raises(ZeroDivisionError):
            async with driver.append(upload):
                raise ZeroDivisionError
        inside = asyncio.Event()

        async def hold() -> None:
            async with driver.append(upload) as writer:
                await writer.write(0, [b"x"])
                inside.set()
                await asyncio.Event().wait()

        holding = asyncio.ensure_future(hold())
        await inside.wait()
        holding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holding
        async with driver.append(upload) as writer:
            assert await writer.read(0, 9) == b"x"

    async def test_64_want_one_upload(self, driver: BlobDriver, upload: str) -> None:
        """Whoever gets it writes alone; the others are told at once and may come again."""
        writing = 0

        async def append(number: int) -> None:
            nonlocal writing
            while True:
                try:
                    async with driver.append(upload) as writer:
                        writing += 1
                        assert writing == 1
                        await _append_one(writer, number)
                        writing -= 1
                        return
                except KeyBusy:
                    await asyncio.sleep(0)

        await asyncio.gather(*(append(number) for number in range(64)))
        assert sorted(await content_of(driver, upload)) == list(range(64))

    async def test_removed_uploads_leave_nothing(self, driver: BlobDriver, upload: str) -> None:
        await driver.create(_SECOND)
        await driver.remove(upload)
        await driver.remove(upload)
        with pytest.raises(KeyMissing):
            async with driver.append(upload):
                pytest.fail("it was removed")
        assert await keys(driver) == [_SECOND]


async def _append_one(writer: BlobWriter, number: int) -> None:
    size = 0
    while await writer.read(size, 1):
        size += 1
    await writer.write(size, [bytes([number])])


class DriverContract(ReadingContract, WritingContract, LinksContract, ListingContract):
    """Everything a driver owes."""


class SharedContract:
    """What two processes on the same store owe each other; `other` stands for the second."""

    async def test_one_sees_what_the_other_did(self, driver: BlobDriver, other: BlobDriver) -> None:
        await publish(driver, _BLOB, b"blob")
        assert await content_of(other, _BLOB) == b"blob"
        await other.write_link(_LINK, b"x")
        assert await keys(driver) == sorted([_BLOB, _LINK])
        await other.remove(_BLOB)
        assert await driver.stat(_BLOB) is None

    async def test_an_upload_goes_on_elsewhere(self, driver: BlobDriver, other: BlobDriver) -> None:
        await driver.create(_UPLOAD)
        async with driver.append(_UPLOAD) as writer:
            await writer.write(0, [b"here "])
            await writer.sync()
            with pytest.raises(KeyBusy):
                async with other.append(_UPLOAD):
                    pytest.fail("two writers")
        async with other.append(_UPLOAD) as writer:
            await writer.truncate(5)
            await writer.write(5, [b"and there"])
        assert await content_of(driver, _UPLOAD) == b"here and there"

    async def test_a_published_upload_is_no_upload_elsewhere(self, driver: BlobDriver, other: BlobDriver) -> None:
        await driver.create(_UPLOAD)
        async with driver.append(_UPLOAD) as writer:
            await writer.write(0, [b"x"])
            await writer.seal()
            await driver.prepare(_BLOB)
            await move(driver, _UPLOAD, _BLOB)
        with pytest.raises(KeyMissing):
            async with other.append(_UPLOAD):
                pytest.fail("its bytes are a blob now")

    async def test_what_one_staged_the_other_may_publish_or_clear(self, driver: BlobDriver, other: BlobDriver) -> None:
        published, left = await driver.stage(b"blob"), await driver.stage(b"left by a crash")
        await other.prepare(_BLOB)
        await move(other, published, _BLOB)
        assert await other.stale(-1) == 1
        assert (await driver.stat(_BLOB), await driver.stat(left)) == (4, None)

    async def test_both_publish_the_same_blob(self, driver: BlobDriver, other: BlobDriver) -> None:
        await asyncio.gather(*(publish(one, _BLOB, b"blob") for one in (driver, other) for _ in range(20)))
        assert await content_of(driver, _BLOB) == b"blob"
        assert await keys(other) == [_BLOB]
