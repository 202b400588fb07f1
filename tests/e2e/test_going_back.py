"""From Docker's registry to hatoba, back, and forth again: both serve the same, whatever was done in between."""

from __future__ import annotations

import re

import pytest

from e2e.registries import Client, Debian, History, eligible
from hatoba.testing import images

SEED = 1
STEPS = 20


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def debian(e2e, start, tmp_path, free_port):
    e2e.needed("docker-registry")
    return lambda root: Debian(start, tmp_path, root, free_port(), e2e.wait_for)


@pytest.fixture
def hatoba(serving, config, free_port):
    """`with hatoba(name) as (client, server)`: hatoba on `root` without sign-in, ready."""

    class Opened:
        def __init__(self, name: str) -> None:
            addr = f"http: {{addr: '127.0.0.1:{free_port()}'}}\n"
            self._serving = serving(None, config(addr, f"{name}.yml"), name=name)

        def __enter__(self):
            server = self._serving.__enter__()
            self._client = Client(server.host)
            return self._client, server

        def __exit__(self, *raised):
            self._client.http.close()
            return self._serving.__exit__(*raised)

    return Opened


def test_forth_back_and_forth(root, debian, hatoba, e2e):
    history = History(SEED)
    with debian(root) as docker:
        history.use(docker, STEPS, hatoba=False)
        before = history.seen(docker)
    with hatoba("first") as (client, server):
        e2e.wait_for(lambda: client.http.get("/healthz/ready").status_code == 200, lambda: server.err)
        assert history.seen(client) == before
        history.use(client, STEPS, hatoba=True)
        before = history.seen(client)
    with debian(root) as docker:
        assert history.seen(docker) == before
        history.use(docker, STEPS, hatoba=False)
        after = history.seen(docker)
    with hatoba("second") as (client, server):
        assert history.seen(client) == after
        said = lambda: re.search(r"(\d+) tags changed while hatoba was away", server.err)  # noqa: E731
        e2e.wait_for(said, lambda: server.err)
        assert int(said()[1]) == changed(before, after)
        assert server.errors == []
        history.use(client, STEPS, hatoba=True)
        before = history.seen(client)
    with debian(root) as docker:
        assert history.seen(docker) == before


def changed(before, after) -> int:
    """Tags that were made, moved or ended."""
    count = 0
    for name in before:
        old, new = before[name]["tags"], after[name]["tags"]
        count += sum(old.get(tag) != new.get(tag) for tag in old.keys() | new.keys())
    return count


def test_nothing_that_a_manifest_reaches_is_collected(root, debian, hatoba, e2e):
    """Not of an image without a tag, nor of a repository with nothing but an index. What goes, goes in hatoba too."""
    history = History(3, names=("app", "team/app", "empty", "signed"))
    unused = images.Content("", b"of no manifest")
    history.blobs.add(str(unused.digest))
    with hatoba("first") as (client, _):
        history.use(client, STEPS, hatoba=True)
        client.push_manifest("empty", "v", images.index_of([]).manifest)
        history.push(client, "signed")
        history.artifact(client, "signed")
        client.push_blob("app", unused.body, str(unused.digest))
        before = history.seen(client)
    docker = debian(root)
    said = docker.collect("--dry-run")
    with debian(root) as client:
        assert history.seen(client) == before, "a dry run"
    blobs, manifests = eligible(docker.collect())
    assert eligible(said) == (blobs, manifests)
    assert manifests == 0
    assert blobs > 0
    assert eligible(docker.collect()) == (0, 0)
    with debian(root) as client:
        left = history.seen(client)
        assert client.tags("empty") == ["v"]
    with hatoba("second") as (client, server):
        e2e.wait_for(lambda: "tags changed" in server.err, lambda: server.err)
        assert history.seen(client) == left
        assert client.digest("empty", "v")
        assert server.errors == []
    for name in history.names:
        assert {key: left[name][key] for key in ("tags", "manifests")} == {
            key: before[name][key] for key in ("tags", "manifests")
        }
        assert set(before[name]["blobs"]) - set(left[name]["blobs"]) <= history.blobs - history.reached(before)


def test_collecting_untagged_manifests_takes_signatures_and_images_of_indexes(root, debian, hatoba, e2e):
    """`-m` of Docker's registry 2.8: what has no tag goes. hatoba says the same afterwards, and serves what is left."""
    history = History(4, names=("app", "multi"))
    image, signature = history.image(), None
    with hatoba("first") as (client, _):
        client.push("app", "v", image)
        signature = images.artifact(image, "text/signature")
        history.know(signature)
        client.push("app", None, signature)
        index = images.index_of([history.image(), history.image()])
        history.manifests[str(index.manifest.digest)] = index.manifest
        client.push_index("multi", "latest", index)
        referrers = f"/v2/app/referrers/{image.manifest.digest}"
        assert len(client.call("GET", referrers, 200).json()["manifests"]) == 1
        before = history.seen(client)
    docker = debian(root)
    said = docker.collect("--delete-untagged", "--dry-run")
    assert str(signature.manifest.digest) in said
    with debian(root) as client:
        assert history.seen(client) == before
    assert eligible(docker.collect("-m"))[1] == 3
    with debian(root) as client:
        left = history.seen(client)
    with hatoba("second") as (client, server):
        e2e.wait_for(lambda: "tags changed" in server.err, lambda: server.err)
        assert history.seen(client) == left
        assert client.call("GET", referrers, 200).json()["manifests"] == []
        assert client.digest("app", "v") == str(image.manifest.digest)
        assert "2 of the manifests" in client.call("GET", "/v2/multi/manifests/latest", 200).headers["warning"]
        assert server.errors == []
