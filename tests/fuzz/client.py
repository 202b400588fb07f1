"""One client: sends cases in bursts, journeys step by step, garbage on connections of its own, and has all judged."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from fuzz import garbage, journeys
from fuzz.cases import RIGHT, Case, Generator
from fuzz.judge import Expect, expect, violation
from fuzz.wire import Answer, Closed, Connection, NotHTTP, parse_all

MOST_VIOLATIONS = 5
_SHOWN = 1500
_LONGEST_BURST = 12
_SESSIONS = 12
_LONG_BODY = 60_000
_RAW_SECONDS = 5.0


@dataclass(slots=True)
class Report:
    """What one or more clients did and saw. `answers` counts statuses; 0: the connection was closed instead."""

    sent: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def add(self, other: Report) -> None:
        self.sent += other.sent
        self.answers.update(other.answers)
        self.violations += other.violations


class Client:
    """Client `number` of a run; its requests depend on seed and number alone."""

    def __init__(self, port: int, seed: int, number: int) -> None:
        self._port = port
        self._number = number
        self._rng = random.Random(f"{seed} {number}")
        self.model = journeys.Model(self._rng, f"c{number}")
        self._generator = Generator(self._rng, f"c{number}", self.model.names, self.model.known)
        self._connection: Connection | None = None
        self._last = b""
        self.report = Report()

    async def run(self, requests: int) -> None:
        """Send `requests`, then look whether all is there that should be, and clean up."""
        while self.report.sent < requests and len(self.report.violations) < MOST_VIOLATIONS:
            if len(self._generator.sessions) > _SESSIONS:
                await self._cancel(self._generator.sessions.pop(0))
            kind = self._rng.random()
            if kind < 0.78:
                cases = [self._generator.case() for _ in range(self._rng.randint(1, _LONGEST_BURST))]
                # What may end the connection goes last, or the others would get no answer.
                await self.burst(
                    sorted(cases, key=lambda case: case.wanted.below or len(case.body or b"") > _LONG_BODY)
                )
            elif kind < 0.9:
                await self.journey(journeys.choose(self.model))
            else:
                await self.raw(garbage.raw(self._rng, self._generator.sessions))
        await self.journey(journeys.everything(self.model))
        for session in self._generator.sessions:
            await self._cancel(session)
        await self.close()

    async def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def journey(self, journey: journeys.Journey) -> None:
        """Go through it as far as its answers are right."""
        try:
            case = next(journey)
            while True:
                (answer,) = await self.burst([case])
                if answer is None:
                    return
                case = journey.send(answer)
        except StopIteration:
            return
        except AssertionError as error:
            self._violated(str(error), case.raw, answer)

    async def burst(self, cases: Sequence[Case]) -> list[Answer | None]:
        """Send cases at once on one connection; their answers, None for those that were wrong or did not come."""
        if self._connection is None:
            self._connection = await Connection.open(self._port)
        connection = self._connection
        self.report.sent += len(cases)
        sending = asyncio.ensure_future(connection.send(b"".join(case.raw for case in cases)))
        answers: list[Answer | None] = []
        for place, case in enumerate(cases):
            answer = await self._answer(connection, case, cases[place - 1].raw if place else self._last)
            self._last = case.raw
            answers.append(answer)
            if self._connection is None:
                break
        await sending
        if self._connection is None:
            await connection.close()
            self.report.answers[0] += len(cases) - len(answers)
        return answers + [None] * (len(cases) - len(answers))

    async def _answer(self, connection: Connection, case: Case, before: bytes) -> Answer | None:
        try:
            answer = await connection.read(case.method)
        except (Closed, NotHTTP, TimeoutError) as error:
            self._connection = None
            self._violated(f"no answer: {error!r}, on a connection that went on after {before[:_SHOWN]!r}", case.raw)
            return None
        self.report.answers[answer.status] += 1
        if answer.closes:
            self._connection = None
        if (wrong := violation(answer, case.method, case.target, case.wanted)) is not None:
            self._violated(wrong, case.raw, answer)
            return None
        if case.session and answer.status == 202:
            self._generator.sessions.append((answer.get("location") or "").partition("?")[0].encode())
        return answer

    async def raw(self, raw: garbage.Raw) -> None:
        """Send what is no good HTTP on a connection of its own."""
        self.report.sent += 1
        connection = await Connection.open(self._port)
        await connection.send(raw.sent)
        if raw.ending == "reset":
            connection.reset()
            self.report.answers[0] += 1
            return
        connection.finish()
        received = await connection.rest(_RAW_SECONDS)
        await connection.close()
        self._judge(raw, received)

    def _judge(self, raw: garbage.Raw, received: bytes) -> None:
        """Whatever came back, it must be answers."""
        try:
            answers = parse_all(received, list(raw.methods))
        except NotHTTP as error:
            self._violated(str(error), raw.sent)
            return
        self.report.answers[answers[0].status if answers else 0] += 1
        for place, answer in enumerate(answers):
            path = raw.path if place == 0 else b""
            method = raw.methods[place] if place < len(raw.methods) else "GET"
            wrong = violation(answer, method, path, Expect(below=True))
            if wrong is None and path and answer.status < 300:
                wrong = "success for a request that was not whole"
            if wrong is not None:
                self._violated(wrong, raw.sent, answer)

    async def _cancel(self, session: bytes) -> None:
        """End a session; a request that vanished may hold it for a moment."""
        for _ in range(50):
            case = Case("DELETE", session, [RIGHT], wanted=expect(204, 404, 429))
            (answer,) = await self.burst([case])
            if answer is None or answer.status != 429:
                return
            await asyncio.sleep(0.1)
        self._violated("a session cannot be cancelled", session)

    def _violated(self, why: str, sent: bytes, answer: Answer | None = None) -> None:
        shown = repr(sent) if len(sent) <= _SHOWN else f"{sent[:_SHOWN]!r}… ({len(sent)} bytes)"
        told = "" if answer is None else f"\n  answer {answer.status} {answer.headers} {answer.body[:_SHOWN]!r}"
        self.report.violations.append(f"client {self._number}, request {self.report.sent}: {why}\n  sent {shown}{told}")
