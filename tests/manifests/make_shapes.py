"""Writes shapes/*.json: what clients that cannot run in these tests push (see README.md).

    .venv/bin/python tests/manifests/make_shapes.py [FOLDER]

Every function of the three *_shapes.py is one shape and says whose format it follows. Signatures and
keys are of the right form and sign nothing. The same input gives the same bytes everywhere: test_manifests.py runs
this and compares.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import artifact_shapes  # noqa: F401  importing registers its shapes
import builder_shapes  # noqa: F401
import image_shapes  # noqa: F401
import shape


def main(arguments: list[str]) -> None:
    folder = Path(arguments[0]) if arguments else Path(__file__).parent / "shapes"
    folder.mkdir(exist_ok=True)
    for name, make in shape.SHAPES.items():
        (folder / f"{name}.json").write_text(make().render(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
