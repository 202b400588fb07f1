"""What every section of `config.yml` is: a pydantic model whose attribute names are the YAML's keys.

Owns how a section is found in a type, and how what is wrong with a value is said in one line.
"""

from __future__ import annotations

from types import UnionType
from typing import Any, ClassVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from hatoba.config.values import printable, without_nulls
from hatoba.errors import ConfigError


def unsupported(key: str) -> ConfigError:
    """The error for a feature of Docker's registry, or a name of nothing, that hatoba must not pass over."""
    return ConfigError(f"{printable(key)} is not supported by this version of hatoba")


class Section(BaseModel):
    """One mapping of the document. A key without a value is a key not written, as in Docker's registry.

    `unmodelled` names keys of Docker's registry that hatoba has no field for: the environment may write them, so
    that they are refused or ignored exactly as in a file.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    unmodelled: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: object) -> object:
        return without_nulls(value)


def section_of(annotation: Any) -> type[Section] | None:
    """The section that a field of this type holds, if it is one: itself, or one that may be left out."""
    kinds = get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


_PHRASES = {
    "missing": "is required",
    "model_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "list_type": "must be a list",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
}


def explain(error: ValidationError, at: tuple[str, ...] | None = None) -> str:
    """What is wrong, in one line with dotted keys; values are never repeated, they may be secret.

    With `at`, only what is wrong with that key's own value: nothing that a key elsewhere could mend. May be empty.
    """
    findings = []
    for found in error.errors(include_url=False, include_input=False):
        if at is not None and (found["loc"][: len(at)] != at or found["type"] == "missing"):
            continue
        if found["type"] == "value_error":
            phrase = str(found["ctx"]["error"])
        else:
            phrase = _PHRASES.get(found["type"]) or found["msg"].replace("Input should be", "must be")
        key = ".".join(str(part) for part in found["loc"] if part != "[key]")
        findings.append(f"{printable(key) or 'the configuration'} {phrase}")
    return "; ".join(findings)
