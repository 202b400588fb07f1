"""What clients do, from a seed: pushes of every kind, retags, deletes, sessions left open. Generators of requests.

Each request says which status it must be answered with and what the client may see after it; who drives it (in process
or over HTTP, with faults or without) sends it and gives the answer back.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from faults.ledger import Contents, Session, State

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
TAGS = ("latest", "v1", "v2")
_SIZES = (1, 400, 3000, 70_000)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Ask:
    """A request. `after` is the client's state once it is answered with `wanted`."""

    method: str
    target: str
    after: State
    wanted: int
    parts: Sequence[bytes] = ()
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)


class Refused(Exception):
    """The answer was another one than a client hopes for."""


Asking = Generator[Ask, Answer, None]


def digest_of(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


class Client:
    """Client `number`; what it does depends on the seed, its number and the answers alone."""

    def __init__(self, seed: object, number: int) -> None:
        self.rng = random.Random(f"{seed} {number}")
        self._shared = random.Random(f"{seed}").randbytes(900)  # every client pushes this one
        self.names = (f"faults/c{number}", f"c{number}/mounted")
        self.state = State(dict.fromkeys(self.names, Contents()))
        self._sizes: dict[str, int] = {}
        self._bodies: dict[str, bytes] = {}  # of manifests

    def requests(self, actions: int) -> Asking:
        """So many actions, one after the other."""
        for number in range(actions):
            # Who is refused gives up what they were about; whoever drives them says what holds then.
            with contextlib.suppress(Refused):
                yield from self._action() if number else self.push_image(self.names[0])

    def _action(self) -> Asking:
        name = self.rng.choice(self.names)
        held = self.state.repositories[name]
        actions = [self._push_blob, self.push_image, self._open_session, self._retag]
        if held.manifests:
            actions += [self._push_index, self._delete_tag, self._delete_manifest]
        if held.blobs:
            actions += [self._delete_blob, self._mount]
        if self.state.session:
            actions += [self._go_on, self._go_on]
        yield from self.rng.choice(actions)(name)

    def push_image(self, name: str) -> Asking:
        """Config, layers and a manifest: by tag, by digest, or by digest with tags; maybe one that has a subject."""
        yield from self._push_blob(name)
        yield from self._push_blob(name)
        blobs = sorted(self.state.repositories[name].blobs)
        config, *layers = self.rng.sample(blobs, min(len(blobs), self.rng.randint(1, 3)))
        body = {
            "schemaVersion": 2, "mediaType": MANIFEST, "config": self._describe(config),
            "layers": [self._describe(layer) for layer in layers], "annotations": {"n": self.rng.randbytes(4).hex()},
        }  # fmt: skip
        held = sorted(self.state.repositories[name].manifests)
        if held and self.rng.random() < 0.2:
            body["subject"] = self._describe(self.rng.choice(held), MANIFEST)
        yield from self._push_manifest(name, json.dumps(body).encode(), MANIFEST)

    def _push_index(self, name: str) -> Asking:
        held = sorted(self.state.repositories[name].manifests)
        chosen = self.rng.sample(held, min(len(held), 2))
        entries = [self._describe(digest, json.loads(self._bodies[digest])["mediaType"]) for digest in chosen]
        body = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": entries,
            "annotations": {"n": str(self.rng.random())},
        }
        yield from self._push_manifest(name, json.dumps(body).encode(), INDEX)

    def _push_manifest(self, name: str, body: bytes, media_type: str) -> Asking:
        digest = digest_of(body)
        self._bodies[digest], self._sizes[digest] = body, len(body)
        tags = self.rng.sample(TAGS, self.rng.choice((0, 1, 1, 1, 2)))
        reference = tags[0] if len(tags) == 1 else digest + "?" + "&".join(f"tag={tag}" for tag in tags)
        held = self.state.repositories[name]
        after = self.state.changed(
            name, manifests=held.manifests | {digest}, tags={**held.tags, **dict.fromkeys(tags, digest)}
        )
        target = f"/v2/{name}/manifests/{reference}".rstrip("?")
        yield from self._ask(Ask("PUT", target, after, 201, (body,), {"content-type": media_type}))

    def _retag(self, name: str) -> Asking:
        held = self.state.repositories[name].manifests
        whole = [digest for digest in sorted(held) if self._listed(digest) <= held]
        if whole:
            body = self._bodies[self.rng.choice(whole)]
            yield from self._push_manifest(name, body, json.loads(body)["mediaType"])

    def _push_blob(self, name: str) -> Asking:
        body = self._shared if self.rng.random() < 0.1 else self.rng.randbytes(self.rng.choice(_SIZES))
        digest = digest_of(body)
        self._sizes[digest] = len(body)
        uploads = f"/v2/{name}/blobs/uploads/"
        after = self._with_blob(name, digest)
        how = self.rng.randrange(4)
        if how == 0:
            yield from self._ask(Ask("POST", f"{uploads}?digest={digest}", after, 201, (body,)))
            return
        answer = yield from self._ask(Ask("POST", uploads, self.state, 202))
        location = answer.headers["location"]
        last = body
        if how > 1:  # streamed as Docker does, or in chunks with their places
            cuts = sorted({0, *(self.rng.randrange(len(body)) for _ in range(2)), len(body)})
            parts = [body[start:end] for start, end in itertools.pairwise(cuts)]
            if how == 2:
                yield from self._ask(Ask("PATCH", location, self.state, 202, parts))
                last = b""
            else:
                last = parts.pop()
                for start, part in zip(cuts, parts, strict=False):
                    headers = {"content-range": f"{start}-{start + len(part) - 1}"}
                    yield from self._ask(Ask("PATCH", location, self.state, 202, (part,), headers))
        yield from self._ask(Ask("PUT", f"{location}?digest={digest}", after, 201, (last,)))

    def _open_session(self, name: str) -> Asking:
        """One that stays open; another is then finished or left to its fate."""
        if self.state.session:
            yield from self._go_on(name)
            return
        answer = yield from self._ask(Ask("POST", f"/v2/{name}/blobs/uploads/", self.state, 202))
        self.state = self.state.holding(Session(answer.headers["location"], b""))
        yield from self._go_on(name)

    def _go_on(self, _name: str) -> Asking:
        session = self.state.session
        assert session is not None
        if len(session.content) > 100_000 or (session.content and self.rng.random() < 0.3):
            digest = digest_of(session.content)
            self._sizes[digest] = len(session.content)
            name = self._repository_of(session)
            after = self._with_blob(name, digest).holding(None)
            yield from self._ask(Ask("PUT", f"{session.location}?digest={digest}", after, 201))
            return
        part = self.rng.randbytes(self.rng.choice(_SIZES[1:]))  # of one byte the registry's `0-0` says nothing
        after = self.state.holding(Session(session.location, session.content + part))
        yield from self._ask(Ask("PATCH", session.location, after, 202, (part,)))

    def _repository_of(self, session: Session) -> str:
        return session.location.removeprefix("/v2/").partition("/blobs/uploads/")[0]

    def _mount(self, name: str) -> Asking:
        other = self.names[1 - self.names.index(name)]
        digest = self.rng.choice(sorted(self.state.repositories[name].blobs))
        target = f"/v2/{other}/blobs/uploads/?mount={digest}&from={name}"
        yield from self._ask(Ask("POST", target, self._with_blob(other, digest), 201))

    def _delete_tag(self, name: str) -> Asking:
        tags = dict(self.state.repositories[name].tags)
        if tags:
            tag = self.rng.choice(sorted(tags))
            del tags[tag]
            after = self.state.changed(name, tags=tags)
            yield from self._ask(Ask("DELETE", f"/v2/{name}/manifests/{tag}", after, 202))

    def _delete_manifest(self, name: str) -> Asking:
        held = self.state.repositories[name]
        if len(held.manifests) > 3:
            digest = self.rng.choice(sorted(held.manifests))
            tags = {tag: named for tag, named in held.tags.items() if named != digest}
            after = self.state.changed(name, manifests=held.manifests - {digest}, tags=tags)
            yield from self._ask(Ask("DELETE", f"/v2/{name}/manifests/{digest}", after, 202))

    def _delete_blob(self, name: str) -> Asking:
        held = self.state.repositories[name]
        free = sorted(held.blobs - {blob for digest in held.manifests for blob in self._referenced(digest)})
        if free:
            digest = self.rng.choice(free)
            after = self.state.changed(name, blobs=held.blobs - {digest})
            yield from self._ask(Ask("DELETE", f"/v2/{name}/blobs/{digest}", after, 202))

    def _listed(self, digest: str) -> set[str]:
        return {entry["digest"] for entry in json.loads(self._bodies[digest]).get("manifests", [])}

    def _referenced(self, digest: str) -> set[str]:
        body = json.loads(self._bodies[digest])
        return {entry["digest"] for entry in [*body.get("layers", []), *filter(None, [body.get("config")])]}

    def _with_blob(self, name: str, digest: str) -> State:
        return self.state.changed(name, blobs=self.state.repositories[name].blobs | {digest})

    def _describe(self, digest: str, media_type: str = "application/octet-stream") -> dict[str, object]:
        return {"mediaType": media_type, "digest": digest, "size": self._sizes[digest]}

    def _ask(self, ask: Ask) -> Generator[Ask, Answer, Answer]:
        answer = yield ask
        if answer.status != ask.wanted:
            raise Refused
        self.state = ask.after
        return answer
