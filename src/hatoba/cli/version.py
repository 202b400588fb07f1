"""`hatoba version`, and `registry --version` as Docker's registry has it."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import Annotated

import typer


def version() -> None:
    """Print the version."""
    typer.echo(f"hatoba {installed_version('hatoba')}")


def version_option(
    *, wanted: Annotated[bool, typer.Option("--version", "-v", help="Print the version and exit.")] = False
) -> None:
    """Docker's registry takes the version as an option."""
    if wanted:
        version()
        raise typer.Exit
