"""`hatoba backup`: a copy of the registry in another folder.

Owns as whom it works, what it says, and the exit code. What is copied and in which order is `operations.backup`'s.
"""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Annotated

import typer

from hatoba import telemetry
from hatoba.cli import tables
from hatoba.cli.bar import Bar, shown
from hatoba.cli.configured import INTERRUPTED, Config, Root, configuration_file, configure, reported
from hatoba.cli.identity import become
from hatoba.cli.verify import as_line
from hatoba.config.settings import Settings
from hatoba.config.values import printable
from hatoba.errors import HatobaError, InsufficientStorage
from hatoba.operations import backup_folder
from hatoba.operations.backup import Backup
from hatoba.operations.findings import Report
from hatoba.wiring import commands, parts

_FULL = {errno.ENOSPC, errno.EDQUOT}

_Destination = Annotated[
    Path, typer.Argument(metavar="DEST", help="The folder of the backup; made if it is not there.", show_default=False)
]
_HardLinks = Annotated[
    bool,
    typer.Option("--hard-links", help="Where it can be, give files a second name instead of copying them."),
]


def backup(dest: _Destination, *, hard_links: _HardLinks = False, config: Config = None, root: Root = None) -> None:
    """Copy the registry into the folder DEST, while it is served or not.

    DEST is then a registry of its own, for `hatoba serve --root DEST`. The next backup into the same folder copies
    only what is new; nothing is removed from it. A DEST to which somebody pushed, or in which somebody deleted, is
    refused: that would be undone. One that is broken off leaves the one before it as it was. What is copied is compared
    with its digest; what is rotten or missing is named, as by `hatoba verify`, and the exit code is 1. With
    --hard-links both registries share their files: what a disk or a person spoils is spoilt in both.
    """
    with reported():
        path = configuration_file(None, config)
        settings = configure(path, root).settings
        owner = commands.metadata_owner(settings)
        root_folder = parts.root_of(settings) or dest
        backup_folder.refuse_nested(dest, root_folder)
        backup_folder.make(dest, root_folder, owner)
        become(*owner)
        telemetry.configure("error", "text")
        with shown() as bar:
            report = Report(lambda finding: bar.say(as_line(finding)))
            try:
                work = asyncio.run(_copy(settings, dest, report, bar, hard_links=hard_links))
            except KeyboardInterrupt:
                typer.echo("hatoba: stopped; the next backup goes on with what is copied already", err=True)
                raise typer.Exit(INTERRUPTED) from None
            except (InsufficientStorage, OSError) as error:
                if isinstance(error, OSError) and error.errno not in _FULL:
                    raise
                raise HatobaError(f"{printable(dest)}: no space left") from None
        typer.echo(_summary(work, dest, report), err=True)
        for what in [*commands.elsewhere(settings), *([] if path is None else [path])]:
            typer.echo(f"not copied: {printable(what)}", err=True)
    if report.findings:
        raise typer.Exit(1)


async def _copy(settings: Settings, dest: Path, report: Report, bar: Bar, *, hard_links: bool) -> Backup:
    async with commands.backup(settings, dest, hard_links=hard_links) as work:
        await work.run(report, bar)
        return work


def _summary(work: Backup, dest: Path, report: Report) -> str:
    copied = work.copied
    how = [(copied.linked, "hard-linked"), (copied.cloned, "cloned")]
    told = "".join(f", {number} of them {word}" for number, word in how if number)
    lost = f", {report.findings} missing" if report.findings else ""
    return (
        f"{printable(dest)}: {tables.many(copied.files, 'file')} ({tables.amount(copied.bytes)}) copied{told}, "
        f"{work.there} were there, {tables.many(work.links, 'link')} written{lost}"
    )
