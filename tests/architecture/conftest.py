"""Reads hatoba's sources, and copies of them in which a test plants the violation that its rule must see."""

import ast
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Source:
    """A Python file: `name` is its path below `src/hatoba` or `tests`."""

    name: str
    text: str
    tree: ast.Module

    @property
    def docstring(self):
        return ast.get_docstring(self.tree)

    def within(self, *prefixes):
        return self.name.startswith(prefixes)


def read(folder):
    sources = []
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text("utf-8")
        sources.append(Source(path.relative_to(folder).as_posix(), text, ast.parse(text)))
    return sources


@pytest.fixture(scope="session")
def repository():
    return REPOSITORY


@pytest.fixture(scope="session")
def sources():
    """hatoba's own modules."""
    return read(REPOSITORY / "src" / "hatoba")


@pytest.fixture(scope="session")
def test_sources():
    return read(REPOSITORY / "tests")


@pytest.fixture
def copy(tmp_path):
    """Copies `src` beside a `pyproject.toml` and appends text to files of hatoba (name -> text); the copy's folder."""

    def copy_(plants):
        root = tmp_path / "planted"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / "src", root / "src", ignore=ignored, dirs_exist_ok=True)
        shutil.copy(REPOSITORY / "pyproject.toml", root)
        for name, text in plants.items():
            path = root / "src" / "hatoba" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(f"\n{text}\n")
        return root

    return copy_


@pytest.fixture
def planted(copy):
    """The modules of such a copy."""
    return lambda plants: read(copy(plants) / "src" / "hatoba")
