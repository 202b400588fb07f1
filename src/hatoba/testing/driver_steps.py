"""What the driver contract does to a driver again and again: put content at a key as a push does, read it, walk."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from hatoba.blobs.driver import BlobDriver

_T = TypeVar("_T")


def driven(work: Coroutine[Any, Any, _T]) -> _T:
    """What `work` returns, and it must not suspend."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    work.close()
    pytest.fail("it suspended")


async def move(driver: BlobDriver, source: str, key: str) -> None:
    """`publish` as a write transaction does it: off the loop, and to its end without suspending."""
    await asyncio.to_thread(lambda: driven(driver.publish(source, key)))


async def publish(driver: BlobDriver, key: str, content: bytes) -> None:
    """Put `content` at `key`, as a push does."""
    staged = await driver.stage(content)
    await driver.prepare(key)
    await move(driver, staged, key)


async def content_of(driver: BlobDriver, key: str) -> bytes:
    """Everything at `key`, through a reader."""
    reader = await driver.open(key)
    try:
        return await reader.read(0, reader.size + 1)
    finally:
        reader.close()


async def keys(driver: BlobDriver, prefix: str = "") -> list[str]:
    """What a walk finds, ordered."""
    return sorted([key async for key in driver.walk(prefix)])
