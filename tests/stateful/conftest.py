"""Workers in one process: each `worker()` opens hatoba anew on the same folder, with descriptors of its own.

flock and SQLite keep two of them apart exactly as they do two processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path

import apsw
import httpx
import pytest

from hatoba.config.load import load
from hatoba.db import tree as tree_rows
from hatoba.errors import InsufficientStorage
from hatoba.operations.adoption import Adoption
from hatoba.operations.findings import Report
from hatoba.operations.tree import TreeProblem
from hatoba.operations.verify import Verification
from hatoba.wiring import serving

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
NAME = "team/app"


def digest_of(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


class Worker:
    """One opened hatoba: its application, its parts and a client."""

    def __init__(self, app, http) -> None:
        self.app = app
        self.http = http
        self.registry = app._registry
        self.uploads = app._registry.uploads
        self.driver = app._registry.uploads._driver
        self.database = app._registry.uploads._database
        self.sessions = app._registry.uploads._sessions
        self.mirror = app._registry.uploads._links

    async def __call__(self, method: str, path: str, **options) -> httpx.Response:
        return await self.http.request(method, path, **options)

    async def ready(self) -> None:
        """Wait until the folder has been read."""
        async with asyncio.timeout(60):
            while (await self("GET", "/healthz/ready")).status_code == 503:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def compare(self, name: str = NAME) -> list[TreeProblem]:
        """Take over what others changed in a repository, as the walk after a start does; what was skipped."""
        found: list[TreeProblem] = []
        adoption = Adoption(self.database, self.driver, self.mirror, found.append)
        await adoption.repository(name, (await tree_rows.find(self.database)).seen_at)
        await adoption.flush()
        return found

    async def start(self, name: str = NAME) -> str:
        return (await self("POST", f"/v2/{name}/blobs/uploads/")).headers["location"]

    async def push_blob(self, body: bytes, name: str = NAME) -> str:
        answer = await self("POST", f"/v2/{name}/blobs/uploads/?digest={digest_of(body)}", content=body)
        assert answer.status_code == 201, answer.text
        return digest_of(body)

    async def push_manifest(self, body: bytes, reference: str, name: str = NAME) -> httpx.Response:
        headers = {"content-type": MANIFEST}
        return await self("PUT", f"/v2/{name}/manifests/{reference}", content=body, headers=headers)

    async def push_image(self, tag: str, name: str = NAME, note: str = "") -> bytes:
        await self.push_blob(b"{}", name)
        body = manifest_of(b"{}", [], note=note or os.urandom(8).hex())
        answer = await self.push_manifest(body, tag, name)
        assert answer.status_code == 201, answer.text
        return body


def lose(file: Path) -> None:
    """Take a file away as a broken disk does: nobody removed it, so its folder says no later time."""
    before = file.parent.stat()
    file.unlink()
    os.utime(file.parent, ns=(before.st_atime_ns, before.st_mtime_ns))


def manifest_of(config: bytes, layers: list[bytes], note: str = "") -> bytes:
    def describe(body: bytes) -> dict[str, object]:
        return {"mediaType": "application/octet-stream", "digest": digest_of(body), "size": len(body)}

    fields = {"config": describe(config), "layers": [describe(layer) for layer in layers], "annotations": {"n": note}}
    return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, **fields}).encode()


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "root"


@pytest.fixture
async def worker(root):
    """worker() opens another one; `await one.aclose()` ends it, `crash()` drops it as `kill -9` would."""
    opened = []

    async def open_one(**overrides) -> Worker:
        options = {"storage.filesystem.rootdirectory": str(root), "http.addr": "127.0.0.1:5000", **overrides}
        stack = contextlib.AsyncExitStack()
        settings = load(None, {}, options).settings
        await serving.prepare(settings)  # a new start: others may have written to the folder
        app = await stack.enter_async_context(serving.running(settings))
        transport = httpx.ASGITransport(app=app)
        http = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://t", timeout=60))
        one = Worker(app, http)
        one.aclose = stack.aclose
        opened.append(stack)
        return one

    yield open_one
    for stack in reversed(opened):
        await stack.aclose()


@pytest.fixture
def tree(root):
    """Where Docker's layout begins."""
    return root / "docker/registry/v2"


@pytest.fixture
def blob_file(tree):
    def find(digest: str) -> Path:
        return tree / "blobs/sha256" / digest[7:9] / digest[7:] / "data"

    return find


@pytest.fixture
def link(tree):
    """The content of a link of the repository, None when it is not there."""

    def read(path: str, name: str = NAME) -> str | None:
        file = tree / "repositories" / name / path / "link"
        return file.read_text() if file.exists() else None

    return read


@pytest.fixture
def rows(root):
    """Rows of metadata.db, through SQLite and a connection of its own."""

    def select(sql: str, file: str = "metadata.db") -> list[tuple]:
        connection = apsw.Connection(str(root / "hatoba" / file))
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    return select


class Unseen:
    def begin(self, *_):
        pass

    def advance(self, _):
        pass


class Checked:
    """What one check found and counted."""

    def __init__(self):
        self.found = []
        self.report = Report(self.found.append)

    @property
    def kinds(self):
        return [finding.kind for finding in self.found]


@pytest.fixture
def check(root):
    """check(worker) runs `hatoba verify` on its parts."""

    async def run(one, *, fix=False, restart=False, rate=0, progress=None) -> Checked:
        checked = Checked()
        verification = Verification(one.database, one.sessions, one.driver, one.mirror, root / "hatoba")
        await verification.run(checked.report, progress or Unseen(), rate, fix=fix, restart=restart)
        with contextlib.suppress(InsufficientStorage):
            await one.mirror.settle()
        return checked

    return run


@pytest.fixture
def kit():
    """What tests here share (test folders are no packages)."""
    return sys.modules[__name__]
