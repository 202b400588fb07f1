"""Every setting says what it means: that text is its reference."""

import re
from typing import Literal, get_args

import pytest
from pydantic import BaseModel, Field, create_model

from hatoba.config.section import Section
from hatoba.config.settings import Settings


def models(annotation):
    """The sections in a field's type, however it is wrapped."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {model for argument in get_args(annotation) for model in models(argument)}


def settings_of(section, prefix=""):
    """Every key below `section`: dotted name -> its field."""
    found = {}
    for name, field in section.model_fields.items():
        found[f"{prefix}{name}"] = field
        for model in models(field.annotation):
            found |= settings_of(model, f"{prefix}{name}.")
    return found


def undescribed(section):
    return [
        name for name, field in settings_of(section).items() if not re.fullmatch(r"\S.+\.", field.description or "")
    ]


def sections(section):
    found = {section}
    for field in section.model_fields.values():
        for model in models(field.annotation):
            found |= sections(model)
    return found


def test_every_setting_is_described():
    names = settings_of(Settings)
    assert {"storage.filesystem.rootdirectory", "hatoba.limits.manifest", "auth.htpasswd.realm"} <= set(names)
    assert undescribed(Settings) == []


def test_every_section_names_its_key():
    for section in sections(Settings) - {Settings}:
        assert section.__doc__.startswith("`"), section.__name__


def test_names_are_those_of_the_yaml():
    for name in settings_of(Settings):
        assert name == name.lower()
        assert "_" not in name


@pytest.mark.parametrize("description", [None, "", " ", "No full stop"])
def test_an_undescribed_setting_would_be_seen(description):
    inner = create_model("Inner", __base__=Section, knob=(Literal["a", "b"], Field(description=description)))
    outer = create_model(
        "Outer", __base__=Settings, inner=(inner | None, Field(default=None, description="A section, maybe."))
    )
    assert undescribed(outer) == ["inner.knob"]
