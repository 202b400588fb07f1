"""One life of the registry in a process of its own: clients act, something goes wrong, the next life is judged.

The child tells what clients asked and were answered through a pipe, so that whoever forked it knows when it dies.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from io import BufferedReader
from typing import Any

from faults.judging import difference, observe
from faults.ledger import Known, Session, State
from faults.registry import Defect, Place, Registry
from faults.workload import Answer, Ask, Client
from hatoba.errors import HatobaError

CLIENTS = 3
ACTIONS = 6
# What a client may hear of a disk or database that fails; 404 and 416 when that ended its session.
EXCUSED = frozenset({503, 507, 404, 416})


@dataclass(frozen=True, slots=True)
class Message:
    """What a child says: a client asked, was told, or is certain again; or `problem` and `note` in words."""

    client: int = -1
    after: State | None = None
    certain: State | None = None
    problem: str = ""
    note: str = ""


@dataclass
class Told:
    """What a life left: what clients know, what was wrong, how it ended."""

    known: dict[int, Known]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    signal: int = 0


@dataclass
class Life:
    """A child's own side: the registry, and clients that speak to it. `excused` statuses are no defect."""

    registry: Registry
    say: Callable[[Message], None]
    excused: frozenset[int] = frozenset()
    lasting: bool = False  # what went wrong does not go away: a client that met it stops
    before_each: Callable[[], Awaitable[None]] | None = None
    known: dict[int, Known] = field(default_factory=dict)

    async def run(self, seed: object, actions: int) -> None:
        """All clients at once, on all workers."""
        await asyncio.gather(*(self._act(Client(seed, number), number, actions) for number in range(CLIENTS)))

    async def _act(self, client: Client, number: int, actions: int) -> None:
        rng = random.Random(f"{number}")
        known = self.known[number] = Known(client.state)
        asking = client.requests(actions)
        answer = None
        while True:
            try:
                ask = next(asking) if answer is None else asking.send(answer)
            except StopIteration:
                return
            if self.before_each is not None:
                await self.before_each()
            self.say(Message(number, ask.after))
            known.asked(ask.after)
            answer = await self.registry.ask(ask, rng.randrange(2))
            if answer.status == ask.wanted:
                known.told()
            elif not await self._excused(ask, answer, client, known):
                return
            self.say(Message(number, certain=known.certain))

    async def _excused(self, ask: Ask, answer: Answer, client: Client, known: Known) -> bool:
        """A request that failed with a reason: what holds now is looked up, as a client would. Raises Defect."""
        if answer.status not in self.excused:
            told = [str(line.get("exc_info") or line) for line in self.registry.logged if line.get("level") != "info"]
            raise Defect(f"{ask.method} {ask.target}: {answer.status} {answer.body[:300]!r}; logged: {told[-3:]}")
        if self.lasting:
            return False
        found = await observe(self.registry, known)
        states = [state for state in known.allowed if state.repositories == found]
        if not states:
            raise Defect(f"after {answer.status} to {ask.method} {ask.target}: "
                         f"{difference(known.certain.repositories, found)}")  # fmt: skip
        session = await self._session(known)
        known.certain, known.under_way = states[-1].holding(session), None
        client.state = known.certain
        return True

    async def _session(self, known: Known) -> Session | None:
        """What is left of the client's upload."""
        sessions = [state.session for state in known.allowed if state.session]
        if not sessions:
            return None
        longest = max(sessions, key=lambda session: len(session.content))
        answer = await self.registry.ask(Ask("GET", longest.location, known.certain, 204))
        if answer.status != 204:
            return None
        end = int(answer.headers["range"].partition("-")[2])
        return Session(longest.location, longest.content[: end + 1] if end else b"")


def live(place: Place, course: Callable[[Place, Callable[[Message], None]], Awaitable[None]]) -> Told:
    """Fork a child that goes through `course`; what it told until it ended, however it did."""
    reading, writing = os.pipe()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be_child(place, course, writing)
    os.close(writing)
    told = Told({number: Known(Client(0, number).state) for number in range(CLIENTS)})
    with os.fdopen(reading, "rb") as file:
        for message in _messages(file):
            _take(told, message)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    told.signal = -code if code < 0 else 0
    if code > 0:
        told.problems.append(f"the child ended with {code}")
    return told


def _be_child(place: Place, course: Any, writing: int) -> None:
    def say(message: Message) -> None:
        content = pickle.dumps(message)
        os.write(writing, len(content).to_bytes(4, "big") + content)

    code = 1
    try:
        asyncio.run(course(place, say))
        code = 0
    except (HatobaError, OSError) as error:  # of a start that fails: the server says it in one line
        say(Message(note=f"ended: {error}"))
        code = 0
    except BaseException as error:  # noqa: BLE001  told to the parent
        say(Message(problem="".join(traceback.format_exception(error))))
        code = 0
    finally:
        os._exit(code)


def _messages(file: BufferedReader) -> Any:
    while len(head := file.read(4)) == 4:
        length = int.from_bytes(head, "big")
        if len(content := file.read(length)) == length:
            yield pickle.loads(content)  # noqa: S301  our own child's


def _take(told: Told, message: Message) -> None:
    known = told.known.get(message.client)
    if message.problem:
        told.problems.append(message.problem)
    elif known is None:
        told.notes.append(message.note)
    elif message.after is not None:
        known.asked(message.after)
    elif message.certain is not None:
        known.certain, known.under_way = message.certain, None


def die() -> None:
    """End this process as the system would when memory is short."""
    with suppress(ProcessLookupError):
        os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()
