"""A registry on the disk with something in it, and the commands that work on it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from hatoba import telemetry
from hatoba.auth.htpasswd_file import HtpasswdFile
from hatoba.cli import hatoba_app
from hatoba.cli.configured import configure
from hatoba.testing.images import Index
from hatoba.wiring import serving

ALICE = ("alice", "secret")


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """No configuration from outside, and a folder of its own to work in."""
    for name in [name for name in os.environ if name.startswith("REGISTRY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


class Shelf:
    """A registry in `root` that a server filled, which has ended since."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings = configure(None, root).settings

    def run(self, command: str, *arguments: object):
        """What a command on this registry says, and its exit code."""
        return invoked(command, "--root", self.root, *arguments)

    def push(self, repository: str, content, *tags: str) -> str:
        """Push an image or an index with its images, as alice does; the digest."""
        asyncio.run(self._push(repository, content, tags))
        return str(content.manifest.digest)

    def get(self, repository: str, reference: str) -> int:
        """The status that a server, started now, answers."""

        async def ask() -> int:
            async with serving.running(self.settings) as app, client(app) as http:
                return (await http.get(f"/v2/{repository}/manifests/{reference}")).status_code

        return asyncio.run(ask())

    def serve(self) -> None:
        """Start a server, let it compare all links with the rows, and end it."""

        async def started() -> None:
            await serving.prepare(self.settings)
            async with serving.running(self.settings) as app, client(app) as http:
                await http.get("/v2/_catalog")  # waits for that

        asyncio.run(started())

    def blob_file(self, content) -> Path:
        encoded = content.digest.encoded
        return self.root / f"docker/registry/v2/blobs/sha256/{encoded[:2]}/{encoded}/data"

    def tag_link(self, repository: str, tag: str) -> Path:
        return self.root / f"docker/registry/v2/repositories/{repository}/_manifests/tags/{tag}/current/link"

    async def _push(self, repository: str, content, tags: tuple[str, ...]) -> None:
        images = content.images if isinstance(content, Index) else [content]
        async with serving.running(self.settings) as app, client(app) as http:
            for image in images:
                for blob in image.blobs:
                    await put(http, f"{repository}/blobs/uploads/?digest={blob.digest}", blob.body, method="POST")
                await self._put(http, repository, image, str(image.manifest.digest))
            for reference in tags or [str(content.manifest.digest)]:
                await self._put(http, repository, content, reference)

    async def _put(self, http, repository: str, content, reference: str) -> None:
        manifest = content.manifest
        kind = {"content-type": manifest.media_type}
        await put(http, f"{repository}/manifests/{reference}", manifest.body, headers=kind)


def invoked(*arguments: object):
    return CliRunner().invoke(hatoba_app(), [str(argument) for argument in arguments])


def client(app) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://registry.test", auth=ALICE)


async def put(http, path: str, body: bytes, method: str = "PUT", headers=None) -> None:
    answer = await http.request(
        method, f"/v2/{path}", content=body, headers=headers or {"content-type": "application/octet-stream"}
    )
    assert answer.status_code == 201, answer.text


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """An empty folder, and commands that leave the logging of this process alone."""
    monkeypatch.setattr(telemetry, "configure", lambda *_: None)  # logging is the process's own
    return tmp_path


@pytest.fixture
def hatoba(bare):
    """hatoba("ls", …): what a command says that finds no configuration but its arguments, and its exit code."""
    return invoked


@pytest.fixture
def shelf(bare):
    """An empty registry in `data`, whose user alice pushes."""
    HtpasswdFile(bare / "data/hatoba/htpasswd", cost=4).add(*ALICE)
    shelf = Shelf(bare / "data")
    asyncio.run(serving.prepare(shelf.settings))
    return shelf


@pytest.fixture
def copy(shelf, bare):
    """The registry that a backup of the shelf in `bare/copy` is; `again()` makes the backup."""
    copy = Shelf(bare / "copy")
    copy.again = lambda *options: shelf.run("backup", copy.root, *options)
    return copy
