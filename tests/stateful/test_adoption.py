"""A folder that Docker's registry wrote: what is taken over, what is skipped and reported, and that no file changes."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime, timedelta

import pytest

from hatoba.blobs import layout
from hatoba.config.load import load
from hatoba.db.engine import from_micros
from hatoba.errors import HatobaError, StartError, Unavailable
from hatoba.oci.digest import Digest
from hatoba.operations import adoption, follow
from hatoba.testing import images
from hatoba.wiring import commands

LONG_AGO = datetime(2021, 3, 4, 5, 6, 7, tzinfo=UTC)
NAME = "team/app"


class Tree:
    """Writes a tree as Docker's registry does."""

    def __init__(self, root) -> None:
        self.root = root

    def write(self, key: str, content: bytes, at: datetime = LONG_AGO) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (at.timestamp(), at.timestamp()))

    def blob(self, content: images.Content, name: str = NAME, at: datetime = LONG_AGO) -> Digest:
        self.write(layout.blob(content.digest), content.body)
        self.write(layout.layer_link(name, content.digest), str(content.digest).encode(), at)
        return content.digest

    def manifest(self, content: images.Content, *tags: str, name: str = NAME, at: datetime = LONG_AGO) -> Digest:
        digest = content.digest
        self.write(layout.blob(digest), content.body)
        self.write(layout.revision_link(name, digest), str(digest).encode(), at)
        for tag in tags:
            self.write(layout.tag_index_link(name, tag, digest), str(digest).encode(), at)
            self.write(layout.tag_link(name, tag), str(digest).encode(), at)
        return digest

    def image(self, image: images.Image, *tags: str, name: str = NAME, at: datetime = LONG_AGO) -> Digest:
        for blob in image.blobs:
            self.blob(blob, name, at)
        return self.manifest(image.manifest, *tags, name=name, at=at)

    def state(self) -> dict[str, tuple[bytes, int, int]]:
        """Every file of Docker's tree: content, time, inode."""
        files = [path for path in (self.root / "docker").rglob("*") if path.is_file()]
        return {str(f): (f.read_bytes(), f.stat().st_mtime_ns, f.stat().st_ino) for f in files}


@pytest.fixture
def docker(root):
    return Tree(root)


@pytest.fixture
def imported(root):
    """Run `hatoba import`: what it read and what it skipped."""

    async def run(**overrides):
        found = []
        settings = load(None, {}, {"storage.filesystem.rootdirectory": str(root), **overrides}).settings
        read = await commands.import_tree(settings, found.append, lambda *_: None)
        return read, found

    return run


async def test_what_was_there_is_served_with_its_times_and_no_file_changes(worker, docker, rows):
    image = images.random_image(2, seed=1)
    index = images.index_of([image, images.random_image(1, seed=2, docker=True)])
    for each in index.images:
        docker.image(each)
    docker.image(image, "old", at=LONG_AGO - timedelta(days=1))
    docker.manifest(index.manifest, "latest")
    signature = images.artifact(image, "text/signature", {"by": "me"})
    docker.image(signature, name=NAME)
    docker.image(image, "other", name="a/b/c")
    (docker.root / layout.manifests("ghost")).mkdir(parents=True)
    before = docker.state()
    one = await worker()
    await one.ready()
    assert (await one("GET", "/v2/_catalog")).json()["repositories"] == ["a/b/c", NAME]
    assert (await one("GET", f"/v2/{NAME}/tags/list")).json()["tags"] == ["latest", "old"]
    assert (await one("GET", "/v2/ghost/tags/list")).json()["tags"] == [], "whose manifests were all deleted"
    answer = await one("GET", f"/v2/{NAME}/manifests/latest")
    assert answer.content == index.manifest.body
    assert answer.headers["content-type"] == index.manifest.media_type
    for blob in image.blobs:
        assert (await one("GET", f"/v2/{NAME}/blobs/{blob.digest}")).content == blob.body
    listed = (await one("GET", f"/v2/{NAME}/referrers/{image.manifest.digest}")).json()["manifests"]
    assert [(entry["digest"], entry["annotations"]) for entry in listed] == [
        (str(signature.manifest.digest), {"by": "me"})
    ]
    times = {row[0]: from_micros(row[1]) for row in rows("SELECT name, pushed_at FROM tags WHERE name <> 'other'")}
    assert times == {"latest": LONG_AGO, "old": LONG_AGO - timedelta(days=1)}
    ((pushed, system),) = rows(
        f"SELECT m.pushed_at, os FROM manifests AS m JOIN repositories AS r ON r.id = repository_id "
        f"WHERE r.name = '{NAME}' AND digest = '{image.manifest.digest}'"
    )
    assert (from_micros(pushed), system) == (LONG_AGO - timedelta(days=1), "linux")
    assert {from_micros(at) for (at,) in rows("SELECT linked_at FROM repository_blobs")} <= {
        LONG_AGO,
        LONG_AGO - timedelta(days=1),
    }
    assert docker.state() == before
    await one.aclose()
    assert docker.state() == before


