"""A client that works on any registry, a random history of its use, and all that a registry answers about it."""

from __future__ import annotations

import json
import random
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from hatoba.testing import images

ACCEPT = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.manifest.v1",
        "oci.image.index.v1",
        "docker.distribution.manifest.v2",
        "docker.distribution.manifest.list.v2",
    )
)


class Client:
    """Requests to the registry at `host`; whatever is not as it should be raises."""

    def __init__(self, host: str) -> None:
        self.http = httpx.Client(base_url=f"http://{host}", timeout=60, headers={"accept": ACCEPT})

    def call(self, method: str, path: str, *expected: int, **options) -> httpx.Response:
        answer = self.http.request(method, path, **options)
        assert answer.status_code in expected, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer

    def push_blob(self, name: str, body: bytes, digest: str) -> None:
        location = self.call("POST", f"/v2/{name}/blobs/uploads/", 202).headers["location"]
        separator = "&" if "?" in location else "?"
        self.call("PUT", f"{location}{separator}digest={digest}", 201, content=body)

    def push_manifest(self, name: str, reference: str, content: images.Content, *also: int) -> None:
        headers = {"content-type": content.media_type}
        self.call("PUT", f"/v2/{name}/manifests/{reference}", 201, *also, content=content.body, headers=headers)

    def push(self, name: str, tag: str | None, image: images.Image) -> None:
        for blob in image.blobs:
            self.push_blob(name, blob.body, str(blob.digest))
        self.push_manifest(name, tag or str(image.manifest.digest), image.manifest)

    def push_index(self, name: str, tag: str, index: images.Index) -> None:
        for image in index.images:
            self.push(name, None, image)
        self.push_manifest(name, tag, index.manifest)

    def tags(self, name: str) -> list[str]:
        answer = self.call("GET", f"/v2/{name}/tags/list", 200, 404)
        return sorted(answer.json()["tags"] or []) if answer.status_code == 200 else []

    def digest(self, name: str, reference: str) -> str | None:
        """The digest of what is served there, None for 404; its bytes are what it says."""
        answer = self.call("GET", f"/v2/{name}/manifests/{reference}", 200, 404)
        if answer.status_code == 404:
            return None
        digest = answer.headers["docker-content-digest"]
        assert digest == str(images.Content("", answer.content).digest)
        return digest

    def holds(self, name: str, digest: str) -> bool:
        return self.call("HEAD", f"/v2/{name}/manifests/{digest}", 200, 404).status_code == 200

    def has_blob(self, name: str, digest: str) -> bool:
        return self.call("HEAD", f"/v2/{name}/blobs/{digest}", 200, 404).status_code == 200


