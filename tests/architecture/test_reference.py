"""docs/reference/commands.md is what the commands say of themselves."""

import typer

from hatoba.cli import hatoba_app, registry_app
from hatoba.cli.reference import commands_page


def undescribed(command, name):
    """Commands without words, and their arguments and options without."""
    found = [] if command.help else [name]
    found += [f"{name} {part.name}" for part in command.params if not part.help]
    for word, part in getattr(command, "commands", {}).items():
        found += undescribed(part, f"{name} {word}")
    return found


def test_the_page_is_that_of_the_commands(repository):
    written = (repository / "docs" / "reference" / "commands.md").read_text("utf-8")
    assert written == commands_page(), "run: make reference"


def test_the_page_does_not_depend_on_the_environment(monkeypatch):
    before = commands_page()
    monkeypatch.setenv("REGISTRY_AUTH_HTPASSWD_PATH", "/elsewhere")
    monkeypatch.setenv("COLUMNS", "20")
    assert commands_page() == before


def test_every_command_and_option_is_described():
    for name, app in (("hatoba", hatoba_app()), ("registry", registry_app())):
        assert undescribed(typer.main.get_command(app), name) == []


def test_an_undescribed_option_would_be_seen():
    app = hatoba_app()

    @app.command("odd")
    def odd(knob: str = "") -> None:
        """Has a knob."""

    assert undescribed(typer.main.get_command(app), "hatoba") == ["hatoba odd knob"]