async def test_everything_strange_is_skipped_and_reported(docker, imported, worker):
    image = images.random_image(1, seed=1)
    docker.image(image, "good")
    bad = {}

    def expect(kind: str, key: str) -> str:
        bad.setdefault(kind, set()).add(key)
        return key

    other = images.Content("", b"other")
    digest = docker.blob(other)
    docker.write(expect("link", layout.layer_link(NAME, Digest.of(b"torn"))), b"")
    docker.write(layout.blob(Digest.of(b"torn")), b"torn")
    docker.write(expect("link", layout.layer_link(NAME, Digest.of(b"astray"))), str(digest).encode())
    docker.write(layout.blob(Digest.of(b"astray")), b"astray")
    docker.write(expect("link", f"{layout.layers(NAME)}/sha256/abc/link"), b"sha256:abc")
    docker.write(expect("link", layout.tag_link(NAME, "torn")), b"sha2")
    docker.write(expect("tag", layout.tag_link(NAME, "lost")), str(Digest.of(b"no such")).encode())
    docker.write(expect("missing", layout.layer_link(NAME, Digest.of(b"gone"))), str(Digest.of(b"gone")).encode())
    docker.write(expect("missing", layout.revision_link(NAME, Digest.of(b"no"))), str(Digest.of(b"no")).encode())
    schema1 = images.Content("", b'{"schemaVersion": 1, "name": "team/app", "tag": "ancient"}')
    docker.manifest(schema1, "ancient")
    expect("schema1", layout.blob(schema1.digest))
    expect("tag", layout.tag_link(NAME, "ancient"))
    docker.write(f"{layout.manifests(NAME)}/revisions/sha256/{'a' * 64}/signatures/sha256/{'b' * 64}/link", b"x")
    strange = images.Content("", b'{"schemaVersion": 2, "mediaType": "application/vnd.strange+json"}')
    docker.manifest(strange)
    expect("type", layout.blob(strange.digest))
    docker.manifest(images.Content("", b"no JSON"))
    expect("manifest", layout.blob(Digest.of(b"no JSON")))
    rotten = images.random_image(1, seed=3).manifest
    docker.manifest(rotten)
    docker.write(expect("digest", layout.blob(rotten.digest)), rotten.body + b" ")
    docker.write(expect("foreign", f"{layout.REPOSITORIES}/README"), b"")
    docker.write(expect("foreign", f"{layout.manifests(NAME)}/tags/good/current/link.tmp"), b"")
    docker.write(expect("foreign", f"{layout.layers(NAME)}/note"), b"")
    docker.write(f"{layout.REPOSITORIES}/Upper/_layers/x", b"")
    expect("name", f"{layout.REPOSITORIES}/Upper")
    docker.write(expect("name", layout.tag_link(NAME, "-dash")), str(image.manifest.digest).encode())
    docker.write(f"{layout.repository('only/uploads')}/_uploads/id/data", b"")
    before = docker.state()
    read, found = await imported()
    reported = {}
    for one in found:
        reported.setdefault(one.kind, set()).add(one.path)
        assert one.reason
    assert reported == bad
    assert (read.repositories, read.new_manifests) == (1, 1)
    assert docker.state() == before
    one = await worker()
    assert (await one("GET", f"/v2/{NAME}/tags/list")).json()["tags"] == ["good"]
    for digest in (rotten.digest, schema1.digest, strange.digest):
        assert (await one("GET", f"/v2/{NAME}/manifests/{digest}")).status_code == 404


async def test_manifest_whose_blobs_are_missing_is_served_and_reported(docker, imported, worker):
    """As Docker's registry does; an index may lack some of its images."""
    image, other = images.random_image(1, seed=1), images.random_image(1, seed=2)
    docker.manifest(image.manifest, "v")
    docker.manifest(images.index_of([image, other]).manifest, "i")
    _, found = await imported()
    names = {one.reason for one in found if one.kind == "missing"}
    absent = {*image.blobs, other.manifest}
    assert names == {f"names {content.digest}, of which there is no file" for content in absent}
    one = await worker()
    assert (await one("GET", f"/v2/{NAME}/manifests/v")).content == image.manifest.body
    answer = await one("GET", f"/v2/{NAME}/manifests/i")
    assert "1 of the manifests" in answer.headers["warning"]


