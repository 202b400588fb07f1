"""How far a long operation is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import io
import re
import sys

import structlog
from structlog.testing import LogCapture

from hatoba.operations import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_a_bar_and_nothing_of_it_stays(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with progress.progress("importing") as show:
        show(3, 10, 1234)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    assert "importing" in text
    assert re.search(r" 3/10 repositories, 1,234 manifests", text)
    assert terminal.getvalue().rstrip().endswith("\x1b[2K"), "the line is cleared"


def test_elsewhere_a_line_every_few_seconds(monkeypatch):
    capture, clock = LogCapture(), [100.0]
    structlog.configure(processors=[capture])
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.progress("reading the folder") as show:
        for done in range(100):
            clock[0] += 0.2
            show(done, 100, done * 10)
    structlog.reset_defaults()
    assert [(entry["event"], entry["repositories"], entry["manifests"]) for entry in capture.entries] == [
        ("reading the folder", f"{done} of 100", done * 10) for done in (24, 49, 74, 99)
    ]
