"""docs/reference/distribution-settings.md says of every key of Docker's registry what hatoba does with it: is it so?

`distribution.yml` beside this file holds every key with a value it takes.
"""

import re
from pathlib import Path

import pytest

from hatoba.config.environment import parse_yaml
from hatoba.config.load import load
from hatoba.errors import ConfigError

HERE = Path(__file__).parent
TABLE = HERE.parents[2] / "docs/reference/distribution-settings.md"
WHOLE = {("log", "fields"), ("http", "headers")}  # the operator's own keys follow
BESIDE = {"auth.htpasswd": {"realm": "a", "path": "/a"}}  # what a key needs to stand alone


def leaves(node, path=()):
    if isinstance(node, dict) and node and path not in WHOLE:
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    else:
        yield ".".join(path), node


def rows():
    return re.findall(r"^\| `([^`]+)` \| (\w+) \|", TABLE.read_text("utf-8"), re.MULTILINE)


KEYS = dict(leaves(parse_yaml((HERE / "distribution.yml").read_bytes())))


def loaded_with(tmp_path, key):
    *parents, last = key.split(".")
    node = {last: KEYS[key]}
    for depth in range(len(parents), 0, -1):
        node = {parents[depth - 1]: {**BESIDE.get(".".join(parents[:depth]), {}), **node}}
    import yaml  # noqa: PLC0415

    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump({"version": "0.1", **node}))
    return load(path, {})


def test_every_key_has_one_row_in_order():
    assert [key for key, _ in rows()] == list(KEYS)


@pytest.mark.parametrize(("key", "status"), rows())
def test_row(tmp_path, key, status):
    if status == "refused":
        with pytest.raises(ConfigError) as refused:
            loaded_with(tmp_path, key)
        assert "\n" not in refused.value.message
        named = refused.value.message.split()[0]
        assert "." in named
        assert key.startswith(named), "the line names the key, or the driver or scheme it belongs to"
        return
    warnings = loaded_with(tmp_path, key).warnings
    if status == "ignored":
        (warning,) = warnings
        assert key.startswith(warning.split()[0])
        assert warning.endswith(" is not used by this version of hatoba")
    else:
        assert status == "honoured"
        assert warnings == ()


def test_honoured_keys_are_settings_and_a_wrong_value_is_noticed(tmp_path):
    """A mapping where a value belongs: whoever honours a key reads it."""
    for key, status in rows():
        if status == "honoured" and key not in {"version", "log.fields", "storage.inmemory", "auth.none"}:
            *parents, last = key.split(".")
            node = {last: {"a": {"b": "c"}} if key != "http.headers" else "x"}
            for parent in reversed(parents):
                node = {parent: node}
            with pytest.raises(ConfigError, match=re.escape("log.level" if key == "loglevel" else key)):
                load(None, {}, base=node)


def test_whoever_writes_nothing_hears_nothing():
    assert load(None, {}).warnings == ()
