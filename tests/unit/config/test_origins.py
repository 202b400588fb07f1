"""Where each setting came from: option, then environment, then file, then default."""

from datetime import timedelta

import pytest

from hatoba.config.load import first_run_document, load
from hatoba.config.origins import HIDDEN, Origin
from hatoba.config.values import format_duration, parse_duration


@pytest.fixture
def write(tmp_path):
    def write_(text):
        path = tmp_path / "config.yml"
        path.write_text(f"version: 0.1\n{text}")
        return path

    return write_


def listed(path=None, environ=None, overrides=None, **more):
    return {setting.key: setting for setting in load(path, environ or {}, overrides, **more).listed}


def origins(found, *keys):
    return [(found[key].origin.source, found[key].origin.name) for key in keys]


def test_option_then_environment_then_file_then_default(write):
    path = write("hatoba: {workers: 2}\nhttp: {addr: ':1', host: 'http://x'}\ncatalog: {maxentries: 5}\n")
    environ = {"REGISTRY_HATOBA_WORKERS": "3", "REGISTRY_HTTP_ADDR": ":2"}
    found = listed(path, environ, {"hatoba.workers": 4, "http.addr": None})
    assert origins(found, "hatoba.workers", "http.addr", "http.host", "tags.maxtags") == [
        ("option", "hatoba.workers"),
        ("environment", "REGISTRY_HTTP_ADDR"),
        ("file", str(path)),
        ("default", None),
    ]
    assert [found[key].value for key in ("hatoba.workers", "http.addr", "catalog.maxentries")] == [4, ":2", 5]


def test_a_variable_for_a_section_is_where_its_settings_come_from(write):
    path = write("http: {addr: ':1', host: 'http://x'}\n")
    found = listed(path, {"REGISTRY_HTTP": "{addr: ':2'}"})
    assert origins(found, "http.addr", "http.host") == [("environment", "REGISTRY_HTTP"), ("default", None)]


def test_an_empty_variable_leaves_the_default(write):
    found = listed(write("http: {host: 'http://x'}\n"), {"REGISTRY_HTTP_HOST": ""})
    assert found["http.host"].value == ""
    assert found["http.host"].origin == Origin("default")


def test_entries_of_a_mapping_are_listed_one_by_one(write):
    path = write("http: {headers: {X-One: [a], X-Two: [b]}}\n")
    found = listed(path, {"REGISTRY_HTTP_HEADERS_X-TWO": "[c]", "REGISTRY_LOG_FIELDS_PLACE": "here"})
    assert origins(found, "http.headers.X-One", "http.headers.X-Two", "log.fields.place") == [
        ("file", str(path)),
        ("environment", "REGISTRY_HTTP_HEADERS_X-TWO"),
        ("environment", "REGISTRY_LOG_FIELDS_PLACE"),
    ]
    assert found["http.headers.X-Two"].value == ["c"]


def test_the_old_spelling_of_the_log_level(write):
    path = write("loglevel: warn\n")
    assert origins(listed(path), "log.level") == [("file", str(path))]
    assert origins(listed(path, {"REGISTRY_LOGLEVEL": "debug"}), "log.level") == [("environment", "REGISTRY_LOGLEVEL")]
    assert origins(listed(path, {"REGISTRY_LOG_LEVEL": "debug"}), "log.level") == [
        ("environment", "REGISTRY_LOG_LEVEL")
    ]


def test_only_the_chosen_driver_and_scheme_are_listed(write):
    found = listed(write("storage: inmemory\n"), {"REGISTRY_AUTH": "none"})
    assert origins(found, "storage.inmemory", "auth.none")[1] == ("environment", "REGISTRY_AUTH")
    assert not [key for key in found if key.startswith(("storage.filesystem", "auth.htpasswd"))]
    assert (listed()["auth"].value, listed()["auth"].origin) == ("none", Origin("default"))


def test_secrets_are_hidden(write):
    assert listed(write("http: {secret: hunter2}\n"))["http.secret"].value == HIDDEN
    assert listed()["http.secret"].value == ""


def test_what_the_first_run_decides_is_default(tmp_path):
    found = listed(base=first_run_document(tmp_path, "127.0.0.1:5000"))
    assert (found["http.addr"].value, found["http.addr"].origin) == ("127.0.0.1:5000", Origin("default"))


@pytest.mark.parametrize("text", ["0s", "8s", "1m", "168h", "1h30m", "0.5s", "1h0.000001s", "10s", "100h20m10s"])
def test_durations_are_written_as_they_are_read(text):
    assert format_duration(parse_duration(text)) == text
    assert parse_duration(format_duration(timedelta(days=3, microseconds=7))) == timedelta(days=3, microseconds=7)
