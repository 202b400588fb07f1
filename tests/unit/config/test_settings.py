from __future__ import annotations

import pickle
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from hatoba.config.section import Section, explain
from hatoba.config.settings import Settings
from hatoba.errors import ConfigError


def problem(document: dict) -> str:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate(document)
    return explain(caught.value)


def http(**keys) -> dict:
    return {"http": keys}


def test_defaults():
    settings = Settings()
    assert settings.version == "0.1"
    assert settings.log.level == "info"
    assert settings.log.formatter == "text"
    assert settings.log.accesslog.disabled is False
    assert settings.log.fields == {}
    assert settings.storage.driver == "filesystem"
    assert settings.storage.filesystem is not None
    assert settings.storage.filesystem.rootdirectory == Path("/var/lib/registry")
    assert settings.storage.inmemory is None
    assert settings.storage.delete.enabled is None
    purging = settings.storage.maintenance.uploadpurging
    assert (purging.enabled, purging.age, purging.interval, purging.dryrun) == (
        True,
        timedelta(hours=168),
        timedelta(hours=24),
        False,
    )
    assert settings.storage.maintenance.readonly.enabled is False
    assert settings.auth.scheme == "none"
    assert settings.auth.configured is False
    assert settings.http.addr == ":5000"
    assert settings.http.listen == ("", 5000)
    assert settings.http.net == "tcp"
    assert settings.http.socket_path is None
    assert (settings.http.host, settings.http.prefix, settings.http.relativeurls) == ("", "", None)
    assert settings.http.secret.get_secret_value() == ""
    assert settings.http.headers == {}
    assert settings.http.draintimeout == timedelta(seconds=8)
    assert settings.hatoba.workers == 1
    assert settings.hatoba.database.path is None
    assert [str(network) for network in settings.hatoba.trustedproxies] == [
        "127.0.0.0/8",
        "::1/128",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "fc00::/7",
    ]
    limits = settings.hatoba.limits
    assert (limits.manifest, limits.stalltimeout, limits.headertimeout, limits.uploads) == (
        4194304,
        timedelta(seconds=60),
        timedelta(seconds=30),
        0,
    )


def sections(model: type[BaseModel]) -> set[type[BaseModel]]:
    return {model}.union(*(sections(child) for child in model.__subclasses__()))


@pytest.mark.parametrize("section", sorted(sections(Section), key=lambda section: section.__name__))
def test_every_setting_has_a_meaning(section):
    assert [name for name, field in section.model_fields.items() if not field.description] == []
    assert section.__doc__


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().http.addr = ":1"  # type: ignore[misc]


def test_settings_survive_a_copy_and_a_pickle():
    settings = Settings.model_validate({"storage": {"inmemory": {}}, "http": {"secret": "s"}, "auth": {"none": {}}})
    assert Settings.model_validate(settings.model_dump()) == settings
    assert pickle.loads(pickle.dumps(settings)) == settings  # noqa: S301  made one line up


def test_unknown_keys_are_ignored():
    assert Settings.model_validate({"nonsense": 1, "http": {"nonsense": 2}, "redis": {"addr": "x"}}) == Settings()


def test_a_key_without_value_is_a_key_not_written():
    document = {"log": None, "http": {"addr": None, "headers": {"X-A": None}}, "storage": None, "auth": None}
    assert Settings.model_validate(document) == Settings()


def test_version_as_yaml_writes_it():
    assert Settings.model_validate({"version": 0.1}).version == "0.1"
    assert problem({"version": "0.2"}) == "version must be 0.1"


@pytest.mark.parametrize("level", ["error", "warn", "info", "debug", "INFO"])
def test_log_levels(level):
    assert Settings.model_validate({"log": {"level": level}}).log.level == level.lower()


def test_the_old_spelling_of_the_log_level_is_second():
    assert Settings.model_validate({"loglevel": "debug"}).log.level == "debug"
    assert Settings.model_validate({"loglevel": "debug", "log": {"formatter": "json"}}).log.formatter == "json"
    assert Settings.model_validate({"loglevel": "debug", "log": {"level": "warn"}}).log.level == "warn"


def test_in_memory_storage():
    storage = Settings.model_validate({"storage": {"inmemory": {}, "delete": {"enabled": True}}}).storage
    assert storage.driver == "inmemory"
    assert storage.filesystem is None
    assert storage.delete.enabled is True


def test_storage_options_without_driver_mean_the_filesystem():
    storage = Settings.model_validate({"storage": {"delete": {"enabled": False}, "cache": {}, "tag": {}}}).storage
    assert storage.driver == "filesystem"
    assert storage.filesystem is not None


