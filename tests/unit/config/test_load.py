from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hatoba.config.load import Loaded, first_run_document, is_loopback, load
from hatoba.config.settings import Settings
from hatoba.errors import ConfigError

EXAMPLE = """\
version: 0.1
log:
  fields:
    service: registry
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: /var/lib/registry
http:
  addr: :5000
  headers:
    X-Content-Type-Options: [nosniff]
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
"""


@pytest.fixture
def write(tmp_path):
    def _write(text: str | bytes) -> Path:
        path = tmp_path / "config.yml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return _write


def problem(path: Path | None, environ: dict | None = None, overrides: dict | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {}, overrides)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_without_a_file_the_defaults_hold():
    assert load(None, {}) == Loaded(settings=Settings(), warnings=(), from_file=False)


def test_the_configuration_of_dockers_image(write):
    loaded = load(write(EXAMPLE), {})
    assert loaded.from_file is True
    assert loaded.warnings == ("storage.cache is not used by this version of hatoba",)
    assert loaded.settings.log.fields == {"service": "registry"}
    assert loaded.settings.http.headers == {"X-Content-Type-Options": ["nosniff"]}
    assert loaded.settings.storage.driver == "filesystem"


def test_override_over_environment_over_file_over_default(write):
    path = write("version: 0.1\nhttp: {addr: ':1', host: 'http://file', prefix: /file/}\n")
    environ = {"REGISTRY_HTTP_ADDR": ":2", "REGISTRY_HTTP_HOST": "http://environment", "REGISTRY_NONSENSE": "x"}
    loaded = load(path, environ, {"http.addr": ":3", "hatoba.workers": 2, "http.host": None})
    assert loaded.settings.http.addr == ":3"
    assert loaded.settings.http.host == "http://environment"
    assert loaded.settings.http.prefix == "/file/"
    assert loaded.settings.http.draintimeout.total_seconds() == 8
    assert loaded.settings.hatoba.workers == 2
    assert loaded.warnings == ("Ignoring unrecognized environment variable REGISTRY_NONSENSE",)


def test_one_warning_for_all_variables_that_lead_nowhere():
    environ = {"REGISTRY_PORT": "tcp://10.0.0.1:5000", "REGISTRY_SERVICE_HOST": "10.0.0.1", "REGISTRY_AUTH": ""}
    assert load(None, environ).warnings == (
        "Ignoring empty environment variable REGISTRY_AUTH",
        "Ignoring unrecognized environment variables REGISTRY_PORT, REGISTRY_SERVICE_HOST",
    )


def test_overrides_take_values_of_any_type():
    settings = load(None, {}, {"storage.filesystem.rootdirectory": Path("/x"), "http.relativeurls": True}).settings
    assert settings.storage.filesystem is not None
    assert settings.storage.filesystem.rootdirectory == Path("/x")
    assert settings.http.relativeurls is True


def test_a_wrong_override_names_its_key():
    assert problem(None, overrides={"http.addr": "x"}).startswith("http.addr must be host:port")
    assert problem(None, overrides={"http.nonsense": "x"}) == "http.nonsense is no setting"


@pytest.mark.parametrize("name", ["inmemory", "{inmemory: }", "{inmemory: ~}", "{inmemory: {}}"])
def test_a_driver_needs_no_parameters(write, name):
    assert load(write(f"version: 0.1\nstorage: {name}\nauth: none\n"), {}).settings.storage.driver == "inmemory"


def test_a_scheme_without_parameters_is_written_all_the_same(write):
    assert "auth.htpasswd.realm is required" in problem(write("version: 0.1\nauth:\n  htpasswd:\n"))
    assert problem(write("version: 0.1\nauth:\n  token:\n")) == "auth.token is not supported by this version of hatoba"


def test_sections_without_content(write):
    assert load(write("version: 0.1\nlog:\nhttp:\n  headers:\nauth:\nstorage:\n"), {}).settings == Settings()


def test_a_text_setting_is_what_was_written(write):
    settings = load(write("version: 0.1\nhttp:\n  secret: 0123\n"), {}).settings
    assert settings.http.secret.get_secret_value() == "0123"


@pytest.mark.parametrize("version", ["0.1", "'0.1'", '"0.1"'])
def test_version(write, version):
    assert load(write(f"version: {version}"), {}).settings.version == "0.1"


@pytest.mark.parametrize("version", ["0.2", "0.10", "1", "[0.1]", "{a: b}"])
def test_another_version(write, version):
    path = write(f"version: {version}")
    assert problem(path) == (f"{path}: this version of the configuration format is not supported, only 0.1 is")


@pytest.mark.parametrize("text", ["", "# nothing", "log: {}", "version:"])
def test_no_version(write, text):
    path = write(text)
    assert problem(path) == f"{path}: version is missing: the file needs the line `version: 0.1`"


