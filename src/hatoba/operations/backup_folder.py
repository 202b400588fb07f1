"""The folder of a backup: whether it may be one, whose it is, and that nobody else is at work in it or changed it.

Owns `<folder>/hatoba/backup.json`, which says of which registry the backup is, how the last one ended, and which images
its database holds: what was pushed to the copy itself must not be replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from hatoba.blobs import copying
from hatoba.config.values import printable
from hatoba.errors import ConfigError, HatobaError
from hatoba.operations import lock_file

_MARKER = "hatoba/backup.json"
_NOBODYS = {"lost+found"}  # of a disk's own
_BEGUN = {"locks", "serve.lock", "backup.json.new"}  # what a backup has made before its marker
_LOCKS = (
    ("hatoba/locks/backup", "another backup is being made there"),
    ("hatoba/serve.lock", "a hatoba serves it: stop that first"),
    ("hatoba/locks/verify", "`hatoba verify` is checking it: wait for its end"),
)


@dataclass(frozen=True, slots=True)
class Marker:
    """What `backup.json` holds; times as text, RFC 3339.

    `finished` is None until a first backup has ended, `missing` how many blobs that one lacks. `images` says, as a
    digest, which images its database may hold: two of them while the new one takes the older one's place.
    """

    registry: str
    root: str
    finished: str | None = None
    missing: int = 0
    images: tuple[str, ...] = ()


class Claim:
    """A folder that one backup has for itself."""

    def __init__(self, folder: Path, marker: Marker) -> None:
        self._folder = folder
        self._marker = marker
        _write(folder, marker)

    def check(self, images: str) -> None:
        """Raise HatobaError unless `images`, those of its database, are what a backup left there."""
        if images not in self._marker.images:
            raise HatobaError(
                f"{printable(self._folder)} was changed since its last backup: what was pushed or deleted there "
                "would be undone; choose another folder"
            )
        self._marker = replace(self._marker, images=(images,))

    def expect(self, images: str) -> None:
        """A database that holds these `images` is about to take the place of the one that is there."""
        self._marker = replace(self._marker, images=(*self._marker.images, images))
        _write(self._folder, self._marker)

    def finish(self, missing: int) -> None:
        """The backup has ended and lacks so many blobs."""
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        self._marker = replace(self._marker, finished=finished, missing=missing, images=self._marker.images[-1:])
        _write(self._folder, self._marker)


def is_backup(folder: Path) -> bool:
    """Whether backups are made into this folder, and so what is pushed to it ends that."""
    return (folder / _MARKER).exists()


def refuse_nested(folder: Path, root: Path) -> None:
    """Raise ConfigError when one lies in the other: the copy would be copied, or counted as strange files."""
    target, source = folder.resolve(), root.resolve()
    if target == source or any(_same(folder / part, root / part) for part in (".", "docker", "hatoba")):
        raise ConfigError(f"{printable(folder)} is the registry itself")
    if any(_same(parent, source) for parent in target.parents):
        raise ConfigError(f"{printable(folder)} lies in the registry, {printable(root)}: choose a folder outside of it")
    if any(_same(parent, target) for parent in source.parents):
        raise ConfigError(f"{printable(folder)} holds the registry, {printable(root)}: choose a folder beside it")


def make(folder: Path, root: Path, owner: tuple[int, int]) -> None:
    """Make the folder if it is not there, open to whom `root` is; by root an empty one is given to the `owner`."""
    if not folder.exists():
        folder.mkdir(parents=True)
        folder.chmod(root.stat().st_mode & 0o777)
    if os.geteuid() == 0 and not _content(folder):
        os.chown(folder, *owner)


@contextlib.contextmanager
def claimed(folder: Path, root: Path, made_at: datetime) -> Iterator[Claim]:
    """Have the folder for one backup of the registry in `root`, whose database was made at `made_at`.

    Raises HatobaError when it holds anything else than a backup of this registry, or somebody is at work in it.
    """
    ours = Marker(made_at.isoformat(), str(root.resolve()))
    if not (folder / _MARKER).exists() and not _is_begun(folder):
        raise HatobaError(
            f"{printable(folder)} is not empty and was not made by `hatoba backup`: choose another folder"
        )
    (folder / "hatoba" / "locks").mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        for name, meaning in _LOCKS:
            stack.enter_context(_lock(folder, name, meaning))
        found = _read(folder) or ours
        if found.registry != ours.registry:
            raise HatobaError(
                f"{printable(folder)} is a backup of another registry, {printable(found.root)}, or of one that was "
                "rebuilt since: choose another folder"
            )
        yield Claim(folder, replace(found, root=ours.root))


@contextlib.contextmanager
def _lock(folder: Path, name: str, meaning: str) -> Iterator[None]:
    with lock_file.held(folder / name) as ours:
        if not ours:
            raise HatobaError(f"{printable(folder)}: {meaning}")
        yield


def _content(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()} - _NOBODYS


def _is_begun(folder: Path) -> bool:
    """Whether there is nothing, or no more than a backup makes before its marker."""
    content = _content(folder)
    return not content or (content == {"hatoba"} and not _content(folder / "hatoba") - _BEGUN)


def _read(folder: Path) -> Marker | None:
    try:
        found = json.loads((folder / _MARKER).read_text("utf-8"))
        return Marker(
            str(found["registry"]),
            str(found["root"]),
            found["finished"] and str(found["finished"]),
            int(found["missing"]),
            tuple(map(str, found["images"])),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise HatobaError(f"{printable(folder / _MARKER)} cannot be read: choose another folder") from None


def _write(folder: Path, marker: Marker) -> None:
    content = json.dumps(asdict(marker), indent=2).encode() + b"\n"
    copying.replace(folder / _MARKER, content, 0o644)


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
