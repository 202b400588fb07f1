"""What bodies that are read whole may take of a worker's memory, together.

Owns the bound alone: `Request.body` tells it what it holds. Bodies of uploads go to the disk and do not count.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hatoba.errors import TooManyRequests

_LEAST_BYTES = 64 * 1024 * 1024
_LEAST_BODIES = 4
_UNCOUNTED_BYTES = 64 * 1024


class Budget:
    """A bound for one worker: 64 MiB, at least four of the largest body; used on the loop thread.

    Bytes count when they have arrived, not when they are announced, which costs a client nothing. The first 64 KiB of
    each body never count: nearly all manifests fit in there, and whoever fills the memory keeps none of them out.
    """

    def __init__(self, largest: int) -> None:
        self._free = max(_LEAST_BYTES, _LEAST_BODIES * largest)

    @contextlib.contextmanager
    def share(self) -> Iterator[Share]:
        """A share for one request; what it has taken is free again at the end, however that comes."""
        share = Share(self)
        try:
            yield share
        finally:
            self._free += share.taken

    def take(self, size: int) -> None:
        """Take `size` bytes; raises TooManyRequests when there are not as many."""
        if size > self._free:
            raise TooManyRequests("too many large bodies are under way", headers=(("Retry-After", "5"),))
        self._free -= size


class Share:
    """What one body has taken, in bytes."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.taken = 0

    def grow(self, size: int) -> None:
        """The body has `size` bytes by now; raises TooManyRequests."""
        more = size - _UNCOUNTED_BYTES - self.taken
        if more > 0:
            self._budget.take(more)
            self.taken += more
