"""Digests: one grammar, two algorithms, nothing else gets through."""

import hashlib
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hatoba.errors import DigestInvalid
from hatoba.oci.digest import CANONICAL, Digest, hasher, is_digest_like

HEX64 = "0123456789abcdef" * 4
HEX128 = HEX64 * 2


@pytest.mark.parametrize(("algorithm", "encoded"), [("sha256", HEX64), ("sha512", HEX128), ("sha256", "0" * 64)])
def test_good(algorithm, encoded):
    digest = Digest.parse(f"{algorithm}:{encoded}")
    assert (digest.algorithm, digest.encoded) == (algorithm, encoded)
    assert str(digest) == f"{algorithm}:{encoded}"


BAD = {
    "empty": "",
    "a tag": "latest",
    "no hex": "sha256:",
    "no algorithm": f":{HEX64}",
    "too short": f"sha256:{HEX64[:-1]}",
    "too long": f"sha256:{HEX64}0",
    "sha512 of 64": f"sha512:{HEX64}",
    "sha256 of 128": f"sha256:{HEX128}",
    "capital hex": f"sha256:{HEX64.upper()}",
    "one capital": f"sha256:{HEX64[:-1]}F",
    "capital algorithm": f"SHA256:{HEX64}",
    "no hex digit": f"sha256:{HEX64[:-1]}g",
    "allowed in the grammar, not in hex": f"sha256:{HEX64[:-1]}_",
    "trailing newline": f"sha256:{HEX64}\n",
    "newline in the place of a digit": f"sha256:{HEX64[:-1]}\n",
    "leading space": f" sha256:{HEX64}",
    "trailing space": f"sha256:{HEX64} ",
    "NUL": f"sha256:{HEX64[:-1]}\0",
    "BOM": f"\ufeffsha256:{HEX64}",
    "fullwidth digits": f"sha256:{chr(0xFF10) * 64}",
    "Arabic digits": f"sha256:{chr(0x661) * 64}",
    "Arabic digit in the algorithm": f"sha25{chr(0x666)}:{HEX64}",
    "long s that folds to s": f"{chr(0x17F)}ha256:{HEX64}",
    "lone surrogate": f"sha256:{HEX64[:-1]}\ud800",
    "two colons": f"sha256:sha256:{HEX64}",
    "a path": f"sha256:../{HEX64[3:]}",
    "a slash": f"sha256/{HEX64}",
    "unknown algorithm": f"sha384:{'a' * 96}",
    "md5": f"md5:{'a' * 32}",
    "blake": f"blake3:{HEX64}",
    "compound algorithm": f"multihash+base58:{'Q' * 46}",
    "double separator": f"sha256++b64:{HEX64}",
    "256 characters": "sha256:" + "a" * 249,
    "a megabyte": "sha256:" + "a" * 1_000_000,
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_bad(text):
    with pytest.raises(DigestInvalid) as caught:
        Digest.parse(text)
    assert (caught.value.status, caught.value.code) == (400, "DIGEST_INVALID")
    assert len(caught.value.detail) <= 255


@pytest.mark.parametrize("algorithm", ["sha384", "md5", "sha1", "multihash+base58"])
def test_unknown_algorithm_is_named(algorithm):
    with pytest.raises(DigestInvalid, match=f"unsupported digest algorithm {re.escape(algorithm)}"):
        Digest.parse(f"{algorithm}:{'a' * 32}")


@pytest.mark.parametrize("text", ["", f"sha256++b64:{HEX64}", f"+sha256:{HEX64}", f"SHA256:{HEX64}", "a" * 255])
def test_no_digest_at_all_is_no_unknown_algorithm(text):
    with pytest.raises(DigestInvalid, match=r"^invalid digest$"):
        Digest.parse(text)


@given(st.text(max_size=300))
@example(f"sha256:{HEX64}\n")
def test_whatever_passes_is_plain(text):
    try:
        digest = Digest.parse(text)
    except DigestInvalid:
        return
    assert str(digest) == text
    assert text.isascii()


@given(st.from_regex(r"(sha256|sha512|sha384):[0-9a-fA-F]{0,130}\n?", fullmatch=True))
def test_near_the_grammar(text):
    good = re.fullmatch(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}", text) is not None
    if good:
        assert str(Digest.parse(text)) == text
    else:
        with pytest.raises(DigestInvalid):
            Digest.parse(text)


@given(st.binary(max_size=5000), st.sampled_from(["sha256", "sha512"]))
def test_of_content(content, algorithm):
    digest = Digest.of(content, algorithm)
    assert digest == Digest(algorithm, hashlib.new(algorithm, content).hexdigest())
    assert Digest.parse(str(digest)) == digest


def test_of_nothing():
    assert str(Digest.of(b"")) == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert CANONICAL == "sha256"


@given(st.lists(st.binary(max_size=100)))
def test_hasher_streams(pieces):
    found = hasher("sha256")
    for piece in pieces:
        found.update(piece)
    assert found.hexdigest() == Digest.of(b"".join(pieces)).encoded


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha384", "shake_128", "SHA256", "sha-256", "", "x" * 10_000])
def test_hasher_of_what_hashlib_may_know(algorithm):
    for make in (hasher, lambda name: Digest.of(b"", name)):
        with pytest.raises(DigestInvalid) as caught:
            make(algorithm)
        assert len(caught.value.message) < 300


def test_a_value():
    assert len({Digest.of(b"a"), Digest.of(b"a"), Digest.of(b"b")}) == 2
    with pytest.raises(AttributeError):
        Digest.of(b"a").encoded = "other"


@pytest.mark.parametrize(
    ("text", "like"), [("latest", False), ("", False), ("sha256-abc", False), ("sha256:", True), (":", True)]
)
def test_digest_like(text, like):
    assert is_digest_like(text) is like


@pytest.mark.parametrize("text", [f"blake3:{HEX64}", "multihash+base58:QmRZxt2b1FVZPNqd8hsi", f"sha256:{HEX64}"])
def test_any_algorithm(text):
    assert str(Digest.parse_any(text)) == text


@pytest.mark.parametrize("text", [v for v in BAD.values() if v.partition(":")[0] in {"sha256", "sha512"}])
def test_any_algorithm_but_known_ones_are_right(text):
    with pytest.raises(DigestInvalid):
        Digest.parse_any(text)


@pytest.mark.parametrize("text", ["", ":", "a:", "BLAKE:a", "a/b:c", "a:b/c", "a" * 250 + ":abcdef"])
def test_any_algorithm_keeps_to_the_grammar(text):
    with pytest.raises(DigestInvalid):
        Digest.parse_any(text)
