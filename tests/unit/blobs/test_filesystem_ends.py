"""How calls on the folder end: a failing disk at the rarer steps, cancellation, locks of killed processes, races."""

import asyncio
import errno
import fcntl
import io
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hatoba.blobs import filesystem, layout
from hatoba.blobs.driver import KeyBusy, KeyMissing, OutOfSpace
from hatoba.blobs.filesystem import Filesystem
from hatoba.errors import Unavailable
from hatoba.oci.digest import Digest

UPLOAD = layout.upload("library/alpine", "id")
LINK = layout.tag_link("library/alpine", "v1")
BLOB = layout.blob(Digest.of(b"blob"))
ERRORS = {
    errno.EIO: Unavailable,
    errno.EROFS: Unavailable,
    errno.EMFILE: Unavailable,
    errno.ENOSPC: OutOfSpace,
    errno.EDQUOT: OutOfSpace,
}
NAMES = [errno.errorcode[number] for number in ERRORS]


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def driver(root):
    """Whatever the test did: no descriptor of the root is left open, and no temporary file."""
    driver = Filesystem(root)
    yield driver
    driver.close()
    assert open_below(root) == []
    assert list((root / "hatoba/tmp").iterdir()) == []


@pytest.fixture
async def upload(driver):
    """An upload of ten bytes."""
    await driver.create(UPLOAD)
    async with driver.append(UPLOAD) as writer:
        await writer.write(0, [b"0123456789"])
    return UPLOAD


def open_below(root):
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:
            continue
        if target.startswith(f"{root}/"):
            found.append(target)
    return found


def failing(number, calls, only=lambda *_: True):
    """A call of the kernel's that fails with `number` where `only` says so; what it was asked goes to `calls`."""

    def replacing(real):
        def fail(*arguments, **options):
            if not only(*arguments):
                return real(*arguments, **options)
            calls.append(arguments)
            raise OSError(number, os.strerror(number), arguments[0])

        return fail

    return replacing


def replace(monkeypatch, call, replacing):
    monkeypatch.setattr(os, call, replacing(getattr(os, call)))


def move(driver, source, key):
    """`publish` as a write transaction does it: off the loop, in one piece."""

    def drive():
        with pytest.raises(StopIteration):
            driver.publish(source, key).send(None)

    return asyncio.to_thread(drive)


async def everything(driver, prefix=""):
    return [key async for key in driver.walk(prefix)]


# A failing disk at the rarer steps ---------------------------------------------------------------------------------


async def cut(driver):
    async with driver.append(UPLOAD) as writer:
        await writer.truncate(3)


async def write_on(driver):
    async with driver.append(UPLOAD) as writer:
        await writer.write(10, [b"x"])


async def write_and_sync(driver):
    async with driver.append(UPLOAD) as writer:
        await writer.write(10, [b"x"])
        await writer.sync()


async def write_and_seal(driver):
    async with driver.append(UPLOAD) as writer:
        await writer.write(10, [b"x"])
        await writer.seal()


async def move_upload(driver):
    await move(driver, UPLOAD, UPLOAD)


async def seal_unopened(driver):
    async with driver.append(UPLOAD) as writer:
        await writer.seal()


def to_write(_path, flags, *_mode):
    return flags & os.O_WRONLY


def a_folder(_path, flags, *_mode):
    return flags & os.O_DIRECTORY


def a_folder_there(target, *_):
    return isinstance(target, int) and stat.S_ISDIR(os.fstat(target).st_mode)


STEPS = {
    "cutting back": ("ftruncate", cut, None),
    "opening to write": ("open", write_on, to_write),
    "the mode of what is written": ("fchmod", write_on, None),
    "syncing what is written": ("fdatasync", write_and_sync, None),
    "closing what is written": ("fsync", write_and_seal, None),
    "closing what was not written": ("fsync", seal_unopened, None),
    "the mode of what is staged": ("fchmod", lambda driver: driver.stage(b"x"), None),
    "syncing what is staged": ("fsync", lambda driver: driver.stage(b"x"), None),
    "a folder after the rename": ("open", move_upload, a_folder),
    "its fsync": ("fsync", move_upload, a_folder_there),
    "opening a folder to prepare": ("open", lambda driver: driver.prepare(BLOB), a_folder),
    "a link's folders": ("mkdir", lambda driver: driver.write_link(LINK, b"x"), None),
    "syncing a prepared folder": ("fsync", lambda driver: driver.prepare(BLOB), None),
    "syncing a link": ("fsync", lambda driver: driver.sync_links([UPLOAD]), None),
    "opening a link to sync": ("open", lambda driver: driver.sync_links([UPLOAD]), None),
    "opening folders to sync": ("open", lambda driver: driver.sync_links([UPLOAD]), a_folder),
    "syncing folders of links": ("fsync", lambda driver: driver.sync_links([UPLOAD]), a_folder_there),
    "listing a folder": ("scandir", everything, None),
    "listing a tree to remove": ("scandir", lambda driver: driver.remove_tree("docker"), None),
    "removing a folder of a tree": ("rmdir", lambda driver: driver.remove_tree("docker"), None),
    "removing old files": ("scandir", lambda driver: driver.stale(0), None),
    "looking at what was opened": ("fstat", lambda driver: driver.open(UPLOAD), None),
}


