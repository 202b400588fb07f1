"""Logging: the application log on stderr, the access log on stdout.

Owns their formats, and the rule that no credential reaches either. The access line is formatted by hand and written in
batches: a structlog line a request costs a third of hatoba's speed (measured: docs/decisions).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import structlog

_FLUSH_SECONDS = 0.25
_FLUSH_LINES = 500
_LEVELS = {"error": logging.ERROR, "warn": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}


def configure(
    level: Literal["error", "warn", "info", "debug"],
    formatter: Literal["text", "json", "logstash"],
    fields: Mapping[str, Any] | None = None,
) -> None:
    """Send hatoba's and its libraries' log lines to stderr as logfmt (like Docker's registry) or JSON.

    `fields` are added to every line, the line's own go before them.
    """

    def add_fields(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        return {**added, **event}

    added = {str(key): value for key, value in (fields or {}).items()}
    renderer: Any
    if formatter == "text":
        renderer = structlog.processors.LogfmtRenderer(key_order=["time", "level", "msg"], bool_as_flag=False)
    else:
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("msg"),
        add_fields,
        _on_one_line,
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _on_one_line(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    # logfmt refuses keys that would break a line; a client must not be able to forge one, nor to steer a terminal.
    return {
        "".join(c if c.isprintable() and c not in ' ="' else "_" for c in key): _printable(value)
        for key, value in event.items()
        if not key.startswith("_")
    } | {key: event[key] for key in ("_record", "_from_structlog") if key in event}


def _printable(value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    text = str(value)
    if text.isprintable():
        return text
    # Newlines are left to the renderers, which both escape them.
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


class AccessLog:
    """One line a request on `descriptor`, written a few times a second. Used on the loop thread only."""

    def __init__(self, descriptor: int, *, as_json: bool) -> None:
        self._descriptor = descriptor
        self._as_json = as_json
        self._lines: list[str] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, fields: dict[str, str | int | float]) -> None:
        """Write a line of these fields, soon; values from clients may hold anything."""
        seconds, fraction = divmod(time.time(), 1)
        moment = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(fraction * 1000):03d}Z"
        if self._as_json:
            self._lines.append(json.dumps({"time": moment, **fields}) + "\n")
        else:
            pairs = " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())
            self._lines.append(f"time={moment} {pairs}\n")
        if len(self._lines) >= _FLUSH_LINES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write what is waiting; lines that nobody can take are dropped rather than held.

        In pieces that a pipe takes whole, each when there is room: a reader that stands still stops no request, and
        the lines of several workers do not mix.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines = self._lines, []
        room = select.poll()
        room.register(self._descriptor, select.POLLOUT)
        try:
            for piece in _pieces(lines):
                if not room.poll(0):
                    raise BlockingIOError
                os.write(self._descriptor, piece)
        except OSError:
            logging.getLogger("hatoba.access").debug("access log cannot be written")


def _pieces(lines: list[str]) -> Iterator[bytes]:
    piece = b""
    for line in lines:
        content = line.encode("utf-8", "backslashreplace")
        if piece and len(piece) + len(content) > select.PIPE_BUF:
            yield piece
            piece = b""
        piece += content
        while len(piece) > select.PIPE_BUF:
            yield piece[: select.PIPE_BUF]
            piece = piece[select.PIPE_BUF :]
    if piece:
        yield piece


def _quoted(value: str | float) -> str:
    text = str(value)
    if text and text.isascii() and text.isprintable() and not any(mark in text for mark in ' "=\\'):
        return text
    return json.dumps(text)
