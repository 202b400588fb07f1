"""`validation` of Docker's registry: what an index may lack, and which addresses foreign layers may name."""

from __future__ import annotations

import json

import pytest

INDEXES = "validation.manifests.indexes"
URLS = "validation.manifests.urls"
AMD64 = {f"{INDEXES}.platforms": "list", f"{INDEXES}.platformlist": [{"os": "linux", "architecture": "amd64"}]}
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


def entry(kit, platform, digest=None):
    fields = (
        {} if platform is None else {"platform": dict(zip(("os", "architecture"), platform.split("/"), strict=True))}
    )
    return {"mediaType": kit.OCI_MANIFEST, "digest": digest or kit.ABSENT, "size": 7, **fields}


def content_of(kit, document):
    return kit.Content(json.dumps(document).encode(), document["mediaType"])


@pytest.mark.parametrize(
    ("overrides", "platform", "status"),
    [
        ({}, "linux/amd64", 400),
        ({f"{INDEXES}.platforms": "all"}, None, 400),
        ({f"{INDEXES}.platforms": "none"}, "linux/amd64", 201),
        ({f"{INDEXES}.platforms": "list"}, "linux/amd64", 400),
        (AMD64, None, 201),
        (
            AMD64,
            "linux/amd64",
            400,
        ),
        (
            AMD64,
            "linux/arm64",
            201,
        ),
        ({"validation.disabled": True}, "linux/amd64", 201),
        ({"validation.disabled": True, "validation.enabled": True}, "linux/amd64", 400),
    ],
)
async def test_index_that_lacks_a_manifest(opened, kit, overrides, platform, status):
    wire = await opened(**overrides)
    index = content_of(kit, {"schemaVersion": 2, "mediaType": kit.OCI_INDEX, "manifests": [entry(kit, platform)]})
    answer = await wire.push_manifest(index, "v1")
    assert answer.status_code == status, answer.text
    if status == 400:
        assert kit.missing(answer) == [kit.ABSENT]
    else:
        assert (await wire("GET", wire.manifest_path("v1"))).content == index.body


@pytest.mark.parametrize(
    ("overrides", "url", "status"),
    [
        ({}, "https://anywhere.example", 201),
        ({f"{URLS}.allow": [r"^https://mcr\.example/"]}, "https://mcr.example/a", 201),
        ({f"{URLS}.allow": [r"^https://mcr\.example/"]}, "https://evil.example/https://mcr.example/", 400),
        ({f"{URLS}.allow": ["a", "b"]}, "https://b", 201),
        ({f"{URLS}.deny": ["evil"]}, "https://evil.example", 400),
        ({f"{URLS}.deny": ["evil"]}, "https://good.example", 201),
        ({f"{URLS}.allow": ["example"], f"{URLS}.deny": ["evil"]}, "https://evil.example", 400),
        ({f"{URLS}.deny": ["evil"], "validation.disabled": True}, "https://evil.example", 201),
    ],
)
async def test_urls_of_foreign_layers(opened, kit, overrides, url, status):
    wire = await opened(**overrides)
    config = await wire.push_blob(kit.Content(b"{}", kit.EMPTY_CONFIG))
    layer = {"mediaType": FOREIGN, "digest": kit.ABSENT, "size": 7, "urls": [url]}
    body = {"schemaVersion": 2, "mediaType": kit.OCI_MANIFEST, "config": config.descriptor, "layers": [layer]}
    answer = await wire.push_manifest(content_of(kit, body), "v1")
    assert answer.status_code == status, answer.text
    if status == 400:
        assert url in kit.check_error(answer, 400, "MANIFEST_INVALID")["message"]


async def test_layers_and_config_must_be_there_whatever_is_set(opened, kit):
    wire = await opened(**{"validation.disabled": True})
    absent = kit.Content(b"absent", kit.OCI_LAYER)
    answer = await wire.push_manifest(kit.manifest_of(kit.Content(b"{}", kit.OCI_CONFIG), [absent]), "v1")
    kit.check_error(answer, 400, "MANIFEST_BLOB_UNKNOWN")