@pytest.mark.parametrize("number", ERRORS, ids=NAMES)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.usefixtures("upload")
async def test_an_error_is_told_as_what_it_is_and_the_step_not_repeated(driver, monkeypatch, step, number):
    """A sync that failed may succeed when it is asked again, over lost bytes."""
    call, do, only = STEPS[step]
    calls = []
    with monkeypatch.context() as patched:
        replace(patched, call, failing(number, calls, only or (lambda *_: True)))
        with pytest.raises(ERRORS[number]) as raised:
            await do(driver)
    assert raised.value.__cause__.errno == number
    assert len(calls) == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.ENOMEM])
@pytest.mark.parametrize("call", ["open", "pread"])
@pytest.mark.usefixtures("upload")
async def test_what_cannot_be_read_is_not_missing(driver, monkeypatch, call, number):
    """Missing means 404, and a blob's row set to missing: a disk that hiccups must not do that."""

    async def through_a_reader():
        reader = await driver.open(UPLOAD)
        try:
            await reader.read(0, 1)
        finally:
            reader.close()

    async def through_a_writer():
        async with driver.append(UPLOAD) as writer:
            await writer.read(0, 1)

    with monkeypatch.context() as patched:
        replace(patched, call, failing(number, []))
        for reading in (through_a_reader, through_a_writer, lambda: driver.read(UPLOAD, 1)):
            with pytest.raises(Unavailable, match=os.strerror(number)):
                await reading()


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ELOOP, errno.ENOMEM])
@pytest.mark.usefixtures("upload")
async def test_what_cannot_be_looked_at_is_not_missing(driver, monkeypatch, root, number):
    with monkeypatch.context() as patched:
        replace(patched, "stat", failing(number, [], lambda path, *_: str(path).startswith(str(root))))
        with pytest.raises(Unavailable, match=os.strerror(number)):
            await driver.stat(UPLOAD)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_a_link_that_does_not_fit_leaves_the_old_one(driver, monkeypatch, number):
    class Full(io.FileIO):
        def write(self, _content):
            raise OSError(number, os.strerror(number))

    await driver.write_link(LINK, b"sha256:1")
    with monkeypatch.context() as patched:
        patched.setattr(filesystem, "open", lambda path, mode: io.BufferedWriter(Full(path, mode)), raising=False)
        with pytest.raises(OutOfSpace):
            await driver.write_link(LINK, b"sha256:2")
    assert await driver.read(LINK, 100) == b"sha256:1"


@pytest.mark.parametrize("away", ["the file", "the folder"])
async def test_a_link_whose_file_or_folder_went_away_is_written_again(driver, monkeypatch, root, away):
    """The clock was set forward while old files are cleared; Docker's registry removes empty folders."""
    real, left = os.rename, [1]

    def rename(source, target):
        if left:
            left.pop()
            Path(source).unlink() if away == "the file" else Path(target).parent.rmdir()
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", rename)
        await driver.write_link(LINK, b"sha256:1")
    assert await driver.read(LINK, 100) == b"sha256:1"
    assert not list((root / "hatoba/tmp").iterdir())


async def test_publishing_into_a_folder_that_is_not_there(driver):
    staged = await driver.stage(b"blob")
    with pytest.raises(KeyMissing):
        await move(driver, staged, BLOB)
    assert await driver.stat(staged) == 4
    await driver.remove(staged)


# Cancellation ------------------------------------------------------------------------------------------------------


