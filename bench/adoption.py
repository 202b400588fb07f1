"""Makes a folder as Docker's registry has it, of any size, and measures how long `hatoba import` takes to read it.

`make adoption N="10000 100000"`. The tree is written by plain calls, not through a registry: pushes would take hours.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hatoba.blobs import layout
from hatoba.oci.descriptor import DOCKER_MANIFEST
from hatoba.oci.digest import Digest

_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_MANIFESTS_A_REPOSITORY = 50
_SHARED_LAYERS = 4  # of a repository's images, as builds of one program share most of theirs


def make_tree(root: Path, manifests: int) -> None:
    """Write a tree of `manifests` images: each with a tag, a config and a layer of its own, and shared layers."""
    for number in range(manifests):
        repository, place = divmod(number, _MANIFESTS_A_REPOSITORY)
        name = f"team{repository % 40}/app{repository}"
        if place == 0:
            shared = [_blob(root, f"layer {layer} of {name}".encode()) for layer in range(_SHARED_LAYERS)]
            for digest, _ in shared:
                _link(root, layout.layer_link(name, digest), digest)
        config = json.dumps({"os": "linux", "architecture": "amd64", "created": "2024-05-01T10:00:00Z", "n": number})
        own = [_blob(root, content) for content in (config.encode(), f"layer of image {number}".encode())]
        for digest, _ in own:
            _link(root, layout.layer_link(name, digest), digest)
        described = [{"digest": str(digest), "size": size} for digest, size in (*own, *shared)]
        document = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": {"mediaType": _CONFIG, **described[0]},
            "layers": [{"mediaType": _LAYER, **each} for each in described[1:]],
        }
        digest, _ = _blob(root, json.dumps(document, indent=3).encode())
        _link(root, layout.revision_link(name, digest), digest)
        _link(root, layout.tag_index_link(name, f"v{place}", digest), digest)
        _link(root, layout.tag_link(name, f"v{place}"), digest)


def _blob(root: Path, content: bytes) -> tuple[Digest, int]:
    digest = Digest("sha256", hashlib.sha256(content).hexdigest())
    _write(f"{root}/{layout.blob(digest)}", content)
    return digest, len(content)


def _link(root: Path, key: str, digest: Digest) -> None:
    _write(f"{root}/{key}", str(digest).encode())


def _write(path: str, content: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)


def import_seconds(root: Path, manifests: int) -> float:
    """How long the command takes; it must have read them all."""
    hatoba = Path(sys.executable).with_name("hatoba")
    started = time.monotonic()
    done = subprocess.run([hatoba, "import", "--root", root], capture_output=True, text=True, check=True)
    seconds = time.monotonic() - started
    if f"with {manifests} manifests; new: {manifests} manifests" not in done.stderr:
        sys.exit(f"not all were read: {done.stderr}")
    return seconds


def main() -> None:
    """Print a line of a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifests", type=int, nargs="+")
    parser.add_argument("--folder", type=Path, help="where the trees are made; several GiB for 100,000 manifests")
    asked = parser.parse_args()
    print("| manifests | seconds | manifests/s | again, nothing new: seconds |\n|---|---|---|---|")
    for manifests in asked.manifests:
        root = Path(tempfile.mkdtemp(prefix="hatoba-adoption-", dir=asked.folder))
        try:
            make_tree(root, manifests)
            seconds = import_seconds(root, manifests)
            started = time.monotonic()
            hatoba = Path(sys.executable).with_name("hatoba")
            subprocess.run([hatoba, "import", "--root", root], capture_output=True, check=True)
            again = time.monotonic() - started
            print(f"| {manifests:,} | {seconds:.1f} | {manifests / seconds:,.0f} | {again:.1f} |", flush=True)
        finally:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
