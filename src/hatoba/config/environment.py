"""What `REGISTRY_*` variables do to a configuration document: the rules of Docker's registry, driven by the sections.

Owns the way from a variable's name to a key and the reading of YAML. Does not validate a whole document (`load`
does), only the one value a variable brings, so that the error can name the variable. Values never get into a message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import ValidationError

from hatoba.config.section import Section, explain
from hatoba.config.settings import Settings
from hatoba.config.values import printable
from hatoba.errors import ConfigError

PREFIX = "REGISTRY_"
# Says where the file is; read by whoever calls `load`.
CONFIGURATION_PATH = "REGISTRY_CONFIGURATION_PATH"
# Sections whose whole content may be one word, the name of a driver or scheme.
_CHOICES = ("storage", "auth")
_CHOICE_PIECES = [[name.upper()] for name in _CHOICES]
_INDEX = re.compile(r"[0-9]{1,6}")
_QUOTED = re.compile(r""" (['"])(?!<).{2,}\1""")
_KEPT_TAGS = {"tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"}


class _Ignored(Exception):
    """A variable that changes nothing; the message is the adjective that says why."""


class _TextLoader(yaml.SafeLoader):
    """YAML whose scalars stay text (or null); the sections give them their types.

    Docker's registry hands a text setting the characters that were written: `secret: 0123` is "0123" there, where a
    reader that guesses types would make it 83, and `version: 0.10` is not 0.1.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012  as PyYAML declares it
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _KEPT_TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def parse_yaml(text: str | bytes) -> Any:
    """The one document in `text`, its scalars as text; raises ConfigError saying line and problem.

    The problem never quotes the document beyond one character.
    """
    try:
        loader = _TextLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{line}{printable(_QUOTED.sub('', error.problem or 'not valid YAML'))}") from None
    except yaml.reader.ReaderError as error:
        raise ConfigError(f"character {error.position}: {printable(error.reason)}") from None
    # What PyYAML's constructors let through for explicit tags ("!!bool x", "!!int ''", "!!timestamp x"), and nesting.
    except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError):
        raise ConfigError("not valid YAML") from None


@dataclass(frozen=True, slots=True)
class Applied:
    """A document as variables changed it: `changes` are the keys each one wrote, in order, and its name."""

    document: dict[str, Any]
    warnings: list[str]
    changes: list[tuple[tuple[str, ...], str]]


def apply(document: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """`document` as the `REGISTRY_*` variables change it, and warnings: `traced` without who changed what."""
    applied = traced(document, environ)
    return applied.document, applied.warnings


def traced(document: Mapping[str, Any], environ: Mapping[str, str]) -> Applied:
    """`document` as the `REGISTRY_*` variables change it; `document` itself stays as it is.

    Raises ConfigError naming the variable whose value is wrong. A name that leads nowhere is a warning and never an
    error: Kubernetes injects REGISTRY_PORT and the like when a Service is called "registry".
    """
    changed, changes = _spread(document), []
    ignored: dict[str, list[str]] = {}
    # Sorted, so that REGISTRY_STORAGE goes before REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY.
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name == CONFIGURATION_PATH:
            continue
        try:
            changed, trail = _apply_variable(changed, name, environ[name])
        except _Ignored as reason:
            ignored.setdefault(str(reason), []).append(printable(name))
        else:
            changes.append((trail, name))
    return Applied(changed, [_ignoring(reason, names) for reason, names in ignored.items()], changes)


def _ignoring(reason: str, names: list[str]) -> str:
    # One line for all of them: a Service called "registry" brings seven.
    return f"Ignoring {reason} environment variable{'s' if len(names) > 1 else ''} {', '.join(names)}"


def writes_auth(environ: Mapping[str, str]) -> bool:
    """Whether a variable says something about `auth`. REGISTRY_AUTH_PORT, which Kubernetes may inject, does not.

    Raises ConfigError as `apply` does.
    """
    return "auth" in apply({}, environ)[0]


def override(document: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """`document` with the setting at a dotted key, such as "http.addr", changed; `document` itself stays as it is.

    Raises ConfigError naming the key when it is no setting or the value is wrong.
    """
    try:
        return _assign(_spread(document), key.upper().split("."), lambda: value)[0]
    except _Ignored:
        raise ConfigError(f"{printable(key)} is no setting") from None


def _apply_variable(document: dict[str, Any], name: str, text: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    label = printable(name)

    def parsed() -> Any:
        try:
            return parse_yaml(text)
        except ConfigError:
            raise ConfigError("the value is not valid YAML; text with special characters needs quotes") from None

    pieces = name.removeprefix(PREFIX).split("_")
    try:
        if pieces in _CHOICE_PIECES and parsed() is None:
            # Docker's registry would drop the section. A variable that was left empty must not switch off passwords.
            raise _Ignored("empty")
        return _assign(document, pieces, parsed)
    except ConfigError as error:
        raise ConfigError(f"{label}: {error.message}") from None


def _assign(
    document: dict[str, Any], pieces: list[str], value: Callable[[], Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A document with the setting that `pieces` lead to, and its keys; `value` is asked only when there is one."""
    if "" in pieces or pieces[0] == "VERSION":
        raise _Ignored("unrecognized")
    trail: list[str] = []
    changed = _spread(_put(document, Settings, pieces, value, trail))
    try:
        Settings.model_validate(_only(changed, trail))
    except ValidationError as error:
        if problem := explain(error, at=tuple(trail)):
            raise ConfigError(problem) from None
    return changed, tuple(trail)


def _spread(document: Mapping[str, Any]) -> dict[str, Any]:
    """Write `storage: inmemory` and `auth: {none: }` in their long form: the name alone chooses."""
    changed = dict(document)
    for name in _CHOICES:
        section = changed.get(name)
        if isinstance(section, str) and section:
            changed[name] = {section: {}}
        elif isinstance(section, Mapping):
            changed[name] = {key: {} if entry is None else entry for key, entry in section.items()}
    return changed


def _put(node: Any, shape: Any, pieces: list[str], value: Callable[[], Any], trail: list[str]) -> Any:
    """`node`, of type `shape`, with `value` where `pieces` lead; the keys on the way are added to `trail`.

    Nodes on the way are copied, never changed: YAML aliases share them.
    """
    if not pieces:
        return value()
    shape = _plain(shape)
    if shape is Any:
        shape = list[Any] if isinstance(node, list) else dict[str, Any]
        if node is not None and not isinstance(node, (list, Mapping)):
            raise _Ignored("unrecognized")
    piece, rest = pieces[0], pieces[1:]
    if get_origin(shape) is list:
        return _put_in_list(node, shape, pieces, value, trail)
    if isinstance(shape, type) and issubclass(shape, Section):
        key, inner = _field(shape, piece)
    elif get_origin(shape) is dict:
        # Docker's registry would keep "X-Frame-Options" of the file and add "x-frame-options"; here the variable wins.
        key = next((key for key in node or () if isinstance(key, str) and key.upper() == piece.upper()), piece.lower())
        inner = get_args(shape)[1]
    else:
        raise _Ignored("unrecognized")
    if node is not None and not isinstance(node, Mapping):
        raise ConfigError(f"{printable('.'.join(trail))} must be a mapping")
    trail.append(key)
    entries = dict(node or {})
    entries[key] = _put(entries.get(key), inner, rest, value, trail)
    return entries


def _put_in_list(node: Any, shape: Any, pieces: list[str], value: Callable[[], Any], trail: list[str]) -> list[Any]:
    where = printable(".".join(trail))
    if node is not None and not isinstance(node, list):
        raise ConfigError(f"{where} must be a list")
    entries = list(node or ())
    index = int(pieces[0]) if _INDEX.fullmatch(pieces[0]) else None
    if index is None or index > len(entries):
        raise ConfigError(f"{where} has {len(entries)} entries: a number of 0 to {len(entries)} must follow it")
    if index == len(entries):
        entries.append(None)
    # The list counts as one value: the keys inside it are not added to the trail.
    entries[index] = _put(entries[index], get_args(shape)[0], pieces[1:], value, [*trail, pieces[0]])
    return entries


def _field(section: type[Section], piece: str) -> tuple[str, Any]:
    for name, field in section.model_fields.items():
        if name.upper() == piece:
            return name, field.annotation
    if piece.lower() in section.unmodelled and piece.isupper():
        return piece.lower(), Any
    raise _Ignored("unrecognized")


def _plain(shape: Any) -> Any:
    """A type without Annotated and without the None that makes it optional."""
    origin = get_origin(shape)
    if origin is Annotated:
        return _plain(get_args(shape)[0])
    if origin in (Union, UnionType):
        return _plain(next(choice for choice in get_args(shape) if choice is not type(None)))
    return shape


def _only(node: Any, trail: Sequence[str]) -> Any:
    """The document that holds nothing but what lies at `trail`."""
    if not trail:
        return node
    return {trail[0]: _only(node[trail[0]], trail[1:])}
