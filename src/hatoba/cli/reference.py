"""`docs/reference/`: the pages made from the commands, settings, routes and metrics themselves; a test compares them.

Owns the form of those pages. Imported by no command: `make reference` and the test ask for it.
"""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from hatoba.cli import hatoba_app, registry_app
from hatoba.cli.check_config import shown
from hatoba.config.environment import PREFIX
from hatoba.config.section import Section, section_of
from hatoba.config.settings import Settings
from hatoba.metrics.catalogue import COUNTED, SURVEYED
from hatoba.web.v2.routes import ROUTES

_COMMANDS = """\
# Commands

Made by `make reference` from the commands themselves; change the words there. Results go to standard output, messages
to standard error. Exit codes: 0 done, 1 failed or found something, 2 usage or configuration, 130 interrupted.

A setting is taken from an option, else from its `REGISTRY_*` variable, else from the configuration file, else it has
its default; `hatoba check-config` shows which. One exception: where nothing is configured `serve` takes
`REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY`, by which an image names its volume, before `--root`.
"""


def commands_page() -> str:
    """The page of the commands."""
    found = [
        *_commands("hatoba", typer.main.get_command(hatoba_app())),
        *_commands("registry", typer.main.get_command(registry_app())),
    ]
    return "\n".join([_COMMANDS, *found])


def _commands(name: str, command: Any) -> list[str]:
    """The sections of a command, or of a group and all that is in it."""
    inner = getattr(command, "commands", {})
    found = [] if inner and not _lines(command) else [_section(name, command)]
    for word, part in inner.items():
        found += _commands(f"{name} {word}", part)
    return found


def _section(name: str, command: Any) -> str:
    arguments = [
        part.metavar if part.required else f"[{part.metavar}]"
        for part in command.params
        if part.param_type_name == "argument"
    ]
    words = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    lines = _lines(command)
    return "\n".join([f"## `{' '.join([name, *arguments])}`", "", words, *([""] if lines else []), *lines, ""])


def _lines(command: Any) -> list[str]:
    return [_line(part) for part in command.params]


def _line(part: Any) -> str:
    """One argument or option of a list, with its default and its variable."""
    if part.param_type_name == "argument":
        return f"- `{part.metavar}`: {part.help}"
    value = "" if part.is_flag else f" {part.metavar or part.name.upper()}"
    names = ", ".join(f"`{name}{value}`" for name in part.opts)
    default = f" Default: `{part.show_default}`." if isinstance(part.show_default, str) else ""
    variable = f" Variable: `{part.envvar}`." if part.envvar else ""
    return f"- {names}: {part.help}{default}{variable}"


_SETTINGS = """\
# Settings

Made by `make reference` from the settings themselves; change the words there. Keys are those of `config.yml`, as
Docker's registry has it; its other keys are in [distribution-settings.md](distribution-settings.md). The section
`hatoba` is hatoba's own, Docker's registry passes over it. The variable beside a key does the same; its value is read
as YAML. An option goes before a variable, a variable before the file, the file before the default: `hatoba
check-config` prints what is in force.

Durations are written as Go writes them: `30s`, `1h30m`, `500ms`.
"""
_KINDS = {
    bool: "true or false",
    int: "whole number",
    str: "text",
    Path: "path",
    timedelta: "duration",
    SecretStr: "text, secret",
    list: "list",
    dict: "mapping",
}


def settings_page() -> str:
    """The page of the settings."""
    return "\n".join([_SETTINGS, *_section_lines(Settings, ())]).rstrip() + "\n"


def _section_lines(section: type[Section], path: tuple[str, ...], words: str = "") -> Iterator[str]:
    """The table of the section's own keys, then those of the sections in it."""
    fields = section.model_fields.items()
    leaves = [(name, field) for name, field in fields if section_of(field.annotation) is None]
    if path and (leaves or not fields):
        yield f"## `{'.'.join(path)}`\n\n{words}\n"
    if leaves:
        yield "| key | variable | value | default | |\n|---|---|---|---|---|"
        for name, field in leaves:
            keys = (*path, name)
            # The version is that of the file: no variable may change it.
            variable = "" if keys == ("version",) else f"`{PREFIX}{'_'.join(keys).upper()}`"
            default = "" if field.is_required() else f"`{shown(field.get_default(call_default_factory=True))}`"
            yield f"| `{'.'.join(keys)}` | {variable} | {_kind(field)} | {default} | {field.description} |"
        yield ""
    for name, field in fields:
        inner = section_of(field.annotation)
        if inner is not None:
            yield from _section_lines(inner, (*path, name), field.description or "")


def _kind(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(field.annotation))
    kind = next(one for one in _choices(field) if one is not type(None))
    origin = get_origin(kind) or kind
    entries = [one for one in get_args(kind) if isinstance(one, type) and issubclass(one, Section)]
    return _KINDS[origin] + "".join(f" of mappings: {', '.join(one.model_fields)}" for one in entries)


def _choices(field: FieldInfo) -> list[Any]:
    """What the field may be, without what pydantic adds to it."""
    kinds = get_args(field.annotation) if get_origin(field.annotation) in {Union, UnionType} else [field.annotation]
    return [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds]


_ROUTES = """\
# Routes

Made by `make reference` from the routes themselves. *Action* is what a user must be allowed to do; with an htpasswd
file every user may do everything. `{name}` may hold slashes.

Besides: `GET /healthz/live` and `GET /healthz/ready` (`/healthz` is the same), for probes, without sign-in: 200, or 503
with the reasons. `GET /` answers 200. `OPTIONS` is answered 204 without sign-in on every path of `/v2/`, with the
configured `http.headers` as every answer: browsers ask so before they send a request from a page of another origin.

| method | path | action | |
|---|---|---|---|
"""


def routes_page() -> str:
    """The page of the routes."""
    lines = []
    for (pattern, action, handler), routes in itertools.groupby(
        ROUTES, lambda one: (one.pattern, one.action, one.handler)
    ):
        methods = ", ".join(route.method for route in routes)
        words = (inspect.getdoc(handler) or "").partition("\n\n")[0].replace("\n", " ").partition(": ")[2]
        lines.append(f"| {methods} | `{pattern}` | {action} | {words[:1].upper()}{words[1:]} |\n")
    return _ROUTES + "".join(lines)


_METRICS = """\
# Metrics

Made by `make reference` from the metrics themselves. They are shown at `http.debug.addr` when
`http.debug.prometheus.enabled` is true, summed over all workers; what ended workers counted stays counted. Names that
begin with `registry_` and their labels are those of Docker's registry. A series with labels appears once it is counted.

Docker's registry has more that hatoba has not: `registry_storage_cache_*` (its cache of descriptors),
`registry_notifications_*`, `registry_proxy_*`, `go_*`. How to use them: [metrics](../how-to/metrics.md).

| metric | kind | labels | |
|---|---|---|---|
"""


def metrics_page() -> str:
    """The page of the metrics."""
    lines = []
    for metric in (*COUNTED, *SURVEYED):
        labels = "; ".join(f"{name}: {', '.join(values)}" for name, values in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.words} |\n")
    return _METRICS + "".join(lines)


def main() -> None:
    """Write every page into the folder that is named."""
    folder = Path(sys.argv[1])
    for name, page in (
        ("commands", commands_page),
        ("settings", settings_page),
        ("routes", routes_page),
        ("metrics", metrics_page),
    ):
        (folder / f"{name}.md").write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
