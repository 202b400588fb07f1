from __future__ import annotations

import copy

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hatoba.config.environment import apply, override, parse_yaml, writes_auth
from hatoba.config.load import load
from hatoba.errors import ConfigError


def applied(environ: dict[str, str], document: dict | None = None) -> dict:
    changed, warnings = apply(document or {}, environ)
    assert warnings == []
    return changed


def refused(environ: dict[str, str], document: dict | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(None, environ, base=document)
    return caught.value.message


def warned(environ: dict[str, str], document: dict | None = None) -> list[str]:
    changed, warnings = apply(document or {}, environ)
    assert changed == (document or {})
    return warnings


# Rule 1: the prefix, and the order.


def test_other_variables_are_left_alone():
    assert applied({"PATH": "/bin", "registry_http_addr": "x", "REGISTRYHTTP": "x"}) == {}


def test_shorter_names_go_first_whatever_the_order_given():
    environ = {"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "/data", "REGISTRY_STORAGE": "filesystem"}
    expected = {"storage": {"filesystem": {"rootdirectory": "/data"}}}
    assert applied(environ) == applied(dict(reversed(environ.items()))) == expected


def test_the_path_of_the_file_is_no_setting():
    assert applied({"REGISTRY_CONFIGURATION_PATH": "/etc/distribution/config.yml"}) == {}


# Rule 2: names are compared in upper case.


def test_a_name_leads_to_the_key_of_that_name():
    assert applied({"REGISTRY_HTTP_ADDR": ":6000"}) == {"http": {"addr": ":6000"}}


def test_sections_are_recognised_in_upper_case_only():
    assert warned({"REGISTRY_http_addr": ":6000"}) == [
        "Ignoring unrecognized environment variable REGISTRY_http_addr",
    ]


def test_hatobas_own_section_follows_the_same_rules():
    assert applied({"REGISTRY_HATOBA_LIMITS_STALLTIMEOUT": "90s", "REGISTRY_HATOBA_DATABASE_PATH": "/db"}) == {
        "hatoba": {"limits": {"stalltimeout": "90s"}, "database": {"path": "/db"}}
    }


# Rule 3: sections, maps, lists.


def test_a_missing_section_is_made():
    assert applied({"REGISTRY_LOG_ACCESSLOG_DISABLED": "true"}) == {"log": {"accesslog": {"disabled": "true"}}}


def test_a_section_without_value_is_made():
    assert applied({"REGISTRY_LOG_LEVEL": "debug"}, {"log": None}) == {"log": {"level": "debug"}}


def test_neighbours_stay():
    document = {"http": {"addr": ":1", "headers": {"X-A": ["a"]}}, "log": {"level": "warn"}}
    assert applied({"REGISTRY_HTTP_ADDR": ":2"}, document) == {**document, "http": {**document["http"], "addr": ":2"}}


def test_a_new_key_of_a_map_is_lower_cased():
    assert applied({"REGISTRY_HTTP_HEADERS_Access-Control-Allow-Origin": '["*"]'}) == {
        "http": {"headers": {"access-control-allow-origin": ["*"]}}
    }
    assert applied({"REGISTRY_LOG_FIELDS_SERVICE": "registry"}) == {"log": {"fields": {"service": "registry"}}}


@pytest.mark.parametrize("piece", ["X-FRAME-OPTIONS", "X-Frame-Options"])
def test_a_key_of_a_map_that_is_there_is_replaced(piece):
    document = {"http": {"headers": {"X-Frame-Options": ["DENY"], "X-A": ["a"]}}}
    assert applied({f"REGISTRY_HTTP_HEADERS_{piece}": "[SAMEORIGIN]"}, document) == {
        "http": {"headers": {"X-Frame-Options": ["SAMEORIGIN"], "X-A": ["a"]}}
    }


def test_untyped_maps_nest():
    assert applied({"REGISTRY_LOG_FIELDS_A_B": "1", "REGISTRY_LOG_FIELDS_A_C": "2"}) == {
        "log": {"fields": {"a": {"b": "1", "c": "2"}}}
    }


def test_lists_inside_untyped_maps():
    assert applied({"REGISTRY_LOG_FIELDS_A_0": "x"}, {"log": {"fields": {"a": ["y", "z"]}}}) == {
        "log": {"fields": {"a": ["x", "z"]}}
    }


def test_a_name_that_goes_beyond_a_value_is_a_warning():
    assert warned({"REGISTRY_HTTP_ADDR_X": "1"})
    assert warned({"REGISTRY_LOG_FIELDS_A_B": "1"}, {"log": {"fields": {"a": "text"}}})


def test_trusted_proxies_are_a_list_like_any_other():
    def proxies(environ, document=None):
        return [str(network) for network in load(None, environ, base=document).settings.hatoba.trustedproxies]

    written = {"hatoba": {"trustedproxies": ["10.0.0.1", "10.0.0.2"]}}
    whole = {"REGISTRY_HATOBA_TRUSTEDPROXIES": '["::1", 10.0.0.0/8]'}
    assert proxies(whole) == proxies(whole, written) == ["::1/128", "10.0.0.0/8"]
    assert proxies({"REGISTRY_HATOBA_TRUSTEDPROXIES": "[]"}, written) == []
    assert proxies({"REGISTRY_HATOBA_TRUSTEDPROXIES_0": "10.0.0.9"}) == ["10.0.0.9/32"]
    assert proxies({"REGISTRY_HATOBA_TRUSTEDPROXIES_1": "10.0.0.9"}, written) == ["10.0.0.1/32", "10.0.0.9/32"]
    assert refused({"REGISTRY_HATOBA_TRUSTEDPROXIES": "10.0.0.9"}) == (
        "REGISTRY_HATOBA_TRUSTEDPROXIES: hatoba.trustedproxies must be a list"
    )


def test_a_list_index_replaces_or_appends():
    environ = {"REGISTRY_HTTP_HEADERS_X-A_0": "new", "REGISTRY_HTTP_HEADERS_X-A_2": "more"}
    assert applied(environ, {"http": {"headers": {"X-A": ["a", "b"]}}}) == {
        "http": {"headers": {"X-A": ["new", "b", "more"]}}
    }
    assert applied({"REGISTRY_HTTP_HEADERS_X-A_0": "a"}) == {"http": {"headers": {"x-a": ["a"]}}}


@pytest.mark.parametrize("index", ["3", "x", "-1", "99999999999999999999", "٣"])
def test_a_list_index_too_high_or_no_number(index):
    name = f"REGISTRY_HTTP_HEADERS_X-A_{index}"
    message = refused({name: "v"}, {"http": {"headers": {"X-A": ["a", "b"]}}})
    assert message == f"{name}: http.headers.X-A has 2 entries: a number of 0 to 2 must follow it"


@pytest.mark.parametrize(
    ("document", "name", "key"),
    [
        ({"http": "x"}, "REGISTRY_HTTP_ADDR", "http must be a mapping"),
        ({"http": {"headers": []}}, "REGISTRY_HTTP_HEADERS_X", "http.headers must be a mapping"),
        ({"http": {"headers": {"X": "a"}}}, "REGISTRY_HTTP_HEADERS_X_0", "http.headers.X must be a list"),
    ],
)
def test_a_document_of_the_wrong_shape(document, name, key):
    assert refused({name: ":5000"}, document) == f"{name}: {key}"


# Rule 4: values are YAML.


@pytest.mark.parametrize("text", ["true", "yes", "on", "True", '"true"'])
def test_booleans(text):
    assert load(None, {"REGISTRY_STORAGE_DELETE_ENABLED": text}).settings.storage.delete.enabled is True


def test_durations():
    assert load(None, {"REGISTRY_HTTP_DRAINTIMEOUT": "10s"}).settings.http.draintimeout.total_seconds() == 10


def test_whole_sections():
    environ = {"REGISTRY_LOG": "{level: debug, fields: {a: 1}}", "REGISTRY_LOG_FORMATTER": "json"}
    assert applied(environ, {"log": {"accesslog": {"disabled": True}}}) == {
        "log": {"level": "debug", "fields": {"a": "1"}, "formatter": "json"}
    }


@pytest.mark.parametrize("secret", ["0123", "12:34", "1e5", "yes", "0x1f", "2001-01-01", "1_000"])
def test_text_settings_keep_the_characters_that_were_written(secret):
    settings = load(None, {"REGISTRY_HTTP_SECRET": secret}).settings
    assert settings.http.secret.get_secret_value() == secret


def test_an_empty_value_brings_back_the_default():
    environ = {"REGISTRY_HTTP_ADDR": "", "REGISTRY_HTTP_SECRET": "", "REGISTRY_STORAGE_DELETE_ENABLED": ""}
    settings = load(None, environ, base={"http": {"addr": ":1", "secret": "s"}}).settings
    assert settings.http.addr == ":5000"
    assert settings.http.secret.get_secret_value() == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REGISTRY_HTTP_DRAINTIMEOUT", "banana"),
        ("REGISTRY_HTTP_ADDR", "banana"),
        ("REGISTRY_HTTP", "banana"),
        ("REGISTRY_HTTP", "{addr: banana}"),
        ("REGISTRY_HTTP_HEADERS_X-A", "banana"),
        ("REGISTRY_HTTP_HEADERS_X-A_0", "[banana]"),
        ("REGISTRY_LOG_LEVEL", "banana"),
        ("REGISTRY_HATOBA_WORKERS", "banana"),
        ("REGISTRY_STORAGE", "[banana]"),
        ("REGISTRY_STORAGE", "{inmemory: {}, filesystem: {banana: 1}}"),
        ("REGISTRY_STORAGE_MAINTENANCE_READONLY", "{enabled: banana}"),
        ("REGISTRY_AUTH_HTPASSWD_REALM", "[banana]"),
        ("REGISTRY_HTTP_SECRET", "[banana]"),
        ("REGISTRY_HTTP_SECRET", "@banana"),
        ("REGISTRY_HTTP_SECRET", "*banana"),
        ("REGISTRY_HTTP_SECRET", "!banana x"),
        ("REGISTRY_HTTP_SECRET", "'banana"),
        ("REGISTRY_HTTP_SECRET", "a: b: banana"),
        ("REGISTRY_HTTP_SECRET", "!!bool banana"),
        ("REGISTRY_HTTP_SECRET", "banana\0"),
    ],
)
def test_a_wrong_value_names_the_variable_and_never_the_value(name, value):
    message = refused({name: value})
    assert message.startswith(f"{name}: ")
    assert "banana" not in message
    assert "\n" not in message


