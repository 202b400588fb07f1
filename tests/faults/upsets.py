"""Cases of one life each: it dies at a step, its disk fails, its databases are busy, its clock jumps."""

from __future__ import annotations

import asyncio
import fcntl
import random
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import apsw

from faults.interception import Interception
from faults.judging import sees_what_it_may
from faults.lives import ACTIONS, EXCUSED, Life, Message, Told, die, live
from faults.registry import Defect, Place, opened
from faults.steps import ERRORS, Death, Failure
from hatoba.db import engine, sqlite

STEPS = 1400  # of a life, more or less; further ones die when all is done
Say = Callable[[Message], None]


def dying(interception: Interception, place: Place, seed: str) -> Told:
    """SIGKILL at a change of the disk, the first ones of a new registry included."""
    rng = random.Random(seed)
    death = Death(rng.randint(1, STEPS), rng)

    async def course(place: Place, say: Say) -> None:
        interception.watch(str(place.disk), death.handle)
        async with opened(place, workers=2) as registry:
            await Life(registry, say).run(seed, ACTIONS)
            await registry.settle()
        die()

    return live(place, course)


def failing(interception: Interception, place: Place, seed: str) -> Told:
    """An operation fails, or all of them from one on. Nobody hears 500, and what was there can be read."""
    rng = random.Random(seed)
    name = rng.choice(list(ERRORS))
    failure = Failure(rng.randint(1, STEPS), ERRORS[name], rng.random() < 0.4, rng)

    async def course(place: Place, say: Say) -> None:
        interception.watch(str(place.disk), failure.handle)
        async with opened(place, workers=2) as registry:
            life = Life(registry, say, EXCUSED, failure.lasting)
            try:
                await life.run(seed, ACTIONS)
                if failure.lasting and name != "EIO":
                    await _is_readable(life)
            except Exception as error:
                raise Defect(f"{name} at {failure.failed[:1]}: {error!r}") from error
            failure.over = rng.random() < 0.5
            if failure.over:
                await registry.settle()
        if rng.random() < 0.5:
            die()

    return live(place, course)


async def _is_readable(life: Life) -> None:
    """A disk that takes nothing still gives."""
    for number, known in life.known.items():
        await sees_what_it_may(life.registry, number, known)


def busy(interception: Interception, place: Place, seed: str) -> Told:
    """Another process holds a database, or the lock that its writers queue at, for longer than anybody waits."""
    interception.watch("", None)
    rng = random.Random(seed)

    async def course(place: Place, say: Say) -> None:
        sqlite._BUSY_MILLISECONDS, sqlite._WAIT_SECONDS = 20, 0.1
        stopped = asyncio.Event()
        async with opened(place, workers=2) as registry:
            holding = asyncio.ensure_future(_hold_again_and_again(registry.database._path, place, rng, stopped))
            await Life(registry, say, frozenset({503})).run(seed, ACTIONS)
            stopped.set()
            await holding
        die()

    return live(place, course)


async def _hold_again_and_again(path: Any, place: Place, rng: random.Random, stopped: asyncio.Event) -> None:
    while not stopped.is_set():
        await asyncio.sleep(rng.uniform(0, 0.05))
        await asyncio.to_thread(_hold_queue if rng.random() < 0.3 else _hold_database, path, place, rng.uniform(0, 0.3))


def _hold_database(path: Any, _place: Place, seconds: float) -> None:
    connection = apsw.Connection(str(path))
    try:
        connection.set_busy_timeout(5000)
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        connection.execute("ROLLBACK")
    finally:
        connection.close()


def _hold_queue(_path: Any, place: Place, seconds: float) -> None:
    with (place.root / "hatoba/locks/write-metadata").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        time.sleep(seconds)


def clock(interception: Interception, place: Place, seed: str) -> Told:
    """The clock is set back and forth, by seconds and by years; clients push, links settle, uploads are purged."""
    interception.watch("", None)
    rng = random.Random(seed)

    async def course(place: Place, say: Say) -> None:
        clock_ = _Clock()
        async with opened(place, workers=2) as registry:

            async def jump() -> None:
                if rng.random() < 0.3:
                    clock_.offset = rng.choice((-1, 1)) * rng.choice((1.0, 3600.0, 90_000.0, 3e7)) * rng.random()
                if rng.random() < 0.1:
                    await registry.settle()
                if rng.random() < 0.1:
                    await registry.purge()

            # An upload that looks idle for a week is purged: its client hears 404, or that somebody else has it.
            await Life(registry, say, frozenset({404, 416, 429}), before_each=jump).run(seed, ACTIONS)
            if rng.random() < 0.7:
                die()
        die()

    return live(place, course)


class _Clock:
    """What hatoba takes for the time."""

    def __init__(self) -> None:
        self.offset = 0.0
        real = time.time
        time.time = lambda: real() + self.offset
        clock_ = self

        class Jumping(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return datetime.now(tz) + timedelta(seconds=clock_.offset)

        engine.datetime = Jumping  # type: ignore[misc]