def test_two_drivers():
    assert problem({"storage": {"inmemory": {}, "filesystem": {}}}) == (
        "storage must name one driver, not filesystem and inmemory"
    )


def test_two_schemes():
    document = {"auth": {"none": {}, "htpasswd": {"realm": "r", "path": "/p"}}}
    assert problem(document) == "auth must name one scheme, not none and htpasswd"


def test_htpasswd():
    auth = Settings.model_validate({"auth": {"htpasswd": {"realm": "r", "path": "/p"}}}).auth
    assert (auth.scheme, auth.configured) == ("htpasswd", True)
    assert auth.htpasswd is not None
    assert (auth.htpasswd.realm, auth.htpasswd.path) == ("r", Path("/p"))


def test_auth_none_is_written_but_asks_for_nothing():
    auth = Settings.model_validate({"auth": {"none": {}}}).auth
    assert (auth.scheme, auth.configured) == ("none", False)


def test_htpasswd_needs_realm_and_path():
    assert problem({"auth": {"htpasswd": {}}}) == "auth.htpasswd.realm is required; auth.htpasswd.path is required"
    assert problem({"auth": {"htpasswd": {"realm": "", "path": ""}}}) == (
        "auth.htpasswd.realm must not be empty; auth.htpasswd.path must be a path"
    )


@pytest.mark.parametrize(
    ("document", "key"),
    [
        ({"auth": {"token": {"realm": "x"}}}, "auth.token"),
        ({"auth": {"token": {}}}, "auth.token"),
        ({"auth": {"silly": {}}}, "auth.silly"),
        ({"auth": {"htpaswd": {}}}, "auth.htpaswd"),
        ({"storage": {"s3": {"bucket": "b"}}}, "storage.s3"),
        ({"storage": {"azure": {}}}, "storage.azure"),
        ({"storage": {"gcs": {}}}, "storage.gcs"),
        ({"storage": {"swift": {}}}, "storage.swift"),
        ({"storage": {"oss": {}}}, "storage.oss"),
        ({"storage": {"s3": {}, "filesystem": {}}}, "storage.s3"),
        ({"storage": {"filesytem": {}}}, "storage.filesytem"),
        ({"http": {"tls": {"letsencrypt": {"email": "a@b"}}}}, "http.tls.letsencrypt"),
        ({"proxy": {"remoteurl": "https://registry-1.docker.io"}}, "proxy.remoteurl"),
    ],
)
def test_what_is_not_built_is_refused(document, key):
    with pytest.raises(ConfigError) as caught:
        Settings.model_validate(document)
    assert caught.value.message == f"{key} is not supported by this version of hatoba"


@pytest.mark.parametrize(
    "document",
    [
        {"http": {"tls": {"certificate": "", "letsencrypt": {"email": "", "hosts": []}}}},
        {"http": {"tls": None}},
        {"proxy": {"remoteurl": ""}},
        {"proxy": None},
    ],
)
def test_an_empty_feature_is_not_refused(document):
    assert Settings.model_validate(document) == Settings()


def test_a_feature_that_is_no_mapping():
    with pytest.raises(ConfigError, match="proxy must be a mapping"):
        Settings.model_validate({"proxy": "x"})


