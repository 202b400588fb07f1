"""`hatoba tag` and `hatoba rm`: what changes, what is said, and the links of Docker's registry afterwards."""

import apsw
import pytest

from hatoba.testing.images import index_of, random_image

IMAGE = random_image(seed=0)
OTHER = random_image(seed=1)
DIGEST, SECOND = str(IMAGE.manifest.digest), str(OTHER.manifest.digest)

WITHIN = "NEW is a tag in team/app, such as v2; other repositories are out of reach"


@pytest.fixture
def rows(shelf):
    """What a statement finds in the database, when no hatoba has it open."""

    def run(sql: str) -> list[tuple]:
        connection = apsw.Connection(str(shelf.root / "hatoba/metadata.db"))
        found = connection.execute(sql).fetchall()
        connection.close()
        return found

    return run


def done(result) -> str:
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    return result.stderr


def failed(result, code: int) -> str:
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("hatoba: ").removesuffix("\n")


@pytest.mark.parametrize("ref", ["team/app", "team/app:latest", f"team/app@{DIGEST}", "localhost:5000/team/app"])
@pytest.mark.parametrize("new", ["v2", "team/app:v2", "localhost:5000/team/app:v2"])
def test_tag_names_a_manifest(shelf, rows, ref, new):
    shelf.push("team/app", IMAGE, "latest")
    assert done(shelf.run("tag", ref, new)) == f"team/app:v2 is {DIGEST}\n"
    assert shelf.tag_link("team/app", "v2").read_text() == DIGEST
    assert rows("SELECT count(*) FROM mirror") == [(0,)], "the links are durable"
    assert rows("SELECT tag, digest, actor FROM tag_moves") == [("latest", DIGEST, "alice"), ("v2", DIGEST, None)]
    assert shelf.get("team/app", "v2") == 200


def test_tag_moves_a_tag_and_records_the_move_once(shelf, rows):
    shelf.push("team/app", IMAGE, "v1")
    shelf.push("team/app", OTHER, "v2")
    for _ in range(2):
        done(shelf.run("tag", "team/app:v2", "v1"))
    assert shelf.tag_link("team/app", "v1").read_text() == SECOND
    moves = [("v1", DIGEST), ("v2", SECOND), ("v1", SECOND)]
    assert rows("SELECT tag, digest FROM tag_moves ORDER BY id") == moves
    index = shelf.tag_link("team/app", "v1").parents[1] / "index/sha256"
    assert sorted(path.name for path in index.iterdir()) == sorted(x.partition(":")[2] for x in (DIGEST, SECOND))


@pytest.mark.parametrize(
    ("ref", "new", "code", "message"),
    [
        ("team/app:v9", "v2", 1, "team/app:v9: manifest unknown"),
        (f"team/app@{SECOND}", "v2", 1, f"team/app@{SECOND}: manifest unknown"),
        ("nobody/app:v1", "v2", 1, "nobody/app:v1: repository name not known to registry"),
        ("Team:v1", "v2", 2, "Team:v1: invalid repository name"),
        ("team/app:v1", "-v2", 2, "-v2: manifest tag did not match the grammar"),
        ("team/app:v1", "", 2, ": manifest tag did not match the grammar"),
        ("team/app:v1", "team/app:-v2", 2, "team/app:-v2: manifest tag did not match the grammar"),
        ("team/app:v1", "other:v2", 2, f"other:v2: {WITHIN}"),
        ("team/app:v1", "other/app", 2, f"other/app: {WITHIN}"),
        ("team/app:v1", f"team/app@{DIGEST}", 2, f"team/app@{DIGEST}: {WITHIN}"),
    ],
)
def test_tag_refuses(shelf, rows, ref, new, code, message):
    shelf.push("team/app", IMAGE, "v1")
    shelf.push("other", OTHER, "v1")
    assert failed(shelf.run("tag", ref, "--", new), code) == message
    assert rows("SELECT name FROM tags") == [("v1",), ("v1",)]


def test_rm_ends_one_tag(shelf, rows):
    shelf.push("team/app", IMAGE, "v1", "v2")
    assert done(shelf.run("rm", "team/app:v1")) == "removed team/app:v1; its manifest stays\n"
    assert not shelf.tag_link("team/app", "v1").parents[1].exists()
    assert shelf.tag_link("team/app", "v2").read_text() == DIGEST
    assert rows("SELECT count(*) FROM mirror") == [(0,)]
    assert rows("SELECT tag, digest FROM tag_moves ORDER BY id")[-1] == ("v1", None)
    assert [shelf.get("team/app", reference) for reference in ("v1", "v2", DIGEST)] == [404, 200, 200]


