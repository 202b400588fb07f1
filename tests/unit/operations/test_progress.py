"""How far a long operation is, in a log: a line now and then."""

from __future__ import annotations

import structlog
from structlog.testing import LogCapture

from hatoba.operations import progress


def test_a_line_every_few_seconds(monkeypatch):
    capture, clock = LogCapture(), [100.0]
    structlog.configure(processors=[capture])
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    show = progress.log_lines("reading the folder")
    for done in range(100):
        clock[0] += 0.2
        show(done, 100, done * 10)
    structlog.reset_defaults()
    assert [(entry["event"], entry["repositories"], entry["manifests"]) for entry in capture.entries] == [
        ("reading the folder", f"{done} of 100", done * 10) for done in (24, 49, 74, 99)
    ]
