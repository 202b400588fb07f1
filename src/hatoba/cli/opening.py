"""Opens the registry for a command, beside a running server or without one, and reads what its arguments name.

Owns as whom a command works: files that root made in the folder of another user would stop the server.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from hatoba import telemetry, wiring
from hatoba.cli.configured import configuration_file, configure
from hatoba.config.settings import Settings
from hatoba.config.values import printable
from hatoba.errors import ConfigError, HatobaError, ManifestUnknown, NameUnknown, RegistryError
from hatoba.oci.reference import Reference, RepositoryName, Tag, parse_full

T = TypeVar("T")

Ref = Annotated[
    str,
    typer.Argument(metavar="REF", help="REPO:TAG or REPO@DIGEST, also as `docker pull` has it: HOST:PORT/REPO:TAG."),
]


def parse(text: str) -> tuple[RepositoryName, Reference | None]:
    """The repository and tag or digest that an argument names; raises ConfigError."""
    try:
        return parse_full(text)
    except RegistryError as error:
        raise ConfigError(f"{printable(text)}: {error.message}") from None


def parse_manifest(text: str) -> tuple[RepositoryName, Reference]:
    """As `parse`; a repository alone means its tag latest, as for Docker."""
    name, reference = parse(text)
    return name, Tag("latest") if reference is None else reference


def with_registry(
    config: Path | None,
    root: Path | None,
    named: str,
    work: Callable[[wiring.Rules], Awaitable[T]],
    *,
    writing: bool = False,
) -> T:
    """What `work` gives on the registry that the options mean; raises ConfigError, HatobaError.

    `named` is what the person asked for, for the message when it is not there. After `writing` this process may have
    given up root for good.
    """
    settings = configure(configuration_file(None, config), root).settings
    if writing and settings.storage.maintenance.readonly.enabled:
        raise HatobaError("storage.maintenance.readonly.enabled is set: nothing in the registry may change")
    owner = wiring.metadata_owner(settings)
    if writing:
        become(owner, wiring.metadata_path(settings))
    telemetry.configure("warn", "text")  # messages to stderr; unconfigured they would mix with results
    try:
        return asyncio.run(_worked(settings, work, parse(named)[0] if writing else None))
    except (NameUnknown, ManifestUnknown) as error:
        raise HatobaError(f"{printable(named)}: {error.message}") from None


async def _worked(
    settings: Settings, work: Callable[[wiring.Rules], Awaitable[T]], changing: RepositoryName | None
) -> T:
    async with wiring.opened(settings, changing=changing) as rules:
        return await work(rules)


def become(owner: tuple[int, int], path: Path | None) -> None:
    """Go on as the owner (uid, gid) of `path`; raises HatobaError when this process is neither that user nor root."""
    _become(*owner)
    if os.geteuid() != owner[0]:
        # Even where it may write: files that it made would stop the server.
        raise HatobaError(
            f"{printable(path or '')} cannot be written by uid {os.geteuid()}: "
            f"it belongs to uid {owner[0]}, run the command as that user"
        )


def _become(uid: int, gid: int) -> None:
    """Root goes on as the database's owner, for good: `docker exec` runs as root though the server may not."""
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
