"""`hatoba ls`: the repositories, or the tags of one.

Owns which columns there are and the fields of the JSON. Rows come by pages, so that 100,000 tags are no matter.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Annotated, Any, TypeVar

import typer

from hatoba.cli import tables
from hatoba.cli.configured import Config, Root, reported
from hatoba.cli.opening import parse, with_registry
from hatoba.config.values import printable
from hatoba.db.repositories import RepositoryRow
from hatoba.db.tags import TagRow
from hatoba.errors import ConfigError
from hatoba.oci.config import IMAGE_CONFIG_TYPES
from hatoba.oci.descriptor import INDEX_TYPES
from hatoba.oci.reference import RepositoryName
from hatoba.wiring.commands import Rules

T = TypeVar("T", RepositoryRow, TagRow)
_PAGE = 500
_REPOSITORIES = ("REPOSITORY", "TAGS", "MANIFESTS", "SIZE", "PUSHED")
_TAGS = ("TAG", "DIGEST", "TYPE", "PLATFORMS", "SIZE", "PUSHED", "BY")

_Repository = Annotated[
    str | None, typer.Argument(metavar="REPO", help="List the tags of this repository.", show_default=False)
]
_Json = Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")]


def ls(repository: _Repository = None, *, as_json: _Json = False, config: Config = None, root: Root = None) -> None:
    """List the repositories that hold a manifest, or the tags of REPO.

    A repository's size is that of its layers and configs; what two repositories share counts in both. A tag's size is
    that of everything its manifest names, for an index of all the manifests that are there. Times are UTC.
    """
    with reported():
        if repository is None:
            with_registry(config, root, "", lambda rules: _list_repositories(rules, as_json=as_json))
        else:
            name = _name(repository)
            with_registry(config, root, repository, lambda rules: _list_tags(rules, name, as_json=as_json))


async def _list_repositories(rules: Rules, *, as_json: bool) -> None:
    pages = _pages(rules.repositories.summaries)
    await _print(pages, _repository_fields, _repository_cells, _REPOSITORIES, as_json=as_json)


async def _list_tags(rules: Rules, name: RepositoryName, *, as_json: bool) -> None:
    async def read(after: str, limit: int) -> tuple[Sequence[TagRow], bool]:
        return await rules.tags.listed(name, after, limit)

    await _print(_pages(read), lambda row: _tag_fields(name, row), _tag_cells, _TAGS, as_json=as_json)


def _name(text: str) -> RepositoryName:
    name, reference = parse(text)
    if reference is not None:
        raise ConfigError(f"{printable(text)} names a manifest: `hatoba ls {name}`, or `hatoba show {printable(text)}`")
    return name


async def _pages(read: Callable[[str, int], Awaitable[tuple[Sequence[T], bool]]]) -> AsyncIterator[Sequence[T]]:
    after, more = "", True
    while more:
        rows, more = await read(after, _PAGE)
        yield rows
        after = rows[-1].name if rows else after


async def _print(
    pages: AsyncIterator[Sequence[T]],
    fields: Callable[[T], dict[str, Any]],
    cells: Callable[[T], Sequence[str | None]],
    head: Sequence[str],
    *,
    as_json: bool,
) -> None:
    if not as_json:
        typer.echo(tables.table(head, [cells(row) async for page in pages for row in page]))
        return
    before = "["
    async for page in pages:
        for row in page:
            typer.echo(f"{before}\n{json.dumps(fields(row))}", nl=False)
            before = ","
    typer.echo("[]" if before == "[" else "\n]")


def _repository_fields(row: RepositoryRow) -> dict[str, Any]:
    return {
        "repository": row.name,
        "tags": row.tags,
        "manifests": row.manifests,
        "size_bytes": row.size,
        "pushed_at": tables.exact(row.pushed_at),
    }


def _repository_cells(row: RepositoryRow) -> Sequence[str]:
    return row.name, str(row.tags), str(row.manifests), tables.amount(row.size), tables.moment(row.pushed_at)


def _tag_fields(name: RepositoryName, row: TagRow) -> dict[str, Any]:
    return {
        "repository": name,
        "tag": row.name,
        "digest": row.digest,
        "media_type": row.media_type,
        "artifact_type": row.artifact_type,
        "platforms": row.platforms,
        "size_bytes": row.size,
        "pushed_at": tables.exact(row.pushed_at),
        "pushed_by": row.pushed_by,
    }


def _tag_cells(row: TagRow) -> Sequence[str | None]:
    return (
        row.name,
        row.digest,
        _kind(row),
        ",".join(row.platforms),
        tables.amount(row.size),
        tables.moment(row.pushed_at),
        row.pushed_by,
    )


def _kind(row: TagRow) -> str:
    """One word a person knows: an artifact is named by its type, unless that is just an image's config."""
    if row.media_type in INDEX_TYPES:
        return row.artifact_type or "index"
    return "image" if row.artifact_type is None or row.artifact_type in IMAGE_CONFIG_TYPES else row.artifact_type
