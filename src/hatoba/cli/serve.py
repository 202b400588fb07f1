"""`hatoba serve`: settings from file, environment and options, the words of the first run, then the server.

Owns what a person reads at a start: the password made for them, the three commands that follow, and warnings.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import structlog
import typer

from hatoba import server, telemetry
from hatoba.auth import htpasswd
from hatoba.config.environment import writes_auth
from hatoba.config.load import Loaded, first_run_document, is_loopback, load
from hatoba.config.settings import Settings
from hatoba.errors import ConfigError, HatobaError

_ROOT = Path("hatoba-data")
_ADDR = "127.0.0.1:5000"
_ADMIN = "admin"
_FILE = typer.Argument(metavar="FILE", help="A config.yml as Docker's registry has it.", show_default=False)


def serve(
    file: Annotated[Path | None, _FILE] = None,
    root: Annotated[Path | None, typer.Option(help="The data folder.", show_default="./hatoba-data")] = None,
    addr: Annotated[str | None, typer.Option(help="HOST:PORT to listen on.", show_default=_ADDR)] = None,
    workers: Annotated[int | None, typer.Option(help="Serving processes.", show_default="1")] = None,
) -> None:
    """Run the registry. Without FILE and without REGISTRY_AUTH it sets itself up in ./hatoba-data."""
    path = file or _file_from_environment()
    options = {"http.addr": addr, "hatoba.workers": workers, "storage.filesystem.rootdirectory": _text(root)}
    _run(path, options)


def registry_serve(file: Annotated[Path | None, _FILE] = None) -> None:
    """Run the registry with Docker's configuration file (or REGISTRY_CONFIGURATION_PATH)."""
    path = file or _file_from_environment()
    if path is None:
        _fail(ConfigError("configuration path not specified: registry serve FILE"))
    _run(path, {})


def _run(path: Path | None, options: Mapping[str, object]) -> None:
    try:
        loaded, first_run = _load(path, options)
        telemetry.configure(loaded.settings.log.level, loaded.settings.log.formatter, loaded.settings.log.fields)
        for warning in loaded.warnings:
            structlog.stdlib.get_logger("hatoba").warning(warning)
        made = _make_passwords(loaded.settings)
        server.serve(loaded.settings, lambda: _announce(loaded.settings, made, first_run=first_run))
    except HatobaError as error:
        _fail(error)


def _load(path: Path | None, options: Mapping[str, object]) -> tuple[Loaded, bool]:
    if path is not None or writes_auth(os.environ):
        return load(path, os.environ, options), False
    base = first_run_document(_first_run_root(options), _ADDR)
    return load(None, os.environ, {**options, "storage.filesystem.rootdirectory": None}, base=base), True


def _first_run_root(options: Mapping[str, object]) -> Path:
    told = os.environ.get("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY") or options["storage.filesystem.rootdirectory"]
    return Path(str(told)) if told else _ROOT


def _make_passwords(settings: Settings) -> str | None:
    """Create the htpasswd file if it is missing; the password made for `admin`, to be shown once."""
    if settings.auth.htpasswd is None:
        return None
    try:
        return htpasswd.create(settings.auth.htpasswd.path, _ADMIN)
    except FileExistsError:
        return None


def _announce(settings: Settings, made: str | None, *, first_run: bool) -> None:
    log = structlog.stdlib.get_logger("hatoba")
    addr = settings.http.addr
    if not settings.auth.configured and not is_loopback(addr):
        log.warning("NO AUTHENTICATION: everybody who reaches this address may push and delete", addr=addr)
    if settings.auth.htpasswd is not None and made is not None and not first_run:
        path = str(settings.auth.htpasswd.path)
        log.warning("htpasswd file was missing and has been made", path=path, user=_ADMIN, password=made)
    if first_run:
        sys.stdout.write(_first_words(settings, made))
        sys.stdout.flush()


def _first_words(settings: Settings, made: str | None) -> str:
    path = settings.auth.htpasswd.path if settings.auth.htpasswd else None
    host = _pushable(settings)
    if made is not None:
        head = f"Made {path} with user {_ADMIN} and password {made}\nThe password is shown only now."
    else:
        head = f"Users are in {path}; a new password: hatoba users add {_ADMIN} --file {path}"
    return (
        f"{head}\n\nNow, in another terminal:\n\n"
        f"  docker login {host} --username {_ADMIN}\n"
        f"  docker tag hello-world {host}/hello-world\n"
        f"  docker push {host}/hello-world\n\n"
    )


def _pushable(settings: Settings) -> str:
    if settings.http.socket_path:
        return str(settings.http.socket_path)  # Docker's clients cannot use one: a proxy stands in between
    host, port = settings.http.listen
    if host in {"", "0.0.0.0", "::"}:  # noqa: S104
        host = "127.0.0.1"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _file_from_environment() -> Path | None:
    told = os.environ.get("REGISTRY_CONFIGURATION_PATH")
    return Path(told) if told else None


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _fail(error: HatobaError) -> NoReturn:
    typer.echo(f"hatoba: {error.message}", err=True)
    raise typer.Exit(2 if isinstance(error, ConfigError) else 1)
