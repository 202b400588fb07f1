"""Every place in hatoba that asks for an fsync, so that a run can be recorded without one of them.

A place is `file:line` of the call, as deep as it says whose durability it is; what SQLite does is one place a database.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import hatoba
from faults.interception import Operation

_SOURCES = Path(hatoba.__file__).parent
_CALLS = {"fsync", "fdatasync", "fsync_path", "fsync_folder", "make_durably"}
_THROUGH = {"fsync_path", "fsync_folder", "make_durably"}  # the place is where these are called

# No part of what clients do, so no run has them: copies that a backup makes, and bad files that are moved away. Their
# order is tests/unit/blobs' (test_copying, test_filesystem) and tests/unit/cli/test_backup's.
ELSEWHERE = {
    ("copying.py", "sync"),
    ("copying.py", "replace"),
    ("copying.py", "rename"),
    ("filesystem.py", "set_aside"),
}


def places() -> list[str]:
    """All of them."""
    found = ["SQLite metadata.db", "SQLite uploads.db"]
    for path in sorted(_SOURCES.rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            defined = isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            if defined and function.name not in _THROUGH and (path.name, function.name) not in ELSEWHERE:
                found += [f"{path.relative_to(_SOURCES)}:{line}" for line in _lines(function)]
    return found


def _lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[int]:
    names = ((node, getattr(node.func, "attr", getattr(node.func, "id", ""))) for node in ast.walk(function)
             if isinstance(node, ast.Call))  # fmt: skip
    return [node.lineno for node, name in names if name in _CALLS]


def place_of(operation: Operation) -> str:
    """Where the fsync comes from that is being asked for."""
    if operation.sqlite:
        return f"SQLite {'uploads.db' if 'uploads.db' in operation.path else 'metadata.db'}"
    frame = sys._getframe()
    while frame.f_back is not None:
        code = frame.f_code
        if code.co_filename.startswith(str(_SOURCES)) and code.co_name not in _THROUGH:
            return f"{Path(code.co_filename).relative_to(_SOURCES)}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"
