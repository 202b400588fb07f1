"""The registry under test: hatoba in process, or any registry at `--base-url` (see tests/conftest.py)."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from hatoba import wiring
from hatoba.config.load import load

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
EMPTY_CONFIG = "application/vnd.oci.empty.v1+json"


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


@dataclass
class Content:
    """Bytes with their digest and a descriptor."""

    body: bytes
    media_type: str = "application/octet-stream"
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return digest_of(self.body)

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.body), **self.extra}


class Wire:
    """A thin client: every call is one request, nothing is followed or repeated."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.repository = f"t{uuid.uuid4().hex[:12]}/app"

    def fresh(self) -> str:
        return f"t{uuid.uuid4().hex[:12]}/other"

    async def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self.http.request(method, path, **options)

    def blob_path(self, digest: str, repository: str | None = None) -> str:
        return f"/v2/{repository or self.repository}/blobs/{digest}"

    def manifest_path(self, reference: str, repository: str | None = None) -> str:
        return f"/v2/{repository or self.repository}/manifests/{reference}"

    def uploads_path(self, repository: str | None = None) -> str:
        return f"/v2/{repository or self.repository}/blobs/uploads/"

    async def start(self, repository: str | None = None, query: str = "") -> str:
        answer = await self("POST", self.uploads_path(repository) + query)
        assert answer.status_code == 202, answer.text
        return answer.headers["location"]

    async def push_blob(self, content: Content | bytes, repository: str | None = None) -> Content:
        content = Content(content) if isinstance(content, bytes) else content
        where = httpx.URL(await self.start(repository)).copy_merge_params({"digest": content.digest})
        answer = await self("PUT", str(where), content=content.body, headers=OCTETS)
        assert answer.status_code == 201, answer.text
        return content

    async def push_manifest(
        self, manifest: Content, reference: str | None = None, repository: str | None = None, query: str = ""
    ) -> httpx.Response:
        return await self(
            "PUT",
            self.manifest_path(reference or manifest.digest, repository) + query,
            content=manifest.body,
            headers={"content-type": manifest.media_type},
        )

    async def push_image(self, tag: str | None = None, repository: str | None = None, **fields: Any) -> Content:
        image = await self.image(repository, **fields)
        answer = await self.push_manifest(image, tag, repository)
        assert answer.status_code == 201, answer.text
        return image

    async def image(self, repository: str | None = None, **fields: Any) -> Content:
        """An image whose config and layer are pushed; its manifest is not."""
        config = await self.push_blob(Content(random_json(), OCI_CONFIG), repository)
        layer = await self.push_blob(Content(os.urandom(64), OCI_LAYER), repository)
        return manifest_of(config, [layer], **fields)


OCTETS = {"content-type": "application/octet-stream"}


def random_json() -> bytes:
    return json.dumps({"os": "linux", "architecture": "amd64", "id": uuid.uuid4().hex}).encode()


def manifest_of(config: Content, layers: list[Content], media_type: str = OCI_MANIFEST, **fields: Any) -> Content:
    body = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": config.descriptor,
        "layers": [layer.descriptor for layer in layers],
        **fields,
    }
    return Content(json.dumps(body).encode(), media_type)


def index_of(entries: list[Content], media_type: str = OCI_INDEX, **fields: Any) -> Content:
    body = {"schemaVersion": 2, "mediaType": media_type, "manifests": [e.descriptor for e in entries], **fields}
    return Content(json.dumps(body).encode(), media_type)


def check_error(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The answer is an error in the spec's shape with this status and code; its first entry."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    errors = answer.json()["errors"]
    assert errors
    assert errors[0]["code"] == code
    return errors[0]


def settings(tmp_path: Any, **overrides: Any) -> Any:
    """Settings of a registry in `tmp_path` on loopback, so that deleting is allowed."""
    options = {"storage.filesystem.rootdirectory": str(tmp_path / "root"), "http.addr": "127.0.0.1:5000", **overrides}
    return load(None, {}, options).settings


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://registry.test")


@pytest.fixture
def kit() -> Any:
    """The functions above, for test files (tests are no packages, so they cannot import each other)."""
    import sys  # noqa: PLC0415

    return sys.modules[__name__]


@pytest.fixture
async def wire(tmp_path, request):
    base_url = request.config.getoption("--base-url")
    if base_url:
        async with httpx.AsyncClient(base_url=base_url, timeout=30) as http:
            yield Wire(http)
        return
    async with wiring.running(settings(tmp_path)) as app, client(app) as http:
        yield Wire(http)


@pytest.fixture
async def opened(tmp_path, request):
    """A registry with other settings; hatoba only."""
    if request.config.getoption("--base-url"):
        pytest.skip("needs its own settings: in process only")
    stack = []

    async def start(**overrides: Any) -> Wire:
        running = wiring.running(settings(tmp_path, **overrides))
        app = await running.__aenter__()
        http = client(app)
        stack.append((running, http))
        return Wire(http)

    yield start
    for running, http in reversed(stack):
        await http.aclose()
        await running.__aexit__(None, None, None)
