"""The driver contract on a folder and in memory. Teardown fails on descriptors, threads and temporary files left."""

import os
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hatoba.blobs import layout
from hatoba.blobs.driver import KeyMissing
from hatoba.blobs.filesystem import Filesystem
from hatoba.blobs.measured import Measured
from hatoba.blobs.memory import Memory
from hatoba.metrics.catalogue import ACTIONS, STORAGE_ACTION
from hatoba.metrics.cells import Recorder
from hatoba.oci.digest import Digest
from hatoba.testing.driver_contract import DriverContract, SharedContract
from hatoba.testing.driver_steps import content_of, publish

BLOB = layout.blob(Digest.of(b"blob"))
UPLOAD = layout.upload("library/alpine", "id")
# One store for all examples on purpose: each one replaces what the one before it left.
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors])
SIZES = st.integers(0, 3000)
STEPS = st.one_of(
    st.tuples(st.just("write"), SIZES, st.lists(st.binary(max_size=300), max_size=20)),
    st.tuples(st.just("truncate"), SIZES),
    st.tuples(st.just("read"), SIZES, SIZES),
    st.tuples(st.just("sync")),
    st.tuples(st.just("again")),
)


def open_below(root):
    """Names of files under `root` that this process has open."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:
            continue
        if target.startswith(f"{root}/"):
            found.append(target)
    return found


@pytest.fixture
def root(tmp_path):
    before = set(threading.enumerate())
    yield tmp_path / "data"
    assert set(threading.enumerate()) <= before
    assert open_below(tmp_path) == []
    assert list((tmp_path / "data/hatoba/tmp").iterdir()) == []


@pytest.fixture
def opened(root):
    drivers = []

    def open_driver():
        drivers.append(Filesystem(root))
        return drivers[-1]

    yield open_driver
    for driver in drivers:
        driver.close()


@pytest.fixture
def other(opened):
    return opened()


class AnyBytes:
    """The driver beside a plain `bytearray`, for any content and any order of steps."""

    @SHARED
    @given(st.binary(max_size=5000), st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 6000)), max_size=10))
    async def test_any_read_is_a_slice(self, driver, content, spans):
        await publish(driver, BLOB, content)
        assert await driver.stat(BLOB) == len(content)
        reader = await driver.open(BLOB)
        try:
            for offset, length in spans:
                assert await reader.read(offset, length) == content[offset : offset + length]
                assert await driver.read(BLOB, length) == content[:length]
        finally:
            reader.close()

    @SHARED
    @given(st.lists(st.lists(st.binary(max_size=20), max_size=1200), max_size=4))
    async def test_any_split_gives_the_same_bytes(self, driver, writes):
        await driver.remove(UPLOAD)
        await driver.create(UPLOAD)
        size = 0
        async with driver.append(UPLOAD) as writer:
            for chunks in writes:
                await writer.write(size, chunks)
                size += sum(map(len, chunks))
            assert await writer.seal() == size
        assert await content_of(driver, UPLOAD) == b"".join(b"".join(chunks) for chunks in writes)

    @SHARED
    @given(st.lists(STEPS, max_size=15))
    async def test_any_steps_of_a_writer(self, driver, steps):
        await driver.remove(UPLOAD)
        await driver.create(UPLOAD)
        expected = bytearray()
        left = list(steps)
        while left:
            async with driver.append(UPLOAD) as writer:
                while left and (step := left.pop(0)) != ("again",):
                    await take(writer, expected, *step)
            assert await content_of(driver, UPLOAD) == expected


async def take(writer, expected, step, *values):
    """Do a step to the upload and to `expected`; they answer the same."""
    if step == "write":
        offset, chunks = values
        await writer.write(offset, chunks)
        joined = b"".join(chunks)
        if joined:  # nothing written makes no hole
            expected.extend(bytes(max(0, offset - len(expected))))
            expected[offset : offset + len(joined)] = joined
    elif step == "truncate" and values[0] > len(expected):
        with pytest.raises(KeyMissing):
            await writer.truncate(values[0])
    elif step == "truncate":
        await writer.truncate(values[0])
        del expected[values[0] :]
    elif step == "read":
        offset, length = values
        assert await writer.read(offset, length) == expected[offset : offset + length]
    else:
        await writer.sync()


class TestFilesystem(DriverContract, SharedContract, AnyBytes):
    @pytest.fixture
    def driver(self, opened):
        return opened()


class TestMemory(DriverContract, AnyBytes):
    @pytest.fixture
    def driver(self):
        return Memory()


class TestMeasured(DriverContract):
    """What is measured is the driver beneath, and nothing but that."""

    @pytest.fixture
    def recorder(self):
        return Recorder.unshared()

    @pytest.fixture
    def driver(self, recorder):
        return Measured(Memory(), "inmemory", recorder)

    async def test_each_action_is_counted(self, driver, recorder):
        def times(action):
            index = recorder.index(STORAGE_ACTION, "inmemory", action)
            return sum(recorder.cells[index : index + len(STORAGE_ACTION.buckets) + 1])

        await publish(driver, BLOB, b"blob")
        assert {action for action in ACTIONS if times(action)} >= {"PutContent", "Prepare", "Move"}
        before = times("Stat")
        await driver.stat(BLOB)
        assert times("Stat") == before + 1
        await driver.create(UPLOAD)
        async with driver.append(UPLOAD) as writer:
            await writer.write(0, [b"x"])
            await writer.sync()
        assert (times("Writer"), times("Write"), times("Sync")) == (1, 1, 1)
        with pytest.raises(KeyMissing):
            await driver.open("nowhere")
        assert times("Reader") == 1, "what fails took its time, too"
