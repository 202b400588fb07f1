"""The commands `hatoba` and `registry`. One file a group; errors become one line and an exit code here."""

from __future__ import annotations

import typer

from hatoba.cli import serve, users, version


def main() -> None:
    """The command `hatoba`."""
    app = typer.Typer(
        name="hatoba",
        help="hatoba: a self-hosted OCI / Docker registry.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.command("serve")(serve.serve)
    app.command("version")(version.version)
    app.add_typer(users.app, name="users")
    app()


def registry_main() -> None:
    """The command `registry`, as Docker's registry is called: `registry serve FILE`."""
    app = typer.Typer(
        name="registry",
        help="hatoba under the name of Docker's registry.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.command("serve")(serve.registry_serve)
    app.command("version")(version.version)
    app.callback(invoke_without_command=True)(version.version_option)
    app()
