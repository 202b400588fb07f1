"""What the driver contract cannot see: modes, the order of fsyncs, the kernel's errors, descriptors."""

import asyncio
import errno
import fcntl
import os
import stat
import threading
import time

import pytest

from hatoba.blobs import filesystem, layout
from hatoba.blobs.driver import KeyMissing, OutOfSpace
from hatoba.blobs.filesystem import Filesystem
from hatoba.errors import Unavailable
from hatoba.oci.digest import Digest

UPLOAD = layout.upload("library/alpine", "id")
LINK = layout.tag_link("library/alpine", "v1")
BLOB = layout.blob(Digest.of(b"blob"))
FOLDERS = ["docker", "docker/registry", "docker/registry/v2", "docker/registry/v2/blobs"]
REAL = {name: getattr(os, name) for name in ("pwritev", "pwrite", "fsync", "fdatasync", "open", "close", "rename")}


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def driver(root):
    driver = Filesystem(root)
    yield driver
    driver.close()


@pytest.fixture
def calls(monkeypatch, root):
    """What was asked of the kernel, in order, with paths below the root; temporary names are cut off."""
    made = []

    def path_of(descriptor):
        return below(os.readlink(f"/proc/self/fd/{descriptor}"))

    def below(path):
        path = os.path.relpath(path, root)
        return "hatoba/tmp/*" if path.startswith("hatoba/tmp/") else path

    def fsync(descriptor):
        made.append(("fsync", path_of(descriptor)))
        REAL["fsync"](descriptor)

    def fdatasync(descriptor):
        made.append(("fdatasync", path_of(descriptor)))
        REAL["fdatasync"](descriptor)

    def rename(source, target):
        made.append(("rename", below(source), below(target)))
        REAL["rename"](source, target)

    def pwritev(descriptor, buffers, offset):
        made.append(("pwritev", path_of(descriptor)))
        return REAL["pwritev"](descriptor, buffers, offset)

    for function in (fsync, fdatasync, rename, pwritev):
        monkeypatch.setattr(os, function.__name__, function)
    return made


def drive(work):
    """Run to its end what awaits nothing that suspends, as a write transaction does: off the loop."""

    def run():
        with pytest.raises(StopIteration):
            work.send(None)

    return asyncio.to_thread(run)


def move(driver, source, key):
    return drive(driver.publish(source, key))


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


async def test_folders_are_durable_before_the_rename_and_it_before_the_return(driver, calls):
    staged = await driver.stage(b"blob")
    assert calls == [("fsync", "hatoba/tmp/*")]
    calls.clear()
    await driver.prepare(BLOB)
    folder = BLOB.rpartition("/")[0]
    parents = [*FOLDERS, *(folder.rsplit("/", n)[0] for n in (2, 1)), folder]
    assert calls == [("fsync", path.rpartition("/")[0] or ".") for path in reversed(parents)]
    calls.clear()
    await move(driver, staged, BLOB)
    assert calls == [("rename", "hatoba/tmp/*", BLOB), ("fsync", folder)]


async def test_folders_above_are_synced_once_and_the_blobs_own_each_time(driver, calls):
    await driver.prepare(BLOB)
    calls.clear()
    await driver.prepare(BLOB)
    await driver.prepare(layout.blob(Digest.parse("sha256:" + "0" * 64)))
    own = BLOB.rpartition("/")[0].rpartition("/")[0]
    zeros = f"{layout.BLOBS}/sha256"
    assert calls == [("fsync", own), ("fsync", f"{zeros}/00"), ("fsync", zeros)]


async def test_what_is_set_aside_is_durable_there_and_gone_here_before_the_return(driver, calls):
    await driver.prepare(BLOB)
    await move(driver, await driver.stage(b"blob"), BLOB)
    calls.clear()
    await drive(driver.set_aside(BLOB, "name"))
    moved, *synced = calls
    assert moved == ("rename", BLOB, "hatoba/aside/name")
    assert sorted(synced) == sorted(("fsync", path) for path in ("hatoba/aside", "hatoba", BLOB.rpartition("/")[0]))


