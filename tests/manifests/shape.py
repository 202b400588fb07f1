"""The parts of which make_shapes.py composes: bytes, descriptors and documents as the clients' libraries write them.

Nothing here depends on a library's version: gzip and zstd frames are put together by hand with stored blocks, so that
every Python gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable
from typing import Any

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_ZSTD_LAYER = "application/vnd.oci.image.layer.v1.tar+zstd"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
CREATED = "2025-06-17T16:44:22.638028085Z"  # Go writes nanoseconds
SECONDS = "2025-06-17T16:44:22Z"
YEAR_ONE = "0001-01-01T00:00:00Z"  # Go's zero time
IN_TOTO = "application/vnd.in-toto+json"
SPDX = "https://spdx.dev/Document"
INDENT_BUILDKIT, INDENT_DOCKER = 2, 3

Json = dict[str, Any]


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def compact(document: Any) -> bytes:
    """As Go's json.Marshal: no spaces, UTF-8, and the three characters that HTML minds escaped."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e").encode()


def indented(document: Any, spaces: int) -> bytes:
    """As Go's json.MarshalIndent."""
    text = json.dumps(document, indent=spaces, ensure_ascii=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e").encode()


def tar(**files: str) -> bytes:
    """A tar archive; `__` in a name stands for a dot."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name.replace("__", "."))
            member.size, member.mtime, member.mode = len(text.encode()), 1_700_000_000, 0o644
            archive.addfile(member, io.BytesIO(text.encode()))
    # Two empty blocks end an archive; the padding to 10 KiB that follows is a habit of tape drives.
    size = sum(512 + -(-len(text.encode()) // 512) * 512 for text in files.values())
    return out.getvalue()[: size + 1024]


def gzip(content: bytes) -> bytes:
    """A gzip member of stored blocks."""
    pieces = [content[at : at + 0xFFFF] for at in range(0, len(content), 0xFFFF)] or [b""]
    blocks = b"".join(
        struct.pack("<BHH", piece is pieces[-1], len(piece), len(piece) ^ 0xFFFF) + piece for piece in pieces
    )
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + blocks + struct.pack("<II", zlib.crc32(content), len(content))


def zstd(content: bytes) -> bytes:
    """A zstd frame of raw blocks: single segment, four bytes of content size, no checksum (RFC 8878)."""
    pieces = [content[at : at + 0x1FFFF] for at in range(0, len(content), 0x1FFFF)] or [b""]
    blocks = b"".join(struct.pack("<I", len(piece) << 3 | (piece is pieces[-1]))[:3] + piece for piece in pieces)
    return b"\x28\xb5\x2f\xfd" + b"\xa0" + struct.pack("<I", len(content)) + blocks


class Shape:
    """What one client pushes, in its order."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.blobs: list[bytes] = []
        self.manifests: list[Json] = []

    def blob(self, media_type: str, content: bytes, **more: Any) -> Json:
        """A descriptor of content to be pushed, fields in image-spec's Go order."""
        if content not in self.blobs:
            self.blobs.append(content)
        return {"mediaType": media_type, "digest": digest_of(content), "size": len(content), **more}

    def empty(self, media_type: str = OCI_EMPTY) -> Json:
        """The descriptor of `{}`."""
        return self.blob(media_type, b"{}")

    def manifest(self, content: bytes, *tags: str, **more: Any) -> Json:
        """A descriptor of a manifest to be pushed under its digest and `tags`."""
        document = json.loads(content)
        media_type = document.get("mediaType", OCI_MANIFEST)
        digest = digest_of(content)
        config = document.get("config") or {}
        self.manifests.append(
            {
                "media_type": media_type,
                "body": content.decode(),
                "digest": digest,
                "tags": list(tags),
                "subject": (document.get("subject") or {}).get("digest"),
                "artifact_type": document.get("artifactType") or config.get("mediaType"),
            }
        )
        return {"mediaType": media_type, "digest": digest, "size": len(content), **more}

    def image(self, *tags: str, architecture: str = "amd64", **more: Any) -> Json:
        """An image as buildx makes it: what indexes list and signatures sign."""
        layer = tar(etc__motd=f"{self.source[:20]} on {architecture}\n")
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin"], "Cmd": ["/app"], "WorkingDir": "/"},
            "created": CREATED,
            "history": [{"created": CREATED, "created_by": "COPY /app /app # buildkit"}],
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
        }
        return self.manifest(
            indented(
                {
                    "schemaVersion": 2,
                    "mediaType": OCI_MANIFEST,
                    "config": self.blob(OCI_CONFIG, compact(config)),
                    "layers": [self.blob(OCI_LAYER, gzip(layer))],
                },
                INDENT_BUILDKIT,
            ),
            *tags,
            **more,
        )

    def render(self) -> str:
        """The file's text."""
        document = {
            "source": self.source,
            "blobs": [base64.b64encode(blob).decode() for blob in self.blobs],
            "manifests": self.manifests,
        }
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def oci(config: Json, layers: list[Json], **more: Any) -> Json:
    """An image manifest, fields in image-spec's Go order; None leaves a field out."""
    fields: Json = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": more.pop("artifact_type", None),
        "config": config,
        "layers": layers,
        "subject": more.pop("subject", None),
        "annotations": more.pop("annotations", None),
    }
    return {name: value for name, value in fields.items() if value is not None}


def size_first(descriptor: Json) -> Json:
    """The same descriptor with `size` before `digest`, as go-containerregistry and Docker write it."""
    rest = {name: value for name, value in descriptor.items() if name not in {"mediaType", "digest", "size"}}
    return {
        "mediaType": descriptor["mediaType"],
        "size": descriptor["size"],
        "digest": descriptor["digest"],
        **rest,
    }


SHAPES: dict[str, Callable[[], Shape]] = {}


def shape(make: Callable[[], Shape]) -> Callable[[], Shape]:
    SHAPES[make.__name__.replace("_", "-")] = make
    return make


def hex_tag(subject: Json, suffix: str) -> str:
    """The tag beside an image: sha256-<hex> and what it holds."""
    return subject["digest"].replace(":", "-") + suffix


def subject_of(descriptor: Json) -> Json:
    return {name: descriptor[name] for name in ("mediaType", "digest", "size")}


def ggcr_config(s: Shape, layers: list[bytes], media_type: str = OCI_CONFIG) -> Json:
    """go-containerregistry's config of an image made from nothing."""
    config = {
        "architecture": "",
        "created": YEAR_ONE,
        "history": [{"created": YEAR_ONE} for _ in layers],
        "os": "",
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
        "config": {},
    }
    return size_first(s.blob(media_type, compact(config)))
