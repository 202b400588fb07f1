"""Descriptors and media types (image-spec "Content Descriptors"): how a document names content by type, digest, size.

Owns the media type constants. The models read clients' JSON, so unknown fields pass and are ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator

from hatoba.errors import DigestInvalid
from hatoba.oci.digest import Digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST})
# Layers that stay with their publisher (image-spec "Non-Distributable Layers"): never pushed, so never demanded.
FOREIGN_LAYERS = frozenset(
    {
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    }
)


def _digest(value: object) -> Digest:
    return _parse_digest(value, Digest.parse)


def _any_digest(value: object) -> Digest:
    return _parse_digest(value, Digest.parse_any)


def _parse_digest(value: object, parse: Callable[[str], Digest]) -> Digest:
    if isinstance(value, Digest):
        return value
    if not isinstance(value, str):
        raise ValueError("a digest is a string")  # noqa: TRY004  pydantic collects ValueErrors
    try:
        return parse(value)
    except DigestInvalid as error:
        raise ValueError(error.message) from None


def _annotations(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("annotations are an object of strings")
    return value


WireDigest = Annotated[Digest, PlainValidator(_digest), PlainSerializer(str)]
# Pydantic keeps an error for every wrong item, about 1 KiB each: 4 MiB of zeros took 13 s and 1.9 GiB. One is enough.
Annotations = Annotated[dict[str, str], PlainValidator(_annotations)]


class Platform(BaseModel):
    """The platform of an index's entry; only what listings show."""

    model_config = ConfigDict(frozen=True)

    architecture: str = ""
    os: str = ""
    variant: str | None = None


class Descriptor(BaseModel):
    """One reference to content."""

    model_config = ConfigDict(frozen=True)

    media_type: str = Field(alias="mediaType", default="", max_length=255)
    digest: WireDigest
    # 2**63 - 1 is what SQLite and PostgreSQL hold.
    size: int = Field(ge=0, lt=2**63, strict=True)
    urls: list[str] = Field(default_factory=list, fail_fast=True)
    artifact_type: str | None = Field(alias="artifactType", default=None)
    annotations: Annotations | None = None
    platform: Platform | None = None

    @property
    def foreign(self) -> bool:
        """Whether the content may live elsewhere and need not be in the registry."""
        return self.media_type in FOREIGN_LAYERS


class Subject(Descriptor):
    """What a manifest refers to. It need not be in the registry, so its digest may be of any algorithm (spec 3.4)."""

    digest: Annotated[Digest, PlainValidator(_any_digest), PlainSerializer(str)]
