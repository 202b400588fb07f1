"""What one request adds to the counts."""

import pytest

from hatoba import errors
from hatoba.metrics.catalogue import (
    CODES,
    DURATION,
    HANDLERS,
    IN_FLIGHT,
    METHODS,
    REQUEST_SIZE,
    REQUESTS,
    RESPONSE_SIZE,
)
from hatoba.metrics.cells import Board
from hatoba.web.measuring import Measuring
from hatoba.web.messages import Request
from hatoba.web.v2.routes import BLOB, MANIFEST, ROUTES, UPLOAD


@pytest.fixture
def board():
    return Board(1)


@pytest.fixture
def measuring(board):
    return Measuring(board.claim())


def request(pattern, method="GET", received=0, sent=0):
    made = Request({"method": method, "path": "/", "headers": []}, None, 1.0)
    made.pattern, made.received_bytes, made.sent_bytes = pattern, received, sent
    return made


def series(board, metric):
    return {one.labels: one.numbers for one in board.totals()[metric]}


def filled(numbers):
    """The buckets that are not empty, and the sum."""
    return [place for place, number in enumerate(numbers[:-1]) for _ in range(int(number))], numbers[-1]


def test_a_request_is_counted_in_every_metric(board, measuring):
    measuring.begin(UPLOAD)
    assert series(board, IN_FLIGHT)["blob_upload_chunk",] == (1.0,)
    measuring.end(request(UPLOAD, "PATCH", received=5000, sent=0), 202, 0.3)
    assert series(board, IN_FLIGHT)["blob_upload_chunk",] == (0.0,)
    assert series(board, REQUESTS) == {("blob_upload_chunk", "patch", "202"): (1.0,)}
    assert filled(series(board, DURATION)["blob_upload_chunk", "patch"]) == ([6], 0.3), "le 0.5"
    assert filled(series(board, REQUEST_SIZE)["blob_upload_chunk",]) == ([3], 5000.0), "le 8192"
    assert filled(series(board, RESPONSE_SIZE)["blob_upload_chunk",]) == ([0], 0.0)


def test_methods_and_codes_that_nobody_knows_share_a_series(board, measuring):
    for method, status in (("BREW", 200), ("X" * 500, 418), ("get", 200)):
        measuring.begin(BLOB)
        measuring.end(request(BLOB, method), status, 0.0)
    assert series(board, REQUESTS) == {("blob", "unknown", "200"): (2.0,), ("blob", "unknown", "unknown"): (1.0,)}


def test_the_largest_and_the_longest(board, measuring):
    measuring.begin(MANIFEST)
    measuring.end(request(MANIFEST, sent=2**40), 200, 3600.0)
    assert filled(series(board, RESPONSE_SIZE)["manifest",]) == ([22], 2.0**40)
    assert filled(series(board, DURATION)["manifest", "get"]) == ([13], 3600.0)


def test_every_route_and_every_error_has_a_series(measuring):
    for route in ROUTES:
        assert route.method.lower() in METHODS
        measuring.begin(route.pattern)
    assert len(measuring._handlers) == len(HANDLERS)
    raised = {str(kind.status) for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "status")}
    assert raised <= set(CODES)
