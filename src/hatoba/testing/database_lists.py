"""The part of the database contract about lists: what they show and sort by agrees with the rows that it counts.

Joined by `database_contract.DatabaseContract`; has no fixtures of its own.
"""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace
from datetime import timedelta

import pytest

from hatoba.db import blobs, manifests, repositories, tags
from hatoba.db.engine import Database, Transaction, to_micros
from hatoba.db.paging import Page
from hatoba.db.repositories import RepositoryRow
from hatoba.db.tags import Move, TagRow
from hatoba.oci.digest import Digest
from hatoba.oci.reference import natural_key
from hatoba.testing.database_rows import AT, hold_manifest

_BLOBS = [Digest.of(b"blob %d" % number) for number in range(4)]
_MANIFESTS = [Digest.of(b"manifest %d" % number) for number in range(3)]
_NAMES = ("a", "b/c")
_TAGS = ("v1", "v2", "v3")
_CHANGES = 400
# As it was counted before it was kept; pushed_at of what was deleted stays.
_COUNTED = (
    "SELECT r.name, (SELECT count(*) FROM tags AS t WHERE t.repository_id = r.id), "
    "(SELECT count(*) FROM manifests AS m WHERE m.repository_id = r.id), "
    "(SELECT coalesce(sum(b.size), 0) FROM repository_blobs AS l JOIN blobs AS b ON b.digest = l.digest "
    "WHERE l.repository_id = r.id) FROM repositories AS r ORDER BY r.name"
)


class ListsContract:
    """Counts of repositories and sizes of tags, whatever happened before."""

    async def test_counts_agree_with_rows_after_any_changes(self, database: Database) -> None:
        rng = random.Random(1)  # noqa: S311  not for secrets

        async def begin(transaction: Transaction) -> list[int]:
            for digest in _BLOBS:
                await blobs.make_ready(transaction, digest, "key", 10, AT)
            return [(await repositories.ensure(transaction, name, AT))[0] for name in _NAMES]

        ids = await database.write(begin)
        pushed = dict.fromkeys(_NAMES, AT)
        for number in range(_CHANGES):
            place = rng.randrange(len(_NAMES))
            at = AT + timedelta(seconds=rng.randrange(_CHANGES))
            change = rng.choice([_link, _link, _unlink, _resize, _push, _push, _tag, _tag, _untag, _delete])
            done = await database.write(
                lambda t, p=place, c=change, at=at: c(t, rng, ids[p], Move(_NAMES[p], rng.choice(_TAGS), at, None))  # type: ignore[misc]
            )
            if done and change is _push:
                pushed[_NAMES[place]] = max(pushed[_NAMES[place]], at)
            kept = await database.all("SELECT name, tags, manifests, size FROM repositories ORDER BY name")
            assert kept == await database.all(_COUNTED), f"after change {number}, {change.__name__}"
        found = await repositories.summaries(database, "", 10)
        assert found
        assert all(row.pushed_at == pushed[row.name] for row in found)

    @pytest.mark.parametrize("descending", [False, True])
    @pytest.mark.parametrize("sort", ["name", "pushed", "size", "tags"])
    async def test_pages_of_repositories_in_each_order(
        self, database: Database, sort: repositories.Sort, *, descending: bool
    ) -> None:
        names = [f"team{number % 3}/app-{number}" for number in range(12)]

        async def work(transaction: Transaction) -> None:
            for number, name in enumerate(names):
                at = AT + timedelta(seconds=number * 7 % 5)
                repository_id = await hold_manifest(transaction, name, _MANIFESTS[0], pushed_at=at)
                for tag in _TAGS[: number % 4]:
                    await tags.point(transaction, repository_id, Move(name, tag, at, None), _MANIFESTS[0])
                await blobs.make_ready(transaction, _BLOBS[number % 4], "key", 10 ** (number % 4), at)
                await blobs.link(transaction, repository_id, _BLOBS[number % 4], at)
            await repositories.ensure(transaction, "empty", AT)

        await database.write(work)
        values = {"name": "name", "pushed": "pushed_at", "size": "size", "tags": "tags"}

        def key(row: RepositoryRow) -> tuple[str | int, str]:
            value = getattr(row, values[sort])
            return (to_micros(value) if sort == "pushed" else value), row.name

        for text in ("", "TEAM1", "app-1", "p_", "%"):
            every = [row for row in await repositories.summaries(database, "", 99) if text.lower() in row.name]
            assert await repositories.count(database, text) == len(every)
            expected = sorted(every, key=key, reverse=descending)
            for limit in (1, 5, 99):
                found: list[RepositoryRow] = []
                wanted = Page(sort, limit, descending, None, text)
                while rows := await repositories.page(database, wanted):
                    found += rows
                    wanted = replace(wanted, after=key(rows[-1]))
                assert found == expected

    @pytest.mark.parametrize("descending", [False, True])
    @pytest.mark.parametrize("sort", ["bytes", "natural", "pushed", "size"])
    async def test_pages_of_tags_in_each_order(self, database: Database, sort: tags.Sort, *, descending: bool) -> None:
        names = ["v1.10", "v1.9", "V2", "v1.010", "latest", "v1_9", *(f"b{number}" for number in range(6))]

        async def work(transaction: Transaction) -> int:
            for number, digest in enumerate(_MANIFESTS):
                mine = await hold_manifest(transaction, "a", digest, total_bytes=10**number)
            other = await hold_manifest(transaction, "b", _MANIFESTS[0])
            await tags.point(transaction, other, Move("b", "of-another", AT, None), _MANIFESTS[0])
            for number, name in enumerate(names):
                move = Move("a", name, AT + timedelta(seconds=number * 7 % 5), None)
                await tags.point(transaction, mine, move, _MANIFESTS[number % 3])
            return mine

        mine = await database.write(work)

        def key(row: TagRow) -> tuple[str | int, str]:
            values: dict[str, str | int] = {
                "bytes": row.name,
                "natural": natural_key(row.name),
                "pushed": to_micros(row.pushed_at),
                "size": row.size,
            }
            return values[sort], row.name

        for text in ("", "v", "1_9", "%"):
            every = [row for row in await tags.listed(database, mine, "", 99) if text in row.name.lower()]
            assert await tags.count(database, mine, text) == len(every)
            expected = sorted(every, key=key, reverse=descending)
            for limit in (1, 5, 99):
                found: list[TagRow] = []
                wanted = Page(sort, limit, descending, None, text)
                while rows := await tags.page(database, mine, wanted):
                    found += rows
                    wanted = replace(wanted, after=key(rows[-1]))
                assert found == expected

    async def test_a_change_that_is_undone_counts_for_nothing(self, database: Database) -> None:
        async def work(transaction: Transaction) -> None:
            await hold_manifest(transaction, "a", _MANIFESTS[0])
            raise ValueError

        await database.write(lambda transaction: hold_manifest(transaction, "a", _MANIFESTS[1]))
        with contextlib.suppress(ValueError):
            await database.write(work)
        (row,) = await repositories.summaries(database, "", 10)
        assert row.manifests == 1

    async def test_a_tag_has_the_size_of_what_it_names_now(self, database: Database) -> None:
        small, large, index = _MANIFESTS

        async def work(transaction: Transaction) -> int:
            mine = await hold_manifest(transaction, "a", small, total_bytes=1)
            await hold_manifest(transaction, "a", large, total_bytes=20)
            await hold_manifest(transaction, "a", index, total_bytes=300)
            for child in (small, large):
                await manifests.add_reference(transaction, mine, index, child, "manifest")
            return mine

        mine = await database.write(work)
        for digest, size in ((small, 1), (index, 321), (large, 20)):
            await database.write(lambda t, d=digest: tags.point(t, mine, Move("a", "v", AT, None), d))  # type: ignore[misc]
            (row,) = await tags.listed(database, mine, "", 10)
            assert row.size == size


