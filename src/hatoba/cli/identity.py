"""As whom the server and the commands work: root goes on as the user that the registry belongs to.

Owns that choice and the words when a user may not write there. Files that root made in the folder of another user would
stop that user's server; a server in a container starts as root wherever nobody says otherwise.
"""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from hatoba.config.settings import Settings
from hatoba.config.values import printable
from hatoba.errors import HatobaError, StartError
from hatoba.wiring import commands, parts


def become(uid: int, gid: int) -> None:
    """Root goes on as this user, for good; nobody else changes. Raises HatobaError when root may not."""
    if os.geteuid() != 0 or uid == 0:
        return
    try:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    except OSError as error:
        raise HatobaError(
            f"the registry belongs to uid {uid}, which root may not become here ({error.strerror}): "
            f"run the command as that user"
        ) from None


def become_owner(settings: Settings) -> None:
    """Go on as the user that the registry belongs to; raises HatobaError for anybody else, and ConfigError."""
    become_owner_of(parts.metadata_path(settings), commands.metadata_owner(settings))


def become_owner_of(path: Path | None, owner: tuple[int, int]) -> None:
    """Go on as `owner` (uid, gid) of `path`; raises HatobaError when this process is neither that user nor root."""
    become(*owner)
    if os.geteuid() != owner[0]:
        # Even where it may write: files that it made would stop the server.
        raise HatobaError(
            f"{printable(path or '')} cannot be written by uid {os.geteuid()}: "
            f"it belongs to uid {owner[0]}, run the command as that user"
        )


def serve_as_owner(settings: Settings) -> None:
    """Root goes on as the owner of the data folder, if all that the server writes to belongs to that one user.

    Folders of several users (Docker's registry wrote as root into a folder of somebody) need root as before. Raises
    StartError when this user may not write there, HatobaError as `become`.
    """
    places = parts.places_written(settings)
    found = [place.stat() for place in places]
    if os.geteuid() == 0 and len({one.st_uid for one in found}) == 1 and found[0].st_uid != 0:
        become(found[0].st_uid, found[0].st_gid)
        log = structlog.stdlib.get_logger("hatoba")
        log.info("serving as the owner of the data folder", uid=found[0].st_uid, gid=found[0].st_gid)
    for place, one in zip(places, found, strict=True):
        if not os.access(place, os.W_OK) and not _is_read_only(place):
            raise StartError(
                f"{printable(place)} belongs to uid {one.st_uid} and cannot be written by uid {os.geteuid()}: "
                f"chown -R {os.geteuid()}:{os.getegid()} {printable(parts.root_of(settings) or place)}, "
                "or on a container's host the folder that is mounted there"
            )


def _is_read_only(place: Path) -> bool:
    """Whether it lies on a read-only file system, which no owner changes: what is opened first says so."""
    return bool(os.statvfs(place).f_flag & os.ST_RDONLY)
