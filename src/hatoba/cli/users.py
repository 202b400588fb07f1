"""`hatoba users`: add, remove and list the users of the htpasswd file.

Owns the questions, the answers and which file is meant. The file itself is `auth.htpasswd`'s.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from hatoba.auth.htpasswd import HtpasswdFile
from hatoba.config.values import printable
from hatoba.errors import ConfigError, HatobaError

# A password of bcrypt has 72 bytes at most; a longer line is read far enough to say so.
_LINE_BYTES = 4096

app = typer.Typer(
    help="The users of the registry, in its htpasswd file. A running server notices changes by itself.",
    no_args_is_help=True,
    # Typer's tracebacks show variables, and so passwords.
    pretty_exceptions_enable=False,
)

_Name = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.", show_default=False)]
_File = Annotated[
    Path | None,
    typer.Option("--file", envvar="REGISTRY_AUTH_HTPASSWD_PATH", help="The htpasswd file.", show_default=False),
]
_Root = Annotated[
    Path,
    typer.Option(
        "--root",
        envvar="REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY",
        help="The data folder; without --file the file is hatoba/htpasswd in it.",
    ),
]
_DEFAULT_ROOT = Path("hatoba-data")


@app.command()
def add(
    name: _Name,
    *,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input, one line.")
    ] = False,
    file: _File = None,
    root: _Root = _DEFAULT_ROOT,
) -> None:
    """Add a user, or change a user's password; makes the file if there is none."""
    path = _chosen(file, root)
    with _reported():
        password = _read_password() if password_stdin else _ask_password()
        if HtpasswdFile(path).add(name, password):
            typer.echo(f"added {printable(name)} to {printable(path)}")
        else:
            typer.echo(f"changed the password of {printable(name)} in {printable(path)}")


@app.command()
def remove(name: _Name, *, file: _File = None, root: _Root = _DEFAULT_ROOT) -> None:
    """Remove a user."""
    path = _chosen(file, root)
    with _reported():
        if not HtpasswdFile(path).remove(name):
            raise HatobaError(f"{printable(path)} has no user {printable(name)}")
        typer.echo(f"removed {printable(name)} from {printable(path)}")


@app.command("list")
def list_(*, file: _File = None, root: _Root = _DEFAULT_ROOT) -> None:
    """Print the users' names, one a line."""
    path = _chosen(file, root)
    with _reported():
        for name, stored in HtpasswdFile(path).entries().items():
            if stored is None:
                typer.echo(f"warning: {printable(name)} cannot log in: the hash is not bcrypt", err=True)
            else:
                typer.echo(printable(name))


def _chosen(file: Path | None, root: Path) -> Path:
    return file or root / "hatoba" / "htpasswd"


def _read_password() -> str:
    line = sys.stdin.buffer.readline(_LINE_BYTES)
    try:
        return line.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        raise ConfigError("the password is not UTF-8") from None


def _ask_password() -> str:
    if not sys.stdin.isatty():
        raise ConfigError("there is no terminal to ask for the password on: use --password-stdin")
    password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    return password


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """End the command with one line on stderr for an error: exit 2 when something was set wrongly, else 1."""
    try:
        yield
    except HatobaError as error:
        typer.echo(f"error: {error.message}", err=True)
        raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None
