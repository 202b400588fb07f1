"""What the rules need from above, and the small types they take and give."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from hatoba.db.mirror import MirrorRow


class BodyInterrupted(Exception):
    """Raised by a request's body: the client went away or stalled. What came before it is good."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a blob as a client sends it. `first` and `last` (inclusive) are its Content-Range, if it sent one.

    `length_bytes` is the announced length, None for a body of unknown length.
    """

    body: AsyncIterator[bytes]
    length_bytes: int | None = None
    first: int | None = None
    last: int | None = None


class Links(Protocol):
    """Docker's link files, kept by `operations.mirror`."""

    async def write(self, rows: Sequence[MirrorRow]) -> None:
        """Make these links true. Never raises: what cannot be written stays pending."""
