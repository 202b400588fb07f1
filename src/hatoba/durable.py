"""Folders that outlive a power loss. Owns no path: whoever needs a folder says which."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def make_durably(folder: Path) -> None:
    """Make `folder` and those above it; each is durable in its parent on return, also one that was just made by others.

    A new folder that a power loss takes away takes everything in it along, fsynced or not. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for each in (folder, *folder.parents):
        with contextlib.suppress(OSError):  # one that others own and we may not open is not one we made
            descriptor = os.open(each, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
