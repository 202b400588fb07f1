"""The contract of what goes through a whole database, page by page or at once: for checks and backups.

Joined by `database_contract.DatabaseContract`; has no fixtures of its own.
"""

from __future__ import annotations

from pathlib import Path

from hatoba.db import blobs, manifests, tags, uploads
from hatoba.db.blobs import BlobRow
from hatoba.db.engine import Database, Transaction
from hatoba.db.tags import Move
from hatoba.oci.digest import Digest
from hatoba.testing.database_rows import AT, hold_blob, hold_manifest

_BODY, _OTHER = Digest.of(b"a manifest"), Digest.of(b"another")
_LAYER = Digest.of(b"a layer")


class WalksContract:
    """Pages of all rows, who needs a blob, and the engine's own check and copy."""

    async def test_all_blobs_come_in_pages(self, database: Database) -> None:
        digests = sorted(str(Digest.of(b"%d" % number)) for number in range(3))
        for number, digest in enumerate(digests):
            await database.write(lambda t, d=digest, n=number: blobs.make_ready(t, Digest.parse(d), "key", 10**n, AT))  # type: ignore[misc]
        await database.write(lambda t: blobs.mark_missing(t, Digest.parse(digests[1])))
        first, second = BlobRow(digests[0], "key", 1, ready=True), BlobRow(digests[1], "key", 10, ready=False)
        assert await blobs.listed(database, "", 2) == [first, second]
        assert [row.digest for row in await blobs.listed(database, digests[1], 2)] == [digests[2]]
        assert await blobs.listed(database, digests[2], 2) == []
        assert await blobs.bytes_after(database, "") == 111
        assert await blobs.bytes_after(database, digests[0]) == 110
        assert await blobs.bytes_after(database, digests[2]) == 0

    async def test_who_needs_a_blob(self, database: Database) -> None:
        async def work(transaction: Transaction) -> None:
            for name in ("a", "b"):
                await hold_blob(transaction, name, _LAYER)
                held = await hold_manifest(transaction, name, _BODY)
                await manifests.add_reference(transaction, held, _BODY, _LAYER, "layer")
            for tag in ("v2", "v1"):
                await tags.point(transaction, held, Move("b", tag, AT, None), _BODY)
            await hold_blob(transaction, "c", _LAYER)

        await database.write(work)
        both = [("a", str(_BODY), None), ("b", str(_BODY), "v1")]
        assert sorted(await blobs.naming(database, _LAYER, 5)) == both
        assert sorted(await blobs.naming(database, _BODY, 5)) == both
        assert len(await blobs.naming(database, _LAYER, 1)) == 1
        assert await blobs.naming(database, _OTHER, 5) == []

    async def test_manifests_that_name_what_their_repository_does_not_hold(self, database: Database) -> None:
        async def work(transaction: Transaction) -> int:
            held = await hold_manifest(transaction, "a", _BODY)
            await hold_manifest(transaction, "a", _OTHER)
            await hold_blob(transaction, "b", _LAYER)
            await manifests.add_reference(transaction, held, _BODY, _LAYER, "layer")
            await manifests.add_reference(transaction, held, _OTHER, _BODY, "manifest")
            return held

        held = await database.write(work)
        assert await manifests.unlinked(database, held, "", 5) == [str(_BODY)]
        assert await manifests.unlinked(database, held, str(_BODY), 5) == []
        assert await manifests.unlinked(database, held, "", 0) == []
        await database.write(lambda t: blobs.link(t, held, _LAYER, AT))
        assert await manifests.unlinked(database, held, "", 5) == []

    async def test_all_manifests_and_all_tags_come_in_pages(self, database: Database) -> None:
        async def work(transaction: Transaction) -> int:
            await hold_manifest(transaction, "b", _OTHER)
            held = await hold_manifest(transaction, "a", _BODY)
            for tag in ("x", "y", "z"):
                await tags.point(transaction, held, Move("a", tag, AT, None), _BODY)
            return held

        held = await database.write(work)
        digests = sorted((str(_BODY), str(_OTHER)))
        assert await manifests.with_body(database, "", 5) == digests
        assert await manifests.with_body(database, digests[0], 5) == digests[1:]
        assert await manifests.with_body(database, "", 1) == digests[:1]
        assert await manifests.find_body(database, _LAYER) is None
        assert await tags.targets(database, held, "", 2) == [("x", str(_BODY)), ("y", str(_BODY))]
        assert await tags.targets(database, held, "y", 2) == [("z", str(_BODY))]

    async def test_all_sessions_come_in_pages(self, sessions: Database) -> None:
        for name in ("b", "a", "c"):
            await sessions.write(lambda t, name=name: uploads.start(t, name, "r", Digest.of(b""), AT))  # type: ignore[misc]
        assert [row.id for row in await uploads.listed(sessions, "", 2)] == ["a", "b"]
        assert [row.id for row in await uploads.listed(sessions, "b", 2)] == ["c"]

    async def test_nothing_is_damaged(self, database: Database) -> None:
        await database.write(lambda t: hold_manifest(t, "a", _BODY))
        assert await database.check() == []

    async def test_a_copy_has_all_of_one_moment_and_says_when_it_was_made(
        self, database: Database, tmp_path: Path
    ) -> None:
        await database.write(lambda t: hold_manifest(t, "a", _BODY))
        assert await database.made_at() == await database.made_at()
        await database.copy_to(tmp_path / "copy.db")
        await database.write(lambda t: hold_manifest(t, "a", _OTHER))
        assert (tmp_path / "copy.db").stat().st_size > 0
        assert len(await manifests.digests(database, "a", "", 5)) == 2
