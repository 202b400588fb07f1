"""The registry under test: hatoba in process, or any registry at `--base-url` (see tests/conftest.py)."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from hatoba.config.load import load
from hatoba.wiring import serving

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
EMPTY_CONFIG = "application/vnd.oci.empty.v1+json"
ABSENT = "sha256:" + "0" * 64
# The spec's list (3.7), its two legacy codes, and Docker's own (distribution-compat 2.6).
CODES = {
    "BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED", "DENIED",
    "UNSUPPORTED", "TOOMANYREQUESTS", "TAG_INVALID", "MANIFEST_UNVERIFIED", "RANGE_INVALID",
    "PAGINATION_NUMBER_INVALID", "UNAVAILABLE",
}  # fmt: skip


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
    """A thin client: every call is one request, nothing is followed or repeated. `ours` is false for a base URL."""

    def __init__(self, http: httpx.AsyncClient, *, ours: bool = False) -> None:
        self.http = http
        self.http.headers["accept"] = f"{OCI_MANIFEST}, {OCI_INDEX}, {DOCKER_MANIFEST}, {DOCKER_LIST}"
        self.ours = ours
        self.repository = f"t{uuid.uuid4().hex[:12]}/app"

    def fresh(self) -> str:
        return f"t{uuid.uuid4().hex[:12]}/other"

    async def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        answer = await self.http.request(method, path, **options)
        check_always(answer)
        if self.ours and answer.request.url.path.startswith("/v2/"):
            assert answer.headers.get_list("docker-distribution-api-version") == ["registry/2.0"]
        return answer

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

    async def pages(self, path: str, key: str) -> list[list[Any]]:
        """Every page of a listing, by following Link."""
        found: list[list[Any]] = []
        while True:
            answer = await self("GET", path)
            assert answer.status_code == 200, answer.text
            found.append(answer.json()[key])
            link = answer.headers.get("link")
            if link is None:
                return found
            assert len(found) < 100, "Link leads nowhere"
            assert link.endswith('>; rel="next"')
            path = link[1 : link.index(">")]

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


_LEFT_OUT = pytest.StashKey[int]()
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


def code_of(answer: httpx.Response) -> str:
    """The code of an error, in the spec's shape; 4.2: anything else is an "unexpected response" to Docker."""
    assert answer.headers["content-type"].startswith("application/json"), answer.text
    code: str = answer.json()["errors"][0]["code"]
    return code


def missing(answer: httpx.Response) -> list[str]:
    """The digests that MANIFEST_BLOB_UNKNOWN names; the spec leaves the form of `detail` open."""
    details = [error["detail"] for error in answer.json()["errors"]]
    return [detail["digest"] if isinstance(detail, dict) else detail for detail in details]


def closing(location: str, digest: str) -> str:
    return str(httpx.URL(location).copy_merge_params({"digest": digest}))


def part(first: int, body: bytes) -> dict[str, object]:
    headers = {"content-range": f"{first}-{first + len(body) - 1}", "content-type": "application/octet-stream"}
    return {"content": body, "headers": headers}


async def pieces(*parts: bytes):
    for piece in parts:
        yield piece


def check_session(answer, status: int, range_: str) -> str:
    """A session's answer, by 4.1 and distribution-compat 2.5; its Location."""
    assert (answer.status_code, answer.headers.get("range"), answer.content) == (status, range_, b"")
    assert answer.headers["location"]
    assert answer.headers["docker-upload-uuid"] in answer.headers["location"]
    if status != 204:
        assert answer.headers["content-length"] == "0"
    return answer.headers["location"]


async def check_blob(wire, answer, digest: str, body: bytes) -> None:
    """The answer that ends an upload: 3.2, end-4b and end-6."""
    assert (answer.status_code, answer.content) == (201, b"")
    assert answer.headers["content-length"] == "0"
    assert answer.headers["docker-content-digest"] == digest
    assert httpx.URL(answer.headers["location"]).path == wire.blob_path(digest)
    answer = await wire("GET", answer.headers["location"])
    assert (answer.status_code, answer.content) == (200, body)


def check_always(answer: httpx.Response) -> None:
    """What holds for every answer, whatever was asked."""
    method, status, headers = answer.request.method, answer.status_code, answer.headers
    assert status < 500, f"{method} {answer.request.url}: {status} {answer.text}"
    if method == "HEAD" or status in {204, 304}:
        assert answer.content == b""
    elif "content-length" in headers and "content-encoding" not in headers:
        assert headers["content-length"] == str(len(answer.content))
    if status == 405 and "allow" in headers:
        assert method not in {allowed.strip() for allowed in headers["allow"].split(",")}
    if status >= 400 and answer.content and headers.get("content-type", "").startswith("application/json"):
        errors = answer.json()["errors"]
        assert errors
        for error in errors:
            assert set(error) <= {"code", "message", "detail"}
            assert error["code"] in CODES
            assert isinstance(error.get("message", ""), str)


def settings(tmp_path: Any, **overrides: Any) -> Any:
    """Settings of a registry in `tmp_path` on loopback, so that deleting is allowed."""
    options = {"storage.filesystem.rootdirectory": str(tmp_path / "root"), "http.addr": "127.0.0.1:5000", **overrides}
    return load(None, {}, options).settings


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://registry.test")


def pytest_collection_modifyitems(config, items):
    """At a base URL, leave out what opens a registry with settings of its own; the end of the run says so."""
    if not config.getoption("--base-url"):
        return
    here = Path(__file__).parent
    left_out = [item for item in items if here in item.path.parents and "opened" in item.fixturenames]
    if left_out:
        config.stash[_LEFT_OUT] = len(left_out)
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def pytest_terminal_summary(terminalreporter, config):
    if number := config.stash.get(_LEFT_OUT, 0):
        terminalreporter.write_line(
            f"{number} protocol cases left out: they need settings of their own, in process only"
        )


@pytest.fixture
def kit() -> Any:
    """The functions above, for test files (tests are no packages, so they cannot import each other)."""
    return sys.modules[__name__]


@pytest.fixture
async def wire(tmp_path, request):
    base_url = request.config.getoption("--base-url")
    if base_url:
        async with httpx.AsyncClient(base_url=base_url, timeout=30) as http:
            yield Wire(http)
        return
    async with serving.running(settings(tmp_path)) as app, client(app) as http:
        yield Wire(http, ours=True)


@pytest.fixture
async def opened(tmp_path, request):
    """A registry with other settings; hatoba in process only (`pytest_collection_modifyitems`)."""
    stack = []

    async def start(**overrides: Any) -> Wire:
        running = serving.running(settings(tmp_path, **overrides))
        app = await running.__aenter__()
        http = client(app)
        stack.append((running, http))
        return Wire(http, ours=True)

    yield start
    for running, http in reversed(stack):
        await http.aclose()
        await running.__aexit__(None, None, None)
