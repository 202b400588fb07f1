"""What SQLite does with every statement of `db/`: each by an index, none by looking through a table."""

import inspect
import re
from datetime import timedelta

import apsw
import pytest

from hatoba.db import blobs, manifests, mirror, repositories, tags, tree, uploads
from hatoba.db.engine import now
from hatoba.db.manifests import Referring
from hatoba.db.mirror import MirrorRow
from hatoba.db.paging import Page
from hatoba.db.sqlite import _adapted
from hatoba.db.tags import Move
from hatoba.db.uploads import UploadRow
from hatoba.oci.digest import Digest
from hatoba.testing.database_rows import row_of

MODULES = (blobs, manifests, mirror, repositories, tags, tree, uploads)
DIGEST = Digest.of(b"")
AT = now()
REFERRING = Referring("a", DIGEST, "text/a")
MOVE = Move("a", "latest", AT, None)
UPLOAD = UploadRow("id", "a", 0, "sha256", None, AT, AT)

CONTENT = {
    "blobs.find": lambda on: blobs.find(on, DIGEST),
    "blobs.find_held": lambda on: blobs.find_held(on, DIGEST),
    "blobs.find_linked": lambda on: blobs.find_linked(on, "a", DIGEST),
    "blobs.find_manifest": lambda on: blobs.find_manifest(on, "a", DIGEST),
    "blobs.make_ready": lambda on: blobs.make_ready(on, DIGEST, "key", 1, AT),
    "blobs.touch": lambda on: blobs.touch(on, DIGEST, AT),
    "blobs.mark_missing": lambda on: blobs.mark_missing(on, DIGEST),
    "blobs.listed": lambda on: blobs.listed(on, "", 5),
    "blobs.bytes_after": lambda on: blobs.bytes_after(on, ""),
    "blobs.naming": lambda on: blobs.naming(on, DIGEST, 5),
    "blobs.missing": lambda on: blobs.missing(on, "", 5),
    "blobs.link": lambda on: blobs.link(on, 1, DIGEST, AT),
    "blobs.unlink": lambda on: blobs.unlink(on, 1, DIGEST),
    "blobs.referencing": lambda on: blobs.referencing(on, 1, DIGEST, 5),
    "blobs.linked_digests": lambda on: blobs.linked_digests(on, "a", "", 5),
    "manifests.find_by_digest": lambda on: manifests.find_by_digest(on, "a", DIGEST),
    "manifests.find_by_tag": lambda on: manifests.find_by_tag(on, "a", "latest"),
    "manifests.find_row": lambda on: manifests.find_row(on, 1, DIGEST),
    "manifests.children": lambda on: manifests.children(on, 1, DIGEST),
    "manifests.find_body": lambda on: manifests.find_body(on, DIGEST),
    "manifests.with_body": lambda on: manifests.with_body(on, "", 5),
    "manifests.unlinked": lambda on: manifests.unlinked(on, 1, "", 5),
    "manifests.keep_body": lambda on: manifests.keep_body(on, DIGEST, b""),
    "manifests.upsert": lambda on: manifests.upsert(on, 1, row_of(DIGEST)),
    "manifests.add_reference": lambda on: manifests.add_reference(on, 1, DIGEST, DIGEST, "layer"),
    "manifests.delete": lambda on: manifests.delete(on, 1, DIGEST),
    "manifests.referrer_sizes": lambda on: manifests.referrer_sizes(on, REFERRING, "", 5),
    "manifests.referrers": lambda on: manifests.referrers(on, REFERRING, "", "z"),
    "manifests.held": lambda on: manifests.held(on, "a", DIGEST),
    "manifests.listed_besides": lambda on: manifests.listed_besides(on, "a", DIGEST, DIGEST, ""),
    "manifests.digests": lambda on: manifests.digests(on, "a", "", 5),
    "mirror.mark": lambda on: mirror.mark(on, "a", "tag", "latest", AT),
    "mirror.renew": lambda on: mirror.renew(on, MirrorRow("a", "tag", "latest", 1)),
    "mirror.settle": lambda on: mirror.settle(on, MirrorRow("a", "tag", "latest", 1)),
    "mirror.pending": lambda on: mirror.pending(on, AT, timedelta(seconds=10), 5),
    "mirror.is_pending": lambda on: mirror.is_pending(on, "a", "tag", "latest"),
    "mirror.count": lambda on: mirror.count(on, AT, timedelta(seconds=10)),
    "repositories.ensure": lambda on: repositories.ensure(on, "a", AT),
    "repositories.find": lambda on: repositories.find(on, "a"),
    "repositories.catalog": lambda on: repositories.catalog(on, "", 5),
    "repositories.page": lambda on: repositories.page(on, Page("size", 5, descending=True, after=(7, "a"))),
    "repositories.count": lambda on: repositories.count(on, "a"),
    "tags.page": lambda on: tags.page(on, 1, Page("natural", 5, after=("a", "a"))),
    "tags.count": lambda on: tags.count(on, 1, "a"),
    "repositories.summaries": lambda on: repositories.summaries(on, "", 5),
    "repositories.names": lambda on: repositories.names(on, "", 5),
    "tags.find": lambda on: tags.find(on, "a", "latest"),
    "tags.names": lambda on: tags.names(on, 1, "", 5),
    "tags.targets": lambda on: tags.targets(on, 1, "", 5),
    "tags.listed": lambda on: tags.listed(on, 1, "", 5),
    "tags.pointing_at": lambda on: tags.pointing_at(on, 1, DIGEST),
    "tags.point": lambda on: tags.point(on, 1, MOVE, DIGEST),
    "tags.last_move": tags.last_move,
    "tags.has_move": lambda on: tags.has_move(on, (1, "a", "latest", str(DIGEST), 0)),
    "tags.delete": lambda on: tags.delete(on, 1, MOVE),
    "blobs.readers": lambda on: blobs.readers(on, DIGEST),
    "blobs.forget": lambda on: blobs.forget(on, DIGEST),
    "manifests.holders": lambda on: manifests.holders(on, DIGEST),
    "manifests.forget_body": lambda on: manifests.forget_body(on, DIGEST),
    "repositories.delete_empty": lambda on: repositories.delete_empty(on, 1),
    "tree.find": tree.find,
    "tree.begin": lambda on: tree.begin(on, "known"),
    "tree.doubt": tree.doubt,
    "tree.expect": lambda on: tree.expect(on, 5),
    "tree.count": lambda on: tree.count(on, 1, 2, 3),
    "tree.know": lambda on: tree.know(on, AT),
    "tree.see": lambda on: tree.see(on, AT),
    "tree.see_first": lambda on: tree.see_first(on, AT),
}
SESSIONS = {
    "uploads.start": lambda on: uploads.start(on, "id", "a", DIGEST, AT),
    "uploads.find": lambda on: uploads.find(on, "a", "id"),
    "uploads.advance": lambda on: uploads.advance(on, UPLOAD, 1, None, AT),
    "uploads.end": lambda on: uploads.end(on, "id"),
    "uploads.are_open": lambda on: uploads.are_open(on, 5),
    "uploads.listed": lambda on: uploads.listed(on, "", 5),
    "uploads.idle": lambda on: uploads.idle(on, AT, 5),
}