def test_a_fault_elsewhere_is_not_blamed_on_the_variable():
    document = {"http": {"draintimeout": "banana", "headers": {"X-A": "banana"}}}
    message = refused({"REGISTRY_HTTP_ADDR": ":1", "REGISTRY_HTTP_HEADERS_X-B": "[b]"}, document)
    assert "REGISTRY" not in message
    assert "http.draintimeout" in message
    assert "http.headers.X-A" in message


# Rule 5: REGISTRY_STORAGE and REGISTRY_AUTH replace the section.


def test_a_driver_replaces_the_whole_storage_section():
    document = {"storage": {"filesystem": {"rootdirectory": "/x"}, "delete": {"enabled": True}}}
    assert applied({"REGISTRY_STORAGE": "inmemory"}, document) == {"storage": {"inmemory": {}}}


def test_a_scheme_replaces_the_whole_auth_section():
    environ = {
        "REGISTRY_AUTH": "htpasswd",
        "REGISTRY_AUTH_HTPASSWD_REALM": "Registry Realm",
        "REGISTRY_AUTH_HTPASSWD_PATH": "/auth/htpasswd",
    }
    assert applied(environ, {"auth": {"none": {}}}) == {
        "auth": {"htpasswd": {"realm": "Registry Realm", "path": "/auth/htpasswd"}}
    }


