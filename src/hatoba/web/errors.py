"""The only place that builds an error body: the spec's `{"errors": [{"code", "message", "detail"}]}`."""

from __future__ import annotations

import json

from hatoba.errors import RegistryError
from hatoba.web.messages import Response


def render(error: RegistryError) -> Response:
    """The answer that tells a client of `error`."""
    body = json.dumps({"errors": error.entries()}, default=str).encode()
    headers = [(name.lower(), value) for name, value in error.headers]
    return Response(error.status, [("content-type", "application/json; charset=utf-8"), *headers], body)


def render_unknown(request_id: str) -> Response:
    """The answer for a defect: a request id to look for in the log, and no word of what happened."""
    entry = {"code": "UNKNOWN", "message": "unknown error", "detail": {"request": request_id}}
    body = json.dumps({"errors": [entry]}).encode()
    return Response(500, [("content-type", "application/json; charset=utf-8")], body)