def test_every_function_that_holds_sql_is_here():
    functions = {
        f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in MODULES
        for name, function in vars(module).items()
        if inspect.iscoroutinefunction(function) and function.__module__ == module.__name__ and name[0] != "_"
    }
    assert {name.partition(" ")[0] for name in CONTENT | SESSIONS} == functions


class Recording:
    """A transaction that remembers each statement and answers as if a row were there."""

    def __init__(self):
        self.statements = []

    async def one(self, sql, **parameters):
        self.statements.append((sql, parameters))
        return None if sql.startswith("SELECT") else (1,)

    async def all(self, sql, **parameters):
        self.statements.append((sql, parameters))
        return []

    async def run(self, sql, **parameters):
        self.statements.append((sql, parameters))
        return 1


async def plan(connection, call):
    """What SQLite says that it would do for each statement of the function."""
    recording = Recording()
    await call(recording)
    assert recording.statements
    return [
        row[3]
        for sql, parameters in recording.statements
        for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", _adapted(parameters))
    ]


def wasteful(steps):
    """Steps that look through a table, sort, or search a repository's rows one by one: each grows with the registry."""
    return [
        step
        for step in steps
        if re.match(r"SCAN (?!CONSTANT ROW)|USE TEMP B-TREE|SEARCH (?!\w+ EXISTS).* \(repository_id=\?\)", step)
    ]


