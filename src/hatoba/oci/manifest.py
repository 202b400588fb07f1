"""Manifests: bytes in, `ParsedManifest` out. Never re-serialises: the bytes a client pushed are what is stored.

Decides the media type (the body's `mediaType`, else derived from the body) and what a manifest references.
Whether the references exist is the registry's business.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hatoba.errors import ManifestInvalid
from hatoba.oci.descriptor import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    Annotations,
    Descriptor,
    Platform,
    Subject,
)

_SCHEMA_VERSION = 2
# Far from any real manifest. More would hold up everybody: Python reads JSON in one piece, and each reference is looked
# at and kept under the write lock.
_MOST_PARTS = 200_000
_MOST_REFERENCES = 10_000
_ACCEPTED = f"{OCI_MANIFEST}, {OCI_INDEX}, {DOCKER_MANIFEST}, {DOCKER_LIST}"


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True)

    schema_version: int = Field(alias="schemaVersion", strict=True)
    media_type: str | None = Field(alias="mediaType", default=None)
    artifact_type: str | None = Field(alias="artifactType", default=None, max_length=255)
    config: Descriptor | None = None
    layers: list[Descriptor] | None = Field(default=None, fail_fast=True)
    manifests: list[Descriptor] | None = Field(default=None, fail_fast=True)
    subject: Subject | None = None
    annotations: Annotations | None = None


@dataclass(frozen=True, slots=True)
class Referenced:
    """One descriptor with what it names; `required` is false for layers that live elsewhere.

    A blob that an index lists is a layer: it is looked for, and kept, as an image's layers are.
    """

    kind: Literal["config", "layer", "manifest"]
    descriptor: Descriptor
    required: bool


@dataclass(frozen=True, slots=True)
class ParsedManifest:
    """What hatoba reads from a manifest. `total_bytes` = config + layers, or all entries of an index."""

    media_type: str
    artifact_type: str | None
    config: Descriptor | None
    references: tuple[Referenced, ...]
    subject: Subject | None
    annotations: dict[str, str]
    total_bytes: int

    @property
    def annotations_json(self) -> str:
        """The annotations as JSON text, keys in the client's order."""
        return json.dumps(self.annotations, separators=(",", ":"))

    @property
    def is_index(self) -> bool:
        """Whether it lists manifests."""
        return self.media_type in INDEX_TYPES

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The platforms an index names."""
        return tuple(r.descriptor.platform for r in self.references if r.descriptor.platform is not None)


def parse(content: bytes) -> ParsedManifest:
    """Read a manifest; raises ManifestInvalid saying what is wrong with it."""
    if sum(map(content.count, (b"{", b"[", b","))) > _MOST_PARTS:
        raise ManifestInvalid(f"the manifest's JSON has more than {_MOST_PARTS} parts")
    body = _validate(_json_object(content))
    media_type = _media_type(body)
    is_index = media_type in INDEX_TYPES
    references = _references(body, is_index=is_index)
    if len(references) > _MOST_REFERENCES:
        raise ManifestInvalid(f"the manifest names {len(references)} blobs or manifests, more than {_MOST_REFERENCES}")
    return ParsedManifest(
        media_type=media_type,
        artifact_type=_artifact_type(body, is_index=is_index),
        config=None if is_index else body.config,
        references=references,
        subject=body.subject,
        annotations=body.annotations or {},
        total_bytes=min(sum(r.descriptor.size for r in references), 2**63 - 1),
    )


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ManifestInvalid("the manifest is not JSON") from None
    if not isinstance(document, dict):
        raise ManifestInvalid("the manifest is not a JSON object")
    return document


def _no_constant(name: str) -> None:
    # Python reads NaN and Infinity, which are no JSON; Go's registries refuse them.
    raise ValueError(name)


def _validate(document: dict[str, Any]) -> _Body:
    try:
        body = _Body.model_validate(document)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in found["loc"])
        raise ManifestInvalid(f"the manifest's {where} is invalid: {found['msg']}"[:500]) from None
    if body.schema_version != _SCHEMA_VERSION:
        version = str(body.schema_version)[:20]
        raise ManifestInvalid(f"schemaVersion {version} is not supported; accepted types: {_ACCEPTED}")
    return body


def _media_type(body: _Body) -> str:
    named = body.model_fields_set
    if body.media_type is not None:
        if body.media_type not in MANIFEST_TYPES:
            raise ManifestInvalid(f"media type {body.media_type[:255]!r} is not accepted; accepted types: {_ACCEPTED}")
        media_type = body.media_type
    elif "manifests" in named:
        media_type = OCI_INDEX
    elif body.config is not None and "layers" in named:
        media_type = OCI_MANIFEST
    else:
        raise ManifestInvalid(f"no media type can be derived from the manifest; accepted types: {_ACCEPTED}")
    _check_shape(body, media_type)
    return media_type


def _check_shape(body: _Body, media_type: str) -> None:
    # A document that is both an index and an image means different things to different clients (CVE-2021-41190).
    # Go programs write an empty list as null, so a missing list is an empty one where the type is certain.
    if media_type in INDEX_TYPES:
        if body.config is not None or body.layers is not None:
            raise ManifestInvalid("an index has neither `config` nor `layers`")
    elif body.config is None:
        raise ManifestInvalid("an image manifest has a `config`")
    elif body.manifests is not None:
        raise ManifestInvalid("an image manifest has no `manifests`")


def _references(body: _Body, *, is_index: bool) -> tuple[Referenced, ...]:
    if is_index:
        return tuple(_entry(d) for d in body.manifests or ())
    config = () if body.config is None else (Referenced("config", body.config, required=True),)
    return config + tuple(_layer(d) for d in body.layers or ())


def _layer(descriptor: Descriptor) -> Referenced:
    return Referenced("layer", descriptor, required=not descriptor.foreign)


def _entry(descriptor: Descriptor) -> Referenced:
    # BuildKit's registry cache is an index whose entries are blobs: layers and a cache config. Docker's registry takes
    # it. What has a type that no manifest here can have is a blob.
    if descriptor.media_type and descriptor.media_type not in MANIFEST_TYPES:
        return _layer(descriptor)
    return Referenced("manifest", descriptor, required=True)


def _artifact_type(body: _Body, *, is_index: bool) -> str | None:
    """The type that referrers show: the manifest's own, else an image's config type, else none (spec 3.6)."""
    if body.artifact_type:
        return body.artifact_type
    if is_index or body.config is None:
        return None
    return body.config.media_type or None