def test_a_scheme_without_its_settings():
    assert refused({"REGISTRY_AUTH": "htpasswd"}) == ("auth.htpasswd.realm is required; auth.htpasswd.path is required")


def test_the_long_form_replaces_too():
    document = {"storage": {"filesystem": {}, "delete": {"enabled": True}}}
    assert applied({"REGISTRY_STORAGE": "{inmemory: }"}, document) == {"storage": {"inmemory": {}}}


@pytest.mark.parametrize("value", ["", "~", "null"])
@pytest.mark.parametrize("name", ["REGISTRY_AUTH", "REGISTRY_STORAGE"])
def test_a_choice_left_empty_drops_nothing(name, value):
    document = {"auth": {"htpasswd": {"realm": "r", "path": "/p"}}, "storage": {"inmemory": {}}}
    assert warned({name: value}, document) == [f"Ignoring empty environment variable {name}"]


def test_a_name_alone_in_the_document_is_a_section():
    assert applied({"REGISTRY_STORAGE_DELETE_ENABLED": "true"}, {"storage": "inmemory", "auth": {"none": None}}) == {
        "storage": {"inmemory": {}, "delete": {"enabled": "true"}},
        "auth": {"none": {}},
    }


# Rule 6: two drivers, two schemes.


def test_two_drivers():
    environ = {"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "/x"}
    assert "one driver" in refused(environ, {"storage": {"inmemory": {}}})


def test_two_schemes():
    environ = {"REGISTRY_AUTH_HTPASSWD_REALM": "r", "REGISTRY_AUTH_HTPASSWD_PATH": "/x"}
    assert "one scheme" in refused(environ, {"auth": {"none": {}}})


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("REGISTRY_STORAGE_S3_BUCKET", "storage.s3"),
        ("REGISTRY_STORAGE_AZURE_ACCOUNTNAME", "storage.azure"),
        ("REGISTRY_STORAGE_GCS_BUCKET", "storage.gcs"),
        ("REGISTRY_STORAGE_SWIFT_AUTHURL", "storage.swift"),
        ("REGISTRY_STORAGE_OSS_BUCKET", "storage.oss"),
        ("REGISTRY_AUTH_TOKEN_REALM", "auth.token"),
        ("REGISTRY_AUTH_SILLY_REALM", "auth.silly"),
        ("REGISTRY_HTTP_TLS_LETSENCRYPT_EMAIL", "http.tls.letsencrypt"),
        ("REGISTRY_PROXY_REMOTEURL", "proxy.remoteurl"),
    ],
)
def test_what_is_not_built_is_refused(name, key):
    assert refused({name: "x"}) == f"{name}: {key} is not supported by this version of hatoba"


