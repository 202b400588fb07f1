"""Manifests: what is read from good ones, and that bad ones are refused with ManifestInvalid and nothing else."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hatoba.errors import ManifestInvalid
from hatoba.oci.descriptor import DOCKER_LIST, DOCKER_MANIFEST, INDEX_TYPES, MANIFEST_TYPES, OCI_INDEX, OCI_MANIFEST
from hatoba.oci.digest import Digest
from hatoba.oci.manifest import ParsedManifest, parse

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


def descriptor(name, media_type=LAYER_TYPE, size=10, **more):
    return {"mediaType": media_type, "digest": str(Digest.of(name.encode())), "size": size, **more}


CONFIG = descriptor("config", CONFIG_TYPE, 5)
LAYERS = [descriptor("one"), descriptor("two", size=20)]
ENTRIES = [
    descriptor("amd64", OCI_MANIFEST, 100, platform={"architecture": "amd64", "os": "linux"}),
    descriptor("arm64", OCI_MANIFEST, 200, platform={"architecture": "arm64", "os": "linux", "variant": "v8"}),
    descriptor("other", OCI_MANIFEST, 300),
]


class Drop:
    def __repr__(self):
        return "missing"


DROP = Drop()


def put_together(base, changes):
    return {name: value for name, value in {**base, **changes}.items() if value is not DROP}


def image(**changes):
    base = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": CONFIG, "layers": LAYERS}
    return put_together(base, changes)


def index(**changes):
    return put_together({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": ENTRIES}, changes)


def read(document) -> ParsedManifest:
    return parse(json.dumps(document).encode())


def refuse(content) -> ManifestInvalid:
    with pytest.raises(ManifestInvalid) as caught:
        parse(content if isinstance(content, bytes) else json.dumps(content).encode())
    assert (caught.value.status, caught.value.code) == (400, "MANIFEST_INVALID")
    json.dumps(caught.value.entries()).encode()
    return caught.value


def kinds(parsed):
    return [(reference.kind, str(reference.descriptor.digest), reference.required) for reference in parsed.references]


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST, DROP])
def test_an_image(media_type):
    parsed = read(image(mediaType=media_type, annotations={"b": "1", "a": "ü"}))
    assert parsed.media_type == (OCI_MANIFEST if media_type is DROP else media_type)
    assert not parsed.is_index
    assert kinds(parsed) == [
        ("config", CONFIG["digest"], True),
        ("layer", LAYERS[0]["digest"], True),
        ("layer", LAYERS[1]["digest"], True),
    ]
    assert str(parsed.config.digest) == CONFIG["digest"]
    assert parsed.artifact_type == CONFIG_TYPE
    assert parsed.total_bytes == 35
    assert parsed.subject is None
    assert parsed.annotations_json == '{"b":"1","a":"\\u00fc"}'
    assert parsed.platforms == ()


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST, DROP])
def test_an_index(media_type):
    parsed = read(index(mediaType=media_type))
    assert parsed.media_type == (OCI_INDEX if media_type is DROP else media_type)
    assert parsed.is_index
    assert kinds(parsed) == [("manifest", entry["digest"], True) for entry in ENTRIES]
    assert (parsed.config, parsed.artifact_type, parsed.subject) == (None, None, None)
    assert parsed.total_bytes == 600
    assert (parsed.annotations, parsed.annotations_json) == ({}, "{}")
    assert [(p.architecture, p.os, p.variant) for p in parsed.platforms] == [
        ("amd64", "linux", None),
        ("arm64", "linux", "v8"),
    ]


@pytest.mark.parametrize("make", [image, index])
def test_subject(make):
    subject = descriptor("subject", OCI_MANIFEST)
    parsed = read(make(subject=subject))
    assert str(parsed.subject.digest) == subject["digest"]
    assert subject["digest"] not in {digest for _, digest, _ in kinds(parsed)}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (image(artifactType="a/b"), "a/b"),
        (image(artifactType=""), CONFIG_TYPE),
        (image(artifactType=None), CONFIG_TYPE),
        (image(config={"digest": CONFIG["digest"], "size": 5}), None),
        (image(config={**CONFIG, "mediaType": ""}), None),
        (image(artifactType="x" * 255), "x" * 255),
        (index(artifactType="a/b"), "a/b"),
        (index(artifactType=""), None),
    ],
)
def test_artifact_type(document, expected):
    assert read(document).artifact_type == expected


@pytest.mark.parametrize(
    ("document", "count"),
    [
        (image(layers=None), 1),
        (image(layers=[]), 1),
        (image(layers=DROP), 1),
        (image(manifests=None), 3),
        (image(mediaType=None, manifests=DROP), 3),
        (image(mediaType=DROP, layers=None), 1),
        (index(manifests=None), 0),
        (index(manifests=[]), 0),
        (index(manifests=DROP), 0),
        (index(mediaType=DROP, manifests=None), 0),
        (index(config=None, layers=None), 3),
        (image(annotations=None, subject=None), 3),
    ],
)
def test_null_is_missing(document, count):
    """Go programs write an empty list as null."""
    parsed = read(document)
    assert len(parsed.references) == count
    assert parsed.annotations == {}


def test_foreign_layers_are_not_demanded():
    layers = [descriptor("base", FOREIGN, 1000, urls=["https://mcr.example/x"]), descriptor("own")]
    parsed = read(image(layers=layers))
    assert [required for _, _, required in kinds(parsed)] == [True, False, True]
    assert parsed.total_bytes == 1015


def test_a_foreign_config_is_demanded():
    assert kinds(read(image(config={**CONFIG, "mediaType": FOREIGN})))[0] == ("config", CONFIG["digest"], True)


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
@pytest.mark.parametrize(
    ("entry_type", "kind", "required"),
    [
        *[(known, "manifest", True) for known in sorted(MANIFEST_TYPES)],
        ("", "manifest", True),
        (LAYER_TYPE, "layer", True),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", "layer", True),
        ("application/vnd.buildkit.cacheconfig.v0", "layer", True),
        (OCI_MANIFEST.upper(), "layer", True),
        (FOREIGN, "layer", False),
    ],
)
def test_an_index_may_list_blobs(media_type, entry_type, kind, required):
    """BuildKit's cache does; Docker's registry takes it."""
    entry = descriptor("one", entry_type)
    parsed = read(index(mediaType=media_type, manifests=[ENTRIES[0], entry]))
    assert kinds(parsed) == [("manifest", ENTRIES[0]["digest"], True), (kind, entry["digest"], required)]
    assert parsed.total_bytes == 110


def test_the_same_layer_twice():
    assert len(read(image(layers=[LAYERS[0], LAYERS[0]])).references) == 3


def test_total_is_what_a_database_holds():
    layers = [descriptor(str(n), size=2**63 - 1) for n in range(3)]
    assert read(image(layers=layers)).total_bytes == 2**63 - 1


def test_unknown_fields_pass():
    assert read(image(config={**CONFIG, "data": "e30=", "x": {"y": []}}, future={"a": 1})).total_bytes == 35


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (index(config=CONFIG), "an index has neither `config` nor `layers`"),
        (index(layers=LAYERS), "an index has neither `config` nor `layers`"),
        (index(layers=[]), "an index has neither `config` nor `layers`"),
        (index(mediaType=DROP, config=CONFIG, layers=LAYERS), "an index has neither `config` nor `layers`"),
        (index(mediaType=DROP, manifests=None, config=CONFIG, layers=LAYERS), "neither `config` nor `layers`"),
        (index(mediaType=DOCKER_LIST, config=CONFIG), "an index has neither `config` nor `layers`"),
        (image(manifests=ENTRIES), "an image manifest has no `manifests`"),
        (image(manifests=[]), "an image manifest has no `manifests`"),
        (image(mediaType=DOCKER_MANIFEST, manifests=[]), "an image manifest has no `manifests`"),
        (image(config=None), "an image manifest has a `config`"),
        (image(config=DROP), "an image manifest has a `config`"),
        (image(mediaType=DROP, config=DROP), "no media type can be derived"),
        (image(mediaType=DROP, config=None), "no media type can be derived"),
        (image(mediaType=DROP, layers=DROP), "no media type can be derived"),
        ({"schemaVersion": 2}, "no media type can be derived"),
        (image(schemaVersion=1), "schemaVersion 1 is not supported"),
        (image(schemaVersion=3), "schemaVersion 3 is not supported"),
        (image(mediaType="text/plain"), "media type 'text/plain' is not accepted"),
        (image(mediaType=""), "is not accepted"),
        (image(mediaType=OCI_MANIFEST + "\n"), "is not accepted"),
        (image(mediaType=OCI_MANIFEST.upper()), "is not accepted"),
        (image(mediaType="application/vnd.docker.distribution.manifest.v1+prettyjws"), "is not accepted"),
        (image(mediaType="application/vnd.oci.artifact.manifest.v1+json"), "is not accepted"),
    ],
)
def test_refused_with_words(document, says):
    message = refuse(document).message
    assert says in message
    if "accepted" in message:
        assert all(media_type in message for media_type in MANIFEST_TYPES)


@pytest.mark.parametrize("value", [True, 2.0, "2", None, [], {}, DROP], ids=repr)
def test_schema_version_is_the_number_two(value):
    assert "schemaVersion" in refuse(image(schemaVersion=value)).message


BAD_SIZES = [True, False, -1, 2**63, 2**64, 10**300, 1.0, 1e3, "1", None, [1], DROP]


@pytest.mark.parametrize("size", BAD_SIZES, ids=lambda value: repr(value)[:10])
@pytest.mark.parametrize("where", ["config", "layers", "subject", "manifests"])
def test_sizes(where, size):
    bad = put_together(CONFIG, {"size": size})
    document = index(manifests=[ENTRIES[0], bad]) if where == "manifests" else image(**{where: bad})
    if where == "layers":
        document["layers"] = [LAYERS[0], bad]
    message = refuse(document).message
    place = f"{where}.1" if where in {"layers", "manifests"} else where
    assert message.startswith(f"the manifest's {place}.size is invalid")


BAD_FIELDS = [
    {"config": []},
    {"config": "x"},
    {"config": {}},
    {"layers": {}},
    {"layers": [None]},
    {"layers": ["x"]},
    {"layers": [[]]},
    {"layers": "x"},
    {"subject": []},
    {"subject": {"mediaType": OCI_MANIFEST}},
    {"annotations": []},
    {"annotations": {"a": 1}},
    {"annotations": {"a": None}},
    {"annotations": {"a": {}}},
    {"annotations": {"x" * 3000: 5}},
    {"artifactType": 5},
    {"artifactType": "x" * 256},
    {"mediaType": 5},
    {"mediaType": [OCI_MANIFEST]},
    {"config": {**CONFIG, "digest": CONFIG["digest"] + "\n"}},
    {"config": {**CONFIG, "digest": CONFIG["digest"].upper()}},
    {"config": {**CONFIG, "digest": "sha256:" + chr(0x661) * 64}},
    {"config": {**CONFIG, "digest": "md5:" + "a" * 32}},
    {"config": {**CONFIG, "mediaType": "x" * 256}},
    {"layers": [{**LAYERS[0], "urls": [5]}]},
    {"artifactType": "\ud800"},
    {"mediaType": "\udfff"},
    {"layers": [{**LAYERS[0], "digest": "\ud800"}]},
]


@pytest.mark.parametrize("fields", BAD_FIELDS, ids=lambda fields: ascii(fields)[:50])
def test_bad_fields(fields):
    assert len(refuse(image(**fields)).message) <= 600


GOOD = json.dumps(image()).encode()
NO_JSON = {
    "nothing": b"",
    "space": b" \n",
    "text": b"hello",
    "a tar": b"hello".ljust(512, b"\0"),
    "NaN": GOOD.replace(b'"size": 5', b'"size": NaN'),
    "NaN in an unknown field": GOOD[:-1] + b', "x": NaN}',
    "Infinity": GOOD[:-1] + b', "x": [Infinity]}',
    "-Infinity": GOOD[:-1] + b', "x": -Infinity}',
    "only NaN": b"NaN",
    "an integer of 5000 digits": GOOD.replace(b'"size": 5', b'"size": ' + b"9" * 5000),
    "BOM": b"\xef\xbb\xbf" + GOOD,
    "UTF-16": json.dumps(image()).encode("utf-16"),
    "UTF-32": json.dumps(image()).encode("utf-32-le"),
    "no UTF-8": GOOD.replace(b"mediaType", b"media\xffType", 1),
    "encoded surrogate": GOOD[:-1] + b', "x": "\xed\xa0\x80"}',
    "NUL before": b"\0" + GOOD,
    "NUL after": GOOD + b"\0",
    "raw NUL in a string": GOOD[:-1] + b', "x": "\0"}',
    "raw newline in a string": GOOD[:-1] + b', "x": "\n"}',
    "two documents": GOOD + GOOD,
    "trailing comma": GOOD[:-1] + b",}",
    "single quotes": GOOD.replace(b'"', b"'"),
    "comment": GOOD + b"// x",
    "half": GOOD[: len(GOOD) // 2],
    "100k brackets": b"[" * 100_000,
    "100k pairs": b"[" * 100_000 + b"]" * 100_000,
    "100k objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "100k brackets inside": GOOD[:-1] + b', "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


@pytest.mark.parametrize("content", NO_JSON.values(), ids=NO_JSON.keys())
def test_no_json(content):
    assert refuse(content).message == "the manifest is not JSON"


@pytest.mark.parametrize("content", [b"[]", b"null", b"true", b"5", b'"x"', b"1e999", b"[{}]", b"\t[ ]\n"])
def test_no_object(content):
    assert refuse(content).message == "the manifest is not a JSON object"


def test_the_last_of_two_keys_counts():
    """As in Go's encoding/json, so hatoba and its clients read the same document."""
    text = json.dumps(image())
    assert parse(text.replace("{", f'{{"mediaType": "{DOCKER_MANIFEST}", ', 1).encode()).media_type == OCI_MANIFEST
    doubled = text[:-1] + f', "mediaType": "{DOCKER_MANIFEST}"}}'
    assert parse(doubled.encode()).media_type == DOCKER_MANIFEST
    refuse((text[:-1] + f', "mediaType": "{OCI_INDEX}"}}').encode())
    refuse((text[:-1] + ', "manifests": []}').encode())


