"""docs/reference is what the commands, settings, routes and metrics say of themselves."""

import pytest
import typer

from hatoba.cli import hatoba_app, registry_app
from hatoba.cli.reference import commands_page, metrics_page, routes_page, settings_page
from hatoba.config.load import load
from hatoba.metrics import catalogue
from hatoba.metrics.catalogue import COUNTED, SURVEYED
from hatoba.web.v2.routes import ROUTES


def undescribed(command, name):
    """Commands without words, and their arguments and options without."""
    found = [] if command.help else [name]
    found += [f"{name} {part.name}" for part in command.params if not part.help]
    for word, part in getattr(command, "commands", {}).items():
        found += undescribed(part, f"{name} {word}")
    return found


@pytest.mark.parametrize(
    ("name", "page"),
    [("commands", commands_page), ("settings", settings_page), ("routes", routes_page), ("metrics", metrics_page)],
)
def test_each_page_is_what_the_code_says(repository, name, page):
    written = (repository / "docs" / "reference" / f"{name}.md").read_text("utf-8")
    assert written == page(), "run: make reference"


def test_every_setting_has_its_line():
    """What `check-config` lists, with and without what is a choice."""
    document = {"storage": {"filesystem": {}}, "auth": {"htpasswd": {"realm": "a", "path": "/b"}}}
    page = settings_page()
    for setting in load(None, {}, {}, base=document).listed:
        line = next(line for line in page.splitlines() if line.startswith(f"| `{setting.key}` |"))
        variable = f"`REGISTRY_{setting.key.replace('.', '_').upper()}`"
        assert (variable in line) == (setting.key != "version")
    assert "| `hatoba.limits.manifest` |" in page


def test_every_route_has_its_line():
    rows = [line.split(" | ") for line in routes_page().splitlines()]
    for route in ROUTES:
        found = [row for row in rows if row[1:3] == [f"`{route.pattern}`", route.action] and route.method in row[0]]
        assert len(found) == 1
        assert found[0][3] != " |", "no words"


def test_every_metric_has_its_line():
    page = metrics_page()
    names = [metric.name for metric in (*COUNTED, *SURVEYED)]
    assert len(set(names)) == len(names)
    defined = [value.name for value in vars(catalogue).values() if isinstance(value, catalogue.Metric)]
    assert sorted(defined) == sorted(names), "one that is defined is counted or surveyed"
    for name in names:
        (row,) = [line.split(" | ") for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        assert row[3].rstrip(" |").endswith("."), "no words"


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