@pytest.mark.parametrize("word", ["s3", "nonsense"])
def test_a_driver_that_is_not_built(word):
    assert refused({"REGISTRY_STORAGE": word}) == (
        f"REGISTRY_STORAGE: storage.{word} is not supported by this version of hatoba"
    )


def test_a_scheme_that_is_not_built():
    assert refused({"REGISTRY_AUTH": "token"}) == (
        "REGISTRY_AUTH: auth.token is not supported by this version of hatoba"
    )


# Rule 7: maintenance works in both forms.


@pytest.mark.parametrize("document", [{}, {"storage": {"maintenance": {"readonly": {"enabled": False}}}}])
@pytest.mark.parametrize(
    "environ",
    [
        {"REGISTRY_STORAGE_MAINTENANCE_READONLY_ENABLED": "true"},
        {"REGISTRY_STORAGE_MAINTENANCE_READONLY": '{"enabled":true}'},
        {"REGISTRY_STORAGE_MAINTENANCE": '{"readonly":{"enabled":true}}'},
    ],
)
def test_read_only(environ, document):
    assert load(None, environ, base=document).settings.storage.maintenance.readonly.enabled is True


@pytest.mark.parametrize(
    "environ",
    [
        {"REGISTRY_STORAGE_MAINTENANCE_UPLOADPURGING_ENABLED": "false"},
        {"REGISTRY_STORAGE_MAINTENANCE_UPLOADPURGING": "{enabled: false}"},
    ],
)
def test_upload_purging(environ):
    assert load(None, environ).settings.storage.maintenance.uploadpurging.enabled is False


# Rule 8: what leads nowhere is a warning.


@pytest.mark.parametrize(
    "name",
    [
        "REGISTRY_PORT",
        "REGISTRY_PORT_5000_TCP_ADDR",
        "REGISTRY_SERVICE_HOST",
        "REGISTRY_AUTH_PORT",
        "REGISTRY_AUTH_SERVICE_HOST",
        "REGISTRY_STORAGE_PORT",
        "REGISTRY_STORAGE_FILESYSTEM_NONSENSE",
        "REGISTRY_HTTP_NONSENSE_DEEP",
        "REGISTRY_HTTP_",
        "REGISTRY_HTTP_HEADERS_",
        "REGISTRY_HTTP__ADDR",
        "REGISTRY__",
        "REGISTRY_",
        "REGISTRY_VERSION",
        "REGISTRY_VERSION_X",
    ],
)
@pytest.mark.parametrize("value", ["tcp://10.0.0.1:5000", "", "@", "hunter2: [", "\0"])
def test_a_name_that_leads_nowhere(name, value):
    assert warned({name: value}, {"version": "0.1", "http": {"addr": ":1"}}) == [
        f"Ignoring unrecognized environment variable {name}"
    ]


def test_a_warning_is_one_line():
    assert warned({"REGISTRY_A\nB": "x"}) == ["Ignoring unrecognized environment variable REGISTRY_A\\nB"]


def test_a_service_called_registry_proxy_is_no_proxy():
    environ = {"REGISTRY_PROXY_PORT": "tcp://10.0.0.1:80", "REGISTRY_PROXY_SERVICE_HOST": "10.0.0.1"}
    assert load(None, environ).settings == load(None, {}).settings


