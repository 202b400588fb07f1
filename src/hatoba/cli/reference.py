"""`docs/reference/commands.md`, made from the commands themselves; a test compares the two.

Owns the form of that page. Imported by no command: `make reference` and the test ask for it.
"""

from __future__ import annotations

from typing import Any

import typer

from hatoba.cli import hatoba_app, registry_app

_HEAD = """\
# Commands

Made by `make reference` from the commands themselves; change the words there. Results go to standard output, messages
to standard error. Exit codes: 0 done, 1 failed or found something, 2 usage or configuration.

A setting is taken from an option, else from its `REGISTRY_*` variable, else from the configuration file, else it has
its default; `hatoba check-config` shows which.
"""


def commands_page() -> str:
    """The whole page."""
    found = [
        *_commands("hatoba", typer.main.get_command(hatoba_app())),
        *_commands("registry", typer.main.get_command(registry_app())),
    ]
    return "\n".join([_HEAD, *found])


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