class Blocked:
    """A call of the kernel's that waits until the test lets it go on, and then sees what its descriptor names."""

    def __init__(self, real):
        self.real, self.reached, self.go_on, self.names = real, threading.Event(), threading.Event(), []

    def __call__(self, descriptor, *arguments):
        self.reached.set()
        assert self.go_on.wait(20)
        self.names.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        return self.real(descriptor, *arguments)

    async def cancel(self, task):
        """Cancel `task` again and again while it waits for this call, then let the call end."""
        assert await asyncio.to_thread(self.reached.wait, 20)
        for _ in range(3):
            task.cancel()
            for _ in range(3):
                await asyncio.sleep(0)
        assert not task.done()
        self.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task


WORK = {
    "pwritev": lambda writer: writer.write(10, [b"x"]),
    "fdatasync": lambda writer: writer.sync(),
    "fsync": lambda writer: writer.seal(),
    "ftruncate": lambda writer: writer.truncate(4),
    "pread": lambda writer: writer.read(0, 5),
}


@pytest.mark.parametrize("call", WORK)
async def test_a_cancelled_writer_outlasts_its_call_and_is_freed(driver, upload, monkeypatch, root, call):
    async def work():
        async with driver.append(upload) as writer:
            await writer.write(10, [b"!"])
            with monkeypatch.context() as patched:
                patched.setattr(os, call, blocked)
                await WORK[call](writer)

    blocked = Blocked(getattr(os, call))
    await blocked.cancel(asyncio.ensure_future(work()))
    assert blocked.names == [str(root / upload)]
    assert open_below(root) == []
    async with driver.append(upload):
        pass


async def test_cancelled_while_it_takes_the_lock(driver, upload, monkeypatch, root):
    async def work():
        async with driver.append(upload):
            pytest.fail("it was cancelled before")

    blocked = Blocked(fcntl.flock)
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", blocked)
        await blocked.cancel(asyncio.ensure_future(work()))
    assert open_below(root) == []
    async with driver.append(upload):
        pass


@pytest.mark.parametrize("end", ["ends", "fails"])
async def test_cancelled_while_an_early_sync_is_waited_for(driver, upload, monkeypatch, root, end):
    """The body ended, the context waits for the sync under way: the cancellation is neither lost nor does it hurry."""

    async def work():
        async with driver.append(upload) as writer:
            await writer.write(10, [b"x"])
            await writer.write(11, [b"y"])
            if end == "fails":
                raise ZeroDivisionError

    monkeypatch.setattr(filesystem, "_WRITE_BACK_BYTES", 11)
    blocked = Blocked(os.fdatasync)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", blocked)
        await blocked.cancel(asyncio.ensure_future(work()))
    assert blocked.names == [str(root / upload)]
    assert open_below(root) == []


async def test_a_disk_that_syncs_slowly_keeps_no_reader_waiting(driver, upload, monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda _descriptor: go_on.wait(20))
    staging = [asyncio.ensure_future(driver.stage(b"a manifest")) for _ in range(40)]
    reader = await driver.open(upload)
    assert await asyncio.wait_for(reader.read(0, 5), 10) == b"0123456789"[:5]
    assert not any(staged.done() for staged in staging)
    go_on.set()
    for staged in staging:
        await driver.remove(await staged)
    reader.close()


async def test_a_cancelled_reader_outlasts_its_call(driver, upload, monkeypatch, root):
    reader = await driver.open(upload)

    async def work():
        try:
            await reader.read(0, 5)
        finally:
            reader.close()

    blocked = Blocked(os.pread)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", blocked)
        await blocked.cancel(asyncio.ensure_future(work()))
    assert blocked.names == [str(root / upload)]
    assert reader._descriptor is None


async def test_what_was_written_is_closed_off_the_loop(driver, upload, monkeypatch, root):
    """On a network's disk a close writes what is left, and takes as long."""
    closed = []

    def recording(real):
        def close(descriptor):
            name = os.readlink(f"/proc/self/fd/{descriptor}")
            if name.startswith(f"{root}/"):
                closed.append((name, threading.current_thread() is threading.main_thread()))
            real(descriptor)

        return close

    replace(monkeypatch, "close", recording)
    async with driver.append(upload) as writer:
        await writer.write(10, [b"x"])
    assert closed == [(str(root / upload), False)] * 2


# Early write-back --------------------------------------------------------------------------------------------------


