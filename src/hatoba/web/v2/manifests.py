"""Manifests over HTTP: end-3, end-7, end-7b, end-9."""

from __future__ import annotations

from hatoba.errors import BlobUploadInvalid, ManifestTooLarge, TooManyTags
from hatoba.oci.digest import Digest
from hatoba.oci.reference import RepositoryName, find_reference, parse_reference, parse_tag
from hatoba.registry.manifests import Push
from hatoba.web.budget import Share
from hatoba.web.messages import BodyTooLarge, ClientGone, Request, Response
from hatoba.web.v2 import base
from hatoba.web.v2.base import Registry

_MOST_TAGS = 100


async def get(registry: Registry, request: Request, name: RepositoryName, reference: str) -> Response:
    """GET and HEAD: the stored bytes and type, whatever Accept says."""
    found = await registry.manifests.get(name, find_reference(reference))
    headers = [
        ("docker-content-digest", found.digest),
        ("etag", f'"{found.digest}"'),
        ("content-type", found.media_type),
    ]
    if found.warning:
        headers.append(("warning", f'299 - "{found.warning}"'))
    if base.matches(request, found.digest):
        return Response(304, headers)
    return Response(200, headers, found.body)


async def put(registry: Registry, request: Request, name: RepositoryName, reference: str) -> Response:
    """PUT: keep a manifest under a tag or its digest, with more tags as `?tag=`."""
    where = parse_reference(reference)
    asked = request.query_all("tag")
    if len(asked) > _MOST_TAGS:
        raise TooManyTags(f"at most {_MOST_TAGS} tags fit one request")
    tags = tuple(dict.fromkeys(parse_tag(tag) for tag in asked))
    with registry.budget.share() as share:
        body = await _body(registry, request, share)
        push = Push(name, where, request.header("content-type"), body, tags, request.user)
        pushed = await registry.manifests.put(push)
    headers = [
        ("location", registry.address(request, base.manifest_path(name, where))),
        ("docker-content-digest", str(pushed.digest)),
    ]
    if pushed.subject:
        headers.append(("oci-subject", str(pushed.subject)))
    if pushed.tags:
        headers.append(("oci-tag", ", ".join(pushed.tags)))
    return Response(201, headers)


async def delete(registry: Registry, request: Request, name: RepositoryName, reference: str) -> Response:
    """DELETE: by digest the manifest and all its tags, by tag the tag alone."""
    registry.require_delete()
    where = find_reference(reference)
    if isinstance(where, Digest):
        await registry.manifests.delete(name, where, request.user)
    else:
        await registry.tags.delete(name, where, request.user)
    return Response(202)


async def _body(registry: Registry, request: Request, share: Share) -> bytes:
    limit = registry.options.manifest_bytes
    try:
        return await request.body(limit, share)
    except BodyTooLarge:
        raise ManifestTooLarge(f"a manifest may have {limit} bytes") from None
    except ClientGone as gone:
        if not gone.stalled:
            raise
        raise BlobUploadInvalid("the body did not arrive") from None
