"""skopeo pushes and pulls through a real NGINX with TLS that tells the registry much, little or nothing."""

from __future__ import annotations

import contextlib
import json
import ssl
import subprocess
import uuid
from types import SimpleNamespace

import httpx
import pytest

from hatoba.testing.images import random_image

CLIENT = "198.51.100.7"
# What NGINX tells; all but the last two in front of a registry that answers with whole URLs.
TOLD = {
    "the tutorials' recipe": "RECIPE",
    "Forwarded alone": (
        "proxy_set_header Host inner; "
        f"proxy_set_header Forwarded 'for={CLIENT};proto=$scheme;host=\"$http_host\"'; proxy_redirect off;"
    ),
    "X-Forwarded-Host": (
        f"proxy_set_header Host inner; proxy_set_header X-Forwarded-For {CLIENT}; proxy_set_header X-Forwarded-Host "
        "$http_host; proxy_set_header X-Forwarded-Proto $scheme; proxy_redirect off;"
    ),
    "X-Forwarded-Port": (
        "proxy_set_header Host $host; proxy_set_header X-Forwarded-Port $server_port; "
        f"proxy_set_header X-Forwarded-For {CLIENT}; proxy_set_header X-Forwarded-Proto $scheme; proxy_redirect off;"
    ),
    "nothing, paths alone": "proxy_redirect off;",
    "nothing, http.host": "proxy_redirect off;",
}


@pytest.fixture(scope="module")
def stack(e2e, tmp_path_factory):
    """`registries` by name, the `port`s of NGINX by what it tells, and the `folder` with the CA for clients."""
    e2e.needed("skopeo")
    folder = tmp_path_factory.mktemp("stack")
    authority, nginx = e2e.Authority(folder / "ca"), e2e.Nginx()
    tls, host = authority.issue("server", "127.0.0.1"), f"127.0.0.1:{e2e.find_port()}"
    options = {"whole": "relativeurls: false", "paths": "relativeurls: true", "host": f"host: 'https://{host}'"}
    with contextlib.ExitStack() as running:
        running.callback(nginx.stop)
        registries, addr = {}, {}
        for name, option in options.items():
            addr[name] = f"127.0.0.1:{e2e.find_port()}"
            path = folder / f"{name}.yml"
            path.write_text(
                f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder / name}}}}}\n"
                f"http: {{addr: '{addr[name]}', {option}}}\n"
            )
            registries[name] = e2e.Server([e2e.HATOBA, "serve", path], folder, folder, name)
            running.callback(registries[name].kill)
        port = {}
        for what, inside in TOLD.items():
            upstream = {"nothing, paths alone": "paths", "nothing, http.host": "host"}.get(what, "whole")
            where = int(host.rpartition(":")[2]) if upstream == "host" else None
            told = inside.replace("RECIPE", e2e.RECIPE)
            port[what] = nginx.add(addr[upstream], told, tls=tls, outside="client_max_body_size 0;", port=where)
        nginx.start()
        for registry in registries.values():
            registry.ready()
        yield SimpleNamespace(registries=registries, port=port, folder=folder, root=authority.ca)


@pytest.fixture
def skopeo(stack, tmp_path):
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs/ca.crt").write_bytes(stack.root.read_bytes())

    def copy(source: str, target: str) -> None:
        sides = [f"--{side}-cert-dir={tmp_path / 'certs'}" for side in ("src", "dest")]
        done = subprocess.run(["skopeo", "copy", *sides, source, target], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    return copy


def layout(folder, image) -> str:
    (folder / "blobs/sha256").mkdir(parents=True)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    entry = {**image.manifest.descriptor, "annotations": {"org.opencontainers.image.ref.name": "v1"}}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    for content in (image.manifest, *image.blobs):
        (folder / "blobs/sha256" / content.digest.encoded).write_bytes(content.body)
    return f"oci:{folder}:v1"


@pytest.mark.parametrize("what", TOLD)
def test_push_and_pull(stack, skopeo, tmp_path, what):
    image = random_image(2, 300_000)
    where = f"docker://127.0.0.1:{stack.port[what]}/team/app:v1"
    skopeo(layout(tmp_path / "image", image), where)
    skopeo(where, f"dir:{tmp_path / 'back'}")
    assert (tmp_path / "back/manifest.json").read_bytes() == image.manifest.body


@pytest.mark.parametrize(
    ("what", "sent", "client"),
    [
        ("Forwarded alone", {}, CLIENT),
        ("X-Forwarded-Host", {}, CLIENT),
        # What a client makes up, and NGINX passes on.
        ("X-Forwarded-Host", {"forwarded": "for=203.0.113.1"}, CLIENT),
    ],
)
def test_the_address_in_the_log(e2e, stack, what, sent, client):
    name = f"/v2/log-{uuid.uuid4().hex}/tags/list"
    context = ssl.create_default_context(cafile=stack.root)
    answer = httpx.get(f"https://127.0.0.1:{stack.port[what]}{name}", headers=sent, verify=context)
    assert answer.status_code == 404
    log = stack.registries["whole"]
    (line,) = e2e.wait_for(lambda: [line for line in log.out.splitlines() if name in line], lambda: log.out)
    assert f"client={client} " in line
