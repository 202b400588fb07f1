"""`hatoba rm`: removes one tag, or a manifest with its tags.

Owns that nothing is guessed: what is removed is named in full.
"""

from __future__ import annotations

import typer

from hatoba.cli.configured import Config, Root, reported
from hatoba.cli.opening import Ref, parse, with_registry
from hatoba.errors import ConfigError
from hatoba.oci.digest import Digest
from hatoba.oci.reference import RepositoryName, Tag


def rm(ref: Ref, *, config: Config = None, root: Root = None) -> None:
    """Remove a tag (REPO:TAG), or a manifest and all its tags (REPO@DIGEST).

    A manifest without tags stays until it is removed itself, and layers stay on the disk. storage.delete.enabled binds
    clients, not this command; storage.maintenance.readonly binds both. Works without a server and beside one, which
    answers by it at once.
    """
    with reported():
        name, reference = parse(ref)
        if reference is None:
            raise ConfigError(f"{name} is a repository: name a tag, {name}:TAG, or a manifest, {name}@DIGEST")
        if isinstance(reference, Digest):
            _remove_manifest(ref, name, reference, config, root)
        else:
            _remove_tag(ref, name, reference, config, root)


def _remove_manifest(ref: str, name: RepositoryName, digest: Digest, config: Config, root: Root) -> None:
    ended = with_registry(config, root, ref, lambda rules: rules.manifests.delete(name, digest, None), writing=True)
    for tag in ended:
        typer.echo(f"removed {name}:{tag}", err=True)
    typer.echo(f"removed {name}@{digest}", err=True)


def _remove_tag(ref: str, name: RepositoryName, tag: Tag, config: Config, root: Root) -> None:
    with_registry(config, root, ref, lambda rules: rules.tags.delete(name, tag, None), writing=True)
    typer.echo(f"removed {name}:{tag}; its manifest stays", err=True)
