"""import-linter's contracts hold, are complete, and see what they are there for."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HOUSE = "The house"
CYCLES = "Inside a package siblings form no cycle"
DRIVERS = "Only wiring names concrete drivers and engines"
WEB = "Web asks the rules"
APSW = "apsw lives in db.sqlite alone"


def lint(root):
    """Contract -> whether it is kept, for the sources in `root`."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--config", "pyproject.toml", "--no-cache"]
    environ = {**os.environ, "PYTHONPATH": str(root / "src"), "COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, check=False)
    found = dict(re.findall(r"^(.+?) (KEPT|BROKEN)(?: \(.*\))?\s*$", done.stdout, flags=re.MULTILINE))
    assert found, done.stdout + done.stderr
    assert (done.returncode == 0) is ("BROKEN" not in found.values())
    return {name: state == "KEPT" for name, state in found.items()}


def broken(root):
    return {name for name, kept in lint(root).items() if not kept}


def named(beginnings, names):
    return {name for name in names if name.startswith(tuple(beginnings))}


@pytest.fixture(scope="session")
def contracts(repository):
    return tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]


def test_every_contract_is_kept(repository, contracts):
    assert lint(repository) == {contract["name"]: True for contract in contracts}


def test_the_house_is_drawn_whole(contracts, repository):
    (house,) = [contract for contract in contracts if contract["type"] == "layers"]
    assert house["containers"] == ["hatoba"]
    assert house["exhaustive"] is True
    assert not house.get("exhaustive_ignores")
    assert not house.get("ignore_imports")
    drawn = [name.strip() for line in house["layers"] for name in line.split("|")]
    there = {path.stem for path in (repository / "src" / "hatoba").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert sorted(drawn) == sorted(there - {"__init__", "__pycache__"})
    # The lines of the design; `:` would let siblings import each other.
    lines = ["cli | testing", "server", "web", "operations", "registry | auth", "db | blobs", "oci"]
    assert [line for line in house["layers"] if line in lines] == lines
    assert not any(":" in line for line in house["layers"])


def test_siblings_form_no_cycle_anywhere(contracts):
    (acyclic,) = [contract for contract in contracts if contract["type"] == "acyclic_siblings"]
    assert acyclic["ancestors"] == ["hatoba"]
    assert set(acyclic) <= {"name", "type", "ancestors"}, "without exceptions"


def test_no_contract_has_exceptions(contracts):
    for contract in contracts:
        assert not contract.get("ignore_imports"), contract["name"]


def test_every_package_is_named_by_the_contracts_of_who_may_import_what(contracts, repository):
    """They list who may not: a new package that they forget could import anything."""
    there = {
        f"hatoba.{path.stem}" for path in (repository / "src" / "hatoba").iterdir() if path.name != "__pycache__"
    } - {"hatoba.__init__", "hatoba.__main__"}
    exceptions = {DRIVERS: {"hatoba.wiring", "hatoba.cancellation"}, APSW: {"hatoba.cancellation"}}
    for contract in contracts:
        for beginning, allowed in exceptions.items():
            if contract["name"].startswith(beginning):
                listed = {".".join(name.split(".")[:2]) for name in contract["source_modules"]}
                assert there - listed == allowed


def test_each_contract_sees_its_violation(copy):
    root = copy(
        {
            "operations/purge.py": "import hatoba.blobs.memory",
            "web/app.py": "import hatoba.db.tags",
            "db/engine.py": "import apsw",
            "web/v2/base.py": "import hatoba.web.v2.blobs",
            "oci/digest.py": "import hatoba.db.tags",
        }
    )
    found = broken(root)
    assert named([HOUSE, CYCLES, DRIVERS, WEB, APSW], found) == found
    assert len(found) == 5


@pytest.mark.parametrize(
    "plants",
    [
        {"registry/tags.py": "import hatoba.auth.access"},
        {"blobs/layout.py": "import hatoba.db.tags"},
        {"config/values.py": "import hatoba.telemetry"},
        {"telemetry.py": "import hatoba.wiring"},
        {"newcomer.py": '"""On no line of the house."""'},
        {"newcomer/__init__.py": '"""On no line of the house."""'},
    ],
    ids=str,
)
def test_the_house_sees_siblings_upward_imports_and_newcomers(copy, plants):
    assert named([HOUSE], broken(copy(plants))) != set()
