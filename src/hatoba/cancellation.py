"""Outlasting a cancellation: what a thread does cannot be stopped, so whoever started it waits for its end.

Used wherever a request hands a descriptor, a lock or a transaction to a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


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


async def in_thread(pool: Executor | None, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run `function` on `pool`, None for the loop's own; a cancelled caller waits for its end first.

    Otherwise a descriptor would be closed, and its number reused, while the thread still writes to it: bytes of one
    upload landed in another file that way in a trial.
    """
    future = asyncio.get_running_loop().run_in_executor(pool, lambda: function(*args, **kwargs))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await outlast(future)
        raise
