"""Image configs (image-spec "Image Configuration"): the few fields that listings show.

Lenient: whatever a config holds, reading it never refuses a push.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

IMAGE_CONFIG_TYPES = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
)
_LONGEST = 255


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says of itself; None where it says nothing usable."""

    os: str | None
    architecture: str | None
    created: datetime | None


NOTHING = ImageConfig(None, None, None)


def parse(content: bytes) -> ImageConfig:
    """Read a config; anything unusable counts as not said."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return NOTHING
    if not isinstance(document, dict):
        return NOTHING
    return ImageConfig(_text(document.get("os")), _text(document.get("architecture")), _moment(document.get("created")))


def _text(value: object) -> str | None:
    if not isinstance(value, str) or not value or len(value) > _LONGEST or not value.isprintable():
        return None
    return value


def _moment(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None
