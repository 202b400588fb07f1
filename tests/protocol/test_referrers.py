"""end-12: which manifests refer to a subject."""

from __future__ import annotations

import json

import pytest


async def referrers(wire, kit, digest, query=""):
    answer = await wire("GET", f"/v2/{wire.repository}/referrers/{digest}{query}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == kit.OCI_INDEX
    body = answer.json()
    assert (body["schemaVersion"], body["mediaType"]) == (2, kit.OCI_INDEX)
    return body["manifests"], answer


async def attach(wire, subject, **fields):
    artifact = await wire.image(subject=subject.descriptor, **fields)
    answer = await wire.push_manifest(artifact)
    assert answer.status_code == 201
    assert answer.headers["oci-subject"] == subject.digest
    return artifact


async def test_before_any_push(wire, kit):
    assert (await referrers(wire, kit, kit.digest_of(b"unknown")))[0] == []


async def test_unknown_subject(wire, kit):
    await wire.push_image()
    assert (await referrers(wire, kit, kit.digest_of(b"unknown")))[0] == []


@pytest.mark.parametrize("digest", ["nonsense", "sha256:bad", "latest"])
async def test_bad_digest(wire, kit, digest):
    kit.check_error(await wire("GET", f"/v2/{wire.repository}/referrers/{digest}"), 400, "DIGEST_INVALID")


async def test_listed_with_type_and_annotations(wire, kit):
    subject = await wire.push_image("v1")
    artifact = await attach(wire, subject, artifactType="application/x.sbom", annotations={"a": "1", "ü": "2"})
    found, _ = await referrers(wire, kit, subject.digest)
    assert found == [
        {
            "mediaType": kit.OCI_MANIFEST,
            "digest": artifact.digest,
            "size": len(artifact.body),
            "artifactType": "application/x.sbom",
            "annotations": {"a": "1", "ü": "2"},
        }
    ]


async def test_type_falls_back_to_the_config(wire, kit):
    subject = await wire.push_image()
    await attach(wire, subject)
    (found,), _ = await referrers(wire, kit, subject.digest)
    assert found["artifactType"] == kit.OCI_CONFIG
    assert "annotations" not in found


async def test_index_with_subject(wire, kit):
    subject = await wire.push_image()
    index = kit.index_of([await wire.push_image()], subject=subject.descriptor, annotations={"k": "v"})
    answer = await wire.push_manifest(index)
    assert answer.headers["oci-subject"] == subject.digest
    (found,), _ = await referrers(wire, kit, subject.digest)
    assert found["digest"] == index.digest
    assert found["mediaType"] == kit.OCI_INDEX
    assert "artifactType" not in found
    assert found["annotations"] == {"k": "v"}


async def test_subject_that_does_not_exist_yet(wire, kit):
    subject = await wire.image()
    artifact = await attach(wire, subject, artifactType="x/y")
    assert (await referrers(wire, kit, subject.digest))[0][0]["digest"] == artifact.digest
    assert (await wire.push_manifest(subject)).status_code == 201
    assert len((await referrers(wire, kit, subject.digest))[0]) == 1


async def test_filter(wire, kit):
    subject = await wire.push_image()
    wanted = await attach(wire, subject, artifactType="application/x.sbom")
    await attach(wire, subject, artifactType="application/x.signature")
    found, answer = await referrers(wire, kit, subject.digest, "?artifactType=application/x.sbom")
    assert [entry["digest"] for entry in found] == [wanted.digest]
    assert answer.headers["oci-filters-applied"] == "artifactType"
    found, answer = await referrers(wire, kit, subject.digest, "?artifactType=none/such")
    assert found == []
    assert answer.headers["oci-filters-applied"] == "artifactType"
    found, answer = await referrers(wire, kit, subject.digest)
    assert len(found) == 2
    assert "oci-filters-applied" not in answer.headers


async def test_deleted_referrer_is_gone(wire, kit):
    subject = await wire.push_image()
    artifact = await attach(wire, subject, artifactType="x/y")
    assert (await wire("DELETE", wire.manifest_path(artifact.digest))).status_code == 202
    assert (await referrers(wire, kit, subject.digest))[0] == []


async def test_deleted_subject_keeps_its_referrers(wire, kit):
    subject = await wire.push_image()
    await attach(wire, subject, artifactType="x/y")
    assert (await wire("DELETE", wire.manifest_path(subject.digest))).status_code == 202
    assert len((await referrers(wire, kit, subject.digest))[0]) == 1


async def test_other_repository_has_its_own(wire, kit):
    subject = await wire.push_image()
    await attach(wire, subject)
    wire.repository = wire.fresh()
    assert (await referrers(wire, kit, subject.digest))[0] == []


async def test_fallback_tag_index_counts(wire, kit):
    subject = await wire.push_image()
    recorded = await attach(wire, subject, artifactType="x/recorded")
    old = await wire.push_image()
    entry = kit.Content(old.body, old.media_type, {"artifactType": "x/old", "annotations": {"o": "ld"}})
    tag = subject.digest.replace(":", "-")
    assert (await wire.push_manifest(kit.index_of([entry, recorded]), tag)).status_code == 201
    found, _ = await referrers(wire, kit, subject.digest)
    assert {e["digest"]: e["artifactType"] for e in found} == {recorded.digest: "x/recorded", old.digest: "x/old"}
    found, _ = await referrers(wire, kit, subject.digest, "?artifactType=x/old")
    assert [e["annotations"] for e in found] == [{"o": "ld"}]


async def test_fallback_tag_that_is_no_index(wire, kit):
    subject = await wire.push_image()
    await wire.push_image(subject.digest.replace(":", "-"))
    assert (await referrers(wire, kit, subject.digest))[0] == []


async def test_pages_that_fit_a_manifest(wire, kit):
    subject = await wire.push_image()
    config = await wire.push_blob(kit.Content(b"{}", kit.EMPTY_CONFIG))
    pushed = set()
    for number in range(5):
        annotations = {"fill": "x" * 1_000_000, "number": str(number)}
        artifact = kit.manifest_of(config, [], subject=subject.descriptor, annotations=annotations)
        assert (await wire.push_manifest(artifact)).status_code == 201
        pushed.add(artifact.digest)
    path = f"/v2/{wire.repository}/referrers/{subject.digest}"
    seen = []
    while path:
        answer = await wire("GET", path)
        assert len(answer.content) <= 4 * 1024 * 1024
        seen += [entry["digest"] for entry in json.loads(answer.content)["manifests"]]
        link = answer.headers.get("link")
        path = link[1 : link.index(">")] if link else None
    assert sorted(seen) == sorted(pushed)
    assert len(seen) == 5