async def test_a_folder_whose_sync_failed_is_synced_again(driver, calls, monkeypatch, root):
    recording = os.fsync

    def fail(descriptor):
        if os.fstat(descriptor).st_ino == root.stat().st_ino:
            raise OSError(errno.EIO, "")
        recording(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(Unavailable):
            await driver.prepare(BLOB)
    assert len(calls) == 6
    calls.clear()
    await driver.prepare(BLOB)
    assert calls == [("fsync", BLOB.rpartition("/")[0].rpartition("/")[0]), ("fsync", ".")]


async def test_an_upload_is_synced_before_it_is_sealed_read_only(driver, calls, root):
    await driver.create(UPLOAD)
    async with driver.append(UPLOAD) as writer:
        await writer.write(0, [b"blob"])
        await writer.sync()
        assert calls == [("pwritev", UPLOAD), ("fdatasync", UPLOAD)]
        assert mode(root / UPLOAD) == 0o644
        calls.clear()
        await writer.seal()
        assert calls == [("fsync", UPLOAD)]
        assert mode(root / UPLOAD) == 0o444
        assert writable_below(root) == []
    async with driver.append(UPLOAD) as writer:  # goes on after a closing request that failed
        calls.clear()
        await writer.seal()
        assert calls == [("fsync", UPLOAD)]
    async with driver.append(UPLOAD) as writer:
        await writer.write(4, [b"!"])
    assert (root / UPLOAD).read_bytes() == b"blob!"


def writable_below(root):
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
            flags = fcntl.fcntl(int(descriptor), fcntl.F_GETFL)
        except OSError:
            continue
        if target.startswith(f"{root}/") and flags & os.O_ACCMODE != os.O_RDONLY:
            found.append(target)
    return found


async def test_staged_files_are_read_only(driver, root):
    staged = await driver.stage(b"manifest")
    assert mode(root / staged) == 0o444


async def test_the_descriptor_opened_for_reading_cannot_write(driver, root):
    await driver.create(UPLOAD)
    reader = await driver.open(UPLOAD)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(reader._descriptor, b"x")
    reader.close()
    assert reader._descriptor is None
    with pytest.raises(ValueError, match="closed"):
        await reader.read(0, 1)
    assert writable_below(root) == []


async def test_links_are_synced_from_the_file_up(driver, calls):
    await driver.write_link(LINK, b"sha256:1")
    assert calls == [("rename", "hatoba/tmp/*", LINK)]
    calls.clear()
    await driver.sync_links([LINK, layout.tag_link("library/alpine", "gone")])
    paths = [path for _, path in calls]
    assert paths[0] == LINK
    assert paths[1:] == sorted(paths[1:], key=len, reverse=True)
    parts = LINK.split("/")
    assert set(paths[1:]) == {"/".join(parts[:n]) for n in range(1, len(parts))}


@pytest.mark.parametrize("most", [1, 7, 1000])
async def test_a_short_write_is_continued(driver, monkeypatch, root, most):
    def pwritev(descriptor, buffers, offset):
        return REAL["pwrite"](descriptor, b"".join(buffers)[:most], offset)

    def pwrite(descriptor, content, offset):
        return REAL["pwrite"](descriptor, content[:most], offset)

    monkeypatch.setattr(os, "pwritev", pwritev)
    monkeypatch.setattr(os, "pwrite", pwrite)
    chunks = [os.urandom(n) for n in (0, 1, 500, 1499)]
    await driver.create(UPLOAD)
    async with driver.append(UPLOAD) as writer:
        await writer.write(0, chunks)
        await writer.write(2000, chunks)
    assert (root / UPLOAD).read_bytes() == b"".join(chunks) * 2
    staged = await driver.stage(b"".join(chunks))
    assert (root / staged).read_bytes() == b"".join(chunks)


ERRORS = {errno.EIO: Unavailable, errno.ENOSPC: OutOfSpace, errno.EDQUOT: OutOfSpace, errno.EROFS: Unavailable}


async def write(driver):
    async with driver.append(UPLOAD) as writer:
        await writer.write(0, [b"x"])
        await writer.sync()
        await writer.seal()


async def make_and_move(driver):
    await move(driver, await driver.stage(b"x"), UPLOAD)


STEPS = {
    "create": ("open", lambda driver: driver.create(BLOB)),
    "folders of create": ("mkdir", lambda driver: driver.create(BLOB)),
    "write": ("pwritev", write),
    "sync": ("fdatasync", write),
    "mode": ("fchmod", write),
    "seal": ("fsync", write),
    "stage": ("open", lambda driver: driver.stage(b"x")),
    "write of stage": ("pwrite", lambda driver: driver.stage(b"x")),
    "sync of stage": ("fsync", lambda driver: driver.stage(b"x")),
    "folders": ("mkdir", lambda driver: driver.prepare(BLOB)),
    "sync of folders": ("fsync", lambda driver: driver.prepare(BLOB)),
    "rename": ("rename", make_and_move),
    "remove": ("unlink", lambda driver: driver.remove(UPLOAD)),
    "link": ("rename", lambda driver: driver.write_link(LINK, b"x")),
    "sync of a link": ("fsync", lambda driver: driver.sync_links([UPLOAD])),
    "stat": ("stat", lambda driver: driver.stat(UPLOAD)),
    "read": ("pread", lambda driver: driver.read(UPLOAD, 9)),
    "make a folder": ("mkdir", lambda driver: driver.make_folder(layout.layers("new"))),
    "remove a tree": ("unlink", lambda driver: driver.remove_tree(layout.uploads("library/alpine"))),
}


@pytest.mark.parametrize("number", ERRORS, ids=[errno.errorcode[number] for number in ERRORS])
@pytest.mark.parametrize("step", STEPS)
async def test_errors_of_the_kernel(driver, monkeypatch, root, step, number):
    """Each is told as what it is, with the kernel's word for the log, and leaves no file or descriptor."""
    call, do = STEPS[step]
    await driver.create(UPLOAD)
    real = getattr(os, call)

    def fail(*arguments, **options):
        if call == "stat" and not str(arguments[0]).startswith(str(root)):
            return real(*arguments, **options)
        if call == "unlink" and "hatoba/tmp" in str(arguments[0]):  # cleaning up after the error
            return real(*arguments, **options)
        if call == "open" and not arguments[1] & os.O_CREAT:
            return real(*arguments, **options)
        raise OSError(number, os.strerror(number), str(arguments[0]))

    expected = Unavailable if step in {"stat", "read"} else ERRORS[number]
    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(expected) as raised:
            await do(driver)
    assert raised.value.__cause__.errno == number
    assert list((root / "hatoba/tmp").iterdir()) == [] or step == "rename"
    assert writable_below(root) == []
    await driver.remove(UPLOAD)
    await driver.create(UPLOAD)


async def test_out_of_descriptors(driver, monkeypatch):
    await driver.create(UPLOAD)

    def fail(path, *_arguments):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", fail)
        with pytest.raises(Unavailable, match="Too many open files"):
            await driver.open(UPLOAD)
        with pytest.raises(Unavailable, match="Too many open files"):
            async with driver.append(UPLOAD):
                pytest.fail("there was no descriptor")
    (await driver.open(UPLOAD)).close()


@pytest.mark.parametrize("call", ["flock", "stat", "fstat"])
async def test_a_lock_that_fails_leaks_nothing(driver, monkeypatch, root, call):
    await driver.create(UPLOAD)

    def fail(target, *_arguments, **_options):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    before = set(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr(fcntl if call == "flock" else os, call, fail)
        with pytest.raises(Unavailable, match="No locks available"):
            async with driver.append(UPLOAD):
                pytest.fail("there was no lock")
    assert set(os.listdir("/proc/self/fd")) <= before
    async with driver.append(UPLOAD):
        pass


async def test_a_cancelled_writer_waits_before_its_descriptor_is_closed(driver, monkeypatch, root):
    """Else the number is given to the next file, and the blocked write goes there."""
    reached, go_on, closed = threading.Event(), threading.Event(), []

    def pwritev(descriptor, buffers, offset):
        reached.set()
        assert go_on.wait(20)
        return REAL["pwritev"](descriptor, buffers, offset)

    def close(descriptor):
        closed.append(go_on.is_set())
        REAL["close"](descriptor)

    async def append():
        async with driver.append(UPLOAD) as writer:
            await writer.write(0, [b"late"])

    await driver.create(UPLOAD)
    monkeypatch.setattr(os, "pwritev", pwritev)
    appending = asyncio.ensure_future(append())
    await asyncio.to_thread(reached.wait, 20)
    monkeypatch.setattr(os, "close", close)
    for _ in range(3):  # however often it is cancelled
        appending.cancel()
        await asyncio.sleep(0)
    assert not appending.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await appending
    assert closed == [True, True]
    assert (root / UPLOAD).read_bytes() == b"late"


async def test_the_disk_starts_early_and_once_at_a_time(driver, monkeypatch):
    monkeypatch.setattr(filesystem, "_WRITE_BACK_BYTES", 10)
    synced, go_on = [], threading.Event()

    def fdatasync(descriptor):
        synced.append(os.fstat(descriptor).st_size)
        assert go_on.wait(20)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    await driver.create(UPLOAD)
    async with driver.append(UPLOAD) as writer:
        for offset in range(0, 60, 6):
            await writer.write(offset, [b"123456"])
        go_on.set()
        await writer.sync()
    assert len(synced) == 2
    assert synced[-1] == 60


@pytest.mark.parametrize("then", ["sync", "seal"])
async def test_an_early_error_is_told_once_and_not_lost(driver, monkeypatch, then):
    """The kernel reports a failed write-back once: the sync that follows may succeed over lost bytes."""
    monkeypatch.setattr(filesystem, "_WRITE_BACK_BYTES", 10)
    failed = threading.Event()

    def fdatasync(_descriptor):
        if not failed.is_set():
            failed.set()
            raise OSError(errno.EIO, "")

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    await driver.create(UPLOAD)
    async with driver.append(UPLOAD) as writer:
        await writer.write(0, [b"1234567890"])
        await writer.write(10, [b"1234567890"])
        await asyncio.to_thread(failed.wait, 20)
        with pytest.raises(Unavailable):
            await (writer.sync() if then == "sync" else writer.seal())


async def test_an_upload_replaced_between_open_and_lock_is_gone(driver, monkeypatch, root):
    """Its bytes were published meanwhile: whoever locked them would write into a blob."""
    await driver.create(UPLOAD)
    real = fcntl.flock

    def flock(descriptor, operation):
        (root / UPLOAD).rename(root / "hatoba/tmp/published")
        (root / UPLOAD).write_bytes(b"another upload")
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(KeyMissing):
        async with driver.append(UPLOAD):
            pytest.fail("these are another's bytes")


async def test_empty_folders_of_uploads_go_along(driver, root):
    await driver.create(UPLOAD)
    await driver.write_link(layout.upload_started_at("library/alpine", "id"), b"now")
    await driver.remove(UPLOAD)
    assert (root / layout.uploads("library/alpine") / "id").is_dir()
    await driver.remove(layout.upload_started_at("library/alpine", "id"))
    assert list((root / layout.uploads("library/alpine")).iterdir()) == []


async def test_a_removed_blobs_folder_stays(driver, root):
    """Another push may be between making it and its rename."""
    staged = await driver.stage(b"blob")
    await driver.prepare(BLOB)
    await move(driver, staged, BLOB)
    await driver.remove(BLOB)
    assert (root / BLOB).parent.is_dir()


async def test_a_walk_follows_no_link(driver, root, tmp_path):
    await driver.write_link(LINK, b"x")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"x")
    (root / layout.REPOSITORIES / "linked").symlink_to(tmp_path / "outside")
    (root / layout.REPOSITORIES / "round").symlink_to(root)
    found = [key async for key in driver.walk("")]
    assert sorted(found) == sorted([LINK, f"{layout.REPOSITORIES}/linked", f"{layout.REPOSITORIES}/round"])
    await driver.remove_tree(layout.REPOSITORIES)
    assert (tmp_path / "outside" / "file").exists()


async def test_a_listing_follows_links_to_folders_but_not_for_ever(driver, root, tmp_path):
    """As Docker's registry does: people put a big repository on another disk."""
    tags = layout.tags("a")
    await driver.make_folder(tags)
    (tmp_path / "outside/v/current").mkdir(parents=True)
    (tmp_path / "outside/v/current/link").write_bytes(b"x")
    (root / tags / "linked").symlink_to(tmp_path / "outside")
    (root / tags / "round").symlink_to(root / tags)
    (root / tags / "broken").symlink_to(tmp_path / "nowhere")
    (root / tags / "itself").symlink_to(root / tags / "itself")
    os.mkfifo(root / tags / "fifo")
    found = {file.key: file.size for file in await driver.listing(tags)}
    assert found[f"{tags}/linked/v/current/link"] == 1
    assert found[f"{tags}/fifo"] == -1
    assert found.keys() == {f"{tags}/linked/v/current/link", f"{tags}/fifo", f"{tags}/round"}
    children = {child.name: child.is_folder for child in await driver.children(tags)}
    assert children == {"linked": True} | dict.fromkeys(("round", "broken", "itself", "fifo"), False)


async def test_a_listing_of_many_folders_in_each_other(driver, root):
    """More than Python has frames for."""
    folder = os.open(root, os.O_RDONLY)
    for name in ("docker", *["d"] * 1500):
        os.mkdir(name, dir_fd=folder)
        inside = os.open(name, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inside
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    (found,) = await driver.listing("docker")
    assert found.key == "docker" + "/d" * 1500 + "/file"
    await driver.remove_tree("docker")
    assert not (root / "docker").exists()


async def test_names_and_times_that_are_not_to_be_had_harm_nobody(driver, root):
    folder = os.fsencode(root / "docker")
    (root / "docker").mkdir()
    os.close(os.open(folder + b"/\xff", os.O_CREAT))
    os.utime(folder + b"/\xff", ns=(0, -(10**9)))
    (listed,) = await driver.listing("docker")
    assert (listed.key, listed.written_at.year) == ("docker/\ufffd", 1969)
    assert [child.name for child in await driver.children("docker")] == ["\ufffd"]


async def test_what_is_no_file_is_nothing(driver, root):
    (root / "docker").mkdir()
    os.mkfifo(root / "docker/fifo")
    assert await driver.stat("docker/fifo") is None


async def test_only_old_temporary_files_go(driver, root):
    old, young = [await driver.stage(b"x") for _ in range(2)]
    (root / "hatoba/tmp/folder").mkdir()
    for path in (root / old, root / "hatoba/tmp/folder"):
        os.utime(path, (time.time() - 7200,) * 2)
    assert await driver.stale(3600) == 1
    assert not (root / old).exists()
    assert (root / young).exists()
    assert (root / "hatoba/tmp/folder").is_dir()


async def test_opening_makes_hatobas_own_folder_alone(root):
    for _ in range(2):
        Filesystem(root).close()
    assert sorted(root.rglob("*")) == [root / "hatoba", root / "hatoba/tmp"]


async def test_a_folder_of_our_name_elsewhere_is_walked(driver, root):
    (root / "docker/hatoba").mkdir(parents=True)
    (root / "docker/hatoba/file").touch()
    (root / "hatoba/metadata.db").touch()
    assert [key async for key in driver.walk("")] == ["docker/hatoba/file"]


async def test_neighbours_of_uploads_keep_their_empty_folders(driver, root):
    """Only the session's folder goes: its parent says that the repository had uploads."""
    await driver.create(UPLOAD)
    await driver.remove(UPLOAD)
    assert not (root / UPLOAD).parent.exists()
    assert (root / layout.uploads("library/alpine")).is_dir()
    await driver.write_link(LINK, b"x")
    await driver.remove(LINK)
    assert (root / LINK).parent.is_dir()


async def test_a_file_in_a_folders_place_is_told(driver, root):
    folder = BLOB.rpartition("/")[0]
    (root / folder).parent.mkdir(parents=True)
    (root / folder).write_bytes(b"in the way")
    with pytest.raises(Unavailable, match="a file stands where a folder should be"):
        await driver.prepare(BLOB)
