"""Images, indexes and build caches: buildx and Docker."""

from __future__ import annotations

from shape import (
    CREATED,
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    IN_TOTO,
    INDENT_BUILDKIT,
    INDENT_DOCKER,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    SPDX,
    Json,
    Shape,
    compact,
    digest_of,
    gzip,
    indented,
    oci,
    shape,
    size_first,
    subject_of,
    tar,
    zstd,
)

CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"
PROVENANCE = "https://slsa.dev/provenance/v0.2"


def cache_parts(s: Shape) -> tuple[list[Json], Json]:
    """Two cache layers and the config that tells their chain (buildkit cache/remotecache/v1)."""
    tars = [tar(usr__lib=f"layer {n}\n" * 20) for n in (1, 2)]
    layers = [
        s.blob(
            OCI_LAYER,
            gzip(content),
            annotations={"buildkit/createdat": CREATED, "containerd.io/uncompressed": digest_of(content)},
        )
        for content in tars
    ]
    chain = [{"blob": layer["digest"], "parent": n - 1} for n, layer in enumerate(layers)]
    key = digest_of(b"a cache key")
    records = [
        {"layers": [{"layer": 1, "createdAt": CREATED}], "digest": key, "inputs": [[{"link": 1}]]},
        {"digest": digest_of(b"the key of its input")},
    ]
    return layers, s.blob(CACHE_CONFIG, compact({"layers": chain, "records": records}))


@shape
def buildx_cache_index() -> Shape:
    """Layers and the cache config stand in an index's `manifests`, although they are blobs.

    As in BuildKit's cache/remotecache/export.go and in a body that its issue 1143 shows.
    """
    s = Shape("buildx 0.12 / BuildKit 0.12, docker buildx build --cache-to type=registry,ref=…,image-manifest=false")
    layers, config = cache_parts(s)
    s.manifest(
        compact({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*layers, config]}),
        "cache",
    )
    return s