NO_RANGE = "hatoba.trustedproxies.1 must be an address or a range such as 10.0.0.0/8 (not 10.1.2.3/8)"
NO_RANGES = ["10.1.2.3/8", "proxy.example.com", "", 10, None, ["10.0.0.0/8"], "10.0.0.0/33", "*"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"http": 5}, "http must be a mapping"),
        ({"http": {"tls": "/c"}}, "http.tls must be a mapping"),
        (
            {"http": {"tls": {"minimumtls": "tls1.1"}}},
            "http.tls.minimumtls must be tls1.2 or tls1.3: the older versions are broken and not spoken",
        ),
        ({"http": {"tls": {"minimumtls": "1.2"}}}, "http.tls.minimumtls must be 'tls1.2' or 'tls1.3'"),
        (
            {"http": {"tls": {"clientauth": "require-any-client-cert"}}},
            (
                "http.tls.clientauth must be require-and-verify-client-cert or verify-client-cert-if-given: a "
                "certificate that nobody verifies proves nothing, and is not asked for"
            ),
        ),
        ({"storage": []}, "storage must be a mapping"),
        ({"storage": {"filesystem": "/x"}}, "storage.filesystem must be a mapping"),
        ({"storage": {"filesystem": {"rootdirectory": ""}}}, "storage.filesystem.rootdirectory must be a path"),
        ({"storage": {"filesystem": {"rootdirectory": "a\0b"}}}, "storage.filesystem.rootdirectory must be a path"),
        ({"storage": {"delete": {"enabled": "maybe"}}}, "storage.delete.enabled must be true or false"),
        ({"log": {"level": "loud"}}, "log.level must be 'error', 'warn', 'info' or 'debug'"),
        ({"hatoba": {"workers": 0}}, "hatoba.workers must be greater than or equal to 1"),
        ({"hatoba": {"workers": "many"}}, "hatoba.workers must be a whole number"),
        ({"hatoba": {"limits": {"stalltimeout": "0"}}}, "hatoba.limits.stalltimeout must be more than 0"),
        ({"hatoba": {"trustedproxies": "10.0.0.0/8"}}, "hatoba.trustedproxies must be a list"),
        *(({"hatoba": {"trustedproxies": ["::1", value]}}, NO_RANGE) for value in NO_RANGES),
        (http(secret=["x"]), "http.secret must be text"),
        (http(headers={"X-A": "v"}), "http.headers.X-A must be a list"),
        (http(headers=["X-A"]), "http.headers must be a mapping"),
        (http(headers={"X A": []}), "http.headers.X A must be the name of an HTTP header"),
        (http(headers={"X-A": ["a\nb"]}), "http.headers.X-A.0 must be one line of Latin-1 text"),
        (http(headers={"X\nA": []}), "http.headers.X\\nA must be the name of an HTTP header"),
    ],
)
def test_errors_name_the_key(document, message):
    assert problem(document) == message


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ([], []),
        (["10.1.2.3", "::1"], ["10.1.2.3/32", "::1/128"]),
        (["0.0.0.0/0", "fd00::/8"], ["0.0.0.0/0", "fd00::/8"]),
    ],
)
def test_trusted_proxies(written, meant):
    settings = Settings.model_validate({"hatoba": {"trustedproxies": written}})
    assert [str(network) for network in settings.hatoba.trustedproxies] == meant


@pytest.mark.parametrize("secret", ["hunter2", 12345])
def test_secrets_are_never_shown(secret):
    document = {"http": {"secret": [secret], "host": f"http://u:{secret}@h", "draintimeout": secret, "addr": secret}}
    assert str(secret) not in problem(document)
    assert "hunter2" not in repr(Settings.model_validate(http(secret="hunter2")))


@pytest.mark.parametrize("host", ["https://registry.example.com", "http://localhost:5000", "http://[::1]:5000/a", ""])
def test_http_host(host):
    assert Settings.model_validate(http(host=host)).http.host == host


@pytest.mark.parametrize(
    "host",
    [
        "registry.example.com",
        "ftp://x",
        "https://",
        "//x",
        "http://x:99999",
        "http://[::1",
        "http://u:p@x",
        "http://x?a",
        "http://x#a",
        "http://x y",
        "http://x\ny",
        "http://ü",
        "/path",
    ],
)
def test_what_is_no_http_host(host):
    assert problem(http(host=host)).startswith("http.host must be an absolute URL")


@pytest.mark.parametrize(
    ("written", "kept"), [("", ""), ("/", ""), ("a", "/a/"), ("/a/", "/a/"), ("/a/b", "/a/b/"), ("//a/", "/a/")]
)
def test_http_prefix(written, kept):
    assert Settings.model_validate(http(prefix=written)).http.prefix == kept


@pytest.mark.parametrize("prefix", ["/a//b/", "/a b/", "/a?b", "/a#b", "/ü/"])
def test_what_is_no_http_prefix(prefix):
    assert problem(http(prefix=prefix)) == "http.prefix must be a path such as /registry/"


def test_http_addr():
    assert Settings.model_validate(http(addr="[::1]:5001")).http.listen == ("::1", 5001)
    assert problem(http(addr="5000")).startswith("http.addr must be host:port")


def test_a_unix_socket():
    section = Settings.model_validate(http(net="unix", addr="/run/registry.sock")).http
    assert section.socket_path == Path("/run/registry.sock")
    with pytest.raises(ConfigError, match=r"http\.addr"):
        _ = section.listen


@pytest.mark.parametrize("keys", [{"net": "unix"}, {"addr": "/run/registry.sock"}])
def test_addr_and_net_must_fit(keys):
    assert problem(http(**keys)).startswith("http must have the path of a socket as addr when net is unix")


def test_an_empty_net_is_tcp():
    assert Settings.model_validate(http(net="")).http.net == "tcp"
    assert problem(http(net="udp")) == "http.net must be 'tcp' or 'unix'"


def test_explain_names_every_key():
    assert problem({"http": {"addr": "x"}, "hatoba": {"workers": "x"}}).count(";") == 1
    assert problem([]) == "the configuration must be a mapping"  # type: ignore[arg-type]
