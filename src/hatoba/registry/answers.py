"""Small answers of the database, remembered while no committed write lies between.

Holds look-ups such as (repository, tag) -> digest. Rows that a worker or another process changed are never served:
`Database.version` differs then, and everything is forgotten.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar, cast

from hatoba.db.engine import Database

T = TypeVar("T")
_MOST = 20_000  # a few MiB; starting anew is cheaper than bookkeeping per look-up


class Answers:
    """One per worker, used on the loop thread only."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._version: object = None
        self._known: dict[Hashable, object] = {}

    async def get(self, key: Hashable, load: Callable[[], Awaitable[T]]) -> T:
        """The answer for `key`, asked of `load` if it is not known.

        Nothing suspends between the version and the insert on SQLite: an answer read before a commit can only be
        stored under the version before it, which the next call finds outdated.
        """
        version = self._database.version()
        if version != self._version or len(self._known) > _MOST:
            self._known.clear()
            self._version = version
        elif key in self._known:
            return cast("T", self._known[key])
        answer = await load()
        if self._version == version:
            self._known[key] = answer
        return answer
