"""A bar on the terminal that shows how far a long command has come.

Where stderr is no terminal an import logs lines, and the others say nothing. Owns that lines for standard output and
the bar do not write over each other.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from hatoba.operations.progress import Show, log_lines


class Bar:
    """`operations.progress.Progress` that nobody sees."""

    def begin(self, what: str, total: int | None) -> None:
        """See `Progress.begin`."""

    def advance(self, amount: int) -> None:
        """See `Progress.advance`."""

    def say(self, line: str) -> None:
        """A line on standard output."""
        typer.echo(line)


class _Shown(Bar):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def begin(self, what: str, total: int | None) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._progress.columns = _steps() if total is None else _bytes()
        self._task = self._progress.add_task(what, total=total)

    def advance(self, amount: int) -> None:
        if self._task is not None:
            self._progress.advance(self._task, amount)

    def say(self, line: str) -> None:
        if sys.stdout.isatty():
            # Above the bar, which is on the same terminal.
            self._progress.console.print(line, soft_wrap=True, markup=False, highlight=False)
        else:
            typer.echo(line)


@contextlib.contextmanager
def shown() -> Iterator[Bar]:
    """A bar on standard error, gone at the end."""
    if not _on_terminal():
        yield Bar()
        return
    console = Console(stderr=True)
    with Progress(console=console, transient=True, redirect_stdout=False) as progress:
        yield _Shown(progress)


@contextlib.contextmanager
def shown_repositories(title: str) -> Iterator[Show]:
    """The bar of an import, gone at the end."""
    if not _on_terminal():
        yield log_lines(title)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("repositories, {task.fields[manifests]:,} manifests"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, manifests=0)

        def show(done: int, total: int, manifests: int) -> None:
            progress.update(task, completed=done, total=total, manifests=manifests)

        yield show


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()  # None: it was closed


def _steps() -> tuple[ProgressColumn, ...]:
    counted = TextColumn("{task.completed:,.0f}")
    return SpinnerColumn(), TextColumn("{task.description}"), counted, TimeElapsedColumn()


def _bytes() -> tuple[ProgressColumn, ...]:
    how = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return TextColumn("{task.description}"), *how
