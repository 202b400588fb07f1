"""What long operations tell of how far they are, and the form of it that a log takes.

Bars are the terminal's: `cli.bar`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import structlog

_LINE_SECONDS = 5.0

Show = Callable[[int, int, int], None]  # repositories that were read, of how many, and manifests in them


class Progress(Protocol):
    """Somebody who watches."""

    def begin(self, what: str, total: int | None) -> None:
        """A new stage, of `total` steps or bytes; None when nobody knows."""

    def advance(self, amount: int) -> None:
        """So many of them are done."""


def log_lines(title: str) -> Show:
    """A log line every few seconds on how far `title` is."""
    log = structlog.stdlib.get_logger("hatoba.progress")
    last = time.monotonic()

    def show(done: int, total: int, manifests: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _LINE_SECONDS:
            last = time.monotonic()
            log.info(title, repositories=f"{done} of {total}", manifests=manifests)

    return show
