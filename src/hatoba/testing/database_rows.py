"""The part of the database contract about content: repositories, blobs, manifests and tags.

Joined by `database_contract.DatabaseContract`; has no fixtures of its own.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hatoba.db import blobs, manifests, repositories, tags
from hatoba.db.blobs import BlobRow
from hatoba.db.engine import Database, Transaction, from_micros
from hatoba.db.manifests import ManifestBody, ManifestRow, Referring
from hatoba.db.repositories import RepositoryRow
from hatoba.db.tags import Move, TagRow
from hatoba.oci.digest import Digest

AT = datetime(2026, 5, 6, 7, 8, 9, 101112, tzinfo=UTC)
LATER = AT + timedelta(hours=1)
ANNOTATIONS = '{"d":"é"}'  # more bytes than characters
_SECOND = timedelta(seconds=1)
_CONFIG, _LAYER, _BODY, _CHILD = (Digest.of(content) for content in (b"config", b"layer", b"body", b"child"))
_SUBJECT = Digest.of(b"subject")


def row_of(digest: Digest, **fields: object) -> ManifestRow:
    """A manifest's row, plain but for `fields`."""
    row = ManifestRow(
        digest=str(digest),
        media_type="application/vnd.oci.image.manifest.v1+json",
        artifact_type=None,
        size=123,
        total_bytes=456,
        config_digest=None,
        subject=None,
        annotations=None,
        os=None,
        architecture=None,
        image_created_at=None,
        pushed_at=AT,
        pushed_by=None,
    )
    return replace(row, **fields)  # type: ignore[arg-type]


async def hold_blob(transaction: Transaction, repository: str, digest: Digest) -> int:
    """Make a blob and let `repository` read it; the repository's id."""
    repository_id, _ = await repositories.ensure(transaction, repository, AT)
    await blobs.make_ready(transaction, digest, f"key/{digest}", 10, AT)
    await blobs.link(transaction, repository_id, digest, AT)
    return repository_id


async def hold_manifest(transaction: Transaction, repository: str, digest: Digest, **fields: object) -> int:
    """Let `repository` hold a manifest; the repository's id."""
    repository_id, _ = await repositories.ensure(transaction, repository, AT)
    await blobs.make_ready(transaction, digest, f"key/{digest}", 123, AT)
    await manifests.keep_body(transaction, digest, b"bytes of " + str(digest).encode())
    await manifests.upsert(transaction, repository_id, row_of(digest, **fields))
    return repository_id


