"""Signatures, attestations and artifacts: cosign, notation, Helm, ORAS, WASM, SBOMs, Flux."""

from __future__ import annotations

import base64

from shape import (
    IN_TOTO,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    SECONDS,
    SPDX,
    Json,
    Shape,
    compact,
    digest_of,
    ggcr_config,
    gzip,
    hex_tag,
    oci,
    shape,
    size_first,
    subject_of,
    tar,
)

DSSE = "application/vnd.dsse.envelope.v1+json"
SIGSTORE_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
NOTARY = "application/vnd.cncf.notary.signature"
SIGNATURE = base64.b64encode(b"a signature of the right length, signing nothing at all.....").decode()


@shape
def cosign2_signature() -> Shape:
    """A signature beside the image: tag sha256-<hex>.sig, the signature in the layer's annotations."""
    s = Shape("cosign 2.4, cosign sign --key cosign.key registry.example/app@sha256:…")
    image = s.image("v1")
    identity = {"docker-reference": "registry.example/app"}
    payload = compact(
        {
            "critical": {
                "identity": identity,
                "image": {"docker-manifest-digest": image["digest"]},
                "type": "cosign container image signature",
            },
            "optional": None,
        }
    )
    log = {"body": SIGNATURE, "integratedTime": 1_750_178_662, "logIndex": 1_234_567, "logID": "c0d23d6ad406973f"}
    notes = {
        "dev.cosignproject.cosign/signature": SIGNATURE,
        "dev.sigstore.cosign/bundle": compact({"SignedEntryTimestamp": SIGNATURE, "Payload": log}).decode(),
        "dev.sigstore.cosign/certificate": f"-----BEGIN CERTIFICATE-----\n{SIGNATURE}\n-----END CERTIFICATE-----\n",
    }
    layer = size_first(s.blob("application/vnd.dev.cosign.simplesigning.v1+json", payload, annotations=notes))
    s.manifest(compact(oci(ggcr_config(s, [payload]), [layer])), hex_tag(image, ".sig"))
    return s


def dsse(image: Json, predicate: str) -> Json:
    """A DSSE envelope around an in-toto statement about the image."""
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "registry.example/app", "digest": {"sha256": image["digest"].partition(":")[2]}}],
        "predicateType": predicate,
        "predicate": {},
    }
    return {
        "payload": base64.b64encode(compact(statement)).decode(),
        "payloadType": IN_TOTO,
        "signatures": [{"sig": SIGNATURE}],
    }


@shape
def cosign2_attestation() -> Shape:
    """An attestation beside the image: tag sha256-<hex>.att, one DSSE envelope a layer."""
    s = Shape("cosign 2.4, cosign attest --predicate sbom.spdx.json --type spdxjson registry.example/app@sha256:…")
    image = s.image("v1")
    envelope = compact({"payloadType": IN_TOTO, **dsse(image, SPDX)})
    notes = {"dev.cosignproject.cosign/signature": "", "predicateType": SPDX}
    layer = size_first(s.blob(DSSE, envelope, annotations=notes))
    s.manifest(compact(oci(ggcr_config(s, [envelope]), [layer])), hex_tag(image, ".att"))
    return s


@shape
def cosign3_bundle() -> Shape:
    """A sigstore bundle as an OCI 1.1 referrer: no tag, empty config, the type in artifactType.

    Field order of cosign's pkg/oci/remote/write.go: artifactType comes last, the config's descriptor has one too.
    """
    s = Shape("cosign 3.0, cosign sign registry.example/app@sha256:… (new bundle format)")
    image = s.image("v1")
    predicate = "https://sigstore.dev/cosign/sign/v1"
    material = {"publicKey": {"hint": "cosign"}, "tlogEntries": [{"logIndex": "1234567"}]}
    bundle = {"mediaType": SIGSTORE_BUNDLE, "verificationMaterial": material, "dsseEnvelope": dsse(image, predicate)}
    content = compact(bundle)
    title = {"org.opencontainers.image.title": f"{digest_of(content).replace(':', '-')}.sigstore.json"}
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {**size_first(s.empty()), "artifactType": SIGSTORE_BUNDLE},
        "layers": [size_first(s.blob(SIGSTORE_BUNDLE, content, annotations=title))],
        "annotations": {
            "dev.sigstore.bundle.content": "dsse-envelope",
            "dev.sigstore.bundle.predicateType": predicate,
            "org.opencontainers.image.created": SECONDS,
        },
        "subject": size_first(subject_of(image)),
        "artifactType": SIGSTORE_BUNDLE,
    }
    s.manifest(compact(body))
    return s


