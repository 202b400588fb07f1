"""The wheel in an empty environment: migrations and everything else travel, both commands are there."""

from __future__ import annotations

import hashlib
import http.client
import json
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def run(*command: object, **options: object) -> str:
    done = subprocess.run([str(part) for part in command], text=True, capture_output=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def call(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def test_wheel_serves(start, free_port, tmp_path):
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", PROJECT)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    binaries = tmp_path / "venv/bin"
    run(binaries / "pip", "install", "--quiet", "--constraint", PROJECT / "constraints.txt", wheel)
    assert run(binaries / "hatoba", "version").startswith("hatoba 0.")
    assert run(binaries / "registry", "--version").startswith("hatoba 0.")
    port = free_port()
    config = tmp_path / "config.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path / 'data'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    server = start(binaries / "registry", "serve", config).ready()
    digest = f"sha256:{hashlib.sha256(b'{}').hexdigest()}"
    assert call(port, "POST", f"/v2/a/b/blobs/uploads/?digest={digest}", b"{}")[0] == 201
    config_descriptor = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest, "size": 2}
    body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config_descriptor, "layers": []}).encode()
    assert call(port, "PUT", "/v2/a/b/manifests/v1", body, **{"Content-Type": MANIFEST})[0] == 201
    assert call(port, "GET", "/v2/a/b/manifests/v1") == (200, body)
    assert server.stop() == 0