@dataclass
class History:
    """A random use of registries, the same for the same seed; what it knows is what may be there."""

    seed: int
    names: tuple[str, ...] = ("app", "team/app", "team/app/deep")
    manifests: dict[str, images.Content] = field(default_factory=dict)
    blobs: set[str] = field(default_factory=set)
    made: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)  # noqa: S311

    def image(self) -> images.Image:
        self.made += 1
        # Few seeds, so that layers are met again.
        image = images.random_image(2, 100, self.seed * 1000 + self.made % 7, docker=self.chance.random() < 0.3)
        self.know(image)
        return image

    def know(self, image: images.Image) -> None:
        self.manifests[str(image.manifest.digest)] = image.manifest
        self.blobs |= {str(blob.digest) for blob in image.blobs}

    def use(self, client: Client, steps: int, *, hatoba: bool) -> None:
        """Do something `steps` times; what only hatoba can, only with it."""
        kinds = ["push", "push", "index", "artifact", "retag", "mount", "delete"]
        kinds += ["delete tag", "delete blob"] if hatoba else []
        for _ in range(steps):
            kind = self.chance.choice(kinds)
            getattr(self, kind.replace(" ", "_"))(client, self.chance.choice(self.names))

    def push(self, client: Client, name: str) -> None:
        client.push(name, self.tag(), self.image())

    def tag(self) -> str:
        return f"v{self.chance.randrange(6)}"

    def index(self, client: Client, name: str) -> None:
        index = images.index_of([self.image(), self.image()])
        self.manifests[str(index.manifest.digest)] = index.manifest
        client.push_index(name, self.tag(), index)

    def artifact(self, client: Client, name: str) -> None:
        subject = self.image()
        client.push(name, None, subject)
        artifact = images.artifact(subject, "text/signature", {"number": str(self.made)})
        self.know(artifact)
        client.push(name, None, artifact)

    def some(self, digests: Iterable[str]) -> list[str]:
        """A few, in random order: looking for all of them would take most of the time."""
        ordered = sorted(digests)
        return self.chance.sample(ordered, min(8, len(ordered)))

    def held(self, client: Client, name: str) -> list[str]:
        return [digest for digest in self.some(self.manifests) if client.holds(name, digest)]

    def retag(self, client: Client, name: str) -> None:
        if held := self.held(client, name):
            # 400: an index whose images are not all there any more
            client.push_manifest(name, self.tag(), self.manifests[self.chance.choice(held)], 400)

    def mount(self, client: Client, name: str) -> None:
        source = self.chance.choice(self.names)
        here = [digest for digest in self.some(self.blobs) if client.has_blob(source, digest)]
        if here and source != name:
            path = f"/v2/{name}/blobs/uploads/?mount={self.chance.choice(here)}&from={source}"
            client.call("POST", path, 201)

    def delete(self, client: Client, name: str) -> None:
        if held := self.held(client, name):
            client.call("DELETE", f"/v2/{name}/manifests/{self.chance.choice(held)}", 202)

    def delete_tag(self, client: Client, name: str) -> None:
        if tags := client.tags(name):
            client.call("DELETE", f"/v2/{name}/manifests/{self.chance.choice(tags)}", 202)

    def delete_blob(self, client: Client, name: str) -> None:
        digest = self.chance.choice(sorted(self.blobs) or [""])
        if digest and client.has_blob(name, digest):
            client.call("DELETE", f"/v2/{name}/blobs/{digest}", 202, 405)  # 405: in use

    def reached(self, found: dict[str, object]) -> set[str]:
        """Blobs that manifests in `found` name: what no collector may take."""
        held = {digest for name in self.names for digest in found[name]["manifests"]}
        documents = [json.loads(self.manifests[digest].body) for digest in held]
        return {each["digest"] for one in documents if "config" in one for each in (one["config"], *one["layers"])}

    def seen(self, client: Client) -> dict[str, object]:
        """All that the registry serves of what was ever there."""
        found: dict[str, object] = {}
        for name in self.names:
            found[name] = {
                "tags": {tag: client.digest(name, tag) for tag in client.tags(name)},
                "manifests": [digest for digest in sorted(self.manifests) if client.digest(name, digest)],
                "blobs": [digest for digest in sorted(self.blobs) if client.has_blob(name, digest)],
            }
        held = {name for name in self.names if found[name]["manifests"]}
        catalog = set(client.call("GET", "/v2/_catalog", 200).json()["repositories"])
        assert held <= catalog, "Docker's registry lists repositories without a manifest too"
        return found


class Debian:
    """Debian's docker-registry on the folder `root`."""

    def __init__(self, start, folder: Path, root: Path, port: int, wait_for) -> None:
        self._start, self._wait_for = start, wait_for
        self.host = f"127.0.0.1:{port}"
        self._config = folder / f"debian-{port}.yml"
        self._config.write_text(
            f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}\n"
            f"http: {{addr: '{self.host}'}}\nlog: {{accesslog: {{disabled: true}}}}\n"
        )
        self._server = self._client = None

    def __enter__(self) -> Client:
        self._server = self._start("docker-registry", "serve", self._config, name=f"debian-{self.host[-5:]}")
        self._wait_for(lambda: "listening on" in self._server.err, lambda: self._server.err)
        self._client = Client(self.host)
        return self._client

    def __exit__(self, *_raised) -> None:
        self._client.http.close()
        self._server.process.terminate()
        self._server.process.wait(60)

    def collect(self, *options: str) -> str:
        """Run its collector; what it says."""
        command = ["docker-registry", "garbage-collect", *options, self._config]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


def eligible(said: str) -> tuple[int, int]:
    """Blobs and manifests that the collector would remove."""
    blobs, manifests = re.search(r"(\d+) blobs and (\d+) manifests eligible", said).groups()
    return int(blobs), int(manifests)
