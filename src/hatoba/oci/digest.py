"""Digests (image-spec, section "Digests"): the parsed value, the algorithms hatoba can compute, a streaming hasher.

Owns the grammar and the lengths of registered algorithms. Knows nothing of blobs or manifests.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol

from hatoba.errors import DigestInvalid

CANONICAL = "sha256"
_HEX_LENGTHS = {"sha256": 64, "sha512": 128}
_GRAMMAR = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+", re.ASCII)
_HEX = re.compile(r"[0-9a-f]+", re.ASCII)
# The longest digest a client may send: sha512 is 135 characters; anything longer only fills logs.
_LONGEST = 255


@dataclass(frozen=True, slots=True)
class Digest:
    """A digest; build it with `parse` or `of` for content that hatoba keeps, `parse_any` for what it only names."""

    algorithm: str
    encoded: str

    def __str__(self) -> str:
        """The form on the wire, `sha256:<hex>`."""
        return f"{self.algorithm}:{self.encoded}"

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Parse `text`; raises DigestInvalid when malformed or of an algorithm hatoba cannot compute."""
        if len(text) > _LONGEST or not _GRAMMAR.fullmatch(text):
            raise DigestInvalid("invalid digest", detail=text[:_LONGEST])
        algorithm, _, encoded = text.partition(":")
        length = _HEX_LENGTHS.get(algorithm)
        if length is None:
            raise DigestInvalid(f"unsupported digest algorithm {algorithm}", detail=text)
        if len(encoded) != length or not _HEX.fullmatch(encoded):
            raise DigestInvalid(f"invalid {algorithm} digest", detail=text)
        return cls(algorithm, encoded)

    @classmethod
    def parse_any(cls, text: str) -> Digest:
        """Parse `text` for content that need not be here, so of any algorithm the grammar allows (spec 3.1)."""
        if len(text) <= _LONGEST and _GRAMMAR.fullmatch(text):
            algorithm, _, encoded = text.partition(":")
            if algorithm not in _HEX_LENGTHS:
                return cls(algorithm, encoded)
        return cls.parse(text)

    @classmethod
    def of(cls, content: bytes, algorithm: str = CANONICAL) -> Digest:
        """The digest of `content`; raises DigestInvalid for an algorithm hatoba cannot compute."""
        found = hasher(algorithm)
        found.update(content)
        return cls(algorithm, found.hexdigest())


class Hasher(Protocol):
    """The part of hashlib's objects that hatoba uses."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take more bytes; releases the GIL for blocks over 2 KiB."""

    def hexdigest(self) -> str:
        """The digest of everything so far."""


def hasher(algorithm: str) -> Hasher:
    """A new streaming hasher; raises DigestInvalid for an algorithm hatoba cannot compute."""
    if algorithm not in _HEX_LENGTHS:
        raise DigestInvalid(f"unsupported digest algorithm {algorithm[:_LONGEST]}")
    return hashlib.new(algorithm)


def is_digest_like(text: str) -> bool:
    """Whether a reference means a digest: a tag can hold no colon."""
    return ":" in text
