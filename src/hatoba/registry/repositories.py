"""Rules of repositories: which are known, and the catalog, which lists those that hold a manifest."""

from __future__ import annotations

from collections.abc import Sequence

from hatoba.db import repositories
from hatoba.db.engine import Database, Reader
from hatoba.db.repositories import RepositoryRow
from hatoba.errors import NameUnknown
from hatoba.oci.reference import RepositoryName


async def known_id(reader: Reader, repository: RepositoryName) -> int:
    """The repository's id; raises NameUnknown."""
    found = await repositories.find(reader, repository)
    if found is None:
        raise NameUnknown(detail={"name": repository})
    return found


class Repositories:
    """All repositories of the registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def catalog(self, after: str, limit: int) -> tuple[list[str], bool]:
        """At most `limit` names in byte order after `after`, and whether there are more."""
        names = await self._database.scan(lambda reader: repositories.catalog(reader, after, limit + 1))
        return names[:limit], len(names) > limit

    async def summaries(self, after: str, limit: int) -> tuple[Sequence[RepositoryRow], bool]:
        """As `catalog`, with what is in each repository. For people: it counts rows."""
        rows = await self._database.scan(lambda reader: repositories.summaries(reader, after, limit + 1))
        return rows[:limit], len(rows) > limit
