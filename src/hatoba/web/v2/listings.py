"""Listings over HTTP: tags (end-8), referrers (end-12), the catalog."""

from __future__ import annotations

import json

from hatoba.oci.descriptor import OCI_INDEX
from hatoba.oci.digest import Digest
from hatoba.oci.reference import RepositoryName
from hatoba.web.messages import Headers, Request, Response
from hatoba.web.v2 import base
from hatoba.web.v2.base import Registry

_DEFAULT_REPOSITORIES = 100


async def tags(registry: Registry, request: Request, name: RepositoryName, _reference: str) -> Response:
    """GET tags/list: all tags, or pages of `n` after `last`."""
    limit = base.page_size(request, None, registry.options.most_tags)
    found, more = await registry.tags.list(name, request.query("last") or "", limit)
    headers: Headers = [("content-type", "application/json; charset=utf-8")]
    if more and found:
        headers.append(base.next_link(registry, request, f"/v2/{name}/tags/list", n=limit or 0, last=found[-1]))
    return Response(200, headers, json.dumps({"name": name, "tags": found}).encode())


async def catalog(registry: Registry, request: Request) -> Response:
    """GET _catalog: repositories with a manifest, in pages."""
    most = registry.options.most_repositories
    limit = base.page_size(request, min(_DEFAULT_REPOSITORIES, most), most) or 0
    names, more = await registry.repositories.catalog(request.query("last") or "", limit)
    headers: Headers = [("content-type", "application/json; charset=utf-8")]
    if more and names:
        headers.append(base.next_link(registry, request, "/v2/_catalog", n=limit, last=names[-1]))
    return Response(200, headers, json.dumps({"repositories": names}).encode())


async def referrers(registry: Registry, request: Request, name: RepositoryName, reference: str) -> Response:
    """GET referrers: an index of what refers to the digest, filtered by `artifactType` if asked."""
    subject = Digest.parse_any(reference)
    wanted = request.query("artifactType") or None
    entries, more = await registry.referrers.list(name, subject, wanted, request.query("last") or "")
    headers: Headers = [("content-type", OCI_INDEX)]
    if wanted:
        headers.append(("oci-filters-applied", "artifactType"))
    if more:
        query = {"last": entries[-1]["digest"]} | ({"artifactType": wanted} if wanted else {})
        headers.append(base.next_link(registry, request, f"/v2/{name}/referrers/{subject}", **query))
    body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return Response(200, headers, json.dumps(body).encode())
