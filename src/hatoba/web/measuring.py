"""Counting requests, in the way of Docker's registry, for `/metrics`.

On the loop thread alone and by plain additions: of a pull that takes 80 us this takes one.
"""

from __future__ import annotations

from bisect import bisect_left

from hatoba.metrics.catalogue import (
    CODES,
    DURATION,
    IN_FLIGHT,
    METHODS,
    OTHER,
    REQUEST_SIZE,
    REQUESTS,
    RESPONSE_SIZE,
)
from hatoba.metrics.cells import Recorder
from hatoba.web.messages import Request
from hatoba.web.v2 import routes

_HANDLERS = {
    routes.PING: "base",
    routes.CATALOG: "catalog",
    routes.TAGS: "tags",
    routes.MANIFEST: "manifest",
    routes.BLOB: "blob",
    routes.UPLOADS: "blob_upload",
    routes.UPLOAD: "blob_upload_chunk",
    routes.REFERRERS: "referrers",
}
_LATENCIES = DURATION.buckets
_SIZES = REQUEST_SIZE.buckets


class Measuring:
    """Counts the requests of one worker. A pattern is one of `routes`."""

    def __init__(self, recorder: Recorder) -> None:
        self._cells = recorder.cells
        self._handlers = {pattern: _Places(recorder, handler) for pattern, handler in _HANDLERS.items()}

    def begin(self, pattern: str) -> None:
        """A request is being answered; it comes to its `end`."""
        self._cells[self._handlers[pattern].in_flight] += 1.0

    def end(self, request: Request, status: int, seconds: float) -> None:
        """The request was answered, or left off, after so long."""
        cells, places = self._cells, self._handlers[request.pattern]
        cells[places.in_flight] -= 1.0
        requests, duration = places.methods.get(request.method) or places.methods[OTHER]
        cells[requests.get(status) or requests[0]] += 1.0
        cells[duration + bisect_left(_LATENCIES, seconds)] += 1.0
        cells[duration + len(_LATENCIES) + 1] += seconds
        _observe_size(cells, places.received, request.received_bytes)
        _observe_size(cells, places.sent, request.sent_bytes)


class _Places:
    """Where the cells of one handler are. Of a method: those of each status (0: any other), and of the duration."""

    def __init__(self, recorder: Recorder, handler: str) -> None:
        self.in_flight = recorder.index(IN_FLIGHT, handler)
        self.received = recorder.index(REQUEST_SIZE, handler)
        self.sent = recorder.index(RESPONSE_SIZE, handler)
        self.methods = {
            method if method == OTHER else method.upper(): (
                {0 if code == OTHER else int(code): recorder.index(REQUESTS, handler, method, code) for code in CODES},
                recorder.index(DURATION, handler, method),
            )
            for method in METHODS
        }


def _observe_size(cells: memoryview[float], index: int, size: int) -> None:
    if size:
        cells[index + bisect_left(_SIZES, size)] += 1.0
        cells[index + len(_SIZES) + 1] += size
    else:
        cells[index] += 1.0
