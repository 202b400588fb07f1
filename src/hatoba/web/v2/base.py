"""What the handlers of /v2/ share: the registry they ask, addresses, pagination, and the ping."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, urlencode

from hatoba.auth.access import Access
from hatoba.errors import PaginationInvalid, Unsupported
from hatoba.oci.digest import Digest
from hatoba.oci.reference import RepositoryName
from hatoba.registry.blobs import Blobs, OpenBlob
from hatoba.registry.manifests import Manifests
from hatoba.registry.referrers import Referrers
from hatoba.registry.repositories import Repositories
from hatoba.registry.tags import Tags
from hatoba.registry.uploads import Uploads
from hatoba.web.budget import Budget
from hatoba.web.messages import Headers, Request, Response
from hatoba.web.proxies import Proxies

_LONGEST_NUMBER = 18


@dataclass(frozen=True, slots=True)
class Options:
    """The settings that answers depend on. `host` is `scheme://host[:port]`, `prefix` begins with /; or empty."""

    delete_enabled: bool
    manifest_bytes: int = 4 * 1024 * 1024
    most_tags: int = 1000
    most_repositories: int = 1000
    host: str = ""
    prefix: str = ""
    relative_urls: bool = True
    readonly: bool = False


@dataclass(frozen=True, slots=True)
class Registry:
    """Everything a handler may ask."""

    access: Access
    manifests: Manifests
    blobs: Blobs
    uploads: Uploads
    tags: Tags
    repositories: Repositories
    referrers: Referrers
    options: Options
    proxies: Proxies
    budget: Budget

    def require_writable(self, action: str) -> None:
        """Raise Unsupported for a push or delete in read-only mode."""
        if self.options.readonly and action in {"push", "delete"}:
            raise Unsupported("the registry is read-only: storage.maintenance.readonly")

    def require_delete(self) -> None:
        """Raise Unsupported where deleting is switched off."""
        if not self.options.delete_enabled:
            raise Unsupported("deleting is switched off: storage.delete.enabled")

    def address(self, request: Request, path: str) -> str:
        """The address of `path` on this registry, for Location and Link.

        A path alone unless the operator asked for more: no proxy can get its scheme and host wrong.
        """
        if self.options.host:
            return f"{self.options.host}{self.options.prefix}{path}"
        taken = self.proxies.prefix(request)
        # A request without `http.prefix` in its path came by a proxy that took it away; it may have said so.
        path = taken + (self.options.prefix if request.prefixed or not taken else "") + path
        return path if self.options.relative_urls else f"{self.proxies.origin(request)}{path}"


@dataclass(frozen=True, slots=True)
class BlobAnswer:
    """An answer whose body is a blob, whole or `length` bytes from `first`; whoever sends it closes the reader."""

    status: int
    headers: Headers
    blob: OpenBlob
    first: int
    length: int


Answer = Response | BlobAnswer


def blob_path(name: RepositoryName, digest: Digest) -> str:
    """Where a blob is pulled."""
    return f"/v2/{name}/blobs/{digest}"


def manifest_path(name: RepositoryName, reference: object) -> str:
    """Where a manifest is pulled."""
    return f"/v2/{name}/manifests/{reference}"


def upload_path(name: RepositoryName, upload_id: str) -> str:
    """Where an upload goes on."""
    return f"/v2/{name}/blobs/uploads/{upload_id}"


def page_size(request: Request, default: int | None, most: int) -> int | None:
    """The query's `n`, at most `most`; raises PaginationInvalid when negative or no number."""
    text = request.query("n")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()):
        raise PaginationInvalid(detail={"n": text[:64]})
    return most if len(text) > _LONGEST_NUMBER else min(int(text), most)


def next_link(registry: Registry, request: Request, path: str, **query: str | int) -> tuple[str, str]:
    """The Link header that leads to the next page (RFC 5988)."""
    address = registry.address(request, f"{quote(path)}?{urlencode(query)}")
    return ("link", f'<{address}>; rel="next"')


def matches(request: Request, digest: str) -> bool:
    """Whether the client has this content already (If-None-Match)."""
    if request.header("if-none-match") is None:
        return False
    sent = ",".join(request.header_all("if-none-match"))
    tags = [tag.strip().removeprefix("W/") for tag in sent.split(",")]
    return "*" in tags or f'"{digest}"' in tags


async def ping(_registry: Registry, _request: Request) -> Response:
    """GET /v2/ (end-1): where clients learn that this is a registry, and how to sign in."""
    return Response(200, [("content-type", "application/json; charset=utf-8")], b"{}")
