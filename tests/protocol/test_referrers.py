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


@pytest.mark.parametrize(
    "digest", ["sha256:" + "A" * 64, "sha256:" + "a" * 63, "sha512:" + "a" * 64, ":", "sha256:", "-:a"]
)
async def test_digest_of_wrong_syntax(wire, kit, digest):
    await wire.push_image()
    kit.check_error(await wire("GET", f"/v2/{wire.repository}/referrers/{digest}"), 400, "DIGEST_INVALID")


@pytest.mark.parametrize(
    "digest",
    ["sha512:" + "a" * 128, "blake3:" + "a" * 64, "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8"],
)
async def test_digest_of_another_algorithm(wire, kit, digest):
    """Right by the image-spec's grammar, so no invalid syntax: 200 and none (3.1, 3.6)."""
    await wire.push_image()
    assert (await referrers(wire, kit, digest))[0] == []


async def test_name_of_wrong_syntax(wire, kit):
    kit.check_error(await wire("GET", f"/v2/UPPER/referrers/{kit.ABSENT}"), 400, "NAME_INVALID")


async def test_answer_in_full(wire, kit):
    subject = await wire.push_image()
    await attach(wire, subject)
    answer = await wire("GET", f"/v2/{wire.repository}/referrers/{subject.digest}")
    assert answer.headers["content-type"] == "application/vnd.oci.image.index.v1+json"
    assert answer.headers["content-length"] == str(len(answer.content))
    assert "oci-filters-applied" not in answer.headers
    assert "link" not in answer.headers
    assert set(answer.json()) == {"schemaVersion", "mediaType", "manifests"}


async def test_pushed_twice_or_tagged_is_listed_once(wire, kit):
    subject = await wire.push_image()
    artifact = await attach(wire, subject)
    for reference in (artifact.digest, "one", "two"):
        assert (await wire.push_manifest(artifact, reference)).headers["oci-subject"] == subject.digest
    assert [entry["digest"] for entry in (await referrers(wire, kit, subject.digest))[0]] == [artifact.digest]


async def test_annotations_are_the_manifests_own(wire, kit):
    """All of the manifest's, nothing added (3.6), whatever they hold."""
    subject = await wire.push_image()
    annotations = {
        "": "",
        "a": "\u0000",
        "\U0001f433": '"\\</script>',
        "long": "x" * 10_000,
        "org.opencontainers.image.created": "no",
    }
    await attach(wire, subject, annotations=annotations)
    (found,), _ = await referrers(wire, kit, subject.digest)
    assert found["annotations"] == annotations


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"artifactType": "application/x.own"}, "application/x.own"),
        ({"artifactType": "application/vnd.a+json; v=1"}, "application/vnd.a+json; v=1"),
        ({"artifactType": ""}, "application/vnd.oci.image.config.v1+json"),
        ({}, "application/vnd.oci.image.config.v1+json"),
    ],
)
async def test_artifact_type_of_an_image(wire, kit, fields, expected):
    subject = await wire.push_image()
    artifact = await attach(wire, subject, **fields)
    (found,), _ = await referrers(wire, kit, subject.digest)
    assert (found["digest"], found["artifactType"]) == (artifact.digest, expected)
    answer = await wire("GET", f"/v2/{wire.repository}/referrers/{subject.digest}", params={"artifactType": expected})
    assert [entry["digest"] for entry in answer.json()["manifests"]] == [artifact.digest]
    assert answer.headers["oci-filters-applied"] == "artifactType"


@pytest.mark.parametrize("fields", [{"artifactType": "application/x.index"}, {}])
async def test_artifact_type_of_an_index(wire, kit, fields):
    subject = await wire.push_image()
    index = kit.index_of([], subject=subject.descriptor, **fields)
    assert (await wire.push_manifest(index)).headers["oci-subject"] == subject.digest
    (found,), _ = await referrers(wire, kit, subject.digest)
    assert found.get("artifactType") == fields.get("artifactType")


async def test_filter_is_exact(wire, kit):
    subject = await wire.push_image()
    await attach(wire, subject, artifactType="application/x.sbom")
    for other in ("application/x", "application/x.SBOM", "application/x.sbom%20", "%25", "application%2Fx.sbo_"):
        assert (await referrers(wire, kit, subject.digest, f"?artifactType={other}"))[0] == []
    assert len((await referrers(wire, kit, subject.digest, "?artifactType=application%2Fx.sbom"))[0]) == 1


async def test_chain(wire, kit):
    """A signature of an SBOM of an image: each is the next one's subject, and none is listed for another."""
    image = await wire.push_image("v1")
    sbom = await attach(wire, image, artifactType="x/sbom")
    signature = await attach(wire, sbom, artifactType="x/signature")
    for subject, expected in ((image, [sbom.digest]), (sbom, [signature.digest]), (signature, [])):
        assert [entry["digest"] for entry in (await referrers(wire, kit, subject.digest))[0]] == expected


