"""`hatoba tag`: one more name for a manifest that is there, or another manifest for a name.

Owns how the new tag may be written.
"""

from __future__ import annotations

from typing import Annotated

import typer

from hatoba.cli.configured import Config, Root, reported
from hatoba.cli.opening import Ref, parse, parse_manifest, with_registry
from hatoba.config.values import printable
from hatoba.errors import ConfigError, TagInvalid
from hatoba.oci.digest import Digest
from hatoba.oci.reference import RepositoryName, Tag, parse_tag

_New = Annotated[str, typer.Argument(metavar="NEW", help="The tag, such as v2, in the repository of REF.")]


def tag(ref: Ref, new: _New, *, config: Config = None, root: Root = None) -> None:
    """Let the tag NEW name the manifest REF; a NEW that is there already moves.

    REPO alone means REPO:latest, as for Docker. Works without a server and beside one, which answers by it at once.
    """
    with reported():
        name, reference = parse_manifest(ref)
        wanted = _wanted(name, new)
        digest = with_registry(
            config, root, ref, lambda rules: rules.tags.point(name, reference, wanted, None), writing=True
        )
    typer.echo(f"{name}:{wanted} is {digest}", err=True)


def _wanted(name: RepositoryName, new: str) -> Tag:
    """The tag that NEW means, `v2` or `REPO:v2` of the same repository; raises ConfigError."""
    if not set("/:@") & set(new):
        try:
            return parse_tag(new)
        except TagInvalid as error:
            raise ConfigError(f"{printable(new)}: {error.message}") from None
    repository, wanted = parse(new)
    if repository != name or wanted is None or isinstance(wanted, Digest):
        raise ConfigError(f"{printable(new)}: NEW is a tag in {name}, such as v2; other repositories are out of reach")
    return wanted
