"""Manifest bodies by digest, the most used ones, in memory. A digest's bytes never change, so nothing is ever stale."""

from __future__ import annotations

from collections import OrderedDict

_TOTAL_BYTES = 16 * 1024 * 1024
_LARGEST_BYTES = 64 * 1024


class Bodies:
    """One per worker, used on the loop thread only; bounded by bytes, the least recently used goes first."""

    def __init__(self, total_bytes: int = _TOTAL_BYTES) -> None:
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._left_bytes = total_bytes

    def get(self, digest: str) -> bytes | None:
        """The body, if it is kept."""
        body = self._kept.get(digest)
        if body is not None:
            self._kept.move_to_end(digest)
        return body

    def put(self, digest: str, body: bytes) -> None:
        """Keep the body unless it is large."""
        if len(body) > _LARGEST_BYTES or digest in self._kept:
            return
        self._kept[digest] = body
        self._left_bytes -= len(body)
        while self._left_bytes < 0:
            _, oldest = self._kept.popitem(last=False)
            self._left_bytes += len(oldest)