async def test_subject_named_by_sha512(wire, kit):
    subject = kit.digest_of(b"a subject", "sha512")
    artifact = await wire.image(subject={"mediaType": kit.OCI_MANIFEST, "digest": subject, "size": 9})
    assert (await wire.push_manifest(artifact)).headers["oci-subject"] == subject
    assert [entry["digest"] for entry in (await referrers(wire, kit, subject))[0]] == [artifact.digest]


async def test_head(wire):
    """Not an endpoint of the spec: the same headers, or 405."""
    subject = await wire.push_image()
    assert (await wire("HEAD", f"/v2/{wire.repository}/referrers/{subject.digest}")).status_code in {200, 405}


# --- fallback tags


async def push_fallback(wire, kit, subject: str, entries, **fields):
    algorithm, _, encoded = subject.partition(":")
    answer = await wire.push_manifest(kit.index_of(entries, **fields), f"{algorithm}-{encoded[:64]}")
    assert answer.status_code == 201


async def test_fallback_of_a_sha512_subject(wire, kit):
    """Encoded part cut to 64 characters (3.6)."""
    subject = kit.digest_of(b"a subject", "sha512")
    old = await wire.push_image()
    await push_fallback(wire, kit, subject, [kit.Content(old.body, old.media_type, {"artifactType": "x/old"})])
    assert [entry["digest"] for entry in (await referrers(wire, kit, subject))[0]] == [old.digest]


async def test_fallback_is_listed_once_and_as_the_manifest_says(wire, kit):
    """Listed by its row and by the tag's index: the manifest decides type and annotations, also for the filter."""
    subject = await wire.push_image()
    artifact = await attach(wire, subject, artifactType="x/true", annotations={"k": "true"})
    extra = {"artifactType": "x/false", "annotations": {"k": "false"}}
    await push_fallback(wire, kit, subject.digest, [kit.Content(artifact.body, artifact.media_type, extra)])
    (found,), _ = await referrers(wire, kit, subject.digest)
    assert (found["digest"], found["artifactType"]) == (artifact.digest, "x/true")
    assert found["annotations"] == {"k": "true"}
    assert len((await referrers(wire, kit, subject.digest, "?artifactType=x/true"))[0]) == 1
    assert (await referrers(wire, kit, subject.digest, "?artifactType=x/false"))[0] == []


async def test_fallback_follows_its_tag(wire, kit):
    subject, first, second = [await wire.push_image() for _ in range(3)]
    for entries in ([first], [first, second], [second], []):
        await push_fallback(wire, kit, subject.digest, entries)
        found, _ = await referrers(wire, kit, subject.digest)
        assert {entry["digest"] for entry in found} == {entry.digest for entry in entries}
    await push_fallback(wire, kit, subject.digest, [first])
    assert (await wire("DELETE", wire.manifest_path(subject.digest.replace(":", "-")))).status_code == 202
    assert (await referrers(wire, kit, subject.digest))[0] == []


async def test_fallback_forgets_what_is_deleted(wire, kit):
    subject, old = await wire.push_image(), await wire.push_image()
    await push_fallback(wire, kit, subject.digest, [old])
    assert (await wire("DELETE", wire.manifest_path(old.digest))).status_code == 202
    assert (await referrers(wire, kit, subject.digest))[0] == []


async def test_fallback_of_an_absent_subject(wire, kit):
    subject, old = kit.digest_of(b"never pushed"), await wire.push_image()
    await push_fallback(wire, kit, subject, [old])
    assert [entry["digest"] for entry in (await referrers(wire, kit, subject))[0]] == [old.digest]


async def test_pages_of_rows_and_fallback(wire, kit):
    """A page that large annotations end early leaves nothing out of the tag's index either."""
    subject, *old = [await wire.push_image() for _ in range(7)]
    await push_fallback(wire, kit, subject.digest, old)
    config = await wire.push_blob(kit.Content(b"{}", kit.EMPTY_CONFIG))
    fat = []
    for number in range(6):
        annotations = {"fill": "x" * 1_500_000, "number": str(number)}
        fat.append(kit.manifest_of(config, [], subject=subject.descriptor, annotations=annotations))
        assert (await wire.push_manifest(fat[-1])).status_code == 201
    pages = await wire.pages(f"/v2/{wire.repository}/referrers/{subject.digest}", "manifests")
    assert len(pages) > 2
    assert [entry["digest"] for page in pages for entry in page] == sorted(one.digest for one in [*old, *fat])


async def test_pages_with_a_filter(wire, kit):
    subject = await wire.push_image()
    config = await wire.push_blob(kit.Content(b"{}", kit.EMPTY_CONFIG))
    wanted = set()
    for number in range(10):
        kind = "x/wanted" if number % 2 else "x/other"
        annotations = {"fill": "x" * 1_000_000, "number": str(number)}
        artifact = kit.manifest_of(config, [], subject=subject.descriptor, artifactType=kind, annotations=annotations)
        assert (await wire.push_manifest(artifact)).status_code == 201
        wanted |= {artifact.digest} if number % 2 else set()
    path = f"/v2/{wire.repository}/referrers/{subject.digest}?artifactType=x/wanted"
    pages = await wire.pages(path, "manifests")
    assert len(pages) > 1
    assert sorted(entry["digest"] for page in pages for entry in page) == sorted(wanted)