@shape
def buildx_cache_docker_list() -> Shape:
    """The same with Docker's types, as `oci-mediatypes=false` gives."""
    s = Shape("buildx 0.12 / BuildKit 0.12, docker buildx build --cache-to type=registry,ref=…,oci-mediatypes=false")
    layers, config = cache_parts(s)
    layers = [{**layer, "mediaType": DOCKER_LAYER} for layer in layers]
    s.manifest(
        compact({"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [*layers, config]}),
        "cache",
    )
    return s


@shape
def buildx_cache_image_manifest() -> Shape:
    """The cache as an image manifest whose config is the cache config."""
    s = Shape("buildx 0.21 / BuildKit 0.21, docker buildx build --cache-to type=registry,ref=…,image-manifest=true")
    layers, config = cache_parts(s)
    s.manifest(compact(oci(config, layers)), "cache")
    return s


def attestation_of(s: Shape, image: Json) -> Json:
    """BuildKit's attestation manifest: an image config of nothing, one in-toto layer a statement."""
    statements = [
        (PROVENANCE, {"builder": {"id": ""}, "buildType": "https://mobyproject.org/buildkit@v1", "metadata": {}}),
        (SPDX, {"spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT", "name": "sbom"}),
    ]
    subject = [{"name": "pkg:docker/app@latest", "digest": {"sha256": image["digest"].partition(":")[2]}}]
    layers = []
    for predicate, content in statements:
        statement = {
            "_type": "https://in-toto.io/Statement/v0.1",
            "predicateType": predicate,
            "subject": subject,
            "predicate": content,
        }
        layers.append(
            s.blob(IN_TOTO, indented(statement, INDENT_BUILDKIT), annotations={"in-toto.io/predicate-type": predicate})
        )
    config = {
        "architecture": "unknown",
        "os": "unknown",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
    }
    return s.manifest(
        indented(oci(s.blob(OCI_CONFIG, compact(config)), layers), INDENT_BUILDKIT),
        annotations={
            "vnd.docker.reference.digest": image["digest"],
            "vnd.docker.reference.type": "attestation-manifest",
        },
        platform={"architecture": "unknown", "os": "unknown"},
    )


@shape
def buildx_attestations() -> Shape:
    """Two platforms and an attestation manifest for each, all in one index."""
    s = Shape("buildx 0.19 / BuildKit 0.17, docker buildx build --platform … --provenance=true --sbom=true --push")
    amd = s.image(platform={"architecture": "amd64", "os": "linux"})
    arm = s.image(architecture="arm64", platform={"architecture": "arm64", "os": "linux", "variant": "v8"})
    entries = [amd, arm, attestation_of(s, amd), attestation_of(s, arm)]
    s.manifest(
        indented({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}, INDENT_BUILDKIT), "latest", "1.4.2"
    )
    return s


def docker_image(s: Shape, architecture: str, *tags: str, **more: object) -> Json:
    """A schema2 manifest as the classic docker push writes it: three spaces, size before digest."""
    layer = tar(hello=f"hello from {architecture}\n")
    config = {
        "architecture": architecture,
        "config": {"Hostname": "", "Env": ["PATH=/bin"], "Cmd": ["/hello"], "Labels": None},
        "created": CREATED,
        "docker_version": "20.10.24",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
    }
    body = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": size_first(s.blob(DOCKER_CONFIG, compact(config))),
        "layers": [size_first(s.blob(DOCKER_LAYER, gzip(layer)))],
    }
    return s.manifest(indented(body, INDENT_DOCKER), *tags, **more)


@shape
def docker_schema2() -> Shape:
    """One image under two tags."""
    s = Shape("Docker 20.10, docker push registry.example/app:1.0 (and :latest)")
    docker_image(s, "amd64", "1.0", "latest")
    return s


@shape
def docker_manifest_list() -> Shape:
    """A manifest list; a platform with every field."""
    s = Shape("Docker 20.10, docker manifest create registry.example/app:1.0 … && docker manifest push …")
    entries = [
        docker_image(s, "amd64", "1.0-amd64", platform={"architecture": "amd64", "os": "linux"}),
        docker_image(s, "arm", "1.0-arm", platform={"architecture": "arm", "os": "linux", "variant": "v7"}),
    ]
    body = {"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [size_first(entry) for entry in entries]}
    s.manifest(indented(body, INDENT_DOCKER), "1.0")
    return s


@shape
def windows_foreign_layer() -> Shape:
    """The base layer stays with Microsoft: it is named with `urls` and never pushed."""
    s = Shape("Docker 20.10 on Windows, docker push registry.example/app:nanoserver")
    base = digest_of(b"a base layer that is not ours to push")
    layer = tar(Files__txt="hello\r\n")
    config = {
        "architecture": "amd64",
        "created": CREATED,
        "os": "windows",
        "os.version": "10.0.17763.6054",
        "rootfs": {"type": "layers", "diff_ids": [digest_of(b"its tar"), digest_of(layer)]},
    }
    foreign = {
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "size": 107_983_201,
        "digest": base,
        "urls": [f"https://mcr.microsoft.com/v2/windows/nanoserver/blobs/{base}"],
    }
    body = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": size_first(s.blob(DOCKER_CONFIG, compact(config))),
        "layers": [foreign, size_first(s.blob(DOCKER_LAYER, gzip(layer)))],
    }
    s.manifest(indented(body, INDENT_DOCKER), "nanoserver")
    return s


@shape
def zstd_layers() -> Shape:
    """One layer in gzip and one in zstd."""
    s = Shape("buildx 0.19 / BuildKit 0.17, docker buildx build --output type=registry,compression=zstd")
    tars = [tar(base="base\n"), tar(app="app\n")]
    config = {"architecture": "amd64", "os": "linux", "created": CREATED, "config": {}}
    config["rootfs"] = {"type": "layers", "diff_ids": [digest_of(content) for content in tars]}
    layers = [
        s.blob(OCI_LAYER, gzip(tars[0])),
        s.blob("application/vnd.oci.image.layer.v1.tar+zstd", zstd(tars[1])),
    ]
    s.manifest(indented(oci(s.blob(OCI_CONFIG, compact(config)), layers), INDENT_BUILDKIT), "zstd")
    return s


@shape
def nested_index() -> Shape:
    """An index in an index, with an artifact type and a subject of its own."""
    s = Shape(
        "ORAS 1.3, oras manifest index create registry.example/app:all 1.x --artifact-type application/vnd.example.set"
    )
    old = s.image("1.0", architecture="arm64")
    inner = s.manifest(compact({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [s.image("1.1")]}), "1.x")
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "artifactType": "application/vnd.example.set",
        "manifests": [inner, {**old, "platform": {"architecture": "arm64", "os": "linux"}}],
        "subject": subject_of(old),
        "annotations": {"org.example.kind": "nested"},
    }
    s.manifest(compact(body), "all")
    return s


@shape
def empty_index() -> Shape:
    """An index of nothing: what is left when the last referrer is taken from a fallback tag."""
    s = Shape("ORAS 1.2, oras manifest delete of the last referrer, on a registry without the referrers API")
    s.manifest(compact({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}), "empty")
    return s
