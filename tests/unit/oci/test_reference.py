"""Names, tags and references: the grammar of distribution-spec 3.1, and what slips past a careless one."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatoba.errors import DigestInvalid, ManifestUnknown, NameInvalid, TagInvalid
from hatoba.oci.digest import Digest
from hatoba.oci.reference import (
    fallback_tag,
    find_reference,
    natural_key,
    parse_full,
    parse_name,
    parse_reference,
    parse_tag,
)

HEX64 = "0123456789abcdef" * 4
SHA256 = f"sha256:{HEX64}"

GOOD_NAMES = [
    "a",
    "0",
    "app",
    "library/app",
    "a/b/c/d/e/f",
    "a.b",
    "a_b",
    "a__b",
    "a-b",
    "a---b",
    "a-b.c_d__e/f",
    "v2/blobs/uploads",
    "a/manifests/b",
    "a" * 255,
    "/".join(["a"] * 128),
]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_good_name(name):
    assert parse_name(name) == name


BAD_NAMES = {
    "empty": "",
    "256 characters": "a" * 256,
    "a megabyte": "a" * 1_000_000,
    "trailing newline": "app\n",
    "inner newline": "a\n/b",
    "carriage return": "app\r",
    "capital": "App",
    "leading slash": "/app",
    "trailing slash": "app/",
    "two slashes": "a//b",
    "dot dot": "a/../b",
    "only dots": "..",
    "a dot": ".",
    "two dots": "a..b",
    "three underscores": "a___b",
    "mixed separators": "a._b",
    "leading separator": "-a",
    "trailing separator": "a-",
    "separator before a slash": "a-/b",
    "separator after a slash": "a/_b",
    "hidden": ".hidden",
    "space": "a b",
    "tab": "a\tb",
    "NUL": "a\0",
    "BOM": "\ufeffa",
    "colon": "a:b",
    "at": "a@b",
    "percent": "a%2fb",
    "backslash": "a\\b",
    "umlaut": "ä",
    "fullwidth digit": chr(0xFF11),
    "Arabic digit": f"a{chr(0x661)}",
    "Kelvin sign": chr(0x212A),
    "long s": chr(0x17F),
    "dotless i": chr(0x131),
    "I with a dot": chr(0x130),
    "lone surrogate": "a\udc80",
    "one slash": "/",
}


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES.keys())
def test_bad_name(name):
    with pytest.raises(NameInvalid) as caught:
        parse_name(name)
    assert (caught.value.status, caught.value.code) == (400, "NAME_INVALID")
    assert len(caught.value.detail["name"]) <= 255


GOOD_TAGS = ["latest", "v1.0", "1", "_", "_x", "A.b-C_d", "a..b", "a-", "0.1.0_build.1", "x" * 128, "sha256-abc.sig"]


@pytest.mark.parametrize("tag", GOOD_TAGS)
def test_good_tag(tag):
    assert parse_tag(tag) == parse_reference(tag) == find_reference(tag) == tag


BAD_TAGS = {
    "empty": "",
    "129 characters": "x" * 129,
    "a megabyte": "x" * 1_000_000,
    "trailing newline": "latest\n",
    "128 and a newline": "x" * 128 + "\n",
    "leading dot": ".x",
    "leading minus": "-x",
    "dot dot": "..",
    "slash": "a/b",
    "space": "a b",
    "plus": "0.1.0+build",
    "NUL": "a\0",
    "umlaut": "ä",
    "Arabic digit": chr(0x661),
    "fullwidth letter": chr(0xFF41),
    "dotless i": f"latest{chr(0x131)}",
    "BOM": "\ufefflatest",
    "lone surrogate": "\ud800",
    "percent": "a%00",
}


@pytest.mark.parametrize("tag", BAD_TAGS.values(), ids=BAD_TAGS.keys())
def test_bad_tag(tag):
    """Writing it is a mistake; looking it up finds nothing."""
    for write in (parse_tag, parse_reference):
        with pytest.raises(TagInvalid) as caught:
            write(tag)
        assert (caught.value.status, caught.value.code) == (400, "TAG_INVALID")
        assert len(caught.value.detail["tag"]) <= 255
    with pytest.raises(ManifestUnknown) as unknown:
        find_reference(tag)
    assert (unknown.value.status, unknown.value.code) == (404, "MANIFEST_UNKNOWN")
    assert len(unknown.value.detail["name"]) <= 255


@pytest.mark.parametrize("read", [parse_reference, find_reference])
def test_digests(read):
    assert read(SHA256) == Digest("sha256", HEX64)
    for bad in (":", "a:b", f"{SHA256}\n", "sha256:", f"sha256:{HEX64.upper()}", "latest:"):
        with pytest.raises(DigestInvalid):
            read(bad)


def test_a_colon_is_no_tag():
    with pytest.raises(TagInvalid):
        parse_tag(SHA256)


COMPONENT = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"


@given(st.from_regex(rf"\A{COMPONENT}(/{COMPONENT}){{0,3}}\Z").filter(lambda name: len(name) <= 255))
def test_the_grammar_passes(name):
    name = name.removesuffix("\n")
    assert parse_name(name) == name


@given(st.text(alphabet="aA0._-/:\n\0ä", max_size=12))
def test_name_against_the_spec(name):
    """The spec's own expression decides."""
    good = re.fullmatch(rf"{COMPONENT}(\/{COMPONENT})*", name) is not None
    try:
        assert (parse_name(name) == name) is good
    except NameInvalid:
        assert not good


