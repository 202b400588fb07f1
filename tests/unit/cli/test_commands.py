"""`hatoba` and `registry`: what both are called with, without starting a server."""

import sys

import pytest
from typer.testing import CliRunner

from hatoba import cli
from hatoba.cli import hatoba_app, registry_app, registry_main, with_command


@pytest.mark.parametrize(
    "arguments",
    [
        ["/etc/docker/registry/config.yml"],
        ["--delete-untagged=true", "config.yml"],
        ["-m", "--dry-run", "config.yml"],
        ["--quiet", "-d", "/x.yml"],
        [],
    ],
)
def test_garbage_collect_says_that_nothing_was_removed_and_why(arguments):
    result = CliRunner().invoke(registry_app(), ["garbage-collect", *arguments])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "nothing was removed: this version of hatoba does not collect garbage" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["config.yml"], ["serve", "config.yml"]),
        (["/etc/c.yaml", "--root", "x"], ["serve", "/etc/c.yaml", "--root", "x"]),
        (["serve", "config.yml"], ["serve", "config.yml"]),
        (["garbage-collect", "config.yml"], ["garbage-collect", "config.yml"]),
        (["--version"], ["--version"]),
        ([], []),
    ],
)
def test_a_file_alone_is_served(arguments, expected):
    assert with_command(arguments) == expected


def test_registry_with_a_file_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["registry", "absent.yml"])
    with pytest.raises(SystemExit) as ended:
        registry_main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "hatoba: absent.yml: no such file\n"


def test_registry_serve_wants_a_file():
    result = CliRunner().invoke(registry_app(), ["serve"])
    assert result.exit_code == 2
    assert result.stderr == "hatoba: configuration path not specified: registry serve FILE\n"


@pytest.mark.parametrize("arguments", [["--version"], ["-v"], ["version"]])
def test_registry_says_its_version(arguments):
    result = CliRunner().invoke(registry_app(), arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("hatoba ")


@pytest.mark.parametrize("arguments", [["nonsense"], ["serve", "--nonsense"], ["users", "nonsense"]])
def test_wrong_usage_is_2(arguments):
    assert CliRunner().invoke(hatoba_app(), arguments).exit_code == 2


def options_of(app, *command):
    return CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"}).stdout


@pytest.mark.parametrize(
    "command", [("serve",), ("check-config",), ("users", "add"), ("users", "remove"), ("users", "list")]
)
def test_every_command_takes_config_and_root(command):
    told = options_of(cli.hatoba_app(), *command)
    assert "--config" in told
    assert "--root" in told