@shape
def notation_signature() -> Shape:
    """Two forms: artifactType (the signature specification) and a config of the type (notation 1.x's own pushes)."""
    s = Shape("notation 1.3, notation sign registry.example/app@sha256:… (JWS envelope)")
    image = s.image("v1")
    payload = base64.urlsafe_b64encode(compact({"targetArtifact": subject_of(image)})).decode().rstrip("=")
    for number, kind in enumerate(("artifactType", "config")):
        envelope = {
            "payload": payload,
            "protected": "eyJhbGciOiJQUzI1NiJ9",
            "header": {},
            "signature": f"{SIGNATURE}{number}",
        }
        body = oci(
            s.empty() if kind == "artifactType" else s.empty(NOTARY),
            [s.blob("application/jose+json", compact(envelope))],
            artifact_type=NOTARY if kind == "artifactType" else None,
            subject=subject_of(image),
            annotations={
                "io.cncf.notary.x509chain.thumbprint#S256": f'["{digest_of(b"a certificate").partition(":")[2]}"]',
                "org.opencontainers.image.created": SECONDS,
            },
        )
        s.manifest(compact(body))
    return s


@shape
def helm_chart() -> Shape:
    """A chart with its provenance file; the tag has `_` where the version has `+`.

    The body has no mediaType and the layers stand in the order of their digests, as Helm's own test of `push` has it
    (pkg/registry/registry_test.go).
    """
    s = Shape("Helm 3.17, helm package --sign app && helm push app-0.1.0+build.1.tgz oci://registry.example/charts")
    chart = {
        "name": "app",
        "version": "0.1.0+build.1",
        "description": "Q&A <chart>",
        "apiVersion": "v2",
        "type": "application",
    }
    archive = gzip(tar(Chart__yaml="apiVersion: v2\nname: app\nversion: 0.1.0+build.1\n"))
    proof = f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\nfiles:\n  app.tgz: {digest_of(archive)}\n".encode()
    layers = [
        s.blob("application/vnd.cncf.helm.chart.content.v1.tar+gzip", archive),
        s.blob("application/vnd.cncf.helm.chart.provenance.v1.prov", proof),
    ]
    body = {
        "schemaVersion": 2,
        "config": s.blob("application/vnd.cncf.helm.config.v1+json", compact(chart)),
        "layers": sorted(layers, key=lambda layer: layer["digest"]),
        "annotations": {
            "org.opencontainers.image.created": "2025-06-17T18:44:22+02:00",
            "org.opencontainers.image.description": chart["description"],
            "org.opencontainers.image.title": "app",
            "org.opencontainers.image.version": chart["version"],
        },
    }
    s.manifest(compact(body), "0.1.0_build.1")
    return s


def inline(s: Shape) -> Json:
    """ORAS's empty descriptor carries its content."""
    return {**s.empty(), "data": base64.b64encode(b"{}").decode()}


@shape
def oras_artifact() -> Shape:
    """A file attached to an image; names that are no ASCII stand in annotations."""
    s = Shape("ORAS 1.2, oras attach --artifact-type application/vnd.example.report …/app:v1 ./報告.txt:text/plain")
    image = s.image("v1")
    title = {"org.opencontainers.image.title": "報告.txt"}
    body = oci(
        inline(s),
        [s.blob("text/plain", "全て良し\n".encode(), annotations=title)],
        artifact_type="application/vnd.example.report",
        subject=subject_of(image),
        annotations={"org.opencontainers.image.created": SECONDS},
    )
    s.manifest(compact(body))
    return s


@shape
def wasm_component() -> Shape:
    """A WASM component after the CNCF's "Wasm OCI Artifact" format."""
    s = Shape("wkg 0.10, wkg oci push registry.example/component:0.2.0 component.wasm")
    module = b"\0asm\x0d\0\x01\0"
    config = {
        "created": SECONDS,
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [digest_of(module)],
        "component": {"exports": ["wasi:http/incoming-handler@0.2.0"], "imports": [], "target": None},
    }
    body = oci(
        s.blob("application/vnd.wasm.config.v0+json", compact(config)),
        [s.blob("application/wasm", module)],
        annotations={"org.opencontainers.image.version": "0.2.0"},
    )
    s.manifest(compact(body), "0.2.0")
    return s


