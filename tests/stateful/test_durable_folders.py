"""Before a rename onto a blob's key every folder above it is durable, whoever made it and whatever is pushed."""

from __future__ import annotations

import os
import shutil

import pytest


@pytest.fixture
def events(monkeypatch, root):
    """What was fsynced and what was renamed onto a blob's key, in order, as paths below the root."""
    found: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def synced(descriptor):
        found.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(f"{root}/")))
        fsync(descriptor)

    def renamed(source, target):
        if "/blobs/" in target:
            found.append(("rename", target.removeprefix(f"{root}/")))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    return found


def before_and_after(events, target: str) -> tuple[set[str], tuple[str, str]]:
    """What was fsynced before the last rename onto `target`, and what came right behind it."""
    *_, at = [number for number, event in enumerate(events) if event == ("rename", target)]
    return {name for _, name in events[:at]}, events[at + 1]


async def test_folders_of_a_manifest(worker, kit, events, blob_file, root):
    one = await worker()
    await one.push_blob(b"{}")
    events.clear()
    body = kit.manifest_of(b"{}", [])
    assert (await one.push_manifest(body, "v")).status_code == 201
    target = str(blob_file(kit.digest_of(body)).relative_to(root))
    before, after = before_and_after(events, target)
    folder = os.path.dirname(target)  # noqa: PTH120
    assert os.path.dirname(folder) in before, "the manifest's own folder is durable in its parent"  # noqa: PTH120
    assert after == ("fsync", folder)


@pytest.mark.parametrize("what", ["blob", "manifest"])
@pytest.mark.parametrize("folder", ["made by another push", "removed since"])
async def test_own_folder_each_time(worker, kit, events, blob_file, root, what, folder):
    """The push that made the folder may not have come to its fsync; a collector may have removed it."""
    one = await worker()
    await one.push_blob(b"{}")
    body = kit.manifest_of(b"{}", []) if what == "manifest" else b"a blob"
    file = blob_file(kit.digest_of(body))

    async def push():
        if what == "manifest":
            assert (await one.push_manifest(body, "v")).status_code == 201
        else:
            await one.push_blob(body)

    if folder == "removed since":
        await push()
        shutil.rmtree(file.parent)
    else:
        file.parent.mkdir(parents=True)
    events.clear()
    await push()
    before, after = before_and_after(events, str(file.relative_to(root)))
    assert str(file.parent.parent.relative_to(root)) in before
    assert after == ("fsync", str(file.parent.relative_to(root)))
