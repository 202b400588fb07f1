"""Reads Docker's tree of repositories: which there are, and what the links of one say. Writes nothing.

What is there and is no part of the layout is a `TreeProblem`; whether the rest can be believed is adoption's business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from hatoba.blobs import layout
from hatoba.blobs.driver import BlobDriver, Listed
from hatoba.errors import DigestInvalid, RegistryError
from hatoba.oci.digest import Digest
from hatoba.oci.reference import RepositoryName, is_name, is_tag

ProblemKind = Literal[
    "link", "missing", "size", "digest", "schema1", "type", "manifest", "tag", "foreign", "name", "unreadable"
]
Section = Literal["_layers", "_manifests/revisions", "_manifests/tags"]
_FRAME = {"_layers", "_manifests"}
_KNOWN = {*_FRAME, "_uploads"}


@dataclass(frozen=True, slots=True)
class TreeProblem:
    """Something in the tree that was skipped, or is not as it should be; `path` is relative to the root."""

    path: str
    kind: ProblemKind
    reason: str


TellProblem = Callable[[TreeProblem], None]


@dataclass(frozen=True, slots=True)
class LinkFile:
    """A link: what its place names (a digest or a tag), and the file."""

    name: str
    key: str
    size: int
    written_at: datetime


async def find_repositories(driver: BlobDriver, report: TellProblem) -> list[RepositoryName]:
    """The repositories in the tree, in byte order. Raises Unavailable when not even its top can be read."""
    found: list[RepositoryName] = []
    pending = [""]
    while pending:
        name = pending.pop()
        folder = layout.repository(name) if name else layout.REPOSITORIES
        try:
            children = await driver.children(folder)
        except RegistryError as error:
            if not name:
                raise
            report(TreeProblem(folder, "unreadable", _why(error)))
            continue
        if name and any(child.is_folder and child.name in _FRAME for child in children):
            found.append(RepositoryName(name))
        for child in children:
            below = f"{name}/{child.name}" if name else child.name
            if name and child.is_folder and child.name in _KNOWN:
                continue
            if not child.is_folder:
                report(TreeProblem(f"{layout.REPOSITORIES}/{below}", "foreign", "no registry writes a file here"))
            elif is_name(below):
                pending.append(below)
            else:
                report(TreeProblem(f"{layout.REPOSITORIES}/{below}", "name", "not the name of a repository"))
    return sorted(found)


async def is_there(driver: BlobDriver, name: str) -> bool:
    """Whether the tree has the repository."""
    return any(child.name in _FRAME for child in await driver.children(layout.repository(name)) if child.is_folder)


async def links(driver: BlobDriver, name: str, section: Section, report: TellProblem) -> dict[str, LinkFile]:
    """The links of a section of a repository by what they name, in byte order."""
    folder = f"{layout.repository(name)}/{section}"
    found: list[LinkFile] = []
    for file in await driver.listing(folder):
        if file.size < 0:
            report(TreeProblem(file.key, "foreign", "not a regular file"))
            continue
        parts = file.key.removeprefix(f"{folder}/").split("/")
        link = _tag(file, parts, report) if section == "_manifests/tags" else _digest(file, parts, report)
        if link is not None:
            found.append(link)
    return {link.name: link for link in sorted(found, key=lambda link: link.name)}


def _tag(file: Listed, parts: list[str], report: TellProblem) -> LinkFile | None:
    match parts:
        case [tag, "current", "link"] if is_tag(tag):
            return LinkFile(tag, file.key, file.size, file.written_at)
        case [_, "current", "link"]:
            report(TreeProblem(file.key, "name", "not the name of a tag"))
        case [_, "index", *_, "link"]:  # every digest that the tag has named
            pass
        case _:
            report(TreeProblem(file.key, "foreign", "no registry writes a file here"))
    return None


def _digest(file: Listed, parts: list[str], report: TellProblem) -> LinkFile | None:
    match parts:
        case [algorithm, encoded, "link"]:
            try:
                return LinkFile(str(Digest.parse(f"{algorithm}:{encoded}")), file.key, file.size, file.written_at)
            except DigestInvalid as error:
                report(TreeProblem(file.key, "link", error.message))
        case [_, _, "signatures", *_]:  # of schema 1 manifests, which are reported themselves
            pass
        case _:
            report(TreeProblem(file.key, "foreign", "no registry writes a file here"))
    return None


def _why(error: RegistryError) -> str:
    return str(error.__cause__ or error.message)
