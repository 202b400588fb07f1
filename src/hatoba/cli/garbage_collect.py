"""`registry garbage-collect`, which scripts and timers made for Docker's registry call: it says that nothing was done.

Owns that answer alone.
"""

from __future__ import annotations

import typer


def garbage_collect(arguments: typer.Context) -> None:
    """Remove nothing, say why, and exit 1: hatoba does not collect garbage yet. Takes what Docker's command takes."""
    del arguments
    typer.echo(
        "registry: nothing was removed: this version of hatoba does not collect garbage, and Docker's registry must "
        "not do it in a folder that hatoba serves",
        err=True,
    )
    raise typer.Exit(1)
