"""Power loss: a run is recorded, operation by operation, and cut off at any of them; hatoba starts on what is left.

The recorded operations are played to a disk that keeps as little as it may (disk.py), so one run gives as many states
as one likes. That the recording saw everything is shown by comparing the folder it made with the real one.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults import disk
from faults.disk import Disk, Step
from faults.interception import CHANGES, Interception, Operation
from faults.judging import judge
from faults.ledger import Known, State
from faults.registry import Defect, Place, Registry, opened
from faults.syncs import place_of
from faults.workload import Client
from hatoba.auth import htpasswd_file

CLIENTS = 3
ACTIONS = 5  # of a client in one round
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Said:
    """Something between clients and the registry. Without `after`: the answer to what was asked before."""

    client: int
    after: State | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """A user of the htpasswd file, acknowledged."""

    user: str


@dataclass
class Recording:
    """What happened, in order."""

    place: Place
    without: str = ""
    events: list[Operation | Said | Added] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def handle(self, operation: Operation, real: Callable[..., Any]) -> Any:
        """Do it and write it down, in one step."""
        with self._lock:
            if operation.kind == "sync":  # this disk is never asked what it has
                result = None
            else:
                result = real(operation.payload) if operation.kind == "write" else real()
            if operation.kind in CHANGES and not self._left_out(operation):
                self.events.append(operation)
            return result

    def _left_out(self, operation: Operation) -> bool:
        return bool(self.without) and operation.kind == "sync" and place_of(operation) == self.without

    def say(self, said: Said | Added) -> None:
        """Write down what a client did."""
        with self._lock:
            self.events.append(said)


async def record(interception: Interception, folder: Path, seed: int, without: str = "") -> Recording:
    """A run of the real registry: first start, clients at once on two workers, restarts, links settled, users added.

    `without` one place's fsyncs, as if they were not in the code.
    """
    rng = random.Random(f"recording {seed}")
    recording = Recording(Place(folder, apart=seed % 4 >= 2), without)
    interception.watch(str(folder), recording.handle)
    clients = [Client(seed, number) for number in range(CLIENTS)]
    try:
        await asyncio.to_thread(htpasswd_file.create, recording.place.htpasswd, "first")
        recording.say(Added("first"))
        for _ in range(ROUNDS):
            async with opened(recording.place, workers=2) as registry:
                # Every other run has one client at a time: the same seed then gives the same order.
                if seed % 2:
                    await asyncio.gather(*(_act(registry, recording, client, rng.random()) for client in clients))
                else:
                    for client in clients:
                        await _act(registry, recording, client, rng.random())
                await registry.settle()
                await registry.follow()
                if rng.random() < 0.3:
                    await registry.purge()
        user = f"user{rng.randrange(100)}"
        await asyncio.to_thread(htpasswd_file.HtpasswdFile(recording.place.htpasswd, cost=4).add, user, "password")
        recording.say(Added(user))
    finally:
        interception.watch("", None)
    return recording


async def _act(registry: Registry, recording: Recording, client: Client, chance: float) -> None:
    number = int(client.names[0].removeprefix("faults/c"))
    rng = random.Random(chance)
    asking = client.requests(ACTIONS)
    answer = None
    while True:
        try:
            ask = next(asking) if answer is None else asking.send(answer)
        except StopIteration:
            return
        recording.say(Said(number, ask.after))
        answer = await registry.ask(ask, rng.randrange(2))
        recording.say(Said(number))
        if answer.status != ask.wanted:
            raise Defect(f"{ask.method} {ask.target}: {answer.status} {answer.body!r} without any fault")
        if rng.random() < 0.1:
            await registry.settle()


@dataclass
class Moment:
    """A point of the recording: the disk there, and what clients know."""

    disk: Disk
    known: dict[int, Known]
    users: set[str]


def play(recording: Recording) -> Iterator[Moment]:
    """The recording again; after each event the same moment, changed."""
    nobody = {number: Known(Client(0, number).state) for number in range(CLIENTS)}
    moment = Moment(Disk(str(recording.place.disk)), nobody, set())
    for event in recording.events:
        if isinstance(event, Operation):
            moment.disk.apply(event)
        elif isinstance(event, Added):
            moment.users.add(event.user)
        elif event.after is not None:
            moment.known[event.client].asked(event.after)
        else:
            moment.known[event.client].told()
        yield moment


def moment_of(recording: Recording, rng: random.Random) -> int:
    """Which moment to try: half of them right after an answer, where a promise is freshest."""
    answers = [
        place for place, event in enumerate(recording.events)
        if isinstance(event, Added) or (isinstance(event, Said) and event.after is None)
    ]  # fmt: skip
    if rng.random() < 0.5:
        return rng.choice(answers)
    return rng.randrange(len(recording.events))


def choose(rng: random.Random, unsure: list[Step | Operation]) -> tuple[str, Callable[[Step | Operation], str]]:
    """What becomes of the changes that are not durable."""
    kind = rng.random()
    if kind < 0.4 or not unsure:
        return "nothing that was not fsynced is left", disk.nothing
    if kind < 0.65:
        how = rng.choice((disk.ABSENT, disk.ZERO, disk.HALF))
        lost = rng.choice(unsure)
        return f"all is left but {_shown(lost)}: {how}", disk.all_but(lost, how)
    if kind < 0.75:
        kept = rng.choice(unsure)
        return f"of what was not fsynced only {_shown(kept)} is left", disk.only(kept)
    return "any of what was not fsynced is left", disk.at_random(rng)


def _shown(change: Step | Operation) -> str:
    if isinstance(change, Operation):
        return f"{change.kind} {change.path} at {change.number}, {len(change.payload)} bytes"
    places = [f"{what} {place[1]}" for what, place in (("end", change.gone), ("begin", change.now)) if place]
    return f"name {', '.join(places)}"


async def cut(recording: Recording, seed: int, cases: Sequence[int], scratch: Path, kept: Path) -> AsyncIterator[str]:
    """Try states of a recording; yields what was wrong with each that was. `kept` is where such a state is put."""
    rngs = {case: random.Random(f"power {seed} {case}") for case in cases}
    chosen: dict[int, list[int]] = {}
    for case, rng in rngs.items():
        chosen.setdefault(moment_of(recording, rng), []).append(case)
    for place, moment in enumerate(play(recording)):
        for case in chosen.get(place, []):
            told, keep = choose(rngs[case], moment.disk.unsure)
            problem = await _try(recording, moment, keep, scratch)
            if problem is not None:
                state = kept / f"power-{seed}-{case}"
                state.mkdir(parents=True, exist_ok=True)
                moment.disk.crash(state, keep)
                yield (
                    f"case power:{seed}:{case} (power lost after event {place} of {len(recording.events)}; {told}): "
                    f"{problem}; what was left: {state}"
                )


async def _try(
    recording: Recording, moment: Moment, keep: Callable[[Step | Operation], str], scratch: Path
) -> str | None:
    folder = Path(tempfile.mkdtemp(prefix="state-", dir=scratch))
    moment.disk.crash(folder, keep)
    try:
        await judge(Place(folder, recording.place.apart), moment.known, sessions_last=False, users=moment.users)
    except Exception as error:  # noqa: BLE001  whatever it is, it is this case's
        return repr(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return None


def seen_all(recording: Recording, folder: Path) -> list[str]:
    """Files of the real disk that the recording does not give again, byte for byte."""
    *_, last = play(recording)
    last.disk.crash(folder, disk.everything)
    return sorted(str(path) for path in _files(recording.place.disk) ^ _files(folder))


def _files(folder: Path) -> set[tuple[str, bytes]]:
    """Everything but locks, which hold nothing, and SQLite's shared memory, which is made anew."""
    return {
        (str(path.relative_to(folder)), path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "locks" and not path.name.endswith("-shm")
    }
