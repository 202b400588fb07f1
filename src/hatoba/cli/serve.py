"""`hatoba serve`: settings from file, environment and options, the words of the first run, then the server.

Owns what a person reads at a start: the password made for them, the three commands that follow, and warnings.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import structlog

from hatoba import server, telemetry
from hatoba.auth import htpasswd_file
from hatoba.cli.configured import Addr, Config, File, Root, Workers, configuration_file, configure, reported
from hatoba.cli.identity import serve_as_owner
from hatoba.config.load import is_loopback
from hatoba.config.settings import Settings
from hatoba.errors import ConfigError
from hatoba.operations import backup_folder
from hatoba.wiring import parts

_ADMIN = "admin"


def serve(
    file: File = None, *, config: Config = None, root: Root = None, addr: Addr = None, workers: Workers = None
) -> None:
    """Run the registry. Without FILE and without REGISTRY_AUTH it sets itself up in ./hatoba-data."""
    with reported():
        _run(configuration_file(file, config), root, {"http.addr": addr, "hatoba.workers": workers})


def registry_serve(file: File = None, *, config: Config = None, root: Root = None) -> None:
    """Run the registry with Docker's configuration file (or REGISTRY_CONFIGURATION_PATH)."""
    with reported():
        path = configuration_file(file, config)
        if path is None:
            raise ConfigError("configuration path not specified: registry serve FILE")
        _run(path, root, {})


def _run(path: Path | None, root: Path | None, options: Mapping[str, object]) -> None:
    configured = configure(path, root, options, volume_first=True)
    settings = configured.settings
    server.check(settings)
    telemetry.configure(settings.log.level, settings.log.formatter, settings.log.fields)
    for warning in configured.loaded.warnings:
        structlog.stdlib.get_logger("hatoba").warning(warning)
    serve_as_owner(settings)
    # The file is made once nothing stands in the way of showing its password, which is shown only then.
    server.serve(settings, lambda: _announce(settings, _make_passwords(settings), first_run=configured.first_run))


def _make_passwords(settings: Settings) -> str | None:
    """Create the htpasswd file if it is missing; the password made for `admin`, to be shown once."""
    if settings.auth.htpasswd is None:
        return None
    try:
        return htpasswd_file.create(settings.auth.htpasswd.path, _ADMIN)
    except FileExistsError:
        return None


def _announce(settings: Settings, made: str | None, *, first_run: bool) -> None:
    log = structlog.stdlib.get_logger("hatoba")
    addr = settings.http.addr
    if not settings.auth.configured and not is_loopback(addr):
        log.warning("NO AUTHENTICATION: everybody who reaches this address may push and delete", addr=addr)
    if (root := parts.root_of(settings)) is not None and backup_folder.is_backup(root):
        log.warning(
            "this folder is a backup: after a push or a deletion here no other one is made into it; if it is the "
            "registry from now on, remove hatoba/backup.json",
            root=str(root),
        )
    if debug := settings.http.debug.addr:
        shown = settings.http.debug.prometheus.path if settings.http.debug.prometheus.enabled else "none"
        log.info("debug port, without sign-in", addr=debug, metrics=shown)
    if settings.auth.htpasswd is not None and made is not None and not first_run:
        path = str(settings.auth.htpasswd.path)
        # At a level that no setting hides: it is never shown again.
        log.error("htpasswd file was missing and has been made", path=path, user=_ADMIN, password=made)
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