def test_escapes_and_space_are_json():
    text = json.dumps(image(annotations={"a": "\0\x1f\U0001f54a"}), indent=3).replace("layers", "la\\u0079ers")
    parsed = parse(b" \r\n\t" + text.encode() + b"\n")
    assert len(parsed.references) == 3
    assert json.loads(parsed.annotations_json) == {"a": "\0\x1f\U0001f54a"}


@pytest.mark.parametrize(
    "annotations", [{"a": "\ud800"}, {"\udc00": "a"}, {"\ud800": "\udc00", "b": "\udfff\ud800"}], ids=ascii
)
def test_lone_surrogates_in_annotations_stay_escaped(annotations):
    """Legal JSON that Go's clients write and read; what is stored of it must be writable as UTF-8."""
    parsed = read(image(annotations=annotations, layers=[{**LAYERS[0], "annotations": annotations}]))
    assert parsed.annotations_json.isascii()
    assert json.loads(parsed.annotations_json) == annotations


@pytest.mark.parametrize("version", [10**300, -(10**4000), 2**64])
def test_a_huge_schema_version(version):
    refuse(image(schemaVersion=version))


def test_a_huge_schema_version_is_cut():
    assert len(refuse(image(schemaVersion=10**4000)).message) < 700


def test_only_the_names_of_the_spec_count():
    """A layer that no client takes for foreign must be there."""
    layer = {"media_type": FOREIGN, "digest": LAYERS[0]["digest"], "size": 10}
    assert read(image(layers=[layer])).references[1].required


