"""The bar of an import: there while it runs, gone afterwards."""

from __future__ import annotations

import io
import re
import sys

from hatoba.cli import bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_a_bar_and_nothing_of_it_stays(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with bar.shown_repositories("importing") as show:
        show(3, 10, 1234)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    assert "importing" in text
    assert re.search(r" 3/10 repositories, 1,234 manifests", text)
    assert terminal.getvalue().rstrip().endswith("\x1b[2K"), "the line is cleared"