# Rule 9: what everyone uses.


def test_variables_of_tutorials_are_known():
    environ = {
        "REGISTRY_AUTH": "htpasswd",
        "REGISTRY_AUTH_HTPASSWD_REALM": "r",
        "REGISTRY_AUTH_HTPASSWD_PATH": "/p",
        "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "/d",
        "REGISTRY_STORAGE_FILESYSTEM_MAXTHREADS": "100",
        "REGISTRY_STORAGE_DELETE_ENABLED": "true",
        "REGISTRY_HTTP_ADDR": "0.0.0.0:5000",
        "REGISTRY_HTTP_SECRET": "s",
        "REGISTRY_HTTP_HOST": "https://registry.example.com",
        "REGISTRY_HTTP_RELATIVEURLS": "true",
        "REGISTRY_HTTP_TLS_KEY": "",
        "REGISTRY_HTTP_HEADERS_Access-Control-Allow-Methods": "['HEAD', 'GET', 'OPTIONS', 'DELETE']",
        "REGISTRY_HTTP_DEBUG_ADDR": ":5001",
        "REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED": "true",
        "REGISTRY_HTTP_HTTP2_DISABLED": "true",
        "REGISTRY_HTTP_H2C_ENABLED": "true",
        "REGISTRY_PROXY_USERNAME": "u",
        "REGISTRY_PROXY_PASSWORD": "p",
        "REGISTRY_STORAGE_REDIRECT_DISABLE": "true",
        "REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR": "inmemory",
        "REGISTRY_STORAGE_TAG_CONCURRENCYLIMIT": "8",
        "REGISTRY_REDIS_ADDR": "redis:6379",
        "REGISTRY_REDIS_ADDRS": "[redis:6379]",
        "REGISTRY_LOG_LEVEL": "debug",
        "REGISTRY_LOG_HOOKS_0_MAILOPTIONS_SMTP_ADDR": "mail:25",
        "REGISTRY_LOG_REPORTCALLER": "true",
        "REGISTRY_LOGLEVEL": "debug",
        "REGISTRY_NOTIFICATIONS_ENDPOINTS": "[{name: a, url: 'http://x'}]",
        "REGISTRY_NOTIFICATIONS_ENDPOINTS_0_NAME": "b",
        "REGISTRY_NOTIFICATIONS_EVENTCONFIG_INCLUDEREFERENCES": "true",
        "REGISTRY_VALIDATION_DISABLED": "true",
        "REGISTRY_HEALTH_STORAGEDRIVER_ENABLED": "true",
        "REGISTRY_HEALTH_FILECHECKERS_0_FILE": "/x",
        "REGISTRY_CATALOG_MAXENTRIES": "1000",
        "REGISTRY_TAGS_MAXTAGS": "1000",
        "REGISTRY_COMPATIBILITY_SCHEMA1_ENABLED": "true",
    }
    loaded = load(None, environ)
    assert all(warning.endswith(" is not used by this version of hatoba") for warning in loaded.warnings)
    assert {warning.split()[0] for warning in loaded.warnings} == {
        "compatibility", "health.filecheckers", "http.h2c", "log.hooks", "log.reportcaller",
        "notifications", "proxy", "redis", "storage.cache", "storage.redirect", "storage.tag",
    }  # fmt: skip
    assert loaded.settings.auth.scheme == "htpasswd"
    assert loaded.settings.http.relativeurls is True


# What the functions promise beside the rules.


def test_the_document_given_stays_as_it_is():
    document = {"storage": "filesystem", "http": {"addr": ":1", "headers": {"X-A": ["a"]}}}
    before = copy.deepcopy(document)
    applied({"REGISTRY_HTTP_ADDR": ":2", "REGISTRY_HTTP_HEADERS_X-A_0": "b", "REGISTRY_STORAGE": "inmemory"}, document)
    assert document == before


def test_sections_that_share_a_yaml_alias_are_changed_one_by_one():
    document = parse_yaml("log: {fields: {a: &x {k: v}, b: *x}}")
    assert applied({"REGISTRY_LOG_FIELDS_A_K": "w"}, document) == {
        "log": {"fields": {"a": {"k": "w"}, "b": {"k": "v"}}}
    }


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"REGISTRY_AUTH": ""}, False),
        ({"REGISTRY_AUTH_PORT": "tcp://10.0.0.1:80"}, False),
        ({"REGISTRY_AUTHENTICATION": "x"}, False),
        ({"REGISTRY_AUTH": "none"}, True),
        ({"REGISTRY_AUTH_HTPASSWD_PATH": "/x"}, True),
    ],
)
def test_writes_auth(environ, expected):
    assert writes_auth(environ) is expected


