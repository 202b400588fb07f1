"""Sees to it that rows know what others wrote to Docker's tree: all of it at first, the difference after each start.

One worker reads, the others look at the state in the database. Until a new folder has been read nothing of it is
served. Later starts serve at once: who asks for a repository before the walk has come to it has it compared first.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from pathlib import Path

import structlog

from hatoba.blobs import layout
from hatoba.blobs.driver import BlobDriver, KeyMissing
from hatoba.db import repositories
from hatoba.db import tree as tree_rows
from hatoba.db.engine import Database, Reader, Transaction, now
from hatoba.db.tree import State, TreeRow
from hatoba.errors import RegistryError, Unavailable
from hatoba.operations import lock_file, tree
from hatoba.operations.adoption import Adoption, Read
from hatoba.operations.progress import Show, log_lines
from hatoba.operations.tree import TellProblem, TreeProblem
from hatoba.operations.vanished import follow_vanished
from hatoba.registry.ports import Links

_PAGE = 1000
_LOOK_SECONDS = 0.2
_AGAIN_SECONDS = 10.0
_CATALOG_SECONDS = 10.0
_FAILURES = (RegistryError, KeyMissing, OSError)


class Following:
    """One per worker. `known` says that rows and tree agree, and nobody need ask any more."""

    def __init__(self, database: Database, driver: BlobDriver, links: Links, locks: Path) -> None:
        self.known = False
        self._database = database
        self._driver = driver
        self._links = links
        self._locks = locks
        self._problem = ""
        self._compared: set[str] = set()
        self._comparing: dict[str, asyncio.Lock] = {}
        self._log = structlog.stdlib.get_logger("hatoba.follow")

    async def open(self) -> None:
        """Look what is known; of a folder without repositories that is all there is to know."""
        if await tree_rows.find(self._database) is None:
            state = await self._first_state()
            await self._database.write(lambda t: tree_rows.begin(t, state))
        await self._look()

    async def _first_state(self) -> State:
        if await repositories.names(self._database, "", 1):
            return "unsure"  # an older hatoba, which knew no tree, has served these: nobody need wait
        try:
            return "unread" if await self._driver.children(layout.REPOSITORIES) else "known"
        except RegistryError:
            return "unread"  # `run` says why

    async def run(self) -> None:
        """Read the tree, by one worker; ends when it has been read."""
        while await self._look() is not None:
            pause = _LOOK_SECONDS
            with lock_file.held(self._locks / "walk") as mine:
                if mine:
                    try:
                        await self._walk()
                        continue
                    except _FAILURES as error:
                        self._say(_words(error))
                        pause = _AGAIN_SECONDS
            await asyncio.sleep(pause)

    async def admit(self) -> None:
        """Raise Unavailable, with the progress, while a new folder is being read."""
        row = await self._look()
        if row is not None and row.state == "unread":
            raise Unavailable(self._progress(row), headers=(("Retry-After", "5"),))

    async def compare(self, repository: str) -> None:
        """Before a repository is asked for: take over what others changed in it, unless that has been done."""
        if repository in self._compared:
            return
        try:
            async with self._comparing.setdefault(repository, asyncio.Lock()):
                if repository not in self._compared and await self._look() is not None:
                    await self.take_over(repository)
                    if await repositories.find(self._database, repository) is not None:  # names may be made up
                        self._compared.add(repository)
        except _FAILURES as error:  # who asks hears of it where it matters
            self._log.error("a repository cannot be compared", repository=repository, reason=_words(error))
        finally:
            self._comparing.pop(repository, None)

    async def take_over(self, repository: str) -> None:
        """Compare a repository now and take over what others changed in it; raises RegistryError, KeyMissing."""
        row = await tree_rows.find(self._database)
        one = Adoption(self._database, self._driver, self._links, _unsaid)
        await one.repository(repository, None if row is None else row.seen_at)
        await one.flush()

    async def settled(self) -> None:
        """Wait for the end of the walk, but not for long: who lists all repositories should see the new ones."""
        end = time.monotonic() + _CATALOG_SECONDS
        while await self._look() and time.monotonic() < end:  # noqa: ASYNC110  another process ends it
            await asyncio.sleep(_LOOK_SECONDS)

    async def problems(self) -> list[str]:
        """What readiness says."""
        row = await self._look()
        return [self._progress(row)] if row is not None and row.state == "unread" else []

    async def _look(self) -> TreeRow | None:
        """What is known, None when it is all."""
        if self.known:
            return None
        row = await tree_rows.find(self._database)
        if row is None or row.state != "known":
            return row
        self.known = True
        self._compared.clear()
        return None

    def _say(self, problem: str) -> None:
        """Log why the folder cannot be read, once."""
        if problem != self._problem:
            self._problem = problem
            self._log.error(f"the folder cannot be read by uid {os.geteuid()}; trying again", reason=problem)

    def _progress(self, row: TreeRow) -> str:
        if self._problem:
            return f"the registry's folder cannot be read: {self._problem}"
        return (
            f"the registry is reading its folder: {row.repositories_read} of {row.repositories} repositories, "
            f"{row.manifests_read} manifests"
        )

    async def _walk(self) -> None:
        row = await self._look()
        if row is None:
            return
        first = row.state == "unread"
        kinds: Counter[str] = Counter()
        if first:
            self._log.info("reading the repositories of a folder that is new to hatoba")
        show = log_lines("reading the folder") if first else _unshown
        read = await read_tree(
            self._database, self._driver, self._links, lambda problem: kinds.update((problem.kind,)),
            show, patient=not first,
        )  # fmt: skip
        self._problem = ""
        self._tell(first=first, read=read, kinds=kinds, tags=(await _tags_changed(self._database)))

    def _tell(self, *, first: bool, read: Read, kinds: Counter[str], tags: int) -> None:
        if first:
            self._log.info("the folder has been read", repositories=read.repositories, manifests=read.manifests)
        elif tags or read.new_manifests or read.new_blobs or read.ended:
            self._log.warning(
                f"{tags} tags changed while hatoba was away", manifests=read.new_manifests, blobs=read.new_blobs,
                removed=read.ended,
            )  # fmt: skip
        if kinds:
            skipped = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
            tell = self._log.warning if first else self._log.info
            tell("parts of the folder were skipped: `hatoba import --report FILE` lists them", skipped=skipped)


async def read_tree(  # noqa: PLR0913  what it works on, and who hears of it
    database: Database, driver: BlobDriver, links: Links, report: TellProblem, show: Show, *, patient: bool
) -> Read:
    """Compare all repositories, of the tree and of the rows; the state is known afterwards.

    `patient` leaves half of the time to others; else nobody else writes.
    Raises RegistryError when nothing of the tree can be read, or what was read cannot be written.
    """
    began = now()
    row = await tree_rows.find(database)
    seen_at = None if row is None else row.seen_at
    one = Adoption(database, driver, links, report, alone=not patient)
    names = sorted({*await tree.find_repositories(driver, report), *await _names(database)})

    async def begin(transaction: Transaction) -> None:
        await tree_rows.begin(transaction, "unread")
        await tree_rows.expect(transaction, len(names))
        await tree_rows.see_first(transaction, began)

    await database.write(begin)
    for name in names:
        started = time.monotonic()
        try:
            await one.repository(name, seen_at)
        except (RegistryError, KeyMissing) as error:
            none = not one.read.repositories and name == names[-1]  # that is no matter of single repositories
            if one.uncommitted or (none and isinstance(error, RegistryError)):
                raise
            report(TreeProblem(layout.repository(name), "unreadable", _words(error)))
        show(one.read.repositories, len(names), one.read.manifests)
        if patient:
            await asyncio.sleep(time.monotonic() - started)
    await one.flush()
    if seen_at is not None:
        one.read.ended += await follow_vanished(database, driver, seen_at)
    await database.write(lambda transaction: tree_rows.know(transaction, began))
    return one.read


async def _names(database: Database) -> list[str]:
    async def all_names(reader: Reader) -> list[str]:
        found: list[str] = []
        while page := await repositories.names(reader, found[-1] if found else "", _PAGE):
            found += page
        return found

    return await database.scan(all_names)


async def _tags_changed(database: Database) -> int:
    row = await tree_rows.find(database)
    return 0 if row is None else row.tags_changed


def _words(error: Exception) -> str:
    return str(error.__cause__ or error) or type(error).__name__


def _unsaid(_problem: TreeProblem) -> None:
    """The walk says it."""


def _unshown(_done: int, _total: int, _manifests: int) -> None:
    """Beside serving nobody waits for it."""
