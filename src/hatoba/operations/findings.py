"""What `hatoba verify` says: a finding, and the report that counts what was looked at.

Knows nothing of how anything is checked. What a folder read for the first time has amiss is `tree.TreeProblem`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. `fix` says what to do about it or, when `mended`, what was done."""

    kind: str
    subject: str
    meaning: str
    fix: str
    mended: bool = False


@dataclass(slots=True)
class Report:
    """What a check looked at and found; `say` hears each finding at once.

    `strays` are files that nothing names; `abandoned` are files of no upload, `fileless` uploads without a file:
    a killed server leaves them, and they go by themselves or with the next collection.
    """

    say: Callable[[Finding], None]
    blobs: int = 0
    hashed_bytes: int = 0
    manifests: int = 0
    links: int = 0
    findings: int = 0
    mended: int = 0
    strays: int = 0
    stray_bytes: int = 0
    abandoned: int = 0
    fileless: int = 0
    pending: int = 0

    def add(self, kind: str, subject: str, meaning: str, fix: str, *, mended: bool = False) -> None:
        """Count a finding and say it."""
        self.findings += 1
        self.mended += mended
        self.say(Finding(kind, subject, meaning, fix, mended))
