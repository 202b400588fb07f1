"""`hatoba show`: one manifest, for a person and for a program."""

import json
import re

import pytest

from hatoba.testing.images import artifact, index_of, random_image

IMAGE = random_image(layers=2, layer_bytes=3000, seed=0)
OTHER = random_image(layers=1, layer_bytes=500, seed=1)
INDEX = index_of([IMAGE, OTHER])
DIGEST = str(IMAGE.manifest.digest)
ABSENT = "sha256:" + "0" * 64


def fields(result) -> dict:
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def sizes(content) -> dict:
    return {
        "digest": str(content.digest),
        "media_type": content.media_type,
        "size_bytes": len(content.body),
    }


def test_an_image(shelf):
    shelf.push("team/app", IMAGE, "v1", "latest")
    found = fields(shelf.run("show", "team/app:v1", "--json"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", found.pop("pushed_at"))
    assert found == {
        "repository": "team/app",
        "digest": DIGEST,
        "tags": ["latest", "v1"],
        "media_type": IMAGE.manifest.media_type,
        "artifact_type": IMAGE.config.media_type,
        "size_bytes": sum(len(content.body) for content in (IMAGE.config, *IMAGE.layers)),
        "manifest_bytes": len(IMAGE.manifest.body),
        "platform": "linux/amd64",
        "created_at": "2025-01-01T00:00:00.000000Z",
        "pushed_by": "alice",
        "config": sizes(IMAGE.config),
        "layers": [sizes(layer) for layer in IMAGE.layers],
        "manifests": [],
        "subject": None,
        "annotations": {},
    }


def test_an_image_for_a_person(shelf):
    shelf.push("team/app", IMAGE, "v1", "latest")
    result = shelf.run("show", "team/app:v1")
    head, layers = result.stdout.split("\n\n")
    said = dict(re.split(r":\s+", line, maxsplit=1) for line in head.splitlines())
    assert list(said) == [
        "Repository", "Digest", "Tags", "Media type", "Size", "Platform", "Created", "Pushed", "Config",
    ]  # fmt: skip
    assert said["Digest"] == DIGEST
    assert said["Tags"] == "latest, v1"
    assert said["Created"] == "2025-01-01T00:00:00Z"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ by alice", said["Pushed"])
    assert said["Size"].endswith(" bytes)")
    assert said["Config"].startswith(str(IMAGE.config.digest))
    assert [line.split()[0] for line in layers.splitlines()] == ["LAYER", *(str(x.digest) for x in IMAGE.layers)]


@pytest.mark.parametrize("ref", ["team/app", "team/app:latest", f"team/app@{DIGEST}", "127.0.0.1:5000/team/app"])
def test_what_names_it(shelf, ref):
    shelf.push("team/app", IMAGE, "latest")
    assert fields(shelf.run("show", ref, "--json"))["digest"] == DIGEST


def test_an_index_and_a_manifest_of_it_that_is_gone(shelf):
    shelf.push("team/app", INDEX, "v1")
    shelf.run("rm", f"team/app@{DIGEST}")
    found = fields(shelf.run("show", "team/app:v1", "--json"))
    gone, there = found["manifests"]
    assert gone == {
        "digest": DIGEST,
        "media_type": IMAGE.manifest.media_type,
        "artifact_type": None,
        "platform": "linux/amd64",
        "size_bytes": None,
        "missing": True,
    }
    held = sum(len(content.body) for content in (OTHER.config, *OTHER.layers))
    assert (there["digest"], there["size_bytes"], there["missing"]) == (str(OTHER.manifest.digest), held, False)
    assert found["size_bytes"] == held + len(IMAGE.manifest.body) + len(OTHER.manifest.body)
    assert (found["config"], found["layers"], found["platform"]) == (None, [], None)
    lines = [line.split() for line in shelf.run("show", "team/app:v1").stdout.splitlines()]
    assert [DIGEST, "linux/amd64", "missing", IMAGE.manifest.media_type] in lines


def test_an_artifact_without_a_tag(shelf):
    signature = artifact(IMAGE, "application/vnd.example.signature", {"key": "value\x1b[2J", "\x07": "bell"})
    digest = shelf.push("team/app", signature)
    found = fields(shelf.run("show", f"team/app@{digest}", "--json"))
    assert found["tags"] == []
    assert found["artifact_type"] == "application/vnd.example.signature"
    assert found["subject"] == sizes(IMAGE.manifest)
    assert found["annotations"] == {"key": "value\x1b[2J", "\x07": "bell"}
    shown = shelf.run("show", f"team/app@{digest}").stdout
    assert "Tags:          -\n" in shown
    assert f"Subject:       {DIGEST}" in shown
    assert "key         value\\x1b[2J" in shown
    assert "\\x07" in shown
    assert not {"\x1b", "\x07"} & set(shown)


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("team/app:v2", "team/app:v2: manifest unknown"),
        (f"team/app@{ABSENT}", f"team/app@{ABSENT}: manifest unknown"),
        (f"other@{DIGEST}", f"other@{DIGEST}: repository name not known to registry"),
        ("registry.example.com/team/app:v1", "registry.example.com/team/app:v1: repository name not known to registry"),
    ],
)
def test_what_is_not_there(shelf, ref, message):
    shelf.push("team/app", IMAGE, "v1")
    result = shelf.run("show", ref)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"hatoba: {message}\n")


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("App", "App: invalid repository name"),
        ("app:", "app:: manifest tag did not match the grammar"),
        ("app@sha256:12", "app@sha256:12: invalid sha256 digest"),
        ("app@md5:12", "app@md5:12: unsupported digest algorithm md5"),
        ("app\n", "app\\n: invalid repository name"),
    ],
)
def test_what_cannot_be_a_name(shelf, ref, message):
    result = shelf.run("show", ref)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"hatoba: {message}\n")


def test_without_a_name(shelf):
    assert shelf.run("show").exit_code == 2
