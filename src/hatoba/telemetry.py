"""Logging: the application log on stderr, the access log on stdout.

Owns their formats, and the rule that no credential reaches either. The access line is formatted by hand and written in
batches: a structlog line a request costs a third of hatoba's speed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import select
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import structlog

_FLUSH_SECONDS = 0.25
_FLUSH_LINES = 500
_AGAIN_SECONDS = 0.05  # a pipe holds 64 KiB, less than the lines of a moment: its reader needs another to take them
_MOST_LINES = 20_000
_CUT = 100  # characters of each field of a line that is too long; escaped they are 12 times as many at most
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
    handler = _to_stderr()
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
        self._outlet = _Outlet(descriptor)
        self._dropped = 0
        self._as_json = as_json
        self._lines: list[str] = []
        self._added = 0  # since the last flush
        self._timer: asyncio.TimerHandle | None = None

    def add(self, fields: dict[str, str | int | float]) -> None:
        """Write a line of these fields, soon; values from clients may hold anything."""
        line = self._line(fields)
        if len(line) > select.PIPE_BUF:
            # In one piece, or another worker's line could fall in between and a client choose how the rest begins.
            line = self._line({key: v[:_CUT] if isinstance(v, str) else v for key, v in fields.items()})
        self._lines.append(line)
        self._added += 1
        if self._added >= _FLUSH_LINES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write what is waiting; what finds no room waits on, and only beyond `_MOST_LINES` is dropped."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._added = 0
        if not self._lines:
            return
        left = self._lines[self._outlet.write(self._lines) :]
        self._lines = left[:_MOST_LINES]
        dropped = len(left) - len(self._lines)
        log = logging.getLogger("hatoba.access")
        if dropped and not self._dropped:
            log.warning("lines of the access log are being dropped: stdout takes no more")
        elif self._dropped and not left:
            log.warning("%d lines of the access log were dropped: stdout took no more", self._dropped)
            self._dropped = 0
        self._dropped += dropped
        if left:
            with contextlib.suppress(RuntimeError):  # no loop: the process ends
                self._timer = asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self.flush)

    def _line(self, fields: dict[str, str | int | float]) -> str:
        seconds, fraction = divmod(time.time(), 1)
        moment = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(fraction * 1000):03d}Z"
        if self._as_json:
            return json.dumps({"time": moment, **fields}) + "\n"
        pairs = " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())
        return f"time={moment} {pairs}\n"


class _Outlet:
    """Puts lines on a descriptor without ever waiting for room: a reader that stands still stops no request.

    In pieces that a pipe takes whole, so that the lines of several processes do not mix. Not for two threads at once.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)
        self._nowait = _takes_nowait(descriptor)
        self._torn = False

    def write(self, lines: Sequence[str]) -> int:
        """Write as many of these lines as there is room for; how many that were. Each ends with its only newline."""
        written = -int(self._torn)
        try:
            for piece in _pieces(["\n", *lines] if self._torn else lines):
                taken = piece[: self._put(piece)]
                self._torn = not taken.endswith(b"\n")
                written += taken.count(b"\n")
                if len(taken) < len(piece):  # a socket may
                    break
        except OSError:  # no room, or nobody who could ever read it
            pass
        return max(0, written)

    def _put(self, piece: bytes) -> int:
        """Write a piece of at most PIPE_BUF bytes; how many were taken. Raises OSError."""
        if self._nowait:
            # Not by O_NONBLOCK, which other processes would have too, the shell among them.
            try:
                return os.pwritev(self._descriptor, [piece], -1, os.RWF_NOWAIT)
            except (BlockingIOError, BrokenPipeError):
                raise
            except OSError:  # not to be had: pipes of Linux before 6.4, some containers
                self._nowait = False
        # Another process may take the room before we do; then we wait with it.
        if not self._room.poll(0):
            raise BlockingIOError
        return os.write(self._descriptor, piece)


class _NeverWaiting(logging.Handler):
    """Log lines on a descriptor; those that find no room are dropped, counted, and told of when there is room again."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._outlet = _Outlet(descriptor)
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's line, if that is possible now. Called under the handler's lock."""
        lines = [self._line(record)]
        if self._dropped:
            lines.insert(0, self._line(_told(f"{self._dropped} log lines were dropped: stderr is not read")))
        written = self._outlet.write(lines)
        if written == len(lines):
            self._dropped = 0
        else:
            self._dropped = 1 if written else self._dropped + 1

    def _line(self, record: logging.LogRecord) -> str:
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001  a word that cannot be said must not fail what it is about
            text = self.format(_told(f"a log line cannot be written: {record.pathname}:{record.lineno}"))
        return text + "\n"


def _told(text: str) -> logging.LogRecord:
    return logging.LogRecord("hatoba", logging.WARNING, __file__, 0, text, None, None)


def _to_stderr() -> logging.Handler:
    """What takes the application's log to stderr."""
    try:
        return _NeverWaiting(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):  # there is no stderr, or something in this process stands in for it
        return logging.StreamHandler(sys.stderr)


def _takes_nowait(descriptor: int) -> bool:
    """Whether a write may be asked not to wait: at pipes and sockets. Files have always room, and may refuse it."""
    if not hasattr(os, "RWF_NOWAIT"):  # Linux has it
        return False
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _pieces(lines: Sequence[str]) -> Iterator[bytes]:
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