class RowsContract:
    """The functions of repositories, blobs, manifests and tags."""

    async def test_repositories(self, database: Database) -> None:
        first, made = await database.write(lambda t: repositories.ensure(t, "b/c", AT))
        assert made
        assert await database.write(lambda t: repositories.ensure(t, "b/c", LATER)) == (first, False)
        second, _ = await database.write(lambda t: repositories.ensure(t, "a", AT))
        assert second != first
        assert await repositories.find(database, "b/c") == first
        assert await repositories.find(database, "b") is None
        assert await repositories.names(database, "", 10) == ["a", "b/c"]
        assert await repositories.names(database, "", 1) == ["a"]
        assert await repositories.names(database, "a", 10) == ["b/c"]
        assert await repositories.names(database, "b/c", 10) == []
        row = await database.one("SELECT created_at FROM repositories WHERE name = 'b/c'")
        assert row is not None
        assert from_micros(row[0]) == AT

    async def test_the_catalog_lists_repositories_with_a_manifest(self, database: Database) -> None:
        for name in ("d", "b", "c"):
            await database.write(lambda t, name=name: hold_manifest(t, name, _BODY))  # type: ignore[misc]
        await database.write(lambda t: hold_blob(t, "a", _LAYER))
        assert await repositories.catalog(database, "", 10) == ["b", "c", "d"]
        assert await repositories.catalog(database, "", 2) == ["b", "c"]
        assert await repositories.catalog(database, "b", 10) == ["c", "d"]
        assert await repositories.catalog(database, "bb", 1) == ["c"]
        assert await repositories.catalog(database, "", 0) == []

    async def test_summaries_count_what_is_in_each_repository_of_the_catalog(self, database: Database) -> None:
        async def work(transaction: Transaction) -> None:
            for name in ("b", "a/x"):
                repository_id = await hold_manifest(transaction, name, _BODY, pushed_at=LATER)
            await hold_manifest(transaction, "a/x", _CHILD)
            for digest in (_LAYER, _CONFIG):
                await hold_blob(transaction, "a/x", digest)
            for tag in ("v1", "v2", "v3"):
                await tags.point(transaction, repository_id, Move("a/x", tag, AT, None), _BODY)
            await hold_blob(transaction, "blobs-alone", _LAYER)

        await database.write(work)
        both = [RepositoryRow("a/x", 3, 2, 20, LATER), RepositoryRow("b", 0, 1, 0, LATER)]
        assert await repositories.summaries(database, "", 10) == both
        assert await repositories.summaries(database, "", 1) == both[:1]
        assert await repositories.summaries(database, "a/x", 10) == both[1:]
        assert await repositories.summaries(database, "b", 10) == []

    async def test_a_blob_is_made_touched_lost_and_healed(self, database: Database) -> None:
        assert await blobs.find(database, _LAYER) is None
        assert not await database.write(lambda t: blobs.touch(t, _LAYER, AT))
        assert not await database.write(lambda t: blobs.mark_missing(t, _LAYER))
        await database.write(lambda t: blobs.make_ready(t, _LAYER, "here", 7, AT))
        assert await blobs.find(database, _LAYER) == BlobRow(str(_LAYER), "here", 7, ready=True)
        assert await database.write(lambda t: blobs.touch(t, _LAYER, LATER))
        assert await _blob_times(database) == (LATER, AT)
        assert await database.write(lambda t: blobs.mark_missing(t, _LAYER))
        assert not await database.write(lambda t: blobs.mark_missing(t, _LAYER))
        lost = BlobRow(str(_LAYER), "here", 7, ready=False)
        assert await blobs.find(database, _LAYER) == lost
        assert await blobs.missing(database, "", 5) == [lost]
        assert await blobs.missing(database, str(_LAYER), 5) == []
        assert await blobs.missing(database, "", 0) == []
        assert not await database.write(lambda t: blobs.touch(t, _LAYER, LATER + _SECOND)), "nothing to link"
        assert await _blob_times(database) == (LATER, AT)
        await database.write(lambda t: blobs.make_ready(t, _LAYER, "there", 8, LATER + _SECOND))
        assert await blobs.find(database, _LAYER) == BlobRow(str(_LAYER), "there", 8, ready=True)
        assert await blobs.missing(database, "", 5) == []
        assert await _blob_times(database) == (LATER + _SECOND, AT)

    async def test_a_repository_reads_what_it_is_linked_to(self, database: Database) -> None:
        mine = await database.write(lambda t: hold_blob(t, "mine", _LAYER))
        yours, _ = await database.write(lambda t: repositories.ensure(t, "yours", AT))
        assert await blobs.find_linked(database, "mine", _LAYER) == await blobs.find(database, _LAYER)
        assert await blobs.find_linked(database, "yours", _LAYER) is None
        assert await blobs.find_linked(database, "nobody", _LAYER) is None
        assert not await database.write(lambda t: blobs.link(t, mine, _LAYER, LATER)), "it could already"
        assert await database.write(lambda t: blobs.link(t, yours, _LAYER, LATER))
        assert await blobs.find_linked(database, "yours", _LAYER) is not None
        await database.write(lambda t: blobs.mark_missing(t, _LAYER))
        lost = await blobs.find_linked(database, "yours", _LAYER)
        assert lost is not None
        assert not lost.ready
        assert await database.write(lambda t: blobs.unlink(t, mine, _LAYER))
        assert not await database.write(lambda t: blobs.unlink(t, mine, _LAYER))
        assert await blobs.find_linked(database, "mine", _LAYER) is None
        assert await blobs.find_linked(database, "yours", _LAYER) is not None
        assert await blobs.find_held(database, _LAYER) is not None
        assert await database.write(lambda t: blobs.unlink(t, yours, _LAYER))
        assert await blobs.find_held(database, _LAYER) is None, "nobody may read it any more"
        assert await blobs.find(database, _LAYER) is not None

    async def test_linked_digests_come_in_pages(self, database: Database) -> None:
        digests = [Digest.of(str(number).encode()) for number in range(5)]
        for digest in digests:
            await database.write(lambda t, digest=digest: hold_blob(t, "a", digest))  # type: ignore[misc]
        ordered = sorted(map(str, digests))
        assert await blobs.linked_digests(database, "a", "", 10) == ordered
        assert await blobs.linked_digests(database, "a", ordered[1], 2) == ordered[2:4]
        assert await blobs.linked_digests(database, "b", "", 10) == []

    async def test_which_manifests_reference_a_blob(self, database: Database) -> None:
        others = sorted((Digest.of(str(number).encode()) for number in range(4)), key=str)

        async def work(transaction: Transaction) -> int:
            await hold_blob(transaction, "a", _LAYER)
            for digest in (*others, _BODY):
                repository_id = await hold_manifest(transaction, "a", digest)
                kind = "manifest" if digest == _BODY else "layer"
                await manifests.add_reference(transaction, repository_id, digest, _LAYER, kind)
            await manifests.add_reference(transaction, repository_id, others[0], _LAYER, "config")
            await manifests.add_reference(transaction, repository_id, others[0], _LAYER, "config")
            return repository_id

        mine = await database.write(work)
        assert await blobs.referencing(database, mine, _LAYER, 10) == list(map(str, others)), "an index does not count"
        assert await blobs.referencing(database, mine, _LAYER, 2) == list(map(str, others[:2]))
        assert await blobs.referencing(database, mine, _CONFIG, 10) == []
        assert await blobs.referencing(database, mine + 1, _LAYER, 10) == []

    async def test_a_manifest_is_found_by_digest_and_by_tag(self, database: Database) -> None:
        mine = await database.write(lambda t: hold_manifest(t, "a", _BODY))
        expected = ManifestBody(
            str(_BODY), "application/vnd.oci.image.manifest.v1+json", b"bytes of " + str(_BODY).encode(), 0
        )
        assert await manifests.find_by_digest(database, "a", _BODY) == expected
        assert await manifests.find_by_digest(database, "b", _BODY) is None
        assert await manifests.find_by_digest(database, "a", _LAYER) is None
        assert await manifests.find_by_tag(database, "a", "latest") is None
        await database.write(lambda t: tags.point(t, mine, Move("a", "latest", AT, None), _BODY))
        assert await manifests.find_by_tag(database, "a", "latest") == expected
        assert await manifests.find_by_tag(database, "a", "Latest") is None
        assert await manifests.held(database, "a", _BODY)
        assert not await manifests.held(database, "a", _LAYER)
        assert not await manifests.held(database, "b", _BODY)
        assert await blobs.find_manifest(database, "a", _BODY) == await blobs.find(database, _BODY)
        assert await blobs.find_manifest(database, "b", _BODY) is None
        assert await blobs.find_linked(database, "a", _BODY) is None, "a manifest is no blob of the repository"

    async def test_a_body_is_kept_once(self, database: Database) -> None:
        await database.write(lambda t: hold_manifest(t, "a", _BODY))
        await database.write(lambda t: hold_manifest(t, "b", _BODY))
        assert await manifests.with_body(database, "", 5) == [str(_BODY)]
        for body in (b"spoiled by a disk", b"bytes of " + str(_BODY).encode()):
            await database.write(lambda t, body=body: manifests.keep_body(t, _BODY, body))  # type: ignore[misc]
            assert await manifests.find_body(database, _BODY) == body
            for repository in ("a", "b"):
                found = await manifests.find_by_digest(database, repository, _BODY)
                assert found is not None
                assert found.body == body
        assert await database.one("SELECT count(*) FROM manifest_bodies") == (1,)

    async def test_every_column_of_a_manifest_is_kept(self, database: Database) -> None:
        full = row_of(
            _BODY,
            artifact_type="application/spdx+json",
            config_digest=str(_CONFIG),
            subject=str(_SUBJECT),
            annotations='{"a": "b"}',
            os="linux",
            architecture="arm64",
            image_created_at=datetime(1980, 1, 1, tzinfo=UTC),
            pushed_by="alice",
        )
        mine = await database.write(lambda t: hold_manifest(t, "a", _BODY, **_fields(full)))
        assert await _manifest_row(database) == full
        again = replace(full, pushed_at=LATER, pushed_by="bob", os="plan9")
        await database.write(lambda t: manifests.upsert(t, mine, again))
        assert await _manifest_row(database) == replace(full, pushed_at=LATER, pushed_by="bob")
        assert await manifests.find_row(database, mine, _BODY) == await _manifest_row(database)
        assert await manifests.find_row(database, mine, _CHILD) is None
        assert await manifests.find_row(database, mine + 1, _BODY) is None
        await database.write(lambda t: hold_manifest(t, "a", _CHILD))
        assert await manifests.find_row(database, mine, _CHILD) == row_of(_CHILD)

    async def test_an_index_counts_its_missing_manifests(self, database: Database) -> None:
        async def work(transaction: Transaction) -> int:
            repository_id = await hold_manifest(transaction, "a", _BODY)
            await hold_manifest(transaction, "b", _SUBJECT)
            for digest in (_CHILD, _SUBJECT):
                await manifests.add_reference(transaction, repository_id, _BODY, digest, "manifest")
            await manifests.add_reference(transaction, repository_id, _BODY, _LAYER, "layer")
            return repository_id

        mine = await database.write(work)

        async def missing() -> int:
            found = await manifests.find_by_digest(database, "a", _BODY)
            assert found is not None
            return found.missing_children

        assert await missing() == 2, "what another repository holds does not count, layers are no manifests"
        assert await manifests.children(database, mine, _BODY) == {str(_CHILD): None, str(_SUBJECT): None}
        await database.write(lambda t: hold_manifest(t, "a", _CHILD, total_bytes=77))
        assert await missing() == 1
        assert await manifests.children(database, mine, _BODY) == {str(_CHILD): 77, str(_SUBJECT): None}
        assert await manifests.children(database, mine, _CHILD) == {}
        assert await database.write(lambda t: manifests.delete(t, mine, _CHILD))
        assert await missing() == 2

    async def test_deleting_a_manifest_takes_its_references_along(self, database: Database) -> None:
        mine = await database.write(lambda t: hold_manifest(t, "a", _BODY))
        await database.write(lambda t: hold_manifest(t, "b", _BODY))
        await database.write(lambda t: manifests.add_reference(t, mine, _BODY, _LAYER, "layer"))
        assert await database.write(lambda t: manifests.delete(t, mine, _BODY))
        assert not await database.write(lambda t: manifests.delete(t, mine, _BODY))
        assert not await manifests.held(database, "a", _BODY)
        assert await manifests.held(database, "b", _BODY)
        assert await blobs.referencing(database, mine, _LAYER, 10) == []
        assert await database.one("SELECT count(*) FROM manifest_references") == (0,)

    async def test_referrers_by_subject_and_type_in_pages(self, database: Database) -> None:
        found = sorted((Digest.of(str(number).encode()) for number in range(4)), key=str)

        async def work(transaction: Transaction) -> None:
            for number, digest in enumerate(found):
                kind = "text/a" if number % 2 else None
                await hold_manifest(
                    transaction, "a", digest, subject=str(_SUBJECT), artifact_type=kind, annotations=ANNOTATIONS
                )
            await hold_manifest(transaction, "a", _BODY, subject=str(_LAYER))
            await hold_manifest(transaction, "b", _CHILD, subject=str(_SUBJECT))

        await database.write(work)

        async def sizes(artifact_type: str | None, after: str, limit: int) -> list[tuple[str, int]]:
            asked = Referring("a", _SUBJECT, artifact_type)
            return await manifests.referrer_sizes(database, asked, after, limit)

        async def listed(artifact_type: str | None, after: str, through: Digest) -> list[str]:
            asked = Referring("a", _SUBJECT, artifact_type)
            return [row[0] for row in await manifests.referrers(database, asked, after, str(through))]

        names = list(map(str, found))
        assert await sizes(None, "", 10) == [(name, len(ANNOTATIONS.encode())) for name in names]
        assert [name for name, _ in await sizes(None, names[0], 2)] == names[1:3]
        assert [name for name, _ in await sizes("text/a", "", 10)] == [names[1], names[3]]
        assert await sizes("text/b", "", 10) == []
        assert await listed(None, "", found[3]) == names
        assert await listed(None, names[0], found[2]) == names[1:3]
        assert await listed("text/a", "", found[2]) == [names[1]]
        rows = await manifests.referrers(database, Referring("a", _SUBJECT, "text/a"), "", names[1])
        assert rows == [(names[1], "application/vnd.oci.image.manifest.v1+json", 123, "text/a", ANNOTATIONS)]
        assert await manifests.referrers(database, Referring("c", _SUBJECT, None), "", names[3]) == []
        assert await manifests.referrer_sizes(database, Referring("c", _SUBJECT, None), "", 10) == []

    async def test_what_an_index_lists_and_is_held_with_another_subject(self, database: Database) -> None:
        listed = sorted((Digest.of(str(number).encode()) for number in range(5)), key=str)
        names = list(map(str, listed))

        async def work(transaction: Transaction) -> None:
            mine = await hold_manifest(transaction, "a", _BODY)
            for digest in listed:
                await manifests.add_reference(transaction, mine, _BODY, digest, "manifest")
            await manifests.add_reference(transaction, mine, _BODY, listed[0], "layer")
            await hold_manifest(transaction, "a", listed[0])
            await hold_manifest(transaction, "a", listed[1], subject=str(_SUBJECT))
            await hold_manifest(transaction, "a", listed[2], subject=str(_LAYER))
            await hold_manifest(transaction, "b", listed[3])
            await hold_manifest(transaction, "a", _CHILD)

        await database.write(work)
        assert await manifests.listed_besides(database, "a", _BODY, _SUBJECT, "") == [names[0], names[2]]
        assert await manifests.listed_besides(database, "a", _BODY, _LAYER, "") == names[:2]
        assert await manifests.listed_besides(database, "a", _BODY, _SUBJECT, names[0]) == [names[2]]
        assert await manifests.listed_besides(database, "a", _CHILD, _SUBJECT, "") == []
        assert await manifests.listed_besides(database, "b", _BODY, _SUBJECT, "") == []

    async def test_digests_of_a_repository_come_in_pages(self, database: Database) -> None:
        digests = sorted((Digest.of(str(number).encode()) for number in range(4)), key=str)
        for digest in digests:
            await database.write(lambda t, digest=digest: hold_manifest(t, "a", digest))  # type: ignore[misc]
        assert await manifests.digests(database, "a", "", 10) == list(map(str, digests))
        assert await manifests.digests(database, "a", str(digests[0]), 2) == list(map(str, digests[1:3]))
        assert await manifests.digests(database, "b", "", 10) == []

    async def test_tags_are_listed_and_found(self, database: Database) -> None:
        mine = await database.write(lambda t: hold_manifest(t, "a", _BODY))
        await database.write(lambda t: hold_manifest(t, "a", _CHILD))
        for tag in ("v2", "V1", "latest", "_x"):
            await database.write(lambda t, tag=tag: tags.point(t, mine, Move("a", tag, AT, None), _BODY))  # type: ignore[misc]
        await database.write(lambda t: tags.point(t, mine, Move("a", "child", AT, None), _CHILD))
        assert await tags.names(database, mine, "", 10) == ["V1", "_x", "child", "latest", "v2"]
        assert await tags.names(database, mine, "_x", 2) == ["child", "latest"]
        assert await tags.names(database, mine + 1, "", 10) == []
        assert await tags.pointing_at(database, mine, _BODY) == ["V1", "_x", "latest", "v2"]
        assert await tags.pointing_at(database, mine, _LAYER) == []
        assert await tags.find(database, "a", "child") == str(_CHILD)
        assert await tags.find(database, "a", "v1") is None
        assert await tags.find(database, "b", "child") is None

    async def test_listed_tags_say_what_they_name(self, database: Database) -> None:
        most = 2**63 - 1

        async def work(transaction: Transaction) -> int:
            mine = await hold_manifest(transaction, "a", _BODY, total_bytes=100, media_type="text/index")
            children = ((_CHILD, "arm64", most), (_LAYER, "amd64", most), (_CONFIG, "amd64", 5))
            for digest, architecture, size in children:
                await hold_manifest(transaction, "a", digest, os="linux", architecture=architecture, total_bytes=size)
                await manifests.add_reference(transaction, mine, _BODY, digest, "manifest")
            attestation, elsewhere = Digest.of(b"attestation"), Digest.of(b"elsewhere")
            await hold_manifest(transaction, "a", attestation, os="unknown", architecture="unknown", total_bytes=0)
            await hold_manifest(transaction, "b", elsewhere, os="plan9", architecture="mips", total_bytes=2**40)
            for digest in (attestation, elsewhere):
                await manifests.add_reference(transaction, mine, _BODY, digest, "manifest")
            await tags.point(transaction, mine, Move("a", "index", LATER, "alice"), _BODY)
            await tags.point(transaction, mine, Move("a", "child", AT, None), _CONFIG)
            return mine

        mine = await database.write(work)
        child, index = await tags.listed(database, mine, "", 10)
        kind = row_of(_CONFIG).media_type
        assert child == TagRow("child", str(_CONFIG), kind, None, 5, ("linux/amd64",), AT, None)
        assert replace(index, size=0) == TagRow(
            "index", str(_BODY), "text/index", None, 0, ("linux/amd64", "linux/arm64"), LATER, "alice"
        )
        assert index.size == 9 * 10**18, "more than 64 bits hold, so about as much as they do"
        assert await tags.listed(database, mine, "", 1) == [child]
        assert await tags.listed(database, mine, "child", 10) == [index]
        assert await tags.listed(database, mine, "index", 10) == []
        assert await tags.listed(database, mine + 1, "", 10) == []

    async def test_every_move_of_a_tag_is_recorded(self, database: Database) -> None:
        mine = await database.write(lambda t: hold_manifest(t, "a", _BODY))
        await database.write(lambda t: hold_manifest(t, "a", _CHILD))
        steps = [(_BODY, "alice"), (_BODY, "bob"), (_CHILD, "bob"), (_BODY, None), (None, "carol"), (None, "carol")]
        for number, (digest, actor) in enumerate(steps):
            move = Move("a", "latest", AT + number * _SECOND, actor)
            if digest is not None:
                await database.write(lambda t, m=move, d=digest: tags.point(t, mine, m, d))  # type: ignore[misc]
                row = await database.one("SELECT digest, pushed_at, pushed_by FROM tags")
                assert row is not None
                assert (row[0], from_micros(row[1]), row[2]) == (str(digest), move.at, actor)
            else:
                gone = await database.write(lambda t, m=move: tags.delete(t, mine, m))  # type: ignore[misc]
                assert gone is (number == 4)
        rows = await database.all("SELECT repository, tag, digest, actor, moved_at FROM tag_moves ORDER BY id")
        assert [(*row[:4], from_micros(row[4])) for row in rows] == [
            ("a", "latest", str(_BODY), "alice", AT),
            ("a", "latest", str(_CHILD), "bob", AT + 2 * _SECOND),
            ("a", "latest", str(_BODY), None, AT + 3 * _SECOND),
            ("a", "latest", None, "carol", AT + 4 * _SECOND),
        ]
        assert await tags.find(database, "a", "latest") is None


def _fields(row: ManifestRow) -> dict[str, object]:
    return {name: getattr(row, name) for name in ManifestRow.__dataclass_fields__ if name != "digest"}


async def _blob_times(database: Database) -> tuple[datetime, datetime]:
    row = await database.one("SELECT linked_at, created_at FROM blobs")
    assert row is not None
    return from_micros(row[0]), from_micros(row[1])


async def _manifest_row(database: Database) -> ManifestRow:
    row = await database.one(
        "SELECT digest, media_type, artifact_type, size, total_bytes, config_digest, subject, annotations, os, "
        "architecture, image_created_at, pushed_at, pushed_by FROM manifests"
    )
    assert row is not None
    fields = dict(zip(ManifestRow.__dataclass_fields__, row, strict=True))
    for name in ("image_created_at", "pushed_at"):
        fields[name] = None if fields[name] is None else from_micros(fields[name])
    return ManifestRow(**fields)
