"""Opens the registry for a command, beside a running server or without one, and reads what its arguments name.

Owns that one which writes does so as the registry's owner, and nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from hatoba import telemetry
from hatoba.cli.configured import configuration_file, configure
from hatoba.cli.identity import become_owner
from hatoba.config.settings import Settings
from hatoba.config.values import printable
from hatoba.errors import ConfigError, HatobaError, ManifestUnknown, NameUnknown, RegistryError
from hatoba.oci.reference import Reference, RepositoryName, Tag, parse_full
from hatoba.wiring import commands

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
    work: Callable[[commands.Rules], Awaitable[T]],
    *,
    writing: bool = False,
) -> T:
    """What `work` gives on the registry that the options mean; raises ConfigError, HatobaError.

    `named` is what the person asked for, for the message when it is not there. After `writing` this process may have
    given up root for good.
    """
    settings = configure(configuration_file(None, config), root).settings
    if writing:
        refuse_readonly(settings)
        become_owner(settings)
    else:
        commands.metadata_owner(settings)
    telemetry.configure("warn", "text")  # messages to stderr; unconfigured they would mix with results
    try:
        return asyncio.run(_worked(settings, work, parse(named)[0] if writing else None))
    except (NameUnknown, ManifestUnknown) as error:
        raise HatobaError(f"{printable(named)}: {error.message}") from None


async def _worked(
    settings: Settings, work: Callable[[commands.Rules], Awaitable[T]], changing: RepositoryName | None
) -> T:
    async with commands.opened(settings, changing=changing) as rules:
        return await work(rules)


def refuse_readonly(settings: Settings) -> None:
    """Raise HatobaError where the configuration lets nothing change."""
    if settings.storage.maintenance.readonly.enabled:
        raise HatobaError("storage.maintenance.readonly.enabled is set: nothing in the registry may change")