@given(st.text(alphabet="aA0._-/\n\0ä", max_size=12))
def test_tag_against_the_spec(tag):
    good = re.fullmatch(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", tag) is not None
    try:
        assert (parse_tag(tag) == tag) is good
    except TagInvalid:
        assert not good


@given(st.text(max_size=400))
def test_whatever_passes_is_harmless_as_a_path(text):
    for parse, error in ((parse_name, NameInvalid), (parse_tag, TagInvalid)):
        try:
            found = parse(text)
        except error:
            continue
        assert found.isascii()
        assert found.isprintable()
        assert not {"", ".", ".."} & set(found.split("/"))


@pytest.mark.timeout(10)
@pytest.mark.parametrize("text", ["a-" * 127, "a" * 254 + "!", "-" * 255, "a" + "-" * 253 + "!", "a_" * 127 + "/"])
def test_no_name_takes_long(text):
    for _ in range(100):
        with pytest.raises(NameInvalid):
            parse_name(text)


def test_fallback_tag():
    assert fallback_tag(Digest.parse(SHA256)) == f"sha256-{HEX64}"
    assert fallback_tag(Digest.parse(f"sha512:{HEX64}{'f' * 64}")) == f"sha512-{HEX64}"
    assert fallback_tag(Digest.parse_any("multihash+base58:Qm_=")) == "multihash-base58-Qm_-"


@given(st.binary(max_size=20), st.sampled_from(["sha256", "sha512"]))
def test_fallback_tags_are_tags(content, algorithm):
    tag = fallback_tag(Digest.of(content, algorithm))
    assert parse_tag(tag) == tag


@pytest.mark.parametrize(
    ("text", "name", "reference"),
    [
        ("app", "app", None),
        ("team/app:v1", "team/app", "v1"),
        (f"team/app@{SHA256}", "team/app", Digest.parse(SHA256)),
        ("127.0.0.1:5000/team/app:v1", "team/app", "v1"),
        ("localhost:5000/app", "app", None),
        ("Registry.Example.com:443/app:V1", "app", "V1"),
        ("[::1]:5000/app:v1", "app", "v1"),
        (f"host:1/app@{SHA256}", "app", Digest.parse(SHA256)),
        ("registry.example.com/app:v1", "registry.example.com/app", "v1"),
        ("localhost/app", "localhost/app", None),
        ("app:5000", "app", "5000"),
        ("host:5000/more", "more", None),
    ],
)
def test_a_name_with_its_tag_or_digest(text, name, reference):
    assert parse_full(text) == (name, reference)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", NameInvalid),
        (":v1", NameInvalid),
        ("team/app:80/app:v1", TagInvalid),
        ("registry.io/team:80/app", TagInvalid),
        ("a/b:5000/c", TagInvalid),
        ("App:v1", NameInvalid),
        ("host:1/host:2/app", TagInvalid),
        ("host:1/", NameInvalid),
        ("https://host:1/app", TagInvalid),
        ("app:", TagInvalid),
        ("app:v1:v2", TagInvalid),
        ("team/app:v\n", TagInvalid),
        ("app@", DigestInvalid),
        ("app@v1", DigestInvalid),
        ("app@sha256:abc", DigestInvalid),
        ("app@md5:d41d8cd98f00b204e9800998ecf8427e", DigestInvalid),
        (f"app:v1@{SHA256}", NameInvalid),
    ],
)
def test_what_names_nothing_in_full(text, error):
    with pytest.raises(error):
        parse_full(text)


NUMBERS = st.integers(0, 10**12)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=20))
def test_versions_in_the_order_that_people_expect(versions):
    tags = [f"v{major}.{minor}-alpine" for major, minor in versions]
    expected = [f"v{major}.{minor}-alpine" for major, minor in sorted(versions)]
    assert sorted(tags, key=natural_key) == expected


def test_numbers_of_any_length_and_with_zeros():
    tags = ["a", "v", "v0", "v1", "v007", "v10", "v10a", "v" + "9" * 127, "va"]
    assert sorted(sorted(tags, reverse=True), key=natural_key) == tags
    assert natural_key("v01") == natural_key("v1"), "names themselves then decide"
