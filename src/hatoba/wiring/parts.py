"""Where a registry's parts lie in its data folder, and those that a server and a command open alike.

Owns the names in `<root>/hatoba`. Whoever opens closes.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from hatoba.blobs import layout
from hatoba.config.settings import Settings
from hatoba.db.sqlite import Sqlite
from hatoba.errors import RegistryError
from hatoba.metrics.cells import Recorder
from hatoba.operations.mirror import Mirror
from hatoba.registry.validation import Validation


def root_of(settings: Settings) -> Path | None:
    """The data folder; None when everything is kept in memory."""
    return settings.storage.filesystem.rootdirectory if settings.storage.filesystem else None


def metadata_path(settings: Settings) -> Path | None:
    """The metadata database; None when it goes with the process."""
    root = root_of(settings)
    return settings.hatoba.database.path or (None if root is None else own(root) / "metadata.db")


def sessions_path(settings: Settings, root: Path) -> Path:
    """The database of uploads."""
    # Beside the other, which may have been moved to a disk that SQLite can use.
    told = settings.hatoba.database.path
    return told.with_name(f"{told.stem}-uploads.db") if told else own(root) / "uploads.db"


def own(root: Path) -> Path:
    """What hatoba has for itself in the data folder."""
    return root / "hatoba"


def locks(root: Path) -> Path:
    """Where the files lie that processes lock."""
    return own(root) / "locks"


def places_written(settings: Settings) -> list[Path]:
    """What a server writes to, each as far as it is there yet; nothing while there is no data folder."""
    root, metadata = root_of(settings), metadata_path(settings)
    if root is None or metadata is None or not os.path.isdir(root):  # noqa: PTH112  False also where we may not look
        return []
    wanted = [metadata, own(root)]
    if not settings.storage.maintenance.readonly.enabled:
        wanted += [root / layout.REPOSITORIES, root / layout.BLOBS]
    return [next(path for path in (one, *one.parents) if os.path.exists(path)) for one in wanted]  # noqa: PTH110


def open_metadata(
    settings: Settings, root: Path, *, existing: bool = False, recorder: Recorder | None = None
) -> Sqlite:
    """The database of content, not migrated; one that is `existing` is not made. Raises DatabaseFailed."""
    path = settings.hatoba.database.path or own(root) / "metadata.db"
    return Sqlite(path, locks(root), "metadata", "FULL", existing=existing, recorder=recorder)


def open_sessions(
    settings: Settings, root: Path, *, existing: bool = False, recorder: Recorder | None = None
) -> Sqlite:
    """As `open_metadata`, the database of uploads."""
    path = sessions_path(settings, root)
    return Sqlite(path, locks(root), "uploads", "NORMAL", existing=existing, recorder=recorder)


def validation(settings: Settings) -> Validation:
    """The checks that operators asked for of manifests that are pushed."""
    asked = settings.validation
    if not asked.active:
        return Validation(frozenset())
    urls, indexes = asked.manifests.urls, asked.manifests.indexes
    platforms = {
        "all": None,
        "none": frozenset[tuple[str, str]](),
        "list": frozenset((platform.os, platform.architecture) for platform in indexes.platformlist) or None,
    }
    return Validation(platforms[indexes.platforms], tuple(urls.allow), tuple(urls.deny))


async def last_settle(mirror: Mirror) -> None:
    """Let links be durable before the end, if they can be."""
    with contextlib.suppress(RegistryError):  # what is not settled now is settled at the next start
        await mirror.settle()