def test_the_environment_mends_no_version(write):
    assert "version is missing" in problem(write("log: {}"), {"REGISTRY_VERSION": "0.1"})


def test_a_missing_file(tmp_path):
    assert problem(tmp_path / "absent.yml") == f"{tmp_path / 'absent.yml'}: no such file"


def test_a_folder(tmp_path):
    assert problem(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"


def test_an_unreadable_file(write, monkeypatch):
    def refuse(_path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # Root reads everything, so a mode would prove nothing there.
    monkeypatch.setattr(Path, "read_bytes", refuse)
    path = write("version: 0.1")
    assert problem(path) == f"{path}: cannot be read: Permission denied"


def test_a_path_that_cannot_be():
    assert problem(Path("a\0b")) == "a\\x00b: cannot be read: not a usable path"


@pytest.mark.parametrize("text", ["- a", "just text", "42"])
def test_no_mapping(write, text):
    path = write(text)
    assert problem(path) == f"{path}: must hold a mapping of sections"


def test_a_yaml_error_names_the_line(write):
    path = write("version: 0.1\nhttp:\n\taddr: :5000\n")
    assert problem(path).startswith(f"{path}: line 3: ")


def test_what_is_no_text(write):
    path = write(b"version: 0.1\nhttp: \xff\n")
    assert problem(path).startswith(f"{path}: character ")


@pytest.mark.parametrize(
    "value", ["*hunter2", "!hunter2 x", "!h!hunter2 x", "'hunter2", "@hunter2", "%hunter2", "hun: ter2: x"]
)
def test_a_yaml_error_shows_no_secret(write, value):
    message = problem(write(f"version: 0.1\nhttp:\n  secret: {value}\n"))
    assert "ter2" not in message
    assert "line " in message


def test_a_wrong_value_in_the_file(write):
    path = write("version: 0.1\nhttp: {addr: hunter2, secret: [hunter2]}\nlog: {level: hunter2}\n")
    message = problem(path)
    assert "hunter2" not in message
    assert [key for key in ("log.level", "http.addr", "http.secret") if key not in message] == []


def test_what_is_not_built(write):
    path = write("version: 0.1\nstorage: {s3: {bucket: b}}\n")
    assert problem(path) == "storage.s3 is not supported by this version of hatoba"


def test_the_first_run():
    base = first_run_document(Path("/data"), "127.0.0.1:5000")
    loaded = load(None, {}, base=base)
    assert loaded.from_file is False
    assert loaded.settings.http.addr == "127.0.0.1:5000"
    assert loaded.settings.storage.filesystem is not None
    assert loaded.settings.storage.filesystem.rootdirectory == Path("/data")
    assert loaded.settings.auth.htpasswd is not None
    assert loaded.settings.auth.htpasswd.realm == "hatoba"
    assert loaded.settings.auth.htpasswd.path == Path("/data/hatoba/htpasswd")


def test_the_environment_changes_the_first_run():
    base = first_run_document(Path("/data"), "127.0.0.1:5000")
    settings = load(None, {"REGISTRY_HTTP_ADDR": ":6000", "REGISTRY_AUTH": "none"}, base=base).settings
    assert settings.http.addr == ":6000"
    assert settings.auth.scheme == "none"


def test_a_variable_left_empty_does_not_open_the_first_run():
    base = first_run_document(Path("/data"), "127.0.0.1:5000")
    loaded = load(None, {"REGISTRY_AUTH": ""}, base=base)
    assert loaded.settings.auth.scheme == "htpasswd"
    assert loaded.warnings == ("Ignoring empty environment variable REGISTRY_AUTH",)


def test_a_file_goes_before_the_first_run(write):
    base = first_run_document(Path("/data"), "127.0.0.1:5000")
    assert load(write("version: 0.1"), {}, base=base).settings == Settings()


@pytest.mark.parametrize(
    "addr",
    [
        "127.0.0.1:5000",
        "127.8.9.10:1",
        "127.0.0.1",
        "[::1]:5000",
        "[::1]",
        "::1",
        "localhost:5000",
        "LOCALHOST",
        "[::ffff:127.0.0.1]:5000",
    ],
)
def test_loopback(addr):
    assert is_loopback(addr)


@pytest.mark.parametrize(
    "addr",
    [
        "",
        ":5000",
        "0.0.0.0:5000",
        "[::]:5000",
        "::",
        "10.0.0.1:5000",
        "128.0.0.1",
        "localhost.example.com:5000",
        "127.example.com:5000",
        "127.0.0.1.example.com",
        "/run/registry.sock",
        "nonsense",
        "[::ffff:10.0.0.1]:5000",
    ],
)
def test_no_loopback(addr):
    assert not is_loopback(addr)