async def _link(transaction: Transaction, rng: random.Random, repository_id: int, move: Move) -> bool:
    return await blobs.link(transaction, repository_id, rng.choice(_BLOBS), move.at)


async def _unlink(transaction: Transaction, rng: random.Random, repository_id: int, _move: Move) -> bool:
    return await blobs.unlink(transaction, repository_id, rng.choice(_BLOBS))


async def _resize(transaction: Transaction, rng: random.Random, _repository_id: int, move: Move) -> bool:
    await blobs.make_ready(transaction, rng.choice(_BLOBS), "key", rng.choice([10, 20, 2**40]), move.at)
    return True


async def _push(transaction: Transaction, rng: random.Random, _repository_id: int, move: Move) -> bool:
    await hold_manifest(transaction, move.repository, rng.choice(_MANIFESTS), pushed_at=move.at)
    return True


async def _tag(transaction: Transaction, rng: random.Random, repository_id: int, move: Move) -> bool:
    digest = rng.choice(_MANIFESTS)
    if not await manifests.held(transaction, move.repository, digest):
        return False
    await tags.point(transaction, repository_id, move, digest)
    return True


async def _untag(transaction: Transaction, _rng: random.Random, repository_id: int, move: Move) -> bool:
    return await tags.delete(transaction, repository_id, move)


async def _delete(transaction: Transaction, rng: random.Random, repository_id: int, move: Move) -> bool:
    digest = rng.choice(_MANIFESTS)
    for tag in await tags.pointing_at(transaction, repository_id, digest):
        await tags.delete(transaction, repository_id, Move(move.repository, tag, move.at, None))
    return await manifests.delete(transaction, repository_id, digest)
