"""The grammar of names and tags (distribution-spec section 3.1), in one place.

`RepositoryName` and `Tag` are parsed once at the edge; inside hatoba a value of these types is always valid.
"""

from __future__ import annotations

import re
from typing import NewType

from hatoba.errors import ManifestUnknown, NameInvalid, TagInvalid
from hatoba.oci.digest import Digest, is_digest_like

RepositoryName = NewType("RepositoryName", str)
Tag = NewType("Tag", str)
Reference = Digest | Tag

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.ASCII)
_HOST_AND_PORT = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\]):[0-9]+/", re.ASCII)
# Docker's registry and its clients cap a name at 255 characters.
_LONGEST_NAME = 255
# The fallback tag of the referrers API: spec main cuts the algorithm to 32 and the digest to 64 characters.
_FALLBACK_ALGORITHM, _FALLBACK_ENCODED = 32, 64
_NUMBER = re.compile(r"[0-9]+", re.ASCII)
_NOT_IN_TAGS = re.compile(r"[^a-zA-Z0-9._-]", re.ASCII)


def parse_name(text: str) -> RepositoryName:
    """A repository name; raises NameInvalid."""
    if not is_name(text):
        raise NameInvalid(detail={"name": text[:_LONGEST_NAME]})
    return RepositoryName(text)


def is_name(text: str) -> bool:
    """Whether `text` is a repository name."""
    return len(text) <= _LONGEST_NAME and _NAME.fullmatch(text) is not None


def parse_tag(text: str) -> Tag:
    """A tag to be written; raises TagInvalid."""
    if not is_tag(text):
        raise TagInvalid(detail={"tag": text[:_LONGEST_NAME]})
    return Tag(text)


def is_tag(text: str) -> bool:
    """Whether `text` is a tag."""
    return _TAG.fullmatch(text) is not None


def parse_reference(text: str) -> Reference:
    """A tag or digest to be written; raises TagInvalid or DigestInvalid."""
    return Digest.parse(text) if is_digest_like(text) else parse_tag(text)


def parse_full(text: str) -> tuple[RepositoryName, Reference | None]:
    """Repository and tag or digest of `repo`, `repo:tag` or `repo@digest`.

    Raises NameInvalid, TagInvalid, DigestInvalid.
    A host with a port before it, as `docker pull` has it, is left out: no name begins like that. A host without one
    looks like a part of a name, and is taken for it.
    """
    host = _HOST_AND_PORT.match(text)
    path = text[host.end() :] if host else text
    name, at, digest = path.partition("@")
    if at:
        return parse_name(name), Digest.parse(digest)
    name, colon, tag = path.partition(":")
    return parse_name(name), parse_tag(tag) if colon else None


def find_reference(text: str) -> Reference:
    """A tag or digest to be looked up; what cannot be a tag names nothing: raises ManifestUnknown or DigestInvalid."""
    if is_digest_like(text):
        return Digest.parse(text)
    if not is_tag(text):
        raise ManifestUnknown(detail={"name": text[:_LONGEST_NAME]})
    return Tag(text)


def fallback_tag(subject: Digest) -> Tag:
    """The tag under which clients without the referrers API keep the list of `subject`'s referrers."""
    algorithm, encoded = subject.algorithm[:_FALLBACK_ALGORITHM], subject.encoded[:_FALLBACK_ENCODED]
    return Tag(_NOT_IN_TAGS.sub("-", f"{algorithm}-{encoded}"))


def natural_key(text: str) -> str:
    """Text whose byte order is the order that people expect of `text`: v1.9 before v1.10.

    Each number becomes its length, in three digits, and itself without leading zeros. A tag has 128 characters at most.
    """
    return _NUMBER.sub(lambda found: f"{len(number := found[0].lstrip('0')):03}{number}", text)
