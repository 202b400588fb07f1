"""The way from a file, the environment and the command line to `Settings`.

Owns precedence (override, then environment, then file, then default) and that every failure is a ConfigError of one
line. Reads the file it is told to and nothing else; does not look at the process's own environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hatoba.config.environment import override, parse_yaml, traced
from hatoba.config.origins import Origin, Setting, effective
from hatoba.config.section import explain
from hatoba.config.settings import Settings, ignored
from hatoba.config.values import VERSION, parse_address, printable
from hatoba.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings in force, what to tell the operator about how they came to be, and whether a file was read.

    `listed` are the same settings one by one, each with where it came from.
    """

    settings: Settings
    warnings: tuple[str, ...]
    from_file: bool
    listed: tuple[Setting, ...] = field(default=(), compare=False, repr=False)


def load(
    path: Path | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
    *,
    base: Mapping[str, Any] | None = None,
) -> Loaded:
    """The settings from the file at `path`, or from the document `base` when there is no file, and what changes them.

    `overrides` maps dotted keys ("http.addr") to values; None means not given. Raises ConfigError.
    """
    applied = traced((base or {}) if path is None else read_document(path), environ)
    document = applied.document
    changes = [(trail, Origin("environment", name)) for trail, name in applied.changes]
    for key, value in (overrides or {}).items():
        if value is not None:
            document = override(document, key, value)
            changes.append((tuple(key.split(".")), Origin("option", key)))
    try:
        settings = Settings.model_validate(document)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None
    written = Origin("default") if path is None else Origin("file", str(path))
    listed = tuple(effective(settings, document, written, changes))
    unused = [f"{key} is not used by this version of hatoba" for key in ignored(document)]
    return Loaded(settings=settings, warnings=(*applied.warnings, *unused), from_file=path is not None, listed=listed)


def read_document(path: Path) -> dict[str, Any]:
    """The mapping in a configuration file, of a version hatoba knows; raises ConfigError naming file and line."""
    name = printable(str(path))
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{name}: no such file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a usable path"
        raise ConfigError(f"{name}: cannot be read: {reason}") from None
    try:
        document = parse_yaml(content)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error.message}") from None
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigError(f"{name}: must hold a mapping of sections")
    version = document.get("version")
    if version is None:
        raise ConfigError(f"{name}: version is missing: the file needs the line `version: {VERSION}`")
    if version != VERSION:
        raise ConfigError(f"{name}: this version of the configuration format is not supported, only {VERSION} is")
    return document


def first_run_document(root: Path, addr: str) -> dict[str, Any]:
    """The document of a registry that nobody configured: data in `root`, listening on `addr`, with passwords.

    Meant as `base` of `load` when there is no file and `environment.writes_auth` finds nothing.
    """
    return {
        "version": VERSION,
        "storage": {"filesystem": {"rootdirectory": str(root)}},
        "http": {"addr": addr},
        "auth": {"htpasswd": {"realm": "hatoba", "path": str(root / "hatoba" / "htpasswd")}},
    }


def is_loopback(addr: str) -> bool:
    """Whether `addr`, a host with or without port, is reached from this machine alone; never raises."""
    try:
        host = parse_address(addr)[0]
    except ValueError:
        host = addr.removeprefix("[").removesuffix("]")
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