@pytest.mark.parametrize("manifest_first", [True, False])
async def test_blob_of_a_wrong_size_is_missing_until_it_is_pushed(docker, imported, worker, manifest_first):
    """Power went while Docker's registry wrote: the file is there and short. No client may be given it."""
    image = images.random_image(1, seed=1)
    layer = image.layers[0]
    if manifest_first:  # the blob comes to a repository that has the manifest already
        docker.manifest(image.manifest, "v")
        docker.blob(image.config)
        await imported()
        docker.blob(layer)
    else:
        docker.image(image, "v")
    docker.write(layout.blob(layer.digest), layer.body[:-7])
    _, found = await imported()
    assert [(one.kind, one.path) for one in found] == [("size", layout.blob(layer.digest))]
    await imported()  # and it stays so
    one = await worker()
    assert (await one("GET", f"/v2/{NAME}/blobs/{layer.digest}")).status_code == 404
    await one.push_blob(layer.body)
    assert (await one("GET", f"/v2/{NAME}/blobs/{layer.digest}")).content == layer.body


async def test_manifest_that_lies_about_a_size_harms_no_blob(docker, imported, worker):
    """Docker's registry takes it; the blob is whole."""
    image = images.random_image(1, seed=1)
    document = json.loads(image.manifest.body)
    document["layers"][0]["size"] += 1
    liar = images.Content(image.manifest.media_type, json.dumps(document).encode())
    docker.image(image, "v")
    docker.manifest(liar, "liar")
    _, found = await imported()
    assert [one.kind for one in found] == ["size"]
    assert "its content is right" in found[0].reason
    one = await worker()
    layer = image.layers[0]
    assert (await one("GET", f"/v2/{NAME}/blobs/{layer.digest}")).content == layer.body


async def test_nothing_is_served_before_the_folder_is_read(worker, docker, monkeypatch):
    docker.image(images.random_image(1, seed=1), "v")
    go_on = asyncio.Event()
    real = adoption.Adoption.repository

    async def held(self, name, seen_at):
        await go_on.wait()
        await real(self, name, seen_at)

    monkeypatch.setattr(adoption.Adoption, "repository", held)
    one, two = await worker(), await worker()
    await asyncio.sleep(0.1)
    for each in (one, two):
        for method, path in (("GET", "/v2/"), ("GET", f"/v2/{NAME}/manifests/v"), ("POST", "/v2/new/blobs/uploads/")):
            answer = await each(method, path)
            assert answer.status_code == 503, path
            assert answer.json()["errors"][0]["code"] == "UNAVAILABLE"
            assert int(answer.headers["retry-after"]) > 0
        assert (await each("GET", "/healthz/live")).status_code == 200
        answer = await each("GET", "/healthz/ready")
        assert (answer.status_code, "0 of 1 repositories" in answer.text) == (503, True), answer.text
    go_on.set()
    await two.ready()
    assert (await two("GET", f"/v2/{NAME}/manifests/v")).status_code == 200
    await one.ready()


async def test_reading_goes_on_where_it_was_interrupted(worker, docker, monkeypatch):
    """What is committed is not read again."""
    for number in range(6):
        docker.image(images.random_image(1, seed=number), "v", name=f"app{number}")
    monkeypatch.setattr(adoption, "_CHANGES_ALONE", 1)
    real, done = adoption.Adoption.repository, []

    async def dying(self, name, seen_at):
        if len(done) == 3:
            await asyncio.Event().wait()
        done.append(name)
        await real(self, name, seen_at)

    monkeypatch.setattr(adoption.Adoption, "repository", dying)
    one = await worker()
    for _ in range(200):
        if len(done) == 3:
            break
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.1)
    assert "2 of 6 repositories, 3 manifests" in (await one("GET", "/healthz/ready")).text
    await one.aclose()
    monkeypatch.setattr(adoption.Adoption, "repository", real)
    read, parse = [], adoption.manifest.parse

    def parsed(body):
        read.append(body)
        return parse(body)

    monkeypatch.setattr(adoption.manifest, "parse", parsed)
    two = await worker()
    assert (await two("GET", "/v2/")).status_code in {200, 503}
    await two.ready()
    assert len((await two("GET", "/v2/_catalog")).json()["repositories"]) == 6
    assert len(read) == 3


