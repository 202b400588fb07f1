"""Blobs over HTTP: end-2, end-10, with ranges and conditions (RFC 9110)."""

from __future__ import annotations

import re

from hatoba.errors import RangeInvalid
from hatoba.oci.digest import Digest
from hatoba.oci.reference import RepositoryName
from hatoba.web.messages import Headers, Request, Response
from hatoba.web.v2 import base
from hatoba.web.v2.base import Answer, BlobAnswer, Registry

_RANGE = re.compile(r"bytes=\s*(\d*)\s*-\s*(\d*)\s*", re.ASCII)
_LONGEST_NUMBER = 18  # digits; what is longer is behind the end of any blob


async def get(registry: Registry, request: Request, name: RepositoryName, reference: str) -> Answer:
    """GET: the bytes, or one range of them; several ranges at once are answered with everything."""
    digest = Digest.parse(reference)
    if base.matches(request, str(digest)):
        await registry.blobs.size(name, digest)
        return Response(304, _headers(digest))
    blob = await registry.blobs.open(name, digest)
    try:
        found = _range(request, digest, blob.size)
    except RangeInvalid:
        blob.reader.close()
        raise
    headers = [*_headers(digest), ("content-type", "application/octet-stream")]
    if found is None:
        return BlobAnswer(200, headers, blob, 0, blob.size)
    first, last = found
    headers.append(("content-range", f"bytes {first}-{last}/{blob.size}"))
    return BlobAnswer(206, headers, blob, first, last - first + 1)


async def head(registry: Registry, request: Request, name: RepositoryName, reference: str) -> Response:
    """HEAD: whether it is there, row and file, and how long."""
    digest = Digest.parse(reference)
    size = await registry.blobs.size(name, digest)
    if base.matches(request, str(digest)):
        return Response(304, _headers(digest))
    return Response(
        200, [*_headers(digest), ("content-type", "application/octet-stream"), ("content-length", str(size))]
    )


async def delete(registry: Registry, _request: Request, name: RepositoryName, reference: str) -> Response:
    """DELETE: the repository can no longer read it; 405 while one of its manifests needs it."""
    registry.require_delete()
    await registry.blobs.delete(name, Digest.parse(reference))
    return Response(202)


def _headers(digest: Digest) -> Headers:
    return [
        ("docker-content-digest", str(digest)),
        ("etag", f'"{digest}"'),
        ("cache-control", "max-age=31536000"),
        ("accept-ranges", "bytes"),
    ]


def _number(digits: str, size: int) -> int:
    return int(digits) if len(digits) <= _LONGEST_NUMBER else size


def _range(request: Request, digest: Digest, size: int) -> tuple[int, int] | None:
    """First and last byte of the one range asked for; None for everything. Raises RangeInvalid."""
    sent = request.header("range")
    if sent is None or request.header("if-range") not in {None, f'"{digest}"'}:
        return None
    match = _RANGE.fullmatch(sent)
    if match is None or match.groups() == ("", ""):
        return None
    start, end = match.groups()
    if start:
        first, last = _number(start, size), min(_number(end, size), size - 1) if end else size - 1
    else:
        first, last = max(size - _number(end, size), 0), size - 1
    if first > last:
        raise RangeInvalid("no byte of the blob is in that range", headers=(("Content-Range", f"bytes */{size}"),))
    return first, last
