"""Words that a request is made of, right and wrong, and what the spec's grammar (3.1) says of them.

Written without hatoba's own expressions on purpose: an oracle that shares the product's mistakes sees none of them.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import string
from urllib.parse import quote

LOWER = frozenset(string.ascii_lowercase + string.digits)
TAG = frozenset(string.ascii_letters + string.digits + "._-")
HEX = frozenset("0123456789abcdef")
HEX_LENGTHS = {"sha256": 64, "sha512": 128}
ENCODED = frozenset(string.ascii_letters + string.digits + "=_-")
# What a request line may hold as it is; of all else the HTTP server itself may say that it is none.
PLAIN = frozenset(range(0x21, 0x7F)) - frozenset(b'"<>\\^`{|}')
WORDS = (
    "app",
    "library",
    "blobs",
    "manifests",
    "uploads",
    "tags",
    "list",
    "referrers",
    "v2",
    "a.b",
    "a_b",
    "a__b",
    "x-y",
)
ODD = (
    b"%00", b"%ff", b"..", b"//", b"/", b"A", b"%2F", b"%252F", b"%zz", b"%", b"-", b"_", b".", b":", b"@", b" ",
    b"\xff", b"%c3%a4", b"\xc3\xa4", b"?", b"#", b"%0a", b"*", b"%3a", b"~", b"a" * 255,
)  # fmt: skip
BAD_NAMES = (
    b"", b"A", b"Library", b"..", b".", b"a..b", b"a/../b", b"%2e%2e", b"%2e%2e%2f%2e%2e%2fetc", b"a//b", b"/a",
    b"a/", b"a%2F%2Fb", b"a%2f..%2fb", b"a%252Fb", b"a%00", b"%00", b"a%00b", b"a%zz", b"a%", b"a%2", b"a%ff",
    b"a%c0%ae", b"%ed%a0%80", b"a\xff", b"\xc3\xa4", b"%c3%a4", b"%ef%bc%a1", b"%d9%a1", b"a b", b"a%20b", b"a+b",
    b"a%0d%0aX:1", b"a;b", b"a@b", b"a:b", b"_a", b"a_", b"-a", b"a-", b"a___b", b"a._b", b"a-.b", b"a\\b", b"a%5cb",
    b"a'b", b"$a", b"a" * 256, b"a" * 5000, b"a/" * 128 + b"a", b"a/" * 2000 + b"a", b"%61" * 256, b"a%e2%80%ae",
    b"a%0a", b"\x7f", b"a,b",
)  # fmt: skip
BAD_TAGS = (
    b"-a", b".a", b"..", b"%2e%2e", b"a%2f..%2fb", b"a" * 129, b"a" * 5000, b"a%00", b"%00", b"a%ff", b"\xff", b"a b",
    b"a%20", b"%c3%a4", b"a%zz", b"a%252f", b"%0a", b"a%0d%0aX:1", b"a+b", b"a@sha256", b"*", b"a,b", b"%d9%a1", b"~",
)  # fmt: skip
BAD_DIGESTS = (
    b"sha256:", b":", b"sha256", b"sha256:abc", b"sha256:" + b"a" * 63, b"sha256:" + b"a" * 65,
    b"sha256:" + b"A" * 64, b"SHA256:" + b"a" * 64, b"sha256:" + b"g" * 64, b"sha512:" + b"a" * 64,
    b"sha256:" + b"a" * 128, b"md5:" + b"a" * 32, b"sha1:" + b"a" * 40, b"sha384:" + b"a" * 96, b"unknown:abc",
    b"sha256:..%2f..%2fetc", b"sha256%3A%00", b":" + b"a" * 64, b"sha256:" + b"a" * 5000, b"sha256::" + b"a" * 64,
    b"sha256:" + b"%61" * 65, b"sha256:%ff", b"sha256:" + b"a" * 64 + b"%00", b"sha256:" + b"%d9%a1" * 64,
    b"sha256:" + b"a" * 64 + b"%0a", b"sha+x:abc", b"sha256: " + b"a" * 64, b"sha256:\xff",
)  # fmt: skip
BAD_NUMBERS = (
    b"-1", b"x", b"1.5", b"1e3", b"0x10", b"%d9%a1", b"%2b1", b"1%00", b"1 ", b"%20", b"--", b"1_000", b"%ff", b"nan",
    b"%EF%BC%91", b"-" + b"9" * 500,
)  # fmt: skip
GOOD_NUMBERS = (
    b"0",
    b"1",
    b"2",
    b"10",
    b"00",
    b"007",
    b"1000",
    b"9" * 18,
    b"9" * 19,
    b"9" * 400,
    b"18446744073709551616",
)


def is_name(text: str) -> bool:
    """The grammar of names, and the 255 characters that clients cap them at."""
    return len(text) <= 255 and all(_is_component(part) for part in text.split("/"))


def _is_component(part: str) -> bool:
    runs = ["".join(run) for _, run in itertools.groupby(part, key=LOWER.__contains__)]
    if not runs or runs[0][0] not in LOWER or runs[-1][0] not in LOWER:
        return False
    return all(run[0] in LOWER or run in {".", "_", "__"} or set(run) == {"-"} for run in runs)


def is_tag(text: str) -> bool:
    """The grammar of tags."""
    return 0 < len(text) <= 128 and TAG.issuperset(text) and text[0] not in ".-"


def is_digest(text: str, *, any_algorithm: bool = False) -> bool:
    """A digest that hatoba can compute; with `any_algorithm` also one that it can only name."""
    algorithm, colon, encoded = text.partition(":")
    if not colon or len(text) > 255:
        return False
    if algorithm in HEX_LENGTHS:
        return len(encoded) == HEX_LENGTHS[algorithm] and HEX.issuperset(encoded)
    runs = ["".join(run) for _, run in itertools.groupby(algorithm, key=LOWER.__contains__)]
    joined = bool(runs) and runs[0][0] in LOWER and runs[-1][0] in LOWER and all(len(r) == 1 for r in runs[1::2])
    fits = joined and set("".join(runs[1::2])) <= set("+._-") and bool(encoded) and ENCODED.issuperset(encoded)
    return any_algorithm and fits


def is_count(text: str) -> bool:
    """A number of results: ASCII digits alone."""
    return bool(text) and set(text) <= set("0123456789")


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    """The digest of `content`."""
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def name(rng: random.Random, prefix: str) -> str:
    """A name beneath `prefix`, often made of the routes' own words."""
    return "/".join([prefix, *rng.choices(WORDS, k=rng.randint(1, 3))])


