"""Bodies of manifests: those that cannot be one, whatever the repository holds, and those that might."""

from __future__ import annotations

import json
import random
from typing import Any

from fuzz import vocabulary
from hatoba.oci.descriptor import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST

TYPES = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST)
_DEEP = 10_000
NO_JSON = (
    b"", b" ", b"{", b"}", b"[", b'{"schemaVersion":2', b"\x00", b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00", b"NaN",
    b"{'a':1}", b'{"schemaVersion":NaN}', b'{"schemaVersion":Infinity,"manifests":[]}', b'{"a":"\xff"}',
    b'{"a":"\xed\xa0\x80"}', b"[" * _DEEP, b'{"a":' * _DEEP, b"[" * _DEEP + b"]" * _DEEP,
    b'{"a":' * _DEEP + b"1" + b"}" * _DEEP, b"{}{}", b"\x1f\x8b\x08\x00", b"<html></html>", b"true false",
    b'{"schemaVersion":2,"manifests":[],}', b'"' + b"a" * 100_000, b'{"schemaVersion":' + b"9" * 5000 + b"}",
)  # fmt: skip
WRONG = (
    None, True, 0, -1, 1.5, "text", [], [1], {}, {"schemaVersion": 1}, {"schemaVersion": "2"}, {"schemaVersion": 2},
    {"schemaVersion": 2.0, "manifests": []}, {"schemaVersion": True, "manifests": []},
    {"schemaVersion": 2, "layers": []}, {"schemaVersion": 2, "manifests": {}},
    {"schemaVersion": 2, "manifests": [None]}, {"schemaVersion": 2, "manifests": [[]]},
    {"schemaVersion": 2, "manifests": [{}]}, {"schemaVersion": 2, "manifests": [{"digest": 5, "size": 1}]},
    {"schemaVersion": 2, "manifests": [], "config": {}},
    {"schemaVersion": 2, "mediaType": "text/plain", "manifests": []},
    {"schemaVersion": 2, "mediaType": 7, "manifests": []},
    {"schemaVersion": 2, "mediaType": "x" * 300, "manifests": []},
    {"schemaVersion": 2, "manifests": [], "annotations": {"a": 1}},
    {"schemaVersion": 2, "manifests": [], "annotations": []}, {"schemaVersion": 2, "manifests": [], "subject": {}},
    {"schemaVersion": 2, "manifests": [], "subject": "sha256:x"},
    {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "manifests": []},
    {"schemaVersion": 2, "mediaType": OCI_INDEX, "layers": [0]},
)  # fmt: skip
SIZES = (-1, 2**63, 2**64, 10**400, "5", None, 1.5, True, [], {})


def descriptor(body: bytes, media_type: str, **fields: Any) -> dict[str, Any]:
    """What a manifest says of content."""
    return {"mediaType": media_type, "digest": vocabulary.digest_of(body), "size": len(body), **fields}


def encoded(document: Any) -> bytes:
    """JSON with what Python would escape left as it is."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def impossible(rng: random.Random) -> bytes:
    """A body that is no manifest anywhere."""
    kind = rng.randrange(5)
    if kind == 0:
        return rng.choice(NO_JSON) if rng.random() < 0.9 else rng.randbytes(rng.randrange(200))
    if kind == 1:
        return encoded(rng.choice(WRONG))
    entry: dict[str, Any] = {"mediaType": OCI_MANIFEST, "digest": vocabulary.absent(rng), "size": 1}
    if kind == 2:
        entry["size"] = rng.choice(SIZES)
        if entry["size"] is True:
            del entry["size"]
    elif kind == 3:
        entry["digest"] = rng.choice(vocabulary.BAD_DIGESTS).decode("latin-1")
    else:
        entry[rng.choice(("urls", "annotations", "platform", "mediaType", "digest"))] = rng.choice(
            (5, "x", [1], True, -0.5)
        )
        if vocabulary.is_digest(str(entry["digest"])) and isinstance(entry["mediaType"], str):
            entry["urls"] = 7
    return encoded({"schemaVersion": 2, "manifests": [entry], "mediaType": OCI_INDEX})


def possible(rng: random.Random) -> bytes:
    """A manifest that may or may not be accepted: references to nothing, odd but allowed fields, both types at once."""
    layer = {"mediaType": "application/octet-stream", "digest": vocabulary.absent(rng), "size": rng.randrange(2**63)}
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": rng.choice(TYPES)}
    if "index" in document["mediaType"] or "list" in document["mediaType"]:
        document["manifests"] = [] if rng.random() < 0.5 else [layer]
    else:
        document["config"], document["layers"] = layer, [layer] * rng.randrange(4)
    odd = {
        "annotations": {"a": "\u0000\ud800" if rng.random() < 0.3 else "ä", "": "x" * 1000},
        "subject": layer,
        "artifactType": rng.choice(("a/b", "", "x" * 300, "ä", 'a"b')),
        "data": "x" * rng.choice((1, 100_000)),
        "manifests": [],
        "schemaVersion": rng.choice((2, 2, 1, 3)),
    }
    for field in rng.sample(sorted(odd), rng.randrange(3)):
        document[field] = odd[field]
    body = encoded(document)
    if rng.random() < 0.1:
        body = body.replace(b"{", b'{"schemaVersion":2,"schemaVersion":2,', 1)
    if rng.random() < 0.1:
        where = rng.randrange(len(body))
        body = body[:where] + bytes([rng.randrange(256)]) + body[where + 1 :]
    return body


def image(rng: random.Random, config: bytes, layers: list[bytes], subject: dict[str, Any] | None) -> tuple[bytes, str]:
    """A manifest as clients push it, and its type."""
    media_type = rng.choice((OCI_MANIFEST, DOCKER_MANIFEST))
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": descriptor(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [descriptor(layer, "application/vnd.oci.image.layer.v1.tar") for layer in layers],
        "annotations": {"number": str(rng.randrange(10**6)), "text": rng.choice(("plain", "ä", "x" * 2000))},
    }
    if subject:
        document["subject"] = subject
    return encoded(document), media_type
