"""Uploads over HTTP: end-4, end-5, end-6, end-11, end-13, end-14."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from hatoba.errors import DigestInvalid, NameInvalid, RangeInvalid
from hatoba.oci.digest import CANONICAL, Digest
from hatoba.oci.reference import RepositoryName, parse_name
from hatoba.registry.ports import BodyInterrupted, Chunk
from hatoba.registry.uploads import Upload, range_header
from hatoba.web.messages import ClientGone, Headers, Request, Response
from hatoba.web.v2 import base
from hatoba.web.v2.base import Registry

# The spec's form has no unit; some clients send HTTP's `bytes a-b/total`.
_CONTENT_RANGE = re.compile(r"(?:bytes )?(\d{1,18})-(\d{1,18})(?:/(?:\d+|\*))?", re.ASCII)


async def start(registry: Registry, request: Request, name: RepositoryName, _reference: str) -> Response:
    """POST: mount a blob, take a whole blob, or begin a session."""
    mounted = await _mount(registry, request, name)
    if mounted is not None:
        return _created(registry, request, name, mounted)
    sent = request.query("digest")
    if sent is not None:
        digest = Digest.parse(sent)
        await registry.uploads.push(name, digest, _chunk(request))
        return _created(registry, request, name, digest)
    upload = await registry.uploads.start(name, request.query("digest-algorithm") or CANONICAL)
    return Response(202, _session(registry, request, name, upload))


async def append(registry: Registry, request: Request, name: RepositoryName, reference: str) -> Response:
    """PATCH: a chunk with Content-Range, or a stream without."""
    upload = await registry.uploads.append(name, reference, _chunk(request))
    return Response(202, _session(registry, request, name, upload))


async def commit(registry: Registry, request: Request, name: RepositoryName, reference: str) -> Response:
    """PUT: the last chunk, maybe empty, and the digest of the whole."""
    sent = request.query("digest")
    if sent is None:
        raise DigestInvalid("the closing request names no digest")
    digest = Digest.parse(sent)
    await registry.uploads.commit(name, reference, digest, _chunk(request))
    return _created(registry, request, name, digest)


async def status(registry: Registry, request: Request, name: RepositoryName, reference: str) -> Response:
    """GET: how far the session is."""
    upload = await registry.uploads.status(name, reference)
    return Response(204, _session(registry, request, name, upload))


async def cancel(registry: Registry, _request: Request, name: RepositoryName, reference: str) -> Response:
    """DELETE: end the session."""
    await registry.uploads.cancel(name, reference)
    return Response(204)


async def _mount(registry: Registry, request: Request, name: RepositoryName) -> Digest | None:
    """The digest if it could be mounted. Whatever is wrong with the request, the client may upload instead."""
    asked = request.query("mount")
    if asked is None:
        return None
    source: RepositoryName | None = None
    try:
        digest = Digest.parse(asked)
        if origin := request.query("from"):
            source = parse_name(origin)
            await registry.access.authorize(request.header("authorization"), "pull", source, request.address)
    except (DigestInvalid, NameInvalid):
        return None
    return digest if await registry.blobs.mount(name, digest, source) else None


def _chunk(request: Request) -> Chunk:
    sent = request.header("content-range")
    if sent is None:
        return Chunk(_body(request), request.length_bytes)
    match = _CONTENT_RANGE.fullmatch(sent.strip())
    if match is None:
        raise RangeInvalid(f"Content-Range {sent[:64]!r} is not of the form <first>-<last>")
    return Chunk(_body(request), request.length_bytes, int(match[1]), int(match[2]))


async def _body(request: Request) -> AsyncIterator[bytes]:
    try:
        async for part in request.stream():
            yield part
    except ClientGone as gone:
        raise BodyInterrupted from gone


def _session(registry: Registry, request: Request, name: RepositoryName, upload: Upload) -> Headers:
    return [
        ("location", registry.address(request, base.upload_path(name, upload.id))),
        *((key.lower(), value) for key, value in range_header(upload.offset)),
        ("docker-upload-uuid", upload.id),
    ]


def _created(registry: Registry, request: Request, name: RepositoryName, digest: Digest) -> Response:
    location = registry.address(request, base.blob_path(name, digest))
    return Response(201, [("location", location), ("docker-content-digest", str(digest))])