async def test_what_was_there_before_is_not_synced_early(driver, upload, monkeypatch):
    """An upload that goes on at its offset counts from there."""
    calls = []
    monkeypatch.setattr(filesystem, "_WRITE_BACK_BYTES", 10)
    replace(monkeypatch, "fdatasync", lambda real: lambda descriptor: (calls.append(1), real(descriptor)))
    async with driver.append(upload) as writer:
        await writer.truncate(10)
        await writer.write(10, [b"0123456789"])
        assert calls == []
        await writer.write(20, [b"0123456789"])
        await asyncio.wait([writer._early])
        await writer.write(29, [b"!"])
        await writer.sync()
    assert len(calls) == 2


async def test_an_early_error_ends_the_next_writes(driver, upload, monkeypatch):
    monkeypatch.setattr(filesystem, "_WRITE_BACK_BYTES", 10)
    calls = []
    replace(monkeypatch, "fdatasync", failing(errno.EIO, calls))

    async def write_until_told(writer):
        for offset in range(10, 10_000, 10):
            await writer.write(offset, [b"0123456789"])

    async with driver.append(upload) as writer:
        with pytest.raises(Unavailable):
            await write_until_told(writer)
    assert len(calls) == 1


# Modes, names, other processes -------------------------------------------------------------------------------------


async def test_bytes_and_mode_are_there_when_they_are_synced(driver, upload, monkeypatch, root):
    """What is written or made read-only after the last fsync is not durable."""
    seen = []

    def recording(real):
        def fsync(descriptor):
            found = os.fstat(descriptor)
            seen.append((found.st_size, stat.S_IMODE(found.st_mode)))
            real(descriptor)

        return fsync

    replace(monkeypatch, "fsync", recording)
    await driver.remove(await driver.stage(b"manifest"))
    async with driver.append(upload) as writer:
        await writer.write(10, [b"!"])
        await writer.seal()
    async with driver.append(upload) as writer:
        await writer.seal()
    assert seen == [(8, 0o444), (11, 0o444), (11, 0o444)]
    async with driver.append(upload) as writer:
        await writer.write(11, [b"!"])
        assert stat.S_IMODE((root / upload).stat().st_mode) == 0o644


@pytest.mark.parametrize("key", ["docker/" + "n" * 256, "docker/" * 600 + "data"], ids=["part", "path"])
async def test_what_no_disk_can_name_is_missing(driver, key):
    assert await driver.stat(key) is None
    for work in (driver.open(key), driver.read(key, 10), driver.append(key).__aenter__()):
        with pytest.raises(KeyMissing):
            await work


HOLDING = """
import asyncio, sys
from pathlib import Path
from hatoba.blobs.filesystem import Filesystem

async def hold():
    async with Filesystem(Path(sys.argv[1])).append(sys.argv[2]) as writer:
        await writer.write(10, [b"of a process that dies"])
        print("held", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(hold())
"""


async def test_another_process_holds_the_upload_until_it_is_killed(driver, upload, root):
    command = [sys.executable, "-c", HOLDING, str(root), upload]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert await asyncio.to_thread(process.stdout.readline) == "held\n"
            with pytest.raises(KeyBusy):
                async with driver.append(upload):
                    pytest.fail("another process holds it")
        finally:
            process.kill()
    async with driver.append(upload) as writer:
        await writer.truncate(10)
        assert await writer.read(0, 100) == b"0123456789"


@pytest.mark.parametrize("call", ["mkdir", "rename"])
async def test_docker_beside_us_removes_the_folder_of_a_link(driver, monkeypatch, root, call):
    """Twice in a row it is made again; as soon as it goes each time, the link is given up."""
    for times, expected in ((2, None), (100, Unavailable)):
        await driver.write_link(LINK, b"first")
        await driver.remove_tree(layout.tag("library/alpine", "v1"))
        gone = []

        def interfering(real, times=times, gone=gone):
            def do(target, *arguments, **options):
                into = os.path.dirname(str(root / LINK))  # noqa: PTH120
                if (call == "rename" or str(target) == into) and len(gone) < times:
                    gone.append(target)
                    for folder in (into, os.path.dirname(into)):  # noqa: PTH120
                        if os.path.isdir(folder):  # noqa: PTH112
                            os.rmdir(folder)  # noqa: PTH106
                return real(target, *arguments, **options)

            return do

        with monkeypatch.context() as patched:
            replace(patched, call, interfering)
            if expected is None:
                await driver.write_link(LINK, b"second")
                assert await driver.read(LINK, 10) == b"second"
            else:
                with pytest.raises(expected):
                    await driver.write_link(LINK, b"third")
        assert len(gone) == (2 if expected is None else 3)
