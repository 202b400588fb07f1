"""Outlasting a cancellation: what a thread does cannot be stopped, so whoever started it waits for its end.

One function, used wherever a request hands a descriptor, a lock or a transaction to a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any


async def outlast(future: asyncio.Future[Any]) -> None:
    """Wait until `future` is done, however often the waiter is cancelled meanwhile; its outcome is not raised."""
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([future])
    if not future.cancelled():
        future.exception()  # retrieved: the caller has something else to raise