def test_override():
    assert override({"http": {"addr": ":1", "host": ""}}, "http.addr", ":2") == {"http": {"addr": ":2", "host": ""}}
    assert override({"storage": "filesystem"}, "storage.filesystem.rootdirectory", "/x") == {
        "storage": {"filesystem": {"rootdirectory": "/x"}}
    }


@pytest.mark.parametrize("key", ["http.nonsense", "", "version", "http..addr", "http.addr.x"])
def test_override_of_what_is_no_setting(key):
    with pytest.raises(ConfigError, match="is no setting"):
        override({}, key, "x")


def test_override_with_a_wrong_value():
    with pytest.raises(ConfigError, match=r"^hatoba\.workers must be"):
        override({}, "hatoba.workers", 0)


def test_yaml_scalars_stay_text():
    assert parse_yaml("{a: 0.10, b: yes, c: 0123, d: ~, e: , f: 'null', 1: [2001-01-01]}") == {
        "a": "0.10",
        "b": "yes",
        "c": "0123",
        "d": None,
        "e": None,
        "f": "null",
        "1": ["2001-01-01"],
    }


def test_yaml_merge_keys():
    assert parse_yaml("{a: &x {k: v}, b: {<<: *x, l: w}}") == {"a": {"k": "v"}, "b": {"k": "v", "l": "w"}}


@pytest.mark.parametrize(
    "text",
    [
        "!!bool x",
        "!!int ''",
        "!!float x",
        "!!timestamp x",
        "!!binary é",
        "{[a]: b}",
        "[" * 5000,
        "--- a\n--- b",
        "&a [*b]",
        "!!python/object:os.system x",
        b"\xff\xfe\xfa",
        b"\x80",
        "!!int 0x_",
        "!!timestamp 9999-99-99",
        "<<: 1",
        "%YAML 9",
    ],
)
def test_what_is_no_yaml(text):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text)
    assert "\n" not in caught.value.message


PIECES = st.sampled_from(
    [
        "HTTP",
        "ADDR",
        "HEADERS",
        "X-A",
        "TLS",
        "CERTIFICATE",
        "STORAGE",
        "FILESYSTEM",
        "INMEMORY",
        "S3",
        "DELETE",
        "ENABLED",
        "MAINTENANCE",
        "READONLY",
        "AUTH",
        "TOKEN",
        "HTPASSWD",
        "REALM",
        "PATH",
        "NONE",
        "LOG",
        "LEVEL",
        "FIELDS",
        "HATOBA",
        "LIMITS",
        "WORKERS",
        "PROXY",
        "REMOTEURL",
        "REDIS",
        "LOGLEVEL",
        "NET",
        "HOST",
        "SECRET",
        "DRAINTIMEOUT",
        "0",
        "1",
        "PORT",
        "VERSION",
    ]
) | st.text(max_size=4)
NAMES = st.lists(PIECES, max_size=5).map(lambda pieces: "REGISTRY_" + "_".join(pieces))
VALUES = (
    st.sampled_from(
        ["", "x", "true", "10s", "[a]", "{a: b}", "{filesystem: }", "htpasswd", "inmemory", ":1", "&a [*a]"]
    )
    | st.sampled_from(["{a: &b {c: *b}}", "!!set {a}", "!!binary YQ==", "&a {<<: *a}", "!!float .nan", "{~: a}", "/x"])
    | st.text()
    | st.text(alphabet="!&*{}[]:,-#|>@`\"'%~ \n0a<?")
)


@settings(deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=5))
@example({"REGISTRY_HTTP": "&a {tls: *a, headers: *a, addr: *a}"})
@example({"REGISTRY_STORAGE": "&a {filesystem: *a}"})
@example({"REGISTRY_LOG_FIELDS": "{[a, b]: c}"})
@example({"REGISTRY_LOG_FIELDS": "{~: c}"})
@example({"REGISTRY_LOG_FIELDS": "[" * 2000})
@example({"REGISTRY_HTTP_ADDR": "!!binary gA=="})
@example({"REGISTRY_AUTH": "{~: c}"})
def test_no_name_and_no_value_raises_anything_but_config_errors(environ):
    try:
        lines = load(None, environ).warnings
    except ConfigError as error:
        lines = (error.message,)
    assert all(line.isprintable() and line for line in lines)
