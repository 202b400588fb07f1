"""Rules of referrers (spec 3.6): which manifests name a subject, from rows and from fallback-tag indexes."""

from __future__ import annotations

import heapq
import json
from typing import Any

from hatoba.db import manifests
from hatoba.db.engine import Database, Reader
from hatoba.errors import ManifestInvalid
from hatoba.oci import manifest
from hatoba.oci.digest import Digest
from hatoba.oci.reference import RepositoryName, fallback_tag

_PAGE_BYTES = 3 * 1024 * 1024  # a listing must fit the 4 MiB that clients take as a manifest
_PAGE = 1000


class Referrers:
    """Descriptors of the manifests that refer to a subject."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(
        self, repository: RepositoryName, subject: Digest, artifact_type: str | None, after: str
    ) -> tuple[list[dict[str, Any]], bool]:
        """One page of descriptors, ordered by digest after `after`, and whether more are left.

        An unknown repository or subject has none: the spec forbids 404 here.
        """

        async def find(reader: Reader) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
            rows = await manifests.referrers(reader, repository, subject, artifact_type, after, _PAGE + 1)
            recorded = [_descriptor(*row) for row in rows]
            return recorded, await _from_fallback(reader, repository, subject, artifact_type, after)

        recorded, fallback = await self._database.scan(find)
        page: list[dict[str, Any]] = []
        size = 0
        last = ""
        for entry in heapq.merge(recorded, fallback, key=lambda entry: str(entry["digest"])):
            if entry["digest"] == last:
                continue
            last = entry["digest"]
            size += len(json.dumps(entry))
            if page and (len(page) == _PAGE or size > _PAGE_BYTES):
                return page, True
            page.append(entry)
        return page, False


def _descriptor(
    digest: str, media_type: str, size: int, artifact_type: str | None, annotations: str | None
) -> dict[str, Any]:
    entry: dict[str, Any] = {"mediaType": media_type, "digest": digest, "size": size}
    if artifact_type:
        entry["artifactType"] = artifact_type
    if annotations and annotations != "{}":
        entry["annotations"] = json.loads(annotations)
    return entry


async def _from_fallback(
    reader: Reader, repository: RepositoryName, subject: Digest, artifact_type: str | None, after: str
) -> list[dict[str, Any]]:
    """Entries of the index that clients without the referrers API keep at the fallback tag, ordered by digest."""
    found = await manifests.find_by_tag(reader, repository, fallback_tag(subject))
    if found is None:
        return []
    try:
        parsed = manifest.parse(found.body)
    except ManifestInvalid:
        return []
    if not parsed.is_index:
        return []
    entries = []
    for reference in parsed.references:
        descriptor = reference.descriptor
        if str(descriptor.digest) <= after:
            continue
        # What names the subject itself is listed by its row, which knows better than the tag's index.
        if not await manifests.held_besides(reader, repository, descriptor.digest, subject):
            continue
        if artifact_type is None or descriptor.artifact_type == artifact_type:
            annotations = json.dumps(descriptor.annotations or {})
            entries.append(
                _descriptor(
                    str(descriptor.digest),
                    descriptor.media_type,
                    descriptor.size,
                    descriptor.artifact_type,
                    annotations,
                )
            )
    return sorted(entries, key=lambda entry: str(entry["digest"]))
