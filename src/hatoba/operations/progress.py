"""How far a long operation is: a bar on a terminal, a log line every few seconds elsewhere.

Owns the two forms alone.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_LINE_SECONDS = 5.0

Show = Callable[[int, int, int], None]  # repositories that were read, of how many, and manifests in them


@contextlib.contextmanager
def progress(title: str) -> Iterator[Show]:
    """Give what shows how far `title` is; on standard error."""
    if sys.stderr is not None and sys.stderr.isatty():
        with _bar(title) as show:
            yield show
    else:
        yield _lines(title)


@contextlib.contextmanager
def _bar(title: str) -> Iterator[Show]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("repositories, {task.fields[manifests]:,} manifests"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(title, manifests=0)

        def show(done: int, total: int, manifests: int) -> None:
            shown.update(task, completed=done, total=total, manifests=manifests)

        yield show


def _lines(title: str) -> Show:
    log = structlog.stdlib.get_logger("hatoba.progress")
    last = time.monotonic()

    def show(done: int, total: int, manifests: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _LINE_SECONDS:
            last = time.monotonic()
            log.info(title, repositories=f"{done} of {total}", manifests=manifests)

    return show
