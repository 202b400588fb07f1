"""`hatoba show`: all that the registry knows of one manifest.

Owns the order of the lines and the fields of the JSON.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from hatoba.cli import tables
from hatoba.cli.configured import Config, Root, reported
from hatoba.cli.opening import Ref, parse_manifest, with_registry
from hatoba.oci.config import IMAGE_CONFIG_TYPES
from hatoba.oci.descriptor import Descriptor, Platform
from hatoba.oci.reference import RepositoryName
from hatoba.registry.manifests import DescribedManifest

_Json = Annotated[bool, typer.Option("--json", help="Print a JSON object instead of lines.")]


def show(ref: Ref, *, as_json: _Json = False, config: Config = None, root: Root = None) -> None:
    """Show a manifest: what it is, who pushed it and when, what it names, and the tags on it.

    REPO alone means REPO:latest, as for Docker. Times are UTC.
    """
    with reported():
        name, reference = parse_manifest(ref)
        found = with_registry(config, root, ref, lambda rules: rules.manifests.describe(name, reference))
    fields = _fields(name, found)
    typer.echo(json.dumps(fields, indent=2) if as_json else "\n".join(_lines(fields, found)))


def _fields(name: RepositoryName, found: DescribedManifest) -> dict[str, Any]:
    row, parsed = found.row, found.parsed
    return {
        "repository": name,
        "digest": row.digest,
        "tags": found.tags,
        "media_type": row.media_type,
        "artifact_type": row.artifact_type,
        "size_bytes": found.total_bytes,
        "manifest_bytes": row.size,
        "platform": f"{row.os}/{row.architecture}" if row.os and row.architecture else None,
        "created_at": tables.exact(row.image_created_at),
        "pushed_at": tables.exact(row.pushed_at),
        "pushed_by": row.pushed_by,
        "config": None if parsed.config is None else _descriptor(parsed.config),
        "layers": [_descriptor(r.descriptor) for r in parsed.references if r.kind == "layer"],
        "manifests": [
            _entry(r.descriptor, found.children.get(str(r.descriptor.digest)))
            for r in parsed.references
            if r.kind == "manifest"
        ],
        "subject": None if parsed.subject is None else _descriptor(parsed.subject),
        "annotations": parsed.annotations,
    }


def _descriptor(descriptor: Descriptor) -> dict[str, Any]:
    return {
        "digest": str(descriptor.digest),
        "media_type": descriptor.media_type or None,
        "size_bytes": descriptor.size,
    }


def _entry(descriptor: Descriptor, names_bytes: int | None) -> dict[str, Any]:
    """A manifest of an index; `size_bytes` is what it names, None when the repository does not hold it."""
    return {
        "digest": str(descriptor.digest),
        "media_type": descriptor.media_type or None,
        "artifact_type": descriptor.artifact_type,
        "platform": None if descriptor.platform is None else _platform(descriptor.platform),
        "size_bytes": names_bytes,
        "missing": names_bytes is None,
    }


def _platform(platform: Platform) -> str:
    return "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)


def _lines(fields: dict[str, Any], found: DescribedManifest) -> list[str]:
    row = found.row
    artifact_type = None if row.artifact_type in IMAGE_CONFIG_TYPES else row.artifact_type
    by = f" by {tables.shown(row.pushed_by)}" if row.pushed_by else ""
    said: list[tuple[str, str | None]] = [
        ("Repository", fields["repository"]),
        ("Digest", row.digest),
        ("Tags", ", ".join(found.tags)),
        ("Media type", row.media_type),
        ("Artifact type", artifact_type),
        ("Size", f"{tables.amount(found.total_bytes)} ({found.total_bytes} bytes)"),
        ("Platform", fields["platform"]),
        ("Created", None if row.image_created_at is None else tables.moment(row.image_created_at)),
        ("Pushed", tables.moment(row.pushed_at) + by),
        ("Config", _named(fields["config"])),
        ("Subject", _named(fields["subject"])),
    ]
    always = {"Tags"}
    lines = [f"{name + ':':15}{tables.shown(text)}" for name, text in said if text or name in always]
    if fields["layers"]:
        cells = [_cells(layer) for layer in fields["layers"]]
        lines += ["", tables.table(("LAYER", "SIZE", "TYPE"), cells)]
    if fields["manifests"]:
        head = ("MANIFEST", "PLATFORM", "SIZE", "TYPE")
        lines += ["", tables.table(head, [_entry_cells(entry) for entry in fields["manifests"]])]
    if fields["annotations"]:
        lines += ["", tables.table(("ANNOTATION", "VALUE"), list(fields["annotations"].items()))]
    return lines


def _named(descriptor: dict[str, Any] | None) -> str | None:
    return None if descriptor is None else "  ".join(tables.shown(cell) for cell in _cells(descriptor))


def _cells(descriptor: dict[str, Any]) -> tuple[str | None, ...]:
    return descriptor["digest"], tables.amount(descriptor["size_bytes"]), descriptor["media_type"]


def _entry_cells(entry: dict[str, Any]) -> tuple[str | None, ...]:
    size = "missing" if entry["missing"] else tables.amount(entry["size_bytes"])
    return entry["digest"], entry["platform"], size, entry["artifact_type"] or entry["media_type"]
