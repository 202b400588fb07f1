"""`hatoba users`: add, remove and list the users of the htpasswd file.

Owns the questions, the answers and which file is meant. The file itself is `auth.htpasswd`'s.
"""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from hatoba.auth.htpasswd_file import HtpasswdFile
from hatoba.cli.configured import Config, Root, configuration_file, configure, reported
from hatoba.cli.passwords import ask_password, read_password
from hatoba.config.values import printable
from hatoba.errors import ConfigError, HatobaError

# 128 bits, in letters and digits that survive being copied by a double click.
_MADE_BYTES = 16

app = typer.Typer(
    help="The users of the registry, in its htpasswd file. A running server notices changes by itself.",
    no_args_is_help=True,
    # Typer's tracebacks show variables, and so passwords.
    pretty_exceptions_enable=False,
)

_Name = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.", show_default=False)]
_File = Annotated[
    Path | None,
    typer.Option(
        "--file",
        envvar="REGISTRY_AUTH_HTPASSWD_PATH",
        help="The htpasswd file; otherwise the configuration names it.",
        show_default=False,
    ),
]


@app.command()
def add(
    name: _Name,
    *,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input, one line.")
    ] = False,
    file: _File = None,
    config: Config = None,
    root: Root = None,
) -> None:
    """Add a user, or change a user's password; makes the file if there is none.

    The password is asked for twice. Without a terminal, and without --password-stdin, one is made and printed.
    """
    with reported():
        path = _chosen(file, config, root)
        made = None if password_stdin or sys.stdin.isatty() else secrets.token_hex(_MADE_BYTES)
        password = made or (read_password() if password_stdin else _ask_password())
        if HtpasswdFile(path).add(name, password):
            typer.echo(f"added {printable(name)} to {printable(path)}", err=True)
        else:
            typer.echo(f"changed the password of {printable(name)} in {printable(path)}", err=True)
        if made is not None:
            typer.echo(made)


@app.command()
def remove(name: _Name, *, file: _File = None, config: Config = None, root: Root = None) -> None:
    """Remove a user."""
    with reported():
        path = _chosen(file, config, root)
        if not HtpasswdFile(path).remove(name):
            raise HatobaError(f"{printable(path)} has no user {printable(name)}")
        typer.echo(f"removed {printable(name)} from {printable(path)}", err=True)


@app.command("list")
def list_(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of lines.")] = False,
    file: _File = None,
    config: Config = None,
    root: Root = None,
) -> None:
    """Print the names of the users who can log in, one a line; warn about others."""
    with reported():
        entries = HtpasswdFile(_chosen(file, config, root)).entries()
    names = [name for name, stored in entries.items() if stored is not None]
    for name, stored in entries.items():
        if stored is None:
            typer.echo(f"warning: {printable(name)} cannot log in: the hash is not bcrypt", err=True)
    if as_json:
        typer.echo(json.dumps([{"name": name} for name in names], indent=2))
    else:
        for name in names:
            typer.echo(printable(name))


def _chosen(file: Path | None, config: Path | None, root: Path | None) -> Path:
    """The htpasswd file that the server would use; raises ConfigError when it would use none."""
    if file is not None:
        return file
    found = configure(configuration_file(None, config), root).settings.auth.htpasswd
    if found is None:
        raise ConfigError("auth.htpasswd is not configured, so the registry has no users: --file names a file anyway")
    return found.path


def _ask_password() -> str:
    while True:
        password = ask_password()
        if ask_password("Repeat: ") == password:
            return password
        typer.echo("the two passwords do not match", err=True)
