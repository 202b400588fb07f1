"""Images of other builders and of formats for pulling by parts: kaniko, ko, eStargz, zstd:chunked."""

from __future__ import annotations

import json
import struct

from shape import (
    CREATED,
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    INDENT_BUILDKIT,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_ZSTD_LAYER,
    YEAR_ONE,
    Json,
    Shape,
    compact,
    digest_of,
    ggcr_config,
    gzip,
    hex_tag,
    indented,
    oci,
    shape,
    size_first,
    tar,
    zstd,
)


def kaniko_image(s: Shape, command: str, tag: str, **config: object) -> Json:
    """A schema2 manifest as go-containerregistry writes it: compact, size before digest."""
    layer = tar(workspace=f"{command}\n")
    document = {
        "architecture": "amd64",
        "author": "kaniko",
        "created": CREATED,
        "history": [{"author": "kaniko", "created": YEAR_ONE, "created_by": command}],
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin"]},
        **config,
    }
    body = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": size_first(s.blob(DOCKER_CONFIG, compact(document))),
        "layers": [size_first(s.blob(DOCKER_LAYER, gzip(layer)))],
    }
    return s.manifest(compact(body), tag)


@shape
def kaniko_with_cache() -> Shape:
    """A cached layer as an image of its own whose tag is the cache key, 64 digits; then the image."""
    s = Shape(
        "kaniko 1.23, executor --cache=true --cache-repo=registry.example/app --destination=registry.example/app:1.0"
    )
    kaniko_image(s, "RUN make", digest_of(b"a cache key").partition(":")[2], architecture="", os="", config={})
    kaniko_image(s, "COPY app /app", "1.0")
    return s


def ko_image(s: Shape, architecture: str, base: Json) -> Json:
    layer = tar(**{"ko-app/app": f"a program for {architecture}\n"})
    config = {
        "architecture": architecture,
        "author": "github.com/ko-build/ko",
        "created": YEAR_ONE,
        "history": [
            {
                "author": "ko",
                "created": YEAR_ONE,
                "created_by": "ko build ko://git.example/app",
                "comment": "go build output, at /ko-app/app",
            }
        ],
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
        "config": {"Entrypoint": ["/ko-app/app"], "Env": ["KO_DATA_PATH=/var/run/ko"], "User": "65532"},
    }
    body = oci(
        size_first(s.blob(OCI_CONFIG, compact(config))), [size_first(s.blob(OCI_LAYER, gzip(layer)))], annotations=base
    )
    return s.manifest(compact(body), platform={"architecture": architecture, "os": "linux"})


@shape
def ko_with_sboms() -> Shape:
    """An index of two platforms, and an SBOM beside each manifest and beside the index: tag sha256-<hex>.sbom."""
    s = Shape("ko 0.17, ko build --bare --platform=linux/amd64,linux/arm64 -t latest ./cmd/app")
    base = {
        "org.opencontainers.image.base.digest": digest_of(b"the base image"),
        "org.opencontainers.image.base.name": "cgr.dev/chainguard/static:latest",
    }
    entries = [ko_image(s, architecture, base) for architecture in ("amd64", "arm64")]
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [size_first(entry) for entry in entries],
        "annotations": base,
    }
    index = s.manifest(compact(body), "latest")
    for described in (*entries, index):
        sbom = compact({"spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT", "name": f"sbom-{described['digest']}"})
        layer = size_first(s.blob("text/spdx+json", sbom))
        s.manifest(compact(oci(ggcr_config(s, [sbom]), [layer])), hex_tag(described, ".sbom"))
    return s


def estargz(content: bytes, name: str) -> tuple[bytes, bytes, str]:
    """The layer, the tar in it and the digest of its table: a gzip member a file, one of the table, a footer."""
    size = len(content)
    entry = {"name": name, "type": "reg", "size": size, "modtime": "2023-11-14T22:13:20Z", "digest": digest_of(content)}
    table = json.dumps({"version": 1, "entries": [{**entry, "offset": 0}]}, indent=4).encode()
    end = bytes(1024)
    file = tar(**{name: content.decode()}).removesuffix(end)
    index = tar(stargz__index__json=table.decode())
    first = gzip(file)
    extra = b"SG" + struct.pack("<H", 22) + b"%016xSTARGZ" % len(first)
    footer = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff" + struct.pack("<H", len(extra)) + extra + b"\x01\0\0\xff\xff" + bytes(8)
    return first + gzip(index) + footer, file + index, digest_of(table)


@shape
def estargz_layer() -> Shape:
    """A layer that is pulled by parts: the digest of its table of contents stands in the layer's annotations."""
    s = Shape("buildx 0.19 / BuildKit 0.17, docker buildx build --output type=registry,compression=estargz")
    content, archive, table = estargz(b"hello\n", "motd")
    config = {"architecture": "amd64", "os": "linux", "created": CREATED, "config": {}}
    config["rootfs"] = {"type": "layers", "diff_ids": [digest_of(archive)]}
    notes = {
        "containerd.io/snapshot/stargz/toc.digest": table,
        "io.containers.estargz.uncompressed-size": str(len(archive)),
    }
    layer = s.blob(OCI_LAYER, content, annotations=notes)
    s.manifest(indented(oci(s.blob(OCI_CONFIG, compact(config)), [layer]), INDENT_BUILDKIT), "estargz")
    return s


def skippable(content: bytes) -> bytes:
    return struct.pack("<II", 0x184D2A50, len(content)) + content


@shape
def zstd_chunked_layer() -> Shape:
    """The same idea in zstd: where the table lies stands in the annotations and in the last frame."""
    s = Shape("podman 5.3, podman push --compression-format=zstd:chunked registry.example/app:chunked")
    archive = tar(motd="hello\n")
    table = compact({"version": 1, "entries": [{"type": "reg", "name": "motd", "size": 6}]})
    data, packed = zstd(archive), zstd(table)
    place = (len(data) + 8, len(packed), len(table), 1)
    layer = data + skippable(packed) + skippable(struct.pack("<7Q", *place, 0, 0, 0) + b"GNUlInUx")
    config = {"created": CREATED, "architecture": "amd64", "os": "linux", "config": {}}
    config["rootfs"] = {"type": "layers", "diff_ids": [digest_of(archive)]}
    prefix = "io.github.containers.zstd-chunked"
    notes = {
        f"{prefix}.manifest-checksum": digest_of(packed),
        f"{prefix}.manifest-position": ":".join(map(str, place)),
    }
    described = s.blob(OCI_ZSTD_LAYER, layer, annotations=notes)
    s.manifest(compact(oci(s.blob(OCI_CONFIG, compact(config)), [described])), "chunked")
    return s