def test_a_long_type_is_cut():
    assert len(refuse(image(mediaType="x" * 1_000_000)).message) < 700


MANY = range(1000)


@pytest.mark.parametrize(
    "document",
    [
        image(layers=[0 for _ in MANY]),
        image(layers=[{} for _ in MANY]),
        index(manifests=[0 for _ in MANY]),
        image(annotations={str(number): number for number in MANY}),
        image(config={**CONFIG, "urls": list(MANY)}),
        image(config={**CONFIG, "annotations": {str(number): number for number in MANY}}),
    ],
    ids=["layers", "fields of layers", "manifests", "annotations", "urls", "annotations of a descriptor"],
)
def test_a_thousand_mistakes_cost_no_more_than_one(document):
    """Pydantic keeps every error it finds: 4 MiB of zeros took 13 s and 1.9 GiB."""
    assert refuse(document).__context__.error_count() <= 2


def test_many_layers():
    """Python's JSON lets nobody else run, and each reference is kept under the write lock: there is an end."""
    assert len(read(image(layers=LAYERS * 4999)).references) == 9_999
    assert "names 10001 blobs" in refuse(image(layers=LAYERS * 5000)).message


@pytest.mark.parametrize("part", ["0,", "[],", "{},", '{"a":[]},', '"a":0,'])
def test_json_of_very_many_parts(part):
    """4 MiB of them take a worker for a quarter of a second, and its memory by the hundred MiB."""
    inner = part * 200_001
    text = f'{{"x":{{{inner}"b":0}}}}' if part.startswith('"') else f'{{"x":[{inner}0]}}'
    with pytest.raises(ManifestInvalid, match="parts"):
        parse(text.encode())


leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([CONFIG, LAYERS])
)
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
types = st.sampled_from([*sorted(MANIFEST_TYPES), "", "text/plain", None])
FIELDS = ["schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations"]
fields = st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, anything))


def check(content):
    """Refused with ManifestInvalid, or read into something that is sound."""
    try:
        parsed = parse(content)
    except ManifestInvalid:
        refuse(content)
        return
    assert parsed.media_type in MANIFEST_TYPES
    assert parsed.is_index is (parsed.media_type in INDEX_TYPES)
    assert (parsed.config is None) is parsed.is_index
    assert {reference.kind for reference in parsed.references} <= {
        "manifest" if parsed.is_index else "config",
        "layer",
    }
    assert all(reference.required or reference.kind == "layer" for reference in parsed.references)
    assert 0 <= parsed.total_bytes < 2**63
    assert json.loads(parsed.annotations_json.encode()) == parsed.annotations
    assert parsed.artifact_type is None or len(parsed.artifact_type) <= 255


@given(st.binary(max_size=500))
@example(b"\xff")
@example(b'{"schemaVersion":2,"annotations":{"\\ud800":1}}')
def test_any_bytes(content):
    check(content)


@given(fields)
def test_any_object(document):
    check(json.dumps(document).encode())


@given(types, fields, st.booleans())
def test_a_good_manifest_with_any_field_replaced(media_type, changes, listing):
    base = index(mediaType=media_type) if listing else image(mediaType=media_type)
    changes.pop("mediaType", None)
    for name, value in changes.items():
        check(json.dumps({**base, name: value}).encode())


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_good_manifest_with_any_byte_replaced(at, byte):
    check(GOOD[:at] + bytes([byte]) + GOOD[at + 1 :])


@given(st.integers(0, len(GOOD) - 1))
def test_cut_anywhere(at):
    refuse(GOOD[:at])