def tag(rng: random.Random) -> str:
    """A tag out of a few, so that they are met again; seldom one of the longest."""
    if rng.random() < 0.05:
        return "T" + "".join(rng.choices("abcXYZ019._-", k=127))
    return rng.choice(("latest", "v1", "v2", "1.0", "A", "a", "_x", "sha256-abc"))


def absent(rng: random.Random) -> str:
    """A digest of nothing."""
    return f"sha256:{rng.randbytes(32).hex()}" if rng.random() < 0.8 else f"sha512:{rng.randbytes(64).hex()}"


def escaped(rng: random.Random, text: str) -> bytes:
    """`text` for a path, mostly plain, sometimes with escapes that mean the same."""
    if rng.random() < 0.85:
        return quote(text, safe="/:@").encode()
    if rng.random() < 0.3:
        return quote(text, safe="").encode()
    return b"".join(b"%%%02X" % byte if rng.random() < 0.2 else bytes([byte]) for byte in text.encode())


def spoiled(rng: random.Random, text: bytes) -> bytes:
    """`text` with something done to it; maybe still right, the oracle decides."""
    where = rng.randrange(len(text) + 1)
    odd = rng.choice((*ODD, bytes([rng.randrange(256)])))
    action = rng.randrange(5)
    if action == 0:
        return text.upper()
    if action == 1:
        return text[:where]
    if action == 2:
        return text + text
    if action == 3 and where < len(text):
        return text[:where] + bytes([text[where] ^ (1 << rng.randrange(8))]) + text[where + 1 :]
    return text[:where] + odd + text[where:]
