"""`hatoba check-config`: what it prints, where, and with which exit code."""

import json
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hatoba.cli import hatoba_app
from hatoba.cli.check_config import _plain


@pytest.fixture
def config(tmp_path):
    def write(text):
        path = tmp_path / "config.yml"
        path.write_text(f"version: 0.1\n{text}")
        return str(path)

    return write


def run(*arguments, **environ):
    return CliRunner().invoke(hatoba_app(), ["check-config", *arguments], env=environ)


def line(result, key):
    (found,) = [line for line in result.stdout.splitlines() if line.split()[0] == key]
    return found.split()[1:]


def rows(*arguments, **environ):
    result = run("--json", *arguments, **environ)
    assert result.exit_code == 0
    return {row["key"]: row for row in json.loads(result.stdout)}


def test_a_setting_from_the_environment_beside_what_kubernetes_injects():
    result = run(REGISTRY_PORT="tcp://10.0.0.1:5000", REGISTRY_HATOBA_WORKERS="2")
    assert result.exit_code == 0
    assert line(result, "hatoba.workers") == ["2", "environment", "REGISTRY_HATOBA_WORKERS"]
    assert result.stderr == "warning: Ignoring unrecognized environment variable REGISTRY_PORT\n"
    assert "REGISTRY_PORT" not in result.stdout


def test_the_four_sources(config):
    path = config("http: {addr: ':1', host: 'http://x'}\n")
    result = run(path, "--workers", "3", REGISTRY_HTTP_HOST="http://y", REGISTRY_HATOBA_WORKERS="2")
    assert (result.exit_code, result.stderr) == (0, "")
    assert line(result, "hatoba.workers") == ["3", "option", "--workers"]
    assert line(result, "http.host") == ["http://y", "environment", "REGISTRY_HTTP_HOST"]
    assert line(result, "http.addr") == [":1", "file", path]
    assert line(result, "tags.maxtags") == ["1000", "default"]


@pytest.mark.parametrize("how", ["argument", "option", "environment"])
def test_the_file_may_be_named_in_three_ways(config, how):
    path = config("catalog: {maxentries: 7}\n")
    arguments = {"argument": [path], "option": ["--config", path], "environment": []}[how]
    environ = {"REGISTRY_CONFIGURATION_PATH": path} if how == "environment" else {}
    assert rows(*arguments, **environ)["catalog.maxentries"] == {
        "key": "catalog.maxentries", "value": 7, "source": "file", "name": path,
    }  # fmt: skip


def test_two_files_are_one_too_many(config):
    path = config("")
    result = run(path, "--config", path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--config" in result.stderr


def test_nothing_configured_is_what_the_first_run_would_use(tmp_path):
    found = rows("--root", "here")
    assert (found["storage.filesystem.rootdirectory"]["value"], found["http.addr"]["value"]) == (
        "here",
        "127.0.0.1:5000",
    )
    assert found["storage.filesystem.rootdirectory"]["name"] == "--root"
    assert found["auth.htpasswd.path"]["value"] == "here/hatoba/htpasswd"
    assert list(tmp_path.iterdir()) == []


def test_what_is_decided_at_start_is_shown(config):
    found = rows(config("storage: {filesystem: {rootdirectory: /d}}\n"))
    assert found["storage.delete.enabled"]["value"] is False
    assert found["hatoba.database.path"]["value"] == "/d/hatoba/metadata.db"
    assert found["http.relativeurls"]["value"] is True
    assert rows()["storage.delete.enabled"]["value"] is True
    assert rows(config("storage: inmemory\n"))["hatoba.database.path"]["value"] is None


def test_secrets_are_never_shown(config):
    path = config("http: {secret: hunter2}\n")
    for arguments in ([path], [path, "--json"]):
        result = run(*arguments)
        assert "hunter2" not in result.output
        assert "(hidden)" in result.stdout


def test_values_are_written_as_in_the_file(config):
    path = config("http: {draintimeout: 90s, headers: {X-A: [b, c]}}\n")
    result = run(path)
    assert line(result, "http.draintimeout")[0] == "1m30s"
    assert rows(path)["http.headers.X-A"]["value"] == ["b", "c"]
    assert line(result, "http.prefix")[0] == '""'


def test_a_value_of_any_type_is_json():
    value = {"a": (ip_network("10.0.0.0/8"), Path("/x")), "b": [timedelta(seconds=8), None, True, 1]}
    assert _plain(value) == {"a": ["10.0.0.0/8", "/x"], "b": ["8s", None, True, 1]}


def test_a_value_cannot_write_to_the_terminal(config):
    result = run(config('log: {fields: {a: "\\e[2J", "b\\e": c}}\n'))
    assert result.exit_code == 0
    assert "\x1b" not in result.output


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("hatoba: {workers: 0}\n", "hatoba.workers"),
        ("http: {addr: nowhere}\n", "http.addr"),
        ("http: {net: unix, addr: ':1'}\n", "http"),
        ("storage: inmemory\nhatoba: {workers: 2}\n", "hatoba.workers"),
        ("auth: {token: {realm: x}}\n", "auth.token"),
        ("storage: {s3: {bucket: x}}\n", "storage.s3"),
    ],
)
def test_what_is_wrong_is_one_line_naming_the_key(config, text, key):
    result = run(config(text))
    assert (result.exit_code, result.stdout) == (2, "")
    assert key in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_variable_that_is_wrong_is_named():
    result = run(REGISTRY_HATOBA_WORKERS="many")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "hatoba: REGISTRY_HATOBA_WORKERS: hatoba.workers must be a whole number\n"


def test_a_path_that_is_not_utf_8():
    """SQLite takes no other; it was a traceback."""
    result = run("--root", "data\udcff")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "must be UTF-8" in result.stderr