@shape
def wasm_module() -> Shape:
    """The older types, an image's config under a type of its own."""
    s = Shape("cosign 2.4, cosign upload wasm -f module.wasm registry.example/module:1")
    module = b"\0asm\x01\0\0\0"
    layer = size_first(s.blob("application/vnd.wasm.content.layer.v1+wasm", module))
    s.manifest(compact(oci(ggcr_config(s, [module], "application/vnd.wasm.config.v1+json"), [layer])), "1")
    return s


@shape
def opa_bundle() -> Shape:
    """A policy bundle under an image's types; the config is `{}`, which is no image's."""
    s = Shape("ORAS 1.2, oras push registry.example/policy:1 --config config.json:… bundle.tar.gz:… (OPA's manual)")
    bundle = gzip(tar(**{"/__manifest": '{"revision":"1","roots":[""]}', "/policy__rego": "package app\n"}))
    title = {"org.opencontainers.image.title": "bundle.tar.gz"}
    layer = s.blob(OCI_LAYER, bundle, annotations=title)
    s.manifest(
        compact(oci(s.empty(OCI_CONFIG), [layer], annotations={"org.opencontainers.image.created": SECONDS})), "1"
    )
    return s


@shape
def sbom_referrers() -> Shape:
    """Two SBOMs and a third without annotations that refers to the first: referrers of a referrer."""
    s = Shape("ORAS 1.2, oras attach --artifact-type application/spdx+json (and cyclonedx) …/app:v1 sbom.json")
    image = s.image("v1")
    spdx = {"spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT", "name": "app", "packages": []}
    cyclonedx = {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": []}

    def attach(media_type: str, document: Json, subject: Json, notes: Json | None) -> Json:
        layer = s.blob(media_type, compact(document), annotations={"org.opencontainers.image.title": "sbom.json"})
        body = oci(inline(s), [layer], artifact_type=media_type, subject=subject_of(subject), annotations=notes)
        return s.manifest(compact(body))

    created = {"org.opencontainers.image.created": SECONDS}
    first = attach("application/spdx+json", spdx, image, created)
    attach("application/vnd.cyclonedx+json", cyclonedx, image, created)
    attach("application/vnd.example.review+json", {"verdict": "good"}, first, None)
    return s


@shape
def empty_data() -> Shape:
    """Config and only layer are the empty descriptor, its content inline (image-spec)."""
    s = Shape("ORAS 1.2, oras push --artifact-type application/vnd.example.note registry.example/note:v1 (no file)")
    notes = {"org.example.note": "nothing but annotations"}
    s.manifest(
        compact(oci(inline(s), [inline(s)], artifact_type="application/vnd.example.note", annotations=notes)), "v1"
    )
    return s


@shape
def fallback_tag_index() -> Shape:
    """A client without the referrers API: the artifact, then an index of it at the tag sha256-<hex>."""
    s = Shape("regclient 0.8, regctl artifact put --subject registry.example/app:v1, referrers API switched off")
    image = s.image("v1")
    kind = "application/vnd.example.report"
    notes = {"org.example.format": "json"}
    body = oci(
        s.empty(), [s.blob("application/json", b"[]")], artifact_type=kind, subject=subject_of(image), annotations=notes
    )
    entry = s.manifest(compact(body), artifactType=kind, annotations=notes)
    s.manifest(compact({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}), hex_tag(image, ""))
    return s


@shape
def flux_artifact() -> Shape:
    """Manifests of Kubernetes; the config is an image's under a type of its own (fluxcd/pkg oci/push.go)."""
    s = Shape(
        "Flux 2.6, flux push artifact oci://registry.example/manifests/app:main --path=./deploy --source=… --revision=…"
    )
    content = tar(deployment__yaml="apiVersion: apps/v1\nkind: Deployment\n")
    body = oci(
        ggcr_config(s, [content], "application/vnd.cncf.flux.config.v1+json"),
        [size_first(s.blob("application/vnd.cncf.flux.content.v1.tar+gzip", gzip(content)))],
        annotations={
            "org.opencontainers.image.created": SECONDS,
            "org.opencontainers.image.revision": "main@sha1:6f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c",
            "org.opencontainers.image.source": "https://git.example/deploy.git?x=1&y=2",
        },
    )
    s.manifest(compact(body), "main", "6f1a2b3c")
    return s
