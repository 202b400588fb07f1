"""skopeo: indexes of several platforms, other formats, equal digests everywhere."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest


@pytest.fixture
def registry(start, e2e, free_port):
    if shutil.which("skopeo") is None:
        pytest.skip("needs skopeo")
    port = free_port()
    server = start(e2e.HATOBA, "serve", "--addr", f"127.0.0.1:{port}").ready()
    server.host = f"127.0.0.1:{port}"
    server.password = re.search(r"user admin and password (\S+)", server.out)[1]
    return server


@pytest.fixture
def skopeo(registry):
    def run(*arguments: object) -> str:
        command = [str(argument) for argument in arguments]
        done = subprocess.run(["skopeo", *command], text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def credentials(registry, side: str) -> list[str]:
    return [f"--{side}-tls-verify=false", f"--{side}-creds=admin:{registry.password}"]
