"""Bodies in memory: each within its limit, all together within a budget that is free again however a request ends."""

import asyncio
import contextlib

import pytest

from hatoba.errors import TooManyRequests
from hatoba.web.budget import Budget
from hatoba.web.messages import BodyTooLarge, ClientGone, Request

LARGEST = 4 * 1024 * 1024
BUDGET = 64 * 1024 * 1024
FREE = 64 * 1024  # of each body


def request(*parts, ends=True, stall_seconds=60.0, pause=0.0):
    """A request whose body comes in `parts`; if it does not end, the client sends no more."""
    waiting = list(parts)

    async def receive():
        await asyncio.sleep(pause)
        if not waiting and not ends:
            await asyncio.Event().wait()
        if waiting and waiting[0] is None:
            return {"type": "http.disconnect"}
        body = waiting.pop(0) if waiting else b""
        return {"type": "http.request", "body": body, "more_body": bool(waiting) or not ends}

    scope = {"type": "http", "method": "PUT", "path": "/", "headers": []}
    return Request(scope, receive, stall_seconds)


@pytest.fixture
def budget():
    return Budget(LARGEST)


@contextlib.asynccontextmanager
async def held(budget, number, size=LARGEST - 1):
    """`number` bodies of which `size` bytes have come, and no more."""

    async def read():
        with budget.share() as share:
            await request(bytes(size), ends=False).body(size + 1, share)

    tasks = [asyncio.create_task(read()) for _ in range(number)]
    for _ in range(5):
        await asyncio.sleep(0)
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def read(budget, size):
    with budget.share() as share:
        return await request(bytes(size)).body(LARGEST, share)


async def test_a_body_in_parts(budget):
    with budget.share() as share:
        assert await request(b"ab", b"", b"c", b"def").body(6, share) == b"abcdef"
        with pytest.raises(BodyTooLarge):
            await request(b"ab", b"", b"c", b"defg").body(6, share)


async def test_over_the_budget_the_next_is_refused_at_once(budget):
    async with held(budget, 16) as tasks:
        assert not any(task.done() for task in tasks)
        with pytest.raises(TooManyRequests) as raised:
            await read(budget, 2 * LARGEST // 3)
        assert dict(raised.value.headers)["Retry-After"].isdigit()
        for size in (0, 1, FREE):
            assert len(await read(budget, size)) == size, "small ones are let in"
    assert len(await read(budget, LARGEST)) == LARGEST


async def test_the_budget_holds_four_of_the_largest():
    budget = Budget(BUDGET)
    async with held(budget, 4, BUDGET - 1) as tasks:
        assert not any(task.done() for task in tasks)


async def test_a_refused_body_makes_room_for_the_others(budget):
    """However many come at once, some get through."""
    done = await asyncio.gather(*(read(budget, LARGEST) for _ in range(60)), return_exceptions=True)
    assert sum(isinstance(outcome, bytes) for outcome in done) >= 15


@pytest.mark.parametrize("end", ["cancelled", "left", "stalled", "too large", "failed"])
async def test_it_is_free_again_however_a_request_ends(budget, end):
    async def one():
        with budget.share() as share:
            size = LARGEST - 1
            if end == "cancelled":
                async with asyncio.timeout(0.01):
                    await request(bytes(size), ends=False).body(size + 1, share)
            if end == "left":
                await request(bytes(size), None).body(LARGEST, share)
            if end == "stalled":
                await request(bytes(size), ends=False, stall_seconds=0.01).body(LARGEST, share)
            if end == "too large":
                await request(bytes(size), b"ab").body(LARGEST, share)
            await request(bytes(size)).body(LARGEST, share)
            raise ZeroDivisionError

    outcomes = {"cancelled": TimeoutError, "left": ClientGone, "stalled": ClientGone, "too large": BodyTooLarge}
    for _ in range(20):
        with pytest.raises(outcomes.get(end, ZeroDivisionError)):
            await one()
    async with held(budget, 16) as tasks:
        assert not any(task.done() for task in tasks)


async def test_a_trickle_ends(budget):
    """One byte before each time-out would hold its memory for ever."""
    with budget.share() as share, pytest.raises(ClientGone) as raised:
        await request(*[b"x"] * 10_000, pause=0.01, stall_seconds=0.05).body(LARGEST, share)
    assert raised.value.stalled
