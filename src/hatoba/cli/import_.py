"""`hatoba import`: reads a folder of Docker's registry, or of hatoba after its database was lost, into the database.

Owns the words about what was read and skipped, and the report.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TextIO

import typer

from hatoba import server, telemetry
from hatoba.cli.bar import shown_repositories
from hatoba.cli.configured import Config, Root, configuration_file, configure, reported
from hatoba.cli.identity import become_owner_of
from hatoba.config.values import printable
from hatoba.operations.adoption import Read
from hatoba.operations.tree import TreeProblem
from hatoba.wiring import commands, parts

_STDOUT = Path("-")

_Report = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write what was skipped to FILE, a JSON object a line: path, kind, reason. - is standard output.",
        show_default=False,
    ),
]


def import_(*, config: Config = None, root: Root = None, report: _Report = None) -> None:
    """Read the data folder of Docker's registry into hatoba's database; `serve` does the same by itself at its start.

    A lost database is built anew from the folder. One that is there stays, and what the folder has otherwise is taken
    over; a broken one is given another name first. Nothing in the folder changes but links that were lost. What only
    the database knew is gone with it: who pushed, and where tags pointed before. Refuses while a server runs.
    """
    kinds: Counter[str] = Counter()
    with reported():
        settings = configure(configuration_file(None, config), root).settings
        owner = commands.folder_owner(settings)
        with _opened(report) as file:  # before root is given up
            become_owner_of(parts.root_of(settings), owner)
            telemetry.configure("warn", "text")

            def note(problem: TreeProblem) -> None:
                kinds[problem.kind] += 1
                if file is not None:
                    file.write(json.dumps(dataclasses.asdict(problem)) + "\n")

            with server.only_server(parts.root_of(settings)):
                aside = commands.set_aside(settings)
                with shown_repositories("importing") as show:
                    read = asyncio.run(commands.import_tree(settings, note, show))
    if aside is not None:
        typer.echo(f"the broken database is now {printable(aside)}", err=True)
    _summarize(read, kinds, report)


def _summarize(read: Read, kinds: Counter[str], report: Path | None) -> None:
    typer.echo(
        f"read {read.repositories} repositories with {read.manifests} manifests; new: {read.new_manifests} manifests, "
        f"{read.new_blobs} blobs; {read.tags_changed} tags changed, {read.ended} manifests and blobs ended",
        err=True,
    )
    if kinds:
        skipped = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
        where = "--report FILE lists them" if report is None else f"listed in {printable(report)}"
        typer.echo(f"skipped or not as they should be: {skipped}; {where}", err=True)


@contextlib.contextmanager
def _opened(report: Path | None) -> Iterator[TextIO | None]:
    if report is None:
        yield None
    elif report == _STDOUT:
        yield sys.stdout
    else:
        with report.open("w", encoding="utf-8") as file:
            yield file
