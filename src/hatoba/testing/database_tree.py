"""The part of the database contract that reading Docker's tree needs: its row, and ending what others removed.

`database_contract.DatabaseContract` has it among its classes.
"""

from __future__ import annotations

from hatoba.db import blobs, manifests, repositories, tree
from hatoba.db.engine import Database
from hatoba.db.tree import TreeRow
from hatoba.oci.digest import Digest
from hatoba.testing.database_rows import AT, LATER, hold_blob, hold_manifest

_BODY, _LAYER = Digest.of(b"body"), Digest.of(b"layer")


class TreeRowsContract:
    """The functions of the tree, and those that end rows for good."""

    async def test_what_is_known_of_the_tree(self, database: Database) -> None:
        assert await tree.find(database) is None
        await database.write(tree.doubt)
        assert await tree.find(database) is None
        await database.write(lambda t: tree.begin(t, "unread"))
        await database.write(lambda t: tree.begin(t, "known"))
        await database.write(tree.doubt)
        assert await tree.find(database) == TreeRow("unread", None, 0, 0, 0, 0), "the first word counts"
        await database.write(lambda t: tree.expect(t, 7))
        await database.write(lambda t: tree.count(t, 1, 20, 3))
        await database.write(lambda t: tree.count(t, 2, 10, 4))
        assert await tree.find(database) == TreeRow("unread", None, 7, 3, 30, 7)
        await database.write(lambda t: tree.know(t, AT))
        assert await tree.find(database) == TreeRow("known", AT, 7, 3, 30, 7)
        await database.write(tree.doubt)
        assert await tree.find(database) == TreeRow("unsure", AT, 7, 3, 30, 0), "changes count from here"
        await database.write(lambda t: tree.expect(t, 8))
        assert await tree.find(database) == TreeRow("unsure", AT, 8, 0, 0, 0)

    async def test_the_last_look_moves_only_while_the_tree_is_known(self, database: Database) -> None:
        async def seen_at() -> object:
            row = await tree.find(database)
            return None if row is None else row.seen_at

        await database.write(lambda t: tree.begin(t, "unread"))
        await database.write(lambda t: tree.see(t, AT))
        assert await seen_at() is None
        await database.write(lambda t: tree.see_first(t, AT))
        await database.write(lambda t: tree.see_first(t, LATER))
        assert await seen_at() == AT
        await database.write(lambda t: tree.know(t, LATER))
        await database.write(lambda t: tree.see(t, AT))
        assert await seen_at() == LATER, "never back"
        await database.write(tree.doubt)
        await database.write(lambda t: tree.see(t, LATER.replace(year=2030)))
        assert await seen_at() == LATER

    async def test_blobs_whose_digests_begin_alike(self, database: Database) -> None:
        found = [Digest("sha256", start.ljust(64, "0")) for start in ("aa", "ab", "ab1", "abff", "ac", "f")]
        found.append(Digest("sha512", "ab".ljust(128, "0")))
        for digest in found:
            await database.write(lambda t, d=digest: hold_blob(t, "a", d))  # type: ignore[misc]
        rows = await blobs.listed(database, "", 10, "sha256:ab")
        assert [row.digest for row in rows] == [str(digest) for digest in found[1:4]]
        assert rows[0].key == f"key/{found[1]}"
        assert [row.digest for row in await blobs.listed(database, str(found[1]), 1, "sha256:ab")] == [str(found[2])]

    async def test_blobs_and_bodies_in_use_are_not_given_up(self, database: Database) -> None:
        mine = await database.write(lambda t: hold_blob(t, "a", _LAYER))
        other = await database.write(lambda t: hold_manifest(t, "b", _BODY))
        assert await blobs.readers(database, _LAYER) == [(mine, "a")]
        assert await manifests.holders(database, _BODY) == [(other, "b")]
        assert await blobs.readers(database, _BODY) == await manifests.holders(database, _LAYER) == []
        for _ in range(2):  # while they are in use, and then when they are not
            await database.write(lambda t: manifests.forget_body(t, _BODY))
            for digest in (_LAYER, _BODY):
                await database.write(lambda t, d=digest: blobs.forget(t, d))  # type: ignore[misc]
            for repository in (mine, other):
                await database.write(lambda t, r=repository: repositories.delete_empty(t, r))  # type: ignore[misc]
            left = [await blobs.find(database, digest) is not None for digest in (_LAYER, _BODY)]
            names = await repositories.names(database, "", 10)
            if left == [True, True]:
                assert names == ["a", "b"]
                await database.write(lambda t: blobs.unlink(t, mine, _LAYER))
                await database.write(lambda t: manifests.delete(t, other, _BODY))
        assert (left, names) == ([False, False], [])
        assert await database.all("SELECT 1 FROM manifest_bodies") == []
