"""Images for tests and benchmarks: real gzip tars, configs and manifests, the same for the same seed. Pure: no I/O.

Push order is `blobs`, then the manifest; for an index its images first.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import secrets
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hatoba.oci.descriptor import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from hatoba.oci.digest import Digest

OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_CREATED = "2025-01-01T00:00:00Z"
_MTIME = 1_735_689_600
_ARCHITECTURES = ("amd64", "arm64", "s390x", "ppc64le")


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes with the type under which descriptors name them."""

    media_type: str
    body: bytes

    @property
    def digest(self) -> Digest:
        """The sha256 digest."""
        return Digest.of(self.body)

    @property
    def descriptor(self) -> dict[str, Any]:
        """The reference that a manifest holds."""
        return {"mediaType": self.media_type, "digest": str(self.digest), "size": len(self.body)}


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest with the blobs it names; an artifact is one too."""

    manifest: Content
    config: Content
    layers: tuple[Content, ...]
    platform: Mapping[str, str] | None = None

    @property
    def blobs(self) -> tuple[Content, ...]:
        """Everything to be pushed before the manifest, each content once."""
        return tuple({content.body: content for content in (self.config, *self.layers)}.values())


@dataclass(frozen=True, slots=True)
class Index:
    """An index with the images it lists."""

    manifest: Content
    images: tuple[Image, ...]


def random_image(layers: int = 1, layer_bytes: int = 1024, seed: int | None = None, *, docker: bool = False) -> Image:
    """An image whose layers each hold one file of `layer_bytes` bytes that do not compress; without seed a new one."""
    if seed is None:
        seed = secrets.randbits(64)
    source = random.Random(seed)  # noqa: S311  reproducible, not secret
    tars = [_tar(f"layer-{number}", source.randbytes(layer_bytes), seed) for number in range(layers)]
    architecture = _ARCHITECTURES[seed % len(_ARCHITECTURES)]
    config = {
        "architecture": architecture,
        "os": "linux",
        "created": _CREATED,
        "config": {"Env": ["PATH=/bin"], "Labels": {"seed": str(seed)}},
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar)) for tar in tars]},
        "history": [{"created": _CREATED, "created_by": f"COPY layer-{number} /"} for number in range(layers)],
    }
    media_type, config_type, layer_type = (
        (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER) if docker else (OCI_MANIFEST, OCI_CONFIG, OCI_LAYER)
    )
    return _image(
        media_type,
        Content(config_type, _json(config)),
        tuple(Content(layer_type, gzip.compress(tar, compresslevel=1, mtime=0)) for tar in tars),
        platform={"architecture": architecture, "os": "linux"},
    )


def index_of(images: Sequence[Image], *, docker: bool = False) -> Index:
    """An index, or Docker's manifest list, of these images with their platforms."""
    entries = []
    for image in images:
        entry = image.manifest.descriptor
        if image.platform is not None:
            entry["platform"] = dict(image.platform)
        entries.append(entry)
    media_type = DOCKER_LIST if docker else OCI_INDEX
    body = {"schemaVersion": 2, "mediaType": media_type, "manifests": entries}
    return Index(Content(media_type, _json(body)), tuple(images))


def artifact(subject: Image | Index, artifact_type: str, annotations: Mapping[str, str] | None = None) -> Image:
    """An artifact that refers to `subject` and holds nothing but its annotations."""
    fields: dict[str, Any] = {"artifactType": artifact_type, "subject": subject.manifest.descriptor}
    if annotations:
        fields["annotations"] = dict(annotations)
    empty = Content(OCI_EMPTY, b"{}")
    return _image(OCI_MANIFEST, empty, (empty,), fields)


def _image(
    media_type: str,
    config: Content,
    layers: tuple[Content, ...],
    fields: Mapping[str, Any] | None = None,
    platform: Mapping[str, str] | None = None,
) -> Image:
    body = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": config.descriptor,
        "layers": [layer.descriptor for layer in layers],
        **(fields or {}),
    }
    return Image(Content(media_type, _json(body)), config, layers, platform)


def _tar(name: str, content: bytes, seed: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo(f"{seed}/{name}")
        member.size, member.mtime, member.mode = len(content), _MTIME, 0o644
        archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
