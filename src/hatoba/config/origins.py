"""Where each effective setting came from: an option, the environment, the file, or nobody wrote it.

Owns the list of settings as an operator reads it. What was written where is told by `environment` and `load`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import SecretStr

from hatoba.config.section import Section, section_of
from hatoba.config.settings import AuthSettings, Settings

HIDDEN = "(hidden)"
Keys = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Who wrote a setting; `name` is the option's key, the variable or the file, None for a default."""

    source: Literal["option", "environment", "file", "default"]
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """One effective setting under its dotted key. The value of a secret is hidden."""

    key: str
    value: Any
    origin: Origin


def effective(
    settings: Settings, document: Mapping[str, Any], base: Origin, changes: Sequence[tuple[Keys, Origin]]
) -> list[Setting]:
    """Every setting in force. `document` is what `settings` were made of: `base`, changed by `changes` in order."""
    found = []
    for path, value in _leaves(settings, ()):
        origin = _origin(_written_as(document, path), document, base, changes)
        if isinstance(value, SecretStr):
            value = HIDDEN if value.get_secret_value() else ""  # noqa: PLW2901  never the secret, under any name
        found.append(Setting(".".join(path), value, origin))
    return found


def _origin(path: Keys, document: Mapping[str, Any], base: Origin, changes: Sequence[tuple[Keys, Origin]]) -> Origin:
    if _at(document, path) is None:  # a variable may have taken away what the file wrote
        return Origin("default")
    for trail, origin in reversed(changes):
        shorter = min(len(trail), len(path))
        if trail[:shorter] == path[:shorter]:
            return origin
    return base


def _written_as(document: Mapping[str, Any], path: Keys) -> Keys:
    # `loglevel` is the old spelling of `log.level`, which goes before it.
    old = path == ("log", "level") and _at(document, path) is None
    return ("loglevel",) if old else path


def _at(document: Any, path: Keys) -> Any:
    for key in path:
        if not isinstance(document, Mapping):
            return None
        document = document.get(key)
    return document


def _leaves(section: Section, path: Keys) -> Iterator[tuple[Keys, Any]]:
    if isinstance(section, AuthSettings) and section.none is None and section.htpasswd is None:
        yield path, section.scheme
        return
    fields = type(section).model_fields
    if not fields:  # a choice that has nothing to set, such as `storage.inmemory`
        yield path, {}
    for name, field in fields.items():
        value, here = getattr(section, name), (*path, name)
        if isinstance(value, Section):
            yield from _leaves(value, here)
        elif isinstance(value, dict) and value:
            yield from (((*here, str(key)), entry) for key, entry in value.items())
        elif value is not None or section_of(field.annotation) is None:
            # A driver or scheme that is left out has no settings to list.
            yield here, value
