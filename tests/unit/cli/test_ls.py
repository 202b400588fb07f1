"""`hatoba ls`: repositories and tags as a table and as JSON."""

import json
from datetime import datetime, timedelta

import pytest

from hatoba.cli import ls
from hatoba.db.engine import now
from hatoba.db.sqlite import Sqlite
from hatoba.testing.images import artifact, index_of, random_image

IMAGE = random_image(layers=2, layer_bytes=3000, seed=0)
OTHER = random_image(layers=1, layer_bytes=500, seed=1)
INDEX = index_of([IMAGE, OTHER])


def total(image) -> int:
    return sum(len(content.body) for content in (image.config, *image.layers))


def rows(result) -> list[list[str]]:
    """The cells below the head: no cell of these tables holds a space."""
    assert (result.exit_code, result.stderr) == (0, "")
    return [line.split() for line in result.stdout.splitlines()[1:]]


def listed(result) -> list[dict]:
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def check_time(text: str) -> None:
    assert text.endswith("Z")
    assert timedelta(0) <= now() - datetime.fromisoformat(text) < timedelta(minutes=5)


def test_a_registry_without_anything(shelf):
    result = shelf.run("ls")
    assert result.stdout.split() == ["REPOSITORY", "TAGS", "MANIFESTS", "SIZE", "PUSHED"]
    assert rows(result) == []
    assert shelf.run("ls", "--json").stdout == "[]\n"


def test_repositories(shelf):
    shelf.push("zoo", OTHER, "v1")
    shelf.push("team/app", INDEX, "v1", "v2")
    first, second = listed(shelf.run("ls", "--json"))
    for row in (first, second):
        check_time(row.pop("pushed_at"))
    size = total(IMAGE) + total(OTHER)
    assert first == {"repository": "team/app", "tags": 2, "manifests": 3, "size_bytes": size}
    assert second == {"repository": "zoo", "tags": 1, "manifests": 1, "size_bytes": total(OTHER)}
    found = rows(shelf.run("ls"))
    assert [row[:3] for row in found] == [["team/app", "2", "3"], ["zoo", "1", "1"]]
    assert found[1][3] == f"{total(OTHER) / 1000:.3g}kB"
    check_time(found[1][4])


def test_tags(shelf):
    shelf.push("team/app", INDEX, "multi")
    shelf.push("team/app", IMAGE, "v1")
    shelf.push("team/app", artifact(IMAGE, "application/vnd.example.sbom"), "sbom")
    multi, sbom, one = listed(shelf.run("ls", "team/app", "--json"))
    for row in (multi, sbom, one):
        check_time(row.pop("pushed_at"))
    assert one == {
        "repository": "team/app",
        "tag": "v1",
        "digest": str(IMAGE.manifest.digest),
        "media_type": IMAGE.manifest.media_type,
        "artifact_type": IMAGE.config.media_type,
        "platforms": ["linux/amd64"],
        "size_bytes": total(IMAGE),
        "pushed_by": "alice",
    }
    assert multi["platforms"] == ["linux/amd64", "linux/arm64"]
    lists = sum(len(image.manifest.body) for image in (IMAGE, OTHER))
    assert multi["size_bytes"] == total(IMAGE) + total(OTHER) + lists
    assert (sbom["platforms"], sbom["artifact_type"]) == ([], "application/vnd.example.sbom")
    found = rows(shelf.run("ls", "team/app"))
    assert [row[0] for row in found] == ["multi", "sbom", "v1"]
    assert [row[1] for row in found] == [multi["digest"], sbom["digest"], one["digest"]]
    assert [row[2] for row in found] == ["index", "application/vnd.example.sbom", "image"]
    assert [row[3] for row in found] == ["linux/amd64,linux/arm64", "-", "linux/amd64"]
    assert [row[6] for row in found] == ["alice"] * 3


def test_columns_stand_beneath_each_other(shelf):
    shelf.push("a", OTHER, "v1", "a-long-name-for-a-tag")
    lines = shelf.run("ls", "a").stdout.splitlines()
    assert len({line.index("sha256:") for line in lines[1:]}) == 1
    assert lines[0].index("DIGEST") == lines[1].index("sha256:")


def test_a_repository_that_is_empty_and_one_that_is_not_there(shelf):
    shelf.push("team/app", OTHER, "v1")
    assert shelf.run("rm", f"team/app@{OTHER.manifest.digest}").exit_code == 0
    assert rows(shelf.run("ls", "team/app")) == []
    assert rows(shelf.run("ls")) == []
    result = shelf.run("ls", "team/other")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "hatoba: team/other: repository name not known to registry\n"


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("Team/App", "Team/App: invalid repository name"),
        ("", ": invalid repository name"),
        ("a\x1b[2J", "a\\x1b[2J: invalid repository name"),
        ("app:v1", "app:v1 names a manifest: `hatoba ls app`, or `hatoba show app:v1`"),
    ],
)
def test_what_is_no_repository(shelf, named, message):
    result = shelf.run("ls", named)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"hatoba: {message}\n")


@pytest.mark.parametrize("number", [3, 4])
def test_one_query_a_page(shelf, monkeypatch, number):
    shelf.push("team/app", OTHER, *(f"v{count}" for count in range(number)))
    real, asked = Sqlite.scan, []

    async def scan(database, work):
        asked.append(work)
        return await real(database, work)

    monkeypatch.setattr(Sqlite, "scan", scan)
    monkeypatch.setattr(ls, "_PAGE", 2)
    found = listed(shelf.run("ls", "team/app", "--json"))
    assert [row["tag"] for row in found] == [f"v{count}" for count in range(number)]
    assert len(asked) == 2
    assert [row[0] for row in rows(shelf.run("ls", "team/app"))] == [f"v{count}" for count in range(number)]


def test_what_clients_wrote_does_not_steer_the_terminal(shelf):
    shelf.push("team/app", artifact(OTHER, "text/\x1b[2J\u202e"), "v1")
    result = shelf.run("ls", "team/app")
    assert "text/\\x1b[2J\\u202e" in result.stdout
    as_json = shelf.run("ls", "team/app", "--json")
    assert "\x1b" not in result.stdout + as_json.stdout
    assert listed(as_json)[0]["artifact_type"] == "text/\x1b[2J\u202e"


@pytest.mark.parametrize("named", [[], ["team/app"]])
def test_no_file_changes(shelf, named):
    shelf.push("team/app", OTHER, "v1")

    def files():
        return {path: path.stat().st_mtime_ns for path in shelf.root.rglob("*") if path.is_file()}

    before = files()
    assert rows(shelf.run("ls", *named)) != []
    assert files() == before
