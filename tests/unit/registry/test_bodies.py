"""Bodies by digest: bounded by bytes, the least recently used goes first, large ones never come in."""

import pytest

from hatoba.registry import bodies
from hatoba.registry.bodies import Bodies

KIB = 1024


def test_a_body_is_kept():
    kept = Bodies()
    assert kept.get("a") is None
    kept.put("a", b"body")
    assert kept.get("a") == b"body"
    assert kept.get("b") is None


def test_an_empty_body_is_a_body():
    kept = Bodies()
    kept.put("a", b"")
    assert kept.get("a") == b""


def test_the_least_recently_used_goes_first():
    kept = Bodies(total_bytes=30)
    for name in "abc":
        kept.put(name, name.encode() * 10)
    assert kept.get("a") == b"a" * 10
    kept.put("d", b"d" * 10)
    assert kept.get("b") is None
    assert [kept.get(name) is not None for name in "acd"] == [True] * 3
    kept.put("e", b"e" * 25)
    assert [kept.get(name) is not None for name in "acde"] == [False, False, False, True]


def test_putting_again_counts_once():
    kept = Bodies(total_bytes=30)
    for _ in range(100):
        kept.put("a", b"a" * 10)
    kept.put("b", b"b" * 20)
    assert kept.get("a") is not None
    assert kept.get("b") is not None


@pytest.mark.parametrize(("size", "is_kept"), [(64 * KIB, True), (64 * KIB + 1, False)])
def test_a_large_body_is_not_kept(size, is_kept):
    kept = Bodies()
    kept.put("small", b"s")
    kept.put("a", bytes(size))
    assert (kept.get("a") is not None) is is_kept
    assert kept.get("small") == b"s"


def test_the_sum_never_passes_the_limit():
    kept = Bodies(total_bytes=100 * KIB)
    for number in range(500):
        kept.put(str(number), bytes(number * 200 % (64 * KIB)))
        assert sum(map(len, kept._kept.values())) <= 100 * KIB
        assert kept._left_bytes == 100 * KIB - sum(map(len, kept._kept.values()))


def test_the_usual_limits():
    assert (bodies._TOTAL_BYTES, bodies._LARGEST_BYTES) == (16 * KIB * KIB, 64 * KIB)
