"""Waiting for the end of what cannot be stopped."""

import asyncio
import gc

import pytest

from hatoba.cancellation import outlast


async def test_what_is_done_is_not_waited_for():
    future = asyncio.get_running_loop().create_future()
    future.set_result(1)
    with pytest.raises(StopIteration) as done:
        outlast(future).send(None)
    assert done.value.value is False


async def test_a_cancelled_waiter_waits_on_and_says_so():
    future = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(outlast(future))
    for _ in range(5):
        await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.sleep(0.01)
    assert not waiting.done()
    assert not future.cancelled(), "the work itself is not touched"
    future.set_result(1)
    assert await waiting is True


async def test_an_uncancelled_waiter_says_so():
    future = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(outlast(future))
    await asyncio.sleep(0)
    future.set_result(1)
    assert await waiting is False


async def test_the_outcome_is_not_raised_and_not_lost():
    """Python would complain of an exception that nobody retrieved when the future is collected."""
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    future = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(outlast(future))
    await asyncio.sleep(0)
    future.set_exception(OSError("disk"))
    assert await waiting is False
    del future
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


async def test_work_that_was_cancelled_has_ended():
    future = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(outlast(future))
    await asyncio.sleep(0)
    future.cancel()
    assert await waiting is False