@pytest.fixture
async def content(open_sqlite):
    database = open_sqlite()
    await database.migrate()
    return database._reader


@pytest.fixture
async def sessions(open_sqlite):
    database = open_sqlite("uploads", "NORMAL")
    await database.migrate()
    return database._reader


@pytest.mark.parametrize("name", CONTENT)
async def test_each_statement_of_content_uses_an_index(content, name):
    found = wasteful(await plan(content, CONTENT[name]))
    if name == "repositories.ensure":  # whether rows refer to an id that is new: there are none
        found = [step for step in found if not re.match("SEARCH (manifests|repository_blobs) USING COVERING", step)]
    if name == "blobs.naming":  # its own few rows, by their LIMIT
        found.remove("SCAN n")
    if name == "repositories.delete_empty":  # whether there is one: the first is enough; and references, as above
        found = [step for step in found if not re.match(r"SEARCH \w+ USING COVERING INDEX .* \(repository_id=", step)]
    if name.endswith(".count"):  # what it is there for: it looks at each name, in an index
        found = [step for step in found if not re.match(r"SCAN \w+ USING INDEX|SEARCH \w+ USING COVERING INDEX", step)]
    assert found == []


@pytest.mark.parametrize("name", SESSIONS)
async def test_each_statement_of_sessions_uses_an_index(sessions, name):
    bounded = ["SCAN uploads USING COVERING INDEX uploads_updated", "CO-ROUTINE some", "SCAN some"]
    allowed = bounded if name == "uploads.are_open" else []  # by its LIMIT
    assert [step for step in wasteful(await plan(sessions, SESSIONS[name])) if step not in allowed] == []


@pytest.mark.parametrize(
    ("name", "search"),
    [
        ("manifests.referrer_sizes", "manifests_subject (repository_id=? AND subject=? AND digest>?)"),
        ("manifests.referrers", "manifests_subject (repository_id=? AND subject=? AND digest>? AND digest<?)"),
        ("blobs.referencing", "manifest_references_digest (repository_id=? AND digest=?)"),
        ("tags.pointing_at", "tags_digest (repository_id=? AND digest=?)"),
        ("mirror.pending", "mirror_marked (marked_at<?)"),
    ],
)
async def test_searches_that_have_an_index_of_their_own_use_it(database, content, name, search):
    assert any(search in step for step in await plan(content, CONTENT[name]))
    await database.write(lambda transaction: transaction.run(f"DROP INDEX {search.partition(' ')[0]}"))
    content.execute("SELECT * FROM tags").fetchall()  # an EXPLAIN alone does not notice the new schema
    assert not any(search in step for step in await plan(content, CONTENT[name]))


async def test_a_scan_would_be_seen(content):
    async def slow(on):
        await on.all("SELECT name FROM tags WHERE pushed_by = 'alice' ORDER BY pushed_at")

    assert wasteful(await plan(content, slow)) == ["SCAN tags", "USE TEMP B-TREE FOR ORDER BY"]


async def test_every_foreign_key_has_an_index_on_its_columns(content):
    """Without one, each delete of the row it points at would look through the whole table."""
    tables = [row[0] for row in content.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    found = 0
    for table in tables:
        keys = {}
        for number, _, _, column, *_ in content.execute(f"PRAGMA foreign_key_list({table})"):
            keys.setdefault(number, []).append(column)
        indexes = [
            [column for _, _, column in content.execute(f"PRAGMA index_info({name})")]
            for _, name, *_ in content.execute(f"PRAGMA index_list({table})")
        ]
        for columns in keys.values():
            found += 1
            assert any(sorted(index[: len(columns)]) == sorted(columns) for index in indexes), (table, columns)
    assert found >= 7


# The history of tags


@pytest.mark.parametrize("statement", ["UPDATE tag_moves SET actor = 'mallory'", "DELETE FROM tag_moves"])
async def test_moves_of_tags_are_only_ever_added(database, statement):
    async def move(transaction):
        await tags._record(transaction, MOVE, DIGEST)

    await database.write(move)
    with pytest.raises(apsw.ConstraintError, match="append-only"):
        await database.write(lambda transaction: transaction.run(statement))
    assert await database.all("SELECT tag, actor FROM tag_moves") == [("latest", None)]
    await database.write(move)
    assert await database.one("SELECT count(*) FROM tag_moves") == (2,)