def test_rm_ends_a_manifest_with_its_tags(shelf, rows):
    shelf.push("team/app", index_of([IMAGE]), "index")
    shelf.push("team/app", IMAGE, "v1", "v2")
    shelf.push("other", IMAGE, "v1")
    said = done(shelf.run("rm", f"team/app@{DIGEST}"))
    assert said.splitlines() == ["removed team/app:v1", "removed team/app:v2", f"removed team/app@{DIGEST}"]
    tags = shelf.tag_link("team/app", "v1").parents[2]
    assert [path.name for path in tags.iterdir()] == ["index"]
    revision = tags.parent / "revisions/sha256" / DIGEST.partition(":")[2] / "link"
    assert not revision.exists()
    assert rows("SELECT count(*) FROM mirror") == [(0,)]
    assert [shelf.get("team/app", reference) for reference in ("v1", DIGEST, "index")] == [404, 404, 200]
    assert shelf.get("other", "v1") == 200


@pytest.mark.parametrize(
    ("ref", "code", "message"),
    [
        ("team/app:v9", 1, "team/app:v9: manifest unknown"),
        (f"team/app@{SECOND}", 1, f"team/app@{SECOND}: manifest unknown"),
        ("nobody/app:v1", 1, "nobody/app:v1: repository name not known to registry"),
        ("team/app", 2, "team/app is a repository: name a tag, team/app:TAG, or a manifest, team/app@DIGEST"),
        ("team/app:", 2, "team/app:: manifest tag did not match the grammar"),
        (f"team/app:v1@{DIGEST}", 2, f"team/app:v1@{DIGEST}: invalid repository name"),
    ],
)
def test_rm_refuses_and_never_guesses(shelf, rows, ref, code, message):
    shelf.push("team/app", IMAGE, "latest")
    assert failed(shelf.run("rm", ref), code) == message
    assert rows("SELECT name, digest FROM tags") == [("latest", DIGEST)]


@pytest.mark.parametrize("arguments", [["tag", "team/app", "v2"], ["rm", "team/app:latest"]])
def test_a_read_only_registry_stays_as_it_is(shelf, rows, monkeypatch, arguments):
    shelf.push("team/app", IMAGE, "latest")
    monkeypatch.setenv("REGISTRY_STORAGE_MAINTENANCE_READONLY_ENABLED", "true")
    message = "storage.maintenance.readonly.enabled is set: nothing in the registry may change"
    assert failed(shelf.run(*arguments), 1) == message
    assert shelf.run("show", "team/app").exit_code == 0
    assert rows("SELECT name, digest FROM tags") == [("latest", DIGEST)]


def test_what_clients_may_not_delete_an_operator_may(shelf, monkeypatch):
    shelf.push("team/app", IMAGE, "latest")
    monkeypatch.setenv("REGISTRY_STORAGE_DELETE_ENABLED", "false")
    done(shelf.run("rm", "team/app:latest"))
    assert shelf.get("team/app", "latest") == 404


def test_a_link_that_cannot_be_written_stays_pending(shelf, rows):
    """A committed change has happened; the next server, or the one that runs, writes the link."""
    shelf.push("team/app", IMAGE, "latest")
    folder = shelf.tag_link("team/app", "v2").parents[1]
    folder.write_text("in the way")
    result = shelf.run("tag", "team/app", "v2")
    assert (result.exit_code, result.stderr) == (0, f"team/app:v2 is {DIGEST}\n")
    assert "link files cannot be written; they stay pending" in result.stdout, "stderr, had logging been set up"
    assert rows("SELECT kind, name FROM mirror") == [("tag", "v2")]
    folder.unlink()
    assert shelf.get("team/app", "v2") == 200


def test_the_folder_that_is_named_is_the_one_that_changes(shelf, tmp_path, monkeypatch):
    """Whatever a variable says, as an image has one for its volume."""
    shelf.push("team/app", random_image(), "v1")
    monkeypatch.setenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", str(tmp_path / "another"))
    assert shelf.run("rm", "team/app:v1").exit_code == 0
    monkeypatch.delenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY")
    assert shelf.get("team/app", "v1") == 404
