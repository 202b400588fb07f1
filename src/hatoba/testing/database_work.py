"""The part of the database contract about work under way: marks of links to write, and upload sessions.

Joined by `database_contract.DatabaseContract`; has no fixtures of its own.
"""

from __future__ import annotations

from datetime import timedelta

from hatoba.db import mirror, uploads
from hatoba.db.engine import Database
from hatoba.db.uploads import UploadRow
from hatoba.oci.digest import Digest
from hatoba.testing.database_rows import AT, LATER

_SECOND = timedelta(seconds=1)
_LAYER, _BODY = Digest.of(b"layer"), Digest.of(b"body")


class MirrorRowsContract:
    """The functions of mirror."""

    async def test_a_mirror_mark_ends_only_by_its_own_generation(self, database: Database) -> None:
        first = await database.write(lambda t: mirror.mark(t, "a", "tag", "latest", AT))
        assert await mirror.is_pending(database, "a", "tag", "latest")
        assert not await mirror.is_pending(database, "a", "layer", "latest")
        assert not await mirror.is_pending(database, "b", "tag", "latest")
        second = await database.write(lambda t: mirror.mark(t, "a", "tag", "latest", LATER))
        assert second.generation != first.generation
        assert not await database.write(lambda t: mirror.settle(t, first)), "marked again meanwhile"
        assert await mirror.is_pending(database, "a", "tag", "latest")
        assert await database.write(lambda t: mirror.settle(t, second))
        assert not await database.write(lambda t: mirror.settle(t, second))
        assert not await mirror.is_pending(database, "a", "tag", "latest")
        third = await database.write(lambda t: mirror.mark(t, "a", "tag", "latest", LATER))
        assert third.generation not in {first.generation, second.generation}
        assert not await database.write(lambda t: mirror.settle(t, second))

    async def test_a_renewed_mark_keeps_its_age_and_ends_by_its_new_generation(self, database: Database) -> None:
        first = await database.write(lambda t: mirror.mark(t, "a", "tag", "latest", AT))
        renewed = await database.write(lambda t: mirror.renew(t, first))
        assert renewed is not None
        assert renewed.generation != first.generation
        assert await database.write(lambda t: mirror.renew(t, first)) is None, "it is another's now"
        assert not await database.write(lambda t: mirror.settle(t, first))
        assert await mirror.pending(database, AT + 2 * _SECOND, _SECOND, 10) == [renewed]
        assert await database.write(lambda t: mirror.settle(t, renewed))
        assert await database.write(lambda t: mirror.renew(t, renewed)) is None

    async def test_pending_marks_come_oldest_first(self, database: Database) -> None:
        marks = [
            await database.write(lambda t: mirror.mark(t, "c", "tag", "x", AT + 2 * _SECOND)),
            await database.write(lambda t: mirror.mark(t, "b", "layer", str(_LAYER), AT)),
            await database.write(lambda t: mirror.mark(t, "a", "revision", str(_BODY), AT + _SECOND)),
        ]
        oldest = [marks[1], marks[2], marks[0]]
        assert await mirror.pending(database, LATER, 0 * _SECOND, 10) == oldest
        assert await mirror.pending(database, LATER, 0 * _SECOND, 2) == oldest[:2]
        assert await mirror.pending(database, AT + 4 * _SECOND, 2 * _SECOND, 10) == oldest[:2]
        assert await mirror.count(database, LATER, 0 * _SECOND) == 3
        assert await mirror.count(database, AT + 3 * _SECOND, 2 * _SECOND) == 1
        assert await mirror.count(database, AT + _SECOND, _SECOND) == 0

    async def test_marks_of_the_future_are_pending_too(self, database: Database) -> None:
        """Made before the clock was set back: by their time they would wait for years."""
        young = await database.write(lambda t: mirror.mark(t, "c", "tag", "young", AT))
        ahead = await database.write(lambda t: mirror.mark(t, "b", "tag", "ahead", AT + 60 * _SECOND))
        old = await database.write(lambda t: mirror.mark(t, "a", "tag", "old", AT - 60 * _SECOND))
        assert young not in await mirror.pending(database, AT, 10 * _SECOND, 10)
        assert await mirror.pending(database, AT, 10 * _SECOND, 10) == [old, ahead]
        assert await mirror.pending(database, AT, 10 * _SECOND, 1) == [old]
        assert await mirror.count(database, AT, 10 * _SECOND) == 2


class UploadRowsContract:
    """The functions of uploads."""

    async def test_an_upload_from_start_to_end(self, sessions: Database) -> None:
        empty = Digest.of(b"", "sha512")
        await sessions.write(lambda t: uploads.start(t, "id1", "a/b", empty, AT))
        row = await uploads.find(sessions, "a/b", "id1")
        assert row == UploadRow("id1", "a/b", 0, "sha512", str(empty), AT, AT)
        assert await uploads.find(sessions, "a", "id1") is None, "of another repository"
        assert await uploads.find(sessions, "a/b", "id2") is None
        assert await sessions.write(lambda t: uploads.advance(t, row, 2**40, None, LATER))
        assert not await sessions.write(lambda t: uploads.advance(t, row, 5, None, LATER)), "not where the row says"
        moved = await uploads.find(sessions, "a/b", "id1")
        assert moved == UploadRow("id1", "a/b", 2**40, "sha512", None, AT, LATER)
        assert await sessions.write(lambda t: uploads.advance(t, moved, 2**41, str(_BODY), LATER))
        assert await sessions.write(lambda t: uploads.end(t, "id1"))
        assert not await sessions.write(lambda t: uploads.end(t, "id1"))
        assert await uploads.find(sessions, "a/b", "id1") is None
        assert not await sessions.write(lambda t: uploads.advance(t, moved, 2**42, None, LATER)), "gone"

    async def test_idle_uploads_come_oldest_first(self, sessions: Database) -> None:
        empty = Digest.of(b"")
        for upload_id, age in (("new", 0), ("old", 3), ("older", 4), ("oldest", 5)):
            at = AT - age * _SECOND
            await sessions.write(lambda t, i=upload_id, at=at: uploads.start(t, i, "a", empty, at))  # type: ignore[misc]
        assert [row.id for row in await uploads.idle(sessions, AT, 10)] == ["oldest", "older", "old"]
        assert [row.id for row in await uploads.idle(sessions, AT, 2)] == ["oldest", "older"]
        oldest = await uploads.find(sessions, "a", "oldest")
        assert oldest is not None
        await sessions.write(lambda t: uploads.advance(t, oldest, 1, None, LATER))
        assert [row.id for row in await uploads.idle(sessions, AT, 10)] == ["older", "old"]
        assert [await uploads.are_open(sessions, number) for number in (1, 4, 5)] == [True, True, False]
