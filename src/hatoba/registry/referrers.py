"""Rules of referrers (spec 3.6): which manifests name a subject, from rows and from fallback-tag indexes."""

from __future__ import annotations

import heapq
import json
from typing import Any

from hatoba.db import manifests
from hatoba.db.engine import Database, Reader
from hatoba.db.manifests import Referring
from hatoba.errors import ManifestInvalid
from hatoba.oci import manifest
from hatoba.oci.descriptor import Descriptor
from hatoba.oci.digest import Digest
from hatoba.oci.reference import RepositoryName, fallback_tag

_PAGE_BYTES = 3 * 1024 * 1024  # a listing must fit the 4 MiB that clients take as a manifest
_PAGE = 1000


Entries = list[dict[str, Any]]


class Referrers:
    """Descriptors of the manifests that refer to a subject."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(
        self, repository: RepositoryName, subject: Digest, artifact_type: str | None, after: str
    ) -> tuple[Entries, bool]:
        """One page of descriptors, ordered by digest after `after`, and whether more are left.

        An unknown repository or subject has none: the spec forbids 404 here.
        """
        asked = Referring(repository, subject, artifact_type)

        async def find(reader: Reader) -> tuple[Entries, str | None, Entries]:
            return *await _recorded(reader, asked, after), await _from_fallback(reader, asked, after)

        recorded, through, fallback = await self._database.scan(find)
        page: Entries = []
        size = 0
        last = ""
        for entry in heapq.merge(recorded, fallback, key=_digest):
            if through is not None and entry["digest"] > through:
                break
            if entry["digest"] == last:
                continue
            last = entry["digest"]
            size += len(json.dumps(entry))
            if page and (len(page) == _PAGE or size > _PAGE_BYTES):
                return page, True
            page.append(entry)
        return page, through is not None


async def _recorded(reader: Reader, asked: Referring, after: str) -> tuple[Entries, str | None]:
    """What rows say, at least as much as fits a page; and, if that is not all, the last digest that was looked at."""
    found = await manifests.referrer_sizes(reader, asked, after, _PAGE + 1)
    total = 0
    through = ""
    for digest, size in found:
        total += size
        if through and total > _PAGE_BYTES:
            break
        through = digest
    rows = await manifests.referrers(reader, asked, after, through)
    more = len(found) > _PAGE or (bool(found) and through != found[-1][0])
    return [
        _entry(row[0], row[1], row[2], row[3], json.loads(row[4] or "{}")) for row in rows
    ], through if more else None


async def _from_fallback(reader: Reader, asked: Referring, after: str) -> Entries:
    """Entries of the index that clients without the referrers API keep at the fallback tag, ordered by digest."""
    found = await manifests.find_by_tag(reader, asked.repository, fallback_tag(asked.subject))
    if found is None:
        return []
    try:
        parsed = manifest.parse(found.body)
    except ManifestInvalid:
        return []
    if not parsed.is_index:
        return []
    index = Digest.parse(found.digest)
    # What names the subject itself is listed by its row, which knows better than the tag's index.
    held = await manifests.listed_besides(reader, asked.repository, index, asked.subject, after)
    descriptors: dict[str, Descriptor] = {}
    for reference in parsed.references:
        if asked.artifact_type is None or reference.descriptor.artifact_type == asked.artifact_type:
            descriptors.setdefault(str(reference.descriptor.digest), reference.descriptor)
    return [
        _entry(digest, one.media_type, one.size, one.artifact_type, one.annotations or {})
        for digest in held
        if (one := descriptors.get(digest)) is not None
    ]


def _entry(
    digest: str, media_type: str, size: int, artifact_type: str | None, annotations: dict[str, str]
) -> dict[str, Any]:
    entry: dict[str, Any] = {"mediaType": media_type, "digest": digest, "size": size}
    if artifact_type:
        entry["artifactType"] = artifact_type
    if annotations:
        entry["annotations"] = annotations
    return entry


def _digest(entry: dict[str, Any]) -> str:
    return str(entry["digest"])
