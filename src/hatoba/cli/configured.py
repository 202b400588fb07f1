"""Which configuration a command means, and how a command ends when something is wrong with it.

Owns `--config` and `--root`, the choice between a file and the first run, and the exit codes: 0 done, 1 failed or found
something, 2 usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from hatoba.config.environment import CONFIGURATION_PATH, writes_auth
from hatoba.config.load import Loaded, first_run_document, load
from hatoba.config.settings import Settings
from hatoba.config.values import printable
from hatoba.errors import ConfigError, HatobaError

INTERRUPTED = 130  # as a shell has it for SIGINT, and Typer for what nobody catches
ADDR = "127.0.0.1:5000"
DEFAULT_ROOT = Path("hatoba-data")
_ROOT_KEY = "storage.filesystem.rootdirectory"
_ROOT_VARIABLE = "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY"
# The keys that options write.
OPTIONS = {"http.addr": "--addr", "hatoba.workers": "--workers", _ROOT_KEY: "--root"}

File = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="A config.yml as Docker's registry has it.", show_default=False),
]
# No `envvar`: an empty variable and one beside FILE say nothing, which Typer would not know.
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help=f"The configuration file; otherwise {CONFIGURATION_PATH} names it.",
        show_default=False,
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        metavar="DIR",
        help=f"The data folder; ./{DEFAULT_ROOT} when nothing is configured.",
        show_default=False,
    ),
]
Addr = Annotated[str | None, typer.Option("--addr", help="HOST:PORT to listen on.", show_default=ADDR)]
Workers = Annotated[int | None, typer.Option("--workers", help="Serving processes.", show_default="1")]


@dataclass(frozen=True, slots=True)
class Configured:
    """The configuration of a command; `first_run` when nobody wrote any of sign-in or a file."""

    loaded: Loaded
    first_run: bool

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.loaded.settings


def configuration_file(file: Path | None, config: Path | None = None) -> Path | None:
    """The file that FILE, `--config` or the environment names; raises ConfigError when two are given."""
    if file is not None and config is not None:
        raise ConfigError("FILE and --config both name a configuration: give one of them")
    told = os.environ.get(CONFIGURATION_PATH)
    return file or config or (Path(told) if told else None)


def configure(
    path: Path | None, root: Path | None, options: Mapping[str, object] | None = None, *, volume_first: bool = False
) -> Configured:
    """The settings as options, environment, the file at `path` or else the first run have them; raises ConfigError.

    With `volume_first` the variable of the data folder goes before `root` on a first run, and only there: it is how an
    image names its volume, and a server must not begin anew beside it.
    """
    overrides = {**(options or {}), _ROOT_KEY: None if root is None else str(root)}
    if path is not None or writes_auth(os.environ):
        return Configured(load(path, os.environ, overrides), first_run=False)
    environ = dict(os.environ)
    if not environ.get(_ROOT_VARIABLE):
        # Left empty it would take away the folder of the first run, and so part it from its htpasswd file.
        environ.pop(_ROOT_VARIABLE, None)
    folder = root or DEFAULT_ROOT
    if _ROOT_VARIABLE in environ and (volume_first or root is None):
        folder, overrides[_ROOT_KEY] = Path(environ[_ROOT_VARIABLE]), None
    return Configured(load(None, environ, overrides, base=first_run_document(folder, ADDR)), first_run=True)


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """End the command with one line on stderr for an error: exit 2 when something was set wrongly, else 1."""
    try:
        yield
    except HatobaError as error:
        typer.echo(f"hatoba: {error.message}", err=True)
        raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None
    except BrokenPipeError:  # whoever read has left; Typer ends quietly
        raise
    except OSError as error:  # results that cannot be written, above all
        where = "" if error.filename is None else f"{printable(str(error.filename))}: "
        typer.echo(f"hatoba: {where}{error.strerror or error}", err=True)
        if error.filename is None:
            _give_up_output()
        raise typer.Exit(1) from None


def _give_up_output() -> None:
    """What is still in the buffer would fail once more at the exit, with words and an exit code of Python's own."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
