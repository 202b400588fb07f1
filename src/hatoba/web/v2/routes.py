"""The routes of /v2/: one row an endpoint, with the action that `auth` must allow.

A repository name holds slashes and may hold the words `blobs`, `manifests` or `tags`: the path is matched from its end.
OPTIONS alone has no row: it needs no credentials and reaches no handler.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from hatoba.errors import NotFound, Unsupported
from hatoba.web.messages import Request, Response
from hatoba.web.v2 import base, blobs, listings, manifests, uploads
from hatoba.web.v2.base import Answer, Registry

Action = Literal["ping", "catalog", "pull", "push", "delete"]
Handler = Callable[..., Awaitable[Answer]]

PING = "/v2/"
CATALOG = "/v2/_catalog"
MANIFEST = "/v2/{name}/manifests/{reference}"
BLOB = "/v2/{name}/blobs/{digest}"
UPLOADS = "/v2/{name}/blobs/uploads/"
UPLOAD = "/v2/{name}/blobs/uploads/{id}"
TAGS = "/v2/{name}/tags/list"
REFERRERS = "/v2/{name}/referrers/{digest}"


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint: `handler(registry, request[, name, reference])`."""

    method: str
    pattern: str
    action: Action
    handler: Handler


ROUTES = (
    Route("GET", PING, "ping", base.ping),
    Route("HEAD", PING, "ping", base.ping),
    Route("GET", CATALOG, "catalog", listings.catalog),
    Route("HEAD", CATALOG, "catalog", listings.catalog),
    Route("GET", MANIFEST, "pull", manifests.get),
    Route("HEAD", MANIFEST, "pull", manifests.get),
    Route("PUT", MANIFEST, "push", manifests.put),
    Route("DELETE", MANIFEST, "delete", manifests.delete),
    Route("GET", BLOB, "pull", blobs.get),
    Route("HEAD", BLOB, "pull", blobs.head),
    Route("DELETE", BLOB, "delete", blobs.delete),
    Route("POST", UPLOADS, "push", uploads.start),
    Route("GET", UPLOAD, "push", uploads.status),
    Route("HEAD", UPLOAD, "push", uploads.status),
    Route("PATCH", UPLOAD, "push", uploads.append),
    Route("PUT", UPLOAD, "push", uploads.commit),
    Route("DELETE", UPLOAD, "push", uploads.cancel),
    Route("GET", TAGS, "pull", listings.tags),
    Route("HEAD", TAGS, "pull", listings.tags),
    Route("GET", REFERRERS, "pull", listings.referrers),
    Route("HEAD", REFERRERS, "pull", listings.referrers),
)
_BY_KIND = {"manifests": MANIFEST, "blobs": BLOB, "referrers": REFERRERS}
_TABLE = {(route.pattern, route.method): route for route in ROUTES}
_ALLOWED = {
    pattern: ", ".join([*(route.method for route in ROUTES if route.pattern == pattern), "OPTIONS"])
    for pattern in dict.fromkeys(route.pattern for route in ROUTES)
}


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names; `name` is not checked yet."""

    pattern: str
    name: str
    reference: str


def split(path: str) -> Target | None:
    """The endpoint that `path`, which begins with /v2/, names."""
    if path in {PING, CATALOG}:
        return Target(path, "", "")
    head, _, last = path.removeprefix("/v2/").rpartition("/")
    head, _, kind = head.rpartition("/")
    if kind == "uploads" and head.endswith("/blobs"):
        name = head.removesuffix("/blobs")
        return Target(UPLOAD, name, last) if last else Target(UPLOADS, name, "")
    if kind == "blobs" and last == "uploads":
        return Target(UPLOADS, head, "")
    if kind == "tags" and last == "list":
        return Target(TAGS, head, "")
    pattern = _BY_KIND.get(kind)
    return Target(pattern, head, last) if head and pattern else None


def locate(request: Request) -> Target:
    """What a request's path names; raises NotFound."""
    target = split(request.path)
    if target is None or (target.pattern not in {PING, CATALOG} and not target.name):
        raise NotFound(detail={"path": request.path[:255]})
    return target


def choose(request: Request, target: Target) -> Route:
    """The route of a request; raises Unsupported with Allow when the method is wrong."""
    route = _TABLE.get((target.pattern, request.method))
    if route is None:
        raise Unsupported(
            f"{request.method[:16]} is not supported here", headers=(("Allow", _ALLOWED[target.pattern]),)
        )
    return route


def preflight(path: str) -> Response:
    """The answer to OPTIONS, whoever asks and whatever is there: 204.

    Before a browser lets a page of another origin delete a manifest, it asks so, and never with credentials. What it
    wants to hear is in `http.headers`, which are on every answer.
    """
    target = split(path) if path.startswith("/v2/") else None
    return Response(204, [("allow", _ALLOWED[target.pattern])] if target else [])


async def dispatch(registry: Registry, request: Request, route: Route, target: Target) -> Answer:
    """Call the handler, with a checked name where the route has one."""
    registry.require_writable(route.action)
    if route.pattern in {PING, CATALOG}:
        return await route.handler(registry, request)
    return await route.handler(registry, request, request.repository, target.reference)
