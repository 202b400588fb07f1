"""Outlasting a cancellation: what a thread does cannot be stopped, so whoever started it waits for its end.

One function, used wherever a request hands a descriptor, a lock or a transaction to a thread.
"""

from __future__ import annotations

import asyncio
from typing import Any


async def outlast(future: asyncio.Future[Any]) -> bool:
    """Wait until `future` is done, however often the waiter is cancelled meanwhile; its outcome is not raised.

    True when the waiter was cancelled: it has a CancelledError to raise.
    """
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            cancelled = True
    if not future.cancelled():
        future.exception()  # retrieved: the caller has something else to raise
    return cancelled
