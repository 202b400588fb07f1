"""Rules of the catalog: a repository is listed while it holds a manifest."""

from __future__ import annotations

from hatoba.db import repositories
from hatoba.db.engine import Database


class Repositories:
    """All repositories of the registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def catalog(self, after: str, limit: int) -> tuple[list[str], bool]:
        """At most `limit` names in byte order after `after`, and whether there are more."""
        names = await self._database.scan(lambda reader: repositories.catalog(reader, after, limit + 1))
        return names[:limit], len(names) > limit
