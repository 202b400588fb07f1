"""hypothesis plays a registry: pushes, tags, mounts, deletes, lost files, and `kill -9` at any change of the disk.

A model says what clients were told. After a kill the registry must be as before or as after the request that died;
nothing reachable is lost, listings equal the model, and when links are settled the tree on disk says the same.
`life.py` beside this is the registry, in a process of its own that really dies.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

REPOSITORIES = ("app", "team/app")
TAGS = ("latest", "v1")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


class Body(bytes):
    """Bytes that do not fill the screen."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


CONTENTS = [Body(random.Random(n).randbytes(size)) for n, size in enumerate((0, 1, 900, 40_000, 1_300_000))]  # noqa: S311

repositories = st.sampled_from(REPOSITORIES)
contents = st.sampled_from(CONTENTS)
some_tags = st.lists(st.sampled_from(TAGS), max_size=2, unique=True)
crashes = st.one_of(st.none(), st.none(), st.integers(1, 24))
numbers = st.integers(0, 1000)


def digest_of(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


@dataclass
class Repository:
    blobs: set[str] = field(default_factory=set)
    manifests: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class Model:
    """What clients were told; `lost` are blobs whose file was removed behind the registry's back."""

    repositories: dict[str, Repository] = field(default_factory=lambda: {name: Repository() for name in REPOSITORIES})
    lost: set[str] = field(default_factory=set)


class Keeper:
    """The process that forks lives."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("life.py"))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def open(self, root: Path) -> None:
        self._send({"open": str(root)})
        assert "ready" in self._receive()

    def ask(self, message: dict) -> dict | None:
        """The answer; None when the life ended by the kill it was told."""
        self._send(message)
        answer = self._receive()
        if "ended" in answer:
            assert answer["ended"] == -9, answer
            return None
        return answer

    def end(self) -> None:
        self._send({"end": True})
        assert self._receive() == {"ended": 0}

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def _send(self, message: dict) -> None:
        content = json.dumps(message, ensure_ascii=False).encode()
        self._process.stdin.write(struct.pack(">I", len(content)) + content)
        self._process.stdin.flush()

    def _receive(self) -> dict:
        (length,) = struct.unpack(">I", self._process.stdout.read(4))
        return json.loads(self._process.stdout.read(length))


class Registry(RuleBasedStateMachine):
    """The rules; each sends one request that may die, and says what it makes of the model."""

    def __init__(self, keeper: Keeper) -> None:
        super().__init__()
        self.keeper = keeper
        self.root = Path(tempfile.mkdtemp(prefix="hatoba-machine-"))
        self.model = Model()
        self.bodies: dict[str, dict] = {}  # every manifest ever pushed
        self.session: tuple[str, str, bytes] | None = None  # location, repository, acknowledged bytes

    @initialize()
    def first_life(self) -> None:
        self.keeper.open(self.root)

    def teardown(self) -> None:
        try:
            self.nothing_is_lost()
            self.settle(None)
            self.keeper.end()
        finally:
            shutil.rmtree(self.root, ignore_errors=True)

    def send(self, method: str, path: str, body: bytes = b"", *, crash: int | None, after: Model | None = None) -> dict:
        """Send it. If it dies, open again: the registry is as before or as `after`, and the model says which."""
        message = {"method": method, "path": path, "body": body.decode("latin-1"), "crash": crash}
        answer = self.keeper.ask(message)
        if answer is not None:
            return answer
        self.keeper.open(self.root)
        seen = self.observe()
        states = [self.model]
        if after is not None:
            states += [self.model_with(lost=after.lost), after]  # an orphan of the crash may stand in for a lost file
        fitting = [state for state in states if self.expected(state) == seen]
        assert fitting, f"{method} {path} died half-way: {seen}\nis none of {[self.expected(s) for s in states]}"
        self.model = fitting[0]
        return {"status": 0, "headers": {}, "body": ""}

    def observe(self) -> dict:
        asked = {"repositories": REPOSITORIES, "blobs": list(map(digest_of, CONTENTS)), "manifests": list(self.bodies)}
        return self.keeper.ask({"observe": asked})["state"]

    def expected(self, model: Model) -> dict:
        """What `observe` gives of a registry that is as the model says."""
        found = {"catalog": [name for name in REPOSITORIES if model.repositories[name].manifests]}
        for name, repository in model.repositories.items():
            subjects = [(subject(self.bodies[digest]), digest) for digest in repository.manifests]
            found[name] = {
                "tags": repository.tags,
                "manifests": [d for d in self.bodies if d in repository.manifests],
                "blobs": [d for d in map(digest_of, CONTENTS) if d in repository.blobs - model.lost],
                "referrers": {d: sorted(by for of, by in subjects if of == d) for d in self.bodies},
            }
        return found

    def model_with(self, **changes) -> Model:
        return replace(copy.deepcopy(self.model), **changes)

    # Blobs

    @rule(name=repositories, body=contents, crash=crashes)
    def push_blob(self, name, body, crash) -> None:
        after = self.with_blob(name, digest_of(body))
        path = f"/v2/{name}/blobs/uploads/?digest={digest_of(body)}"
        if (status := self.send("POST", path, body, crash=crash, after=after)["status"]) != 0:
            assert status == 201
            self.model = after

    def with_blob(self, name: str, digest: str) -> Model:
        after = self.model_with()
        after.repositories[name].blobs.add(digest)
        after.lost.discard(digest)
        return after

    @rule(name=repositories, source=repositories, body=contents, crash=crashes)
    def mount(self, name, source, body, crash) -> None:
        digest = digest_of(body)
        there = digest in self.model.repositories[source].blobs and digest not in self.model.lost
        after = self.with_blob(name, digest) if there else None
        path = f"/v2/{name}/blobs/uploads/?mount={digest}&from={source}"
        answer = self.send("POST", path, crash=crash, after=after)
        if answer["status"] != 0:
            assert answer["status"] == (201 if there else 202)
            self.model = after or self.model
            if not there:
                self.send("DELETE", answer["headers"]["location"], crash=None)

    @rule(name=repositories, body=contents, crash=crashes)
    def delete_blob(self, name, body, crash) -> None:
        digest = digest_of(body)
        repository = self.model.repositories[name]
        used = any(digest in references(self.bodies[m]) for m in repository.manifests)
        after = self.model_with()
        after.repositories[name].blobs.discard(digest)
        status = self.send(
            "DELETE", f"/v2/{name}/blobs/{digest}", crash=crash, after=None if used else after
        )["status"]  # fmt: skip
        if status != 0:
            assert status == (404 if digest not in repository.blobs else 405 if used else 202)
            self.model = after if status == 202 else self.model

    @rule(body=contents)
    def lose_file(self, body) -> None:
        file = self.blob_file(digest_of(body))
        if any(digest_of(body) in repository.blobs for repository in self.model.repositories.values()):
            file.unlink(missing_ok=True)
            self.model.lost.add(digest_of(body))

    def blob_file(self, digest: str) -> Path:
        return self.root / "docker/registry/v2/blobs/sha256" / digest[7:9] / digest[7:] / "data"

    # Uploads

    @rule(name=repositories, crash=crashes)
    def start_upload(self, name, crash) -> None:
        answer = self.send("POST", f"/v2/{name}/blobs/uploads/", crash=crash)
        if answer["status"] != 0:
            assert answer["status"] == 202
            self.session = (answer["headers"]["location"], name, b"")

    @rule(body=st.sampled_from(CONTENTS[2:]), crash=crashes)
    def append(self, body, crash) -> None:
        if self.session is None or len(self.session[2]) > 3_000_000:
            return
        location, name, acknowledged = self.session
        status = self.send("PATCH", location, body, crash=crash)["status"]
        assert status in {0, 202}
        whole = acknowledged + body
        offsets = {len(whole)} if status else {len(acknowledged), len(whole)}
        found = self.send("GET", location, crash=None)
        assert found["status"] == 204
        offset = int(found["headers"]["range"].partition("-")[2])
        assert offset in {max(0, size - 1) for size in offsets}
        self.session = (location, name, whole if offset == max(0, len(whole) - 1) else acknowledged)

    @rule(crash=crashes)
    def close_upload(self, crash) -> None:
        if self.session is None:
            return
        location, name, body = self.session
        self.session = None
        after = self.with_blob(name, digest_of(body))
        path = f"{location}?digest={digest_of(body)}"
        for again in (False, True):
            known = digest_of(body) in self.model.repositories[name].blobs - self.model.lost
            status = self.send("PUT", path, crash=None if again else crash, after=after)["status"]
            # A session whose file became an orphan of the crash is over; said again after success it succeeds.
            assert status in ({0, 201} if not again else {201} if known else {201, 404})
            self.model = after if status == 201 else self.model

    # Manifests and tags

    @rule(name=repositories, picks=st.lists(contents, min_size=1, max_size=3), note=st.integers(0, 3), tags=some_tags,
          subject=st.none() | numbers, crash=crashes)  # fmt: skip
    def push_image(self, name, picks, note, tags, subject, crash) -> None:
        config, *layers = [descriptor("application/octet-stream", digest_of(pick), len(pick)) for pick in picks]
        body = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
        body["annotations"] = {"note": str(note)}
        held = sorted(self.model.repositories[name].manifests)
        if subject is not None and held:
            digest = held[subject % len(held)]
            body["subject"] = descriptor(MANIFEST, digest, len(encoded(self.bodies[digest])))
        self.push(name, body, tags, crash)

    @rule(name=repositories, tags=some_tags, crash=crashes)
    def push_index(self, name, tags, crash) -> None:
        images = [d for d in sorted(self.model.repositories[name].manifests) if "layers" in self.bodies[d]][:2]
        entries = [descriptor(MANIFEST, d, len(encoded(self.bodies[d]))) for d in images]
        self.push(name, {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}, tags, crash)

    @rule(name=repositories, number=numbers, tags=some_tags, crash=crashes)
    def push_again(self, name, number, tags, crash) -> None:
        if self.bodies:
            self.push(name, list(self.bodies.values())[number % len(self.bodies)], tags, crash)

    def push(self, name: str, body: dict, tags: list[str], crash: int | None) -> None:
        """By tag when there is one tag, else by digest with all of them."""
        content = encoded(body)
        digest = digest_of(content)
        self.bodies[digest] = body
        repository = self.model.repositories[name]
        fits = references(body) <= repository.blobs - self.model.lost and children(body) <= repository.manifests
        after = self.model_with()
        after.repositories[name].manifests.add(digest)
        after.repositories[name].tags.update(dict.fromkeys(tags, digest))
        reference = tags[0] if len(tags) == 1 else digest + "?" + "&".join(f"tag={tag}" for tag in tags)
        path = f"/v2/{name}/manifests/{reference}"
        status = self.send("PUT", path, content, crash=crash, after=after if fits else None)["status"]
        if status != 0:
            assert status == (201 if fits else 400)
            self.model = after if fits else self.model

    @rule(name=repositories, tag=st.sampled_from(TAGS), crash=crashes)
    def delete_tag(self, name, tag, crash) -> None:
        after = self.model_with()
        known = after.repositories[name].tags.pop(tag, None) is not None
        status = self.send("DELETE", f"/v2/{name}/manifests/{tag}", crash=crash, after=after)["status"]
        if status != 0:
            assert status == (202 if known else 404)
            self.model = after

    @rule(name=repositories, number=numbers, crash=crashes)
    def delete_manifest(self, name, number, crash) -> None:
        held = sorted(self.model.repositories[name].manifests)
        if not held:
            return
        digest = held[number % len(held)]
        after = self.model_with()
        repository = after.repositories[name]
        repository.manifests.discard(digest)
        repository.tags = {tag: named for tag, named in repository.tags.items() if named != digest}
        status = self.send("DELETE", f"/v2/{name}/manifests/{digest}", crash=crash, after=after)["status"]
        if status != 0:
            assert status == 202
            self.model = after

    # The process, and what must be true

    @rule()
    def kill(self) -> None:
        assert self.keeper.ask({"die": True}) is None
        self.keeper.open(self.root)

    @rule()
    def restart(self) -> None:
        self.keeper.end()
        self.keeper.open(self.root)

    @rule()
    def nothing_is_lost(self) -> None:
        assert self.observe() == self.expected(self.model)

    @rule(crash=crashes)
    def settle(self, crash) -> None:
        """Links become durable and true; dying on the way changes no answer."""
        found = self.keeper.ask({"settle": True, "crash": crash})
        if found is None:
            self.keeper.open(self.root)
            return
        assert found["pending"] == 0
        for name, repository in self.model.repositories.items():
            assert self.links(name) == {
                "_layers": {d: d for d in repository.blobs},
                "_manifests/revisions": {d: d for d in repository.manifests},
                "_manifests/tags": repository.tags,
            }, name

    def links(self, name: str) -> dict[str, dict[str, str]]:
        """What the tree on disk says; a tag's folder without a link would be an entry too."""
        folder = self.root / "docker/registry/v2/repositories" / name
        found = {}
        for kind in ("_layers", "_manifests/revisions"):
            links = (folder / kind).glob("sha256/*/link")
            found[kind] = {f"sha256:{link.parent.name}": link.read_text() for link in links}
        tags = (folder / "_manifests/tags").glob("*")
        found["_manifests/tags"] = {tag.name: (tag / "current/link").read_text() for tag in tags}
        return found


def descriptor(media_type: str, digest: str, size: int) -> dict:
    return {"mediaType": media_type, "digest": digest, "size": size}


def encoded(body: dict) -> bytes:
    return json.dumps(body, sort_keys=True).encode()


def references(body: dict) -> set[str]:
    """The blobs that a manifest needs."""
    return {entry["digest"] for entry in [*body.get("layers", []), *filter(None, [body.get("config")])]}


def children(body: dict) -> set[str]:
    return {entry["digest"] for entry in body.get("manifests", [])}


def subject(body: dict) -> str | None:
    return body.get("subject", {}).get("digest")


@pytest.fixture(scope="module")
def keeper():
    kept = Keeper()
    yield kept
    kept.close()


def test_nothing_reachable_is_lost(keeper):
    chosen = settings(
        max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )  # fmt: skip
    run_state_machine_as_test(lambda: Registry(keeper), settings=chosen)