@pytest.mark.parametrize("closed", ["/repositories", "/_manifests/revisions"])
async def test_folder_that_cannot_be_read_is_said_in_one_line(worker, docker, root, monkeypatch, capfd, closed):
    """The wrong owner, above all; of the top, or of every repository."""
    for name in ("a", "b"):
        docker.image(images.random_image(1, seed=1), "v", name=name)
    real = os.scandir

    def scandir(path):
        if str(path).endswith(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(follow, "_AGAIN_SECONDS", 0.01)
    one = await worker()
    await asyncio.sleep(0.3)
    answer = await one("GET", "/healthz/ready")
    assert answer.status_code == 503
    assert "cannot be read" in answer.text
    said = [line for line in "".join(capfd.readouterr()).splitlines() if "cannot be read" in line]
    assert len(said) == 1
    assert "Permission denied" in said[0]
    assert f"uid {os.geteuid()}" in said[0]
    await one.aclose()
    monkeypatch.setattr(os, "scandir", real)
    two = await worker()
    await two.ready()
    assert (await two("GET", "/v2/a/manifests/v")).status_code == 200


async def test_what_could_not_be_committed_is_read_again(worker, docker, monkeypatch):
    """A database that is busy or full for a moment must not leave images out until the next start."""
    for name in ("a", "b", "c"):
        docker.image(images.random_image(1, seed=1), "v", name=name)
    monkeypatch.setattr(adoption, "_CHANGES_ALONE", 1)
    monkeypatch.setattr(follow, "_AGAIN_SECONDS", 0.01)
    real, failed = adoption.Adoption.flush, []

    async def flush(self):
        write = self._database.write

        async def fail(_work):
            failed.append(True)
            raise Unavailable("the database is busy")

        if not failed and self.read.repositories == 1:
            monkeypatch.setattr(self._database, "write", fail)
        try:
            await real(self)
        finally:
            monkeypatch.setattr(self._database, "write", write)

    monkeypatch.setattr(adoption.Adoption, "flush", flush)
    one = await worker()
    await one.ready()
    assert failed
    for name in ("a", "b", "c"):
        assert (await one("GET", f"/v2/{name}/manifests/v")).status_code == 200, name


async def test_links_to_folders_above_do_not_lead_in_circles(docker, imported, root, tmp_path):
    """Two in one folder would be 2 to the power of 40 repositories. Other links are followed, as Docker does it."""
    docker.image(images.random_image(1, seed=1), "v")
    tree = root / layout.REPOSITORIES
    (tmp_path / "elsewhere").mkdir()
    (tree / "team").rename(tmp_path / "elsewhere/team")
    (tree / "team").symlink_to(tmp_path / "elsewhere/team")
    for name in ("one", "two"):
        (tree / name).symlink_to(".")
        (tree / "team" / name).symlink_to(tree)
    async with asyncio.timeout(60):
        read, found = await imported()
    assert read.repositories == 1
    assert sorted((one.path.removeprefix(f"{layout.REPOSITORIES}/"), one.kind) for one in found) == [
        (name, "foreign") for name in ("one", "team/one", "team/two", "two")
    ]


async def test_one_repository_that_cannot_be_read_is_skipped(docker, imported, monkeypatch):
    docker.image(images.random_image(1, seed=1), "v")
    docker.image(images.random_image(1, seed=2), "v", name="closed")
    real = os.scandir

    def scandir(path):
        if "/closed" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    read, found = await imported()
    assert read.repositories == 1
    assert [(one.kind, one.path) for one in found] == [("unreadable", layout.repository("closed"))]


async def test_import_says_what_it_cannot_read(docker, imported, monkeypatch):
    docker.image(images.random_image(1, seed=1), "v")

    def scandir(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(HatobaError, match=f"cannot be read by uid {os.geteuid()}: .*Permission denied.*repositories"):
        await imported()


async def test_new_folder_is_known_at_once(worker):
    one = await worker()
    assert (await one("GET", "/v2/")).status_code == 200


def test_import_of_nothing_is_refused(root):
    settings = load(None, {}, {"storage.filesystem.rootdirectory": str(root)}).settings
    with pytest.raises(HatobaError, match="nothing to import"):
        commands.folder_owner(settings)


async def test_broken_database_is_named_at_the_start(worker, docker, root):
    docker.image(images.random_image(1, seed=1), "v")
    (root / "hatoba").mkdir()
    (root / "hatoba/metadata.db").write_bytes(b"no database at all" * 500)
    with pytest.raises(StartError, match="hatoba import"):
        await worker()
