"""joxit/docker-registry-ui against hatoba: the requests its code makes, under the rules browsers keep (Fetch standard).

Order, methods and headers are those of its `http.js`, `catalog.riot`, `tag-list.riot`, `docker-image.js` and
`confirm-delete-image.riot`, 2.x.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import bcrypt
import httpx
import pytest

from hatoba.config.load import load

ORIGIN = "https://ui.example.com"
# As its README says, in a config.yml; the numbers and booleans are not quoted there either.
HEADERS = f"""
  headers:
    Access-Control-Allow-Origin: ['{ORIGIN}']
    Access-Control-Allow-Methods: ['HEAD', 'GET', 'OPTIONS', 'DELETE']
    Access-Control-Allow-Headers: ['Authorization', 'Accept', 'Cache-Control']
    Access-Control-Max-Age: [1728000]
    Access-Control-Allow-Credentials: [true]
    Access-Control-Expose-Headers: ['Docker-Content-Digest']
"""
IMAGES = (
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.oci.image.index.v1+json"
)
LISTS = f"{IMAGES}, application/vnd.docker.distribution.manifest.list.v2+json"
BLOBS = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
FRESH = {"Cache-Control": "no-store, no-cache"}
SAFE_ANSWERS = {"cache-control", "content-language", "content-length", "content-type", "expires", "last-modified"}


class Blocked(Exception):
    """The browser keeps the answer from the page: `status` 0 and an `error` event there."""


@dataclass
class Shown:
    """What the page gets to see."""

    status: int
    text: str
    headers: dict[str, str]


class Browser:
    """A page of ORIGIN, its XMLHttpRequest, and a person who types in a password when asked."""

    def __init__(self, http: httpx.AsyncClient, password: tuple[str, str] | None) -> None:
        self._http = http
        self._password = password
        self.asked = 0
        self.preflights: list[str] = []

    async def request(self, method, path, headers=None, *, credentials=False) -> Shown:
        """XMLHttpRequest, with `withCredentials` or without."""
        headers = {name.lower(): value for name, value in (headers or {}).items()}
        unsafe = sorted(name for name, value in headers.items() if not _safelisted(name, value))
        if unsafe or method not in {"GET", "HEAD", "POST"}:
            await self._preflight(method, path, unsafe, credentials=credentials)
        sent = {**headers, "origin": ORIGIN}
        known = httpx.BasicAuth(*self._password) if credentials and self.asked and self._password else None
        answer = await self._http.request(method, path, headers=sent, auth=known)
        if answer.status_code == 401 and credentials and known is None and self._password:
            assert re.match("Basic realm=", answer.headers["www-authenticate"])
            self.asked += 1
            answer = await self._http.request(method, path, headers=sent, auth=self._password)
        _check(answer, credentials=credentials)
        exposed = {name.lower() for name in _list(answer, "access-control-expose-headers")} | SAFE_ANSWERS
        shown = {name: value for name, value in answer.headers.items() if name in exposed}
        return Shown(answer.status_code, answer.text, shown)

    async def _preflight(self, method, path, unsafe, *, credentials) -> None:
        sent = {"origin": ORIGIN, "accept": "*/*", "access-control-request-method": method}
        if unsafe:
            sent["access-control-request-headers"] = ",".join(unsafe)
        answer = await self._http.request("OPTIONS", path, headers=sent)
        self.preflights.append(f"{method} {answer.status_code}")
        _check(answer, credentials=credentials)
        if not answer.is_success:
            raise Blocked(f"the preflight is {answer.status_code}")
        methods = {"GET", "HEAD", "POST", *_list(answer, "access-control-allow-methods")}
        names = {name.lower() for name in _list(answer, "access-control-allow-headers")}
        if method not in methods or not set(unsafe) <= names:
            raise Blocked(f"{method} with {unsafe} is not allowed")


def _safelisted(name: str, value: str) -> bool:
    """Fetch, "CORS-safelisted request-header": Accept is, unless it is long."""
    return name == "accept" and len(value) <= 128 and not re.search(r'[\x00-\x08\x10-\x1f"():<>?@\[\\\]{}\x7f]', value)


def _list(answer, name) -> list[str]:
    return [entry.strip() for line in answer.headers.get_list(name) for entry in line.split(",")]


def _check(answer, *, credentials) -> None:
    """Fetch, "CORS check"."""
    origins = answer.headers.get_list("access-control-allow-origin")
    if not (origins == [ORIGIN] or (origins == ["*"] and not credentials)):
        raise Blocked(f"Access-Control-Allow-Origin is {origins}")
    if credentials and answer.headers.get_list("access-control-allow-credentials") != ["true"]:
        raise Blocked("no Access-Control-Allow-Credentials")


class Joxit:
    """Its pages. `secured` is REGISTRY_SECURED; else each request is first made without credentials."""

    def __init__(self, browser: Browser, *, secured: bool = False, headers=None) -> None:
        self.browser = browser
        self._secured = secured
        self._headers = headers or {}

    async def request(self, method, path, accept=None) -> Shown:
        headers = {**({"Accept": accept} if accept else {}), **(self._headers if accept else {})}
        shown = await self.browser.request(method, path, headers, credentials=self._secured)
        if shown.status == 401:
            shown = await self.browser.request(method, path, headers, credentials=True)
        return shown

    async def catalog(self, limit=1000):
        return await self.request("GET", f"/v2/_catalog?n={limit}")

    async def tags(self, name):
        return await self.request("GET", f"/v2/{name}/tags/list")

    async def manifest(self, name, reference, accept=LISTS, method="GET"):
        return await self.request(method, f"/v2/{name}/manifests/{reference}", accept)

    async def blob(self, name, digest):
        return await self.request("GET", f"/v2/{name}/blobs/{digest}", BLOBS)

    async def delete(self, name, tag):
        found = await self.manifest(name, tag, f"{BLOBS}, {LISTS}")
        digest = found.headers["docker-content-digest"]
        return await self.request("DELETE", f"/v2/{name}/manifests/{digest}", BLOBS)


@pytest.fixture(params=["open", "sign-in"])
def password(request):
    return ("bob", "p\u00e4ss") if request.param == "sign-in" else None


@pytest.fixture
def read(tmp_path, password):
    """The settings that a person writes, from a file."""
    auth = ""
    if password:
        hashed = bcrypt.hashpw(password[1].encode(), bcrypt.gensalt(4)).decode()
        (tmp_path / "htpasswd").write_text(f"{password[0]}:{hashed}\n")
        auth = f"auth: {{htpasswd: {{realm: r, path: {tmp_path / 'htpasswd'}}}}}\n"
    (tmp_path / "config.yml").write_text(f"version: 0.1\nstorage: {{inmemory: {{}}}}\nhttp:{HEADERS}{auth}")
    return load(tmp_path / "config.yml", {}).settings


@pytest.fixture
async def wire(opened, read, password):
    auth = {"auth.htpasswd": read.auth.htpasswd.model_dump()} if password else {}
    wire = await opened(**{"http.headers": read.http.headers, **auth})
    wire.http.auth = password
    return wire


@pytest.fixture
def browser(wire, password):
    http = httpx.AsyncClient(transport=wire.http._transport, base_url="http://registry.test")
    return Browser(http, password)


async def test_catalog_tags_and_history_of_an_image(wire, browser, password):
    image = await wire.push_image("v1")
    page = Joxit(browser)
    assert wire.repository in (await page.catalog()).text
    assert '"v1"' in (await page.tags(wire.repository)).text
    found = await page.manifest(wire.repository, "v1")
    assert found.headers["docker-content-digest"] == image.digest
    assert found.headers["content-type"] == image.media_type
    assert httpx.Response(200, text=found.text).json()["config"]
    head = await page.manifest(wire.repository, "v1", method="HEAD")
    assert (head.status, head.headers["docker-content-digest"]) == (200, image.digest)
    config = httpx.Response(200, text=found.text).json()["config"]["digest"]
    assert '"architecture"' in (await page.blob(wire.repository, config)).text
    assert browser.asked == (1 if password else 0), "a person is asked once"
    assert browser.preflights, "the list of types is too long to be sent unasked"
    assert set(browser.preflights) == {"GET 204", "HEAD 204"}


@pytest.mark.parametrize("media_type", ["list", "index"])
async def test_images_of_several_platforms(wire, browser, kit, media_type):
    images = [await wire.push_image(), await wire.push_image()]
    kind = kit.DOCKER_LIST if media_type == "list" else kit.OCI_INDEX
    whole = kit.index_of(images, kind)
    assert (await wire.push_manifest(whole, "multi")).status_code == 201
    page = Joxit(browser, headers=FRESH)
    found = await page.manifest(wire.repository, "multi")
    assert (found.headers["content-type"], found.headers["docker-content-digest"]) == (kind, whole.digest)
    first = httpx.Response(200, text=found.text).json()["manifests"][0]["digest"]
    inner = await page.manifest(wire.repository, first, IMAGES)
    config = httpx.Response(200, text=inner.text).json()["config"]["digest"]
    assert (await page.blob(wire.repository, config)).status == 200


async def test_delete_with_all_tags_of_the_digest(wire, browser):
    image = await wire.push_image("v1")
    await wire.push_manifest(image, "v2")
    page = Joxit(browser, secured=True)
    assert (await page.delete(wire.repository, "v1")).status == 202
    assert "DELETE 204" in browser.preflights
    assert (await page.manifest(wire.repository, "v2")).status == 404
    assert image.digest not in (await page.tags(wire.repository)).text


async def test_answers_that_are_errors_are_shown(wire, browser):
    """The page shows the registry's words only if they carry the headers, too."""
    page = Joxit(browser)
    for path, status in (
        ("/v2/absent/manifests/v1", 404),
        ("/v2/UPPER/tags/list", 400),
        ("/v2/_catalog?n=x", 400),
        ("/v2/a/b", 404),
    ):
        shown = await page.request("GET", path)
        assert shown.status == status
        assert "errors" in shown.text
    assert (await browser.request("DELETE", "/v2/_catalog")).status == 405


async def test_a_page_of_another_origin_sees_nothing(wire, browser, monkeypatch):
    await wire.push_image("v1")
    monkeypatch.setitem(globals(), "ORIGIN", "https://evil.example")
    for method in ("GET", "DELETE"):
        with pytest.raises(Blocked):
            await browser.request(method, wire.manifest_path("v1"), {"Accept": LISTS}, credentials=True)


async def test_without_the_headers_browsers_refuse(opened):
    wire = await opened()
    browser = Browser(httpx.AsyncClient(transport=wire.http._transport, base_url="http://registry.test"), None)
    with pytest.raises(Blocked):
        await Joxit(browser).catalog()
