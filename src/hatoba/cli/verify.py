"""`hatoba verify`: a line for each thing that is not as it should be, and the exit code.

Owns the form of the lines, the options and the summary. What is looked at is `operations.verify`'s.
"""

from __future__ import annotations

import asyncio
import re
from typing import Annotated

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError

from hatoba import telemetry
from hatoba.cli import tables
from hatoba.cli.bar import Bar, shown
from hatoba.cli.configured import INTERRUPTED, Config, Root, configuration_file, configure, reported
from hatoba.cli.identity import become_owner
from hatoba.cli.opening import refuse_readonly
from hatoba.config.settings import Settings
from hatoba.config.values import printable
from hatoba.errors import ConfigError
from hatoba.operations.findings import Finding, Report
from hatoba.wiring import commands

_SIZE = re.compile(r"[0-9]+(\.[0-9]+)?([kKMGT]?i?B)?", re.ASCII)

_Fix = Annotated[bool, typer.Option("--fix", help="Mend what can be mended; no bytes are deleted.")]
_Rate = Annotated[str, typer.Option("--rate", help="Read at most this much a second, as 50MB or 1GiB; 0 for no bound.")]
_Restart = Annotated[
    bool, typer.Option("--restart", help="Read all bytes again, also those an interrupted check read.")
]


def verify(
    *,
    fix: _Fix = False,
    rate: _Rate = "200MiB",
    restart: _Restart = False,
    config: Config = None,
    root: Root = None,
) -> None:
    """Compare everything: rows with files and with Docker's links, and every byte with its digest.

    Prints a line for each finding: what it is, what it is about, what it means and what to do, parted by tabs. Exits 1
    if there is any. A blob that is not what its digest says is not served from then on, also without --fix; its next
    push heals it. Files that nothing names are counted, as a killed server leaves some. Works beside a running server,
    also while clients push; an interrupted check goes on where it was.
    """
    with reported():
        bound = _parse_rate(rate)
        settings = configure(configuration_file(None, config), root).settings
        if fix:
            refuse_readonly(settings)
        become_owner(settings)
        telemetry.configure("error", "text")
        with shown() as bar:
            report = Report(lambda finding: bar.say(as_line(finding)))
            try:
                asyncio.run(_check(settings, report, bar, bound, fix=fix, restart=restart))
            except KeyboardInterrupt:
                typer.echo("hatoba: stopped; the next `hatoba verify` goes on where this one was", err=True)
                raise typer.Exit(INTERRUPTED) from None
        for line in _summary(report):
            typer.echo(line, err=True)
    if report.findings:
        raise typer.Exit(1)


async def _check(  # noqa: PLR0913  the options
    settings: Settings, report: Report, bar: Bar, rate: int, *, fix: bool, restart: bool
) -> None:
    async with commands.verification(settings) as verification:
        position = None if restart else await verification.started_at()
        if position is not None:
            typer.echo(f"going on with an interrupted check, after {position}", err=True)
        await verification.run(report, bar, rate, fix=fix, restart=restart)


def _parse_rate(text: str) -> int:
    size = text.removesuffix("/s")
    try:
        if _SIZE.fullmatch(size):
            return int(TypeAdapter(ByteSize).validate_python(size))
    except ValidationError:
        pass
    raise ConfigError(f"--rate {printable(text)}: must be a size such as 200MiB, or 0")


def as_line(finding: Finding) -> str:
    """A finding as it is printed."""
    return "\t".join(printable(part) for part in (finding.kind, finding.subject, finding.meaning, finding.fix))


def _summary(report: Report) -> list[str]:
    looked = (
        f"{tables.many(report.blobs, 'blob')} ({tables.amount(report.hashed_bytes)} read)",
        tables.many(report.manifests, "manifest"),
        tables.many(report.links, "link"),
    )
    found = tables.many(report.findings, "finding") + (f", {report.mended} mended" if report.mended else "")
    strays = f"{tables.many(report.strays, 'file')} that nothing names ({tables.amount(report.stray_bytes)})"
    counted = [
        (report.strays, strays),
        (report.abandoned, f"{tables.many(report.abandoned, 'folder')} of no upload"),
        (report.fileless, f"{tables.many(report.fileless, 'upload')} without a file"),
        (report.pending, f"{tables.many(report.pending, 'link')} yet to be written"),
    ]
    besides = ", ".join(text for number, text in counted if number)
    return [f"{', '.join(looked)}: {found}", *([f"besides, no findings: {besides}"] if besides else [])]
