"""A check that is interrupted goes on, keeps its rate, and is the only one."""

from __future__ import annotations

import asyncio
import re

import pytest
import structlog

from hatoba.errors import HatobaError
from hatoba.operations import verify
from hatoba.operations.verify import Pace


def rotten(file):
    """Other bytes of the same number."""
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"X")


class Stopping:
    """Cancels its task after so many bytes."""

    def __init__(self, most: int):
        self.left, self.reading = most, False

    def begin(self, what, _):
        self.reading = what == "blobs"

    def advance(self, amount):
        self.left -= amount if self.reading else 0
        if self.left <= 0:
            asyncio.current_task().cancel()
            self.left = 1 << 40


async def test_an_interrupted_check_goes_on(worker, check, blob_file, root, rows):
    one = await worker()
    digests = sorted([await one.push_blob(b"%04d" % number) for number in range(20)])
    await one.mirror.settle()
    rotten(blob_file(digests[0]))
    rotten(blob_file(digests[-1]))
    # Without await in between the cancelled task would not notice: the next block's thread does.
    with pytest.raises(asyncio.CancelledError):
        await asyncio.get_running_loop().create_task(check(one, progress=Stopping(40)))
    assert rows("SELECT count(*) FROM blobs WHERE state = 'missing'") == [(1,)]
    assert re.search(r"sha256:[0-9a-f]{64}", (root / "hatoba/verify.json").read_text())
    checked = await check(one)
    # What was found before is found again, or whoever looks only at the last exit code would never know.
    found = [(finding.kind, finding.subject) for finding in checked.found]
    assert found == [("blob-rotten", digests[0]), ("blob-rotten", digests[-1])]
    assert 36 <= checked.report.hashed_bytes < 80
    assert not (root / "hatoba/verify.json").exists()
    assert (await check(one)).report.hashed_bytes == 80


async def test_from_the_beginning_when_asked(worker, check, root):
    one = await worker()
    digests = sorted([await one.push_blob(b"%04d" % number) for number in range(5)])
    (root / "hatoba/verify.json").write_text(f'{{"after": "{digests[3]}"}}')
    assert (await check(one, restart=True)).report.hashed_bytes == 20
    (root / "hatoba/verify.json").write_text(f'{{"after": "{digests[3]}"}}')
    assert (await check(one)).report.hashed_bytes == 4


async def test_a_position_that_makes_no_sense_is_none(worker, check, root):
    one = await worker()
    await one.push_blob(b"1234")
    for content in (b"", b"[]", b"\xff", b'{"after": "sha256:1"}', b'{"after": 7}', b'{"after": null}'):
        (root / "hatoba/verify.json").write_bytes(content)
        assert (await check(one)).report.hashed_bytes == 4


async def test_a_position_that_cannot_be_kept_stops_nothing(worker, check, root, monkeypatch):
    monkeypatch.setattr(verify, "_SAVE_SECONDS", 0)
    one = await worker()
    for number in range(5):
        await one.push_blob(b"%04d" % number)
    (root / "hatoba/verify.new").mkdir()
    with structlog.testing.capture_logs() as logs:
        checked = await check(one)
    assert (checked.found, checked.report.hashed_bytes) == ([], 20)
    assert [line["log_level"] for line in logs if "cannot be kept" in line["event"]] == ["error"]


async def test_one_at_a_time(worker, check, kit):
    one = await worker()
    await one.push_blob(b"1234")

    class Second(kit.Unseen):
        task = None

        def begin(self, *_):
            self.task = self.task or asyncio.get_running_loop().create_task(check(one))

    progress = Second()
    assert (await check(one, progress=progress)).found == []
    with pytest.raises(HatobaError, match="another `hatoba verify` is at work"):
        await progress.task


async def test_every_page_is_looked_at(worker, check, monkeypatch, blob_file):
    monkeypatch.setattr(verify, "_PAGE", 2)
    one = await worker()
    for number in range(5):
        await one.push_image(f"v{number}")
    assert (await check(one)).report.manifests == 5
    for file in (blob_file("sha256:00").parents[2]).rglob("data"):
        rotten(file)
    assert (await check(one)).kinds == ["blob-rotten"] * 6


async def test_the_rate_is_kept(monkeypatch, kit):
    at, slept = 100.0, []

    async def sleep(seconds):
        nonlocal at
        slept.append(seconds)
        at += seconds

    monkeypatch.setattr(verify.time, "monotonic", lambda: at)
    monkeypatch.setattr(verify.asyncio, "sleep", sleep)
    pace = Pace(1000, kit.Unseen())
    for _ in range(50):
        await pace(100)
    assert 3.9 <= at - 100 <= 5.1
    assert len(slept) > 30
    slept.clear()
    unbounded = Pace(0, kit.Unseen())
    await unbounded(10**12)
    assert slept == []
