"""`hatoba check-config`: every effective setting and where it came from, without starting anything.

Owns how a setting is written for a person and as JSON. Secrets come here hidden already (`config.origins`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any

import typer

from hatoba import server
from hatoba.cli.configured import (
    OPTIONS,
    Addr,
    Config,
    File,
    Root,
    Workers,
    configuration_file,
    configure,
    reported,
)
from hatoba.config.origins import Origin, Setting
from hatoba.config.settings import Settings
from hatoba.config.values import format_duration, printable
from hatoba.wiring import parts, serving

# Longer values do not move the column of the sources.
_WIDEST = 40

_Json = Annotated[bool, typer.Option("--json", help="Print a JSON list instead of lines.")]


def check_config(  # noqa: PLR0913  one argument an option
    file: File = None,
    *,
    config: Config = None,
    root: Root = None,
    addr: Addr = None,
    workers: Workers = None,
    as_json: _Json = False,
) -> None:
    """Print each setting that `serve` would use and where it came from; exit 2 naming the key that is wrong."""
    with reported():
        options = {"http.addr": addr, "hatoba.workers": workers}
        configured = configure(configuration_file(file, config), root, options, volume_first=True)
        server.check(configured.settings)
    for warning in configured.loaded.warnings:
        typer.echo(f"warning: {warning}", err=True)
    decided = _decided(configured.settings)
    rows = [_row(setting, decided) for setting in configured.loaded.listed]
    typer.echo(json.dumps(rows, indent=2) if as_json else _table(rows))


def _decided(settings: Settings) -> dict[str, Any]:
    """What is decided at start when nobody wrote it."""
    return {
        "storage.delete.enabled": serving.delete_enabled(settings),
        "http.relativeurls": serving.relative_urls(settings),
        "hatoba.database.path": parts.metadata_path(settings),
    }


def _row(setting: Setting, decided: dict[str, Any]) -> dict[str, Any]:
    value = decided.get(setting.key) if setting.value is None else setting.value
    return {
        "key": setting.key,
        "value": _plain(value),
        "source": setting.origin.source,
        "name": _name(setting.origin),
    }


def _name(origin: Origin) -> str | None:
    return OPTIONS.get(origin.name or "", origin.name) if origin.source == "option" else origin.name


def _plain(value: Any) -> Any:
    """A value as JSON has it; durations, paths, networks and the like as they are written in the file."""
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(entry) for entry in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def shown(value: Any) -> str:
    """A setting's value as the table has it."""
    return _cell(_plain(value))


def _table(rows: list[dict[str, Any]]) -> str:
    cells = [(printable(row["key"]), _cell(row["value"]), _source(row)) for row in rows]
    keys = max(len(key) for key, _, _ in cells)
    values = min(_WIDEST, max(len(value) for _, value, _ in cells))
    return "\n".join(f"{key:{keys}}  {value:{values}}  {source}" for key, value, source in cells)


def _cell(value: Any) -> str:
    if isinstance(value, str) and value:
        return printable(value)
    return "-" if value is None else json.dumps(value)


def _source(row: dict[str, Any]) -> str:
    return f"{row['source']} {printable(row['name'] or '')}".rstrip()
