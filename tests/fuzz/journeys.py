"""Requests that follow one another in repositories of one client, so that every answer is known exactly.

Each journey is a generator: it yields a case and is sent the answer. `Model` is what the registry has acknowledged.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from fuzz import bodies, vocabulary
from fuzz.cases import RIGHT, Case
from fuzz.judge import expect
from fuzz.wire import Answer

Journey = Iterator[Case]
CONTENTS = 64  # contents that all clients push, so that they meet at one digest


@dataclass(slots=True)
class Repository:
    """What one repository must hold. `manifests`: digest to bytes, type and the blobs it needs."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[bytes, str, frozenset[str]]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class Model:
    """The repositories of one client."""

    def __init__(self, rng: random.Random, prefix: str) -> None:
        self.rng = rng
        self.repositories: dict[str, Repository] = {}
        self.known: list[str] = []  # digests met, for requests that guess
        self.names = [vocabulary.name(rng, prefix) + str(number) for number in range(5)]

    def choose(self) -> tuple[str, Repository]:
        """A repository, maybe a new one."""
        name = self.rng.choice(self.names)
        return name, self.repositories.get(name) or Repository()

    def keep(self, name: str, repository: Repository) -> None:
        """The repository exists from now on."""
        self.repositories[name] = repository

    def content(self) -> bytes:
        """A blob: one that others push too, or one of its own."""
        if self.rng.random() < 0.5:
            number = self.rng.randrange(CONTENTS)
            return random.Random(number).randbytes(number * 37)
        return self.rng.randbytes(self.rng.choice((0, 1, 100, 3000, 70_000)))


def _case(
    method: str, path: str, *, body: bytes | None = None, headers: tuple[tuple[str, str], ...] = (), **known
) -> Case:
    sent = [RIGHT, *((name.encode(), value.encode()) for name, value in headers)]
    return Case(method, path.encode(), sent, body, wanted=expect(*known.pop("statuses"), **known))


def _path(answer: Answer) -> str:
    return answer.get("location") or "/v2/"


def push_blob(
    model: Model, name: str, repository: Repository, content: bytes | None = None, *, short: bool = True
) -> Journey:
    """A blob in one of the ways of the spec, 3.3."""
    rng = model.rng
    content = model.content() if content is None else content
    algorithm = "sha512" if rng.random() < 0.05 and short else "sha256"
    digest = vocabulary.digest_of(content, algorithm)
    start, done = f"/v2/{name}/blobs/uploads/", {"statuses": (201,), "docker_content_digest": digest}
    way = rng.randrange(4)
    if way == 0:
        yield _case("POST", f"{start}?digest={digest}", body=content, **done)
    else:
        location = _path((yield _case("POST", start, body=b"", statuses=(202,), range="0-0")))
        if way == 1:
            yield _case("PUT", f"{location}?digest={digest}", body=content, **done)
        elif way == 2:
            where = f"0-{max(len(content) - 1, 0)}"
            case = _case("PATCH", location, body=content, statuses=(202,), range=where)
            case.chunked = rng.random() < 0.5
            location = _path((yield case))
            yield _case("PUT", f"{location}?digest={digest}", **done)
        else:
            yield from _in_chunks(model, location, content, done)
    repository.blobs[digest] = content
    model.keep(name, repository)
    model.known.append(digest)
    del model.known[:-50]
    yield _case("HEAD", f"/v2/{name}/blobs/{digest}", statuses=(200,), content_length=str(len(content)))


def _in_chunks(model: Model, location: str, content: bytes, done: dict) -> Journey:
    """Chunks with ranges, and those that are wrong in between: they change nothing."""
    rng = model.rng
    cuts = sorted({0, len(content), *(rng.randrange(len(content) + 1) for _ in range(2))})
    for first, end in itertools.pairwise(cuts):
        ranged = (("content-range", f"{first}-{end - 1}"),)
        if rng.random() < 0.3:
            wrong = (("content-range", f"{end + 1}-{end + (end - first)}"),)
            yield _case(
                "PATCH", location, body=content[first:end], headers=wrong, statuses=(416,), codes="RANGE_INVALID"
            )
        if rng.random() < 0.2:
            yield _case(
                "PATCH",
                location,
                body=b"xx" + content[first:end],
                headers=ranged,
                statuses=(400,),
                codes="SIZE_INVALID",
            )
        yield _case("PATCH", location, body=content[first:end], headers=ranged, statuses=(202,), range=f"0-{end - 1}")
        yield _case("GET", location, statuses=(204,), range=f"0-{end - 1}")
    yield _case("PUT", f"{location}?digest={done['docker_content_digest']}", body=b"", **done)


def push_image(model: Model) -> Journey:
    """Config, layers and manifest; then it is pulled, by tag and by digest."""
    rng = model.rng
    name, repository = model.choose()
    contents = [model.content() for _ in range(rng.randint(1, 3))]
    for content in contents:
        if vocabulary.digest_of(content) not in repository.blobs:
            yield from push_blob(model, name, repository, content, short=False)
    subject = None
    if repository.manifests and rng.random() < 0.3:
        digest = rng.choice(sorted(repository.manifests))
        subject = bodies.descriptor(repository.manifests[digest][0], repository.manifests[digest][1])
    body, media_type = bodies.image(rng, contents[0], contents[1:], subject)
    digest, tag = vocabulary.digest_of(body), vocabulary.tag(rng)
    by_digest = rng.random() < 0.3
    yield _case(
        "PUT", f"/v2/{name}/manifests/{digest if by_digest else tag}", body=body, statuses=(201,),
        headers=(("content-type", media_type),), docker_content_digest=digest,
        **({"oci_subject": subject["digest"]} if subject else {}),
    )  # fmt: skip
    needed = frozenset(vocabulary.digest_of(content) for content in contents)
    repository.manifests[digest] = (body, media_type, needed)
    if not by_digest:
        repository.tags[tag] = digest
    model.keep(name, repository)
    model.known.append(digest)
    for reference in (digest, *(() if by_digest else (tag,))):
        wanted = expect(200, body=body, content_type=media_type, docker_content_digest=digest)
        yield Case("GET", f"/v2/{name}/manifests/{reference}".encode(), [RIGHT], wanted=wanted)
    if subject:
        yield from _referrers(name, subject["digest"], digest)


def _referrers(name: str, subject: str, digest: str) -> Journey:
    answer = yield _case("GET", f"/v2/{name}/referrers/{subject}", statuses=(200,))
    listed = [entry["digest"] for entry in json.loads(answer.body)["manifests"]]
    if digest not in listed:
        raise AssertionError(f"{digest} is no referrer of {subject} in {name}: {listed}")


def read(model: Model) -> Journey:
    """Content that is known, with ranges and conditions; lists."""
    rng = model.rng
    name, repository = model.choose()
    for digest in rng.sample(sorted(repository.blobs), min(3, len(repository.blobs))):
        content = repository.blobs[digest]
        path, tag = f"/v2/{name}/blobs/{digest}", f'"{digest}"'
        yield Case("GET", path.encode(), [RIGHT], wanted=expect(200, body=content, etag=tag))
        yield _case("GET", path, headers=(("if-none-match", tag),), statuses=(304,), etag=tag)
        yield _ranged(rng, path, content)
    for reference in rng.sample(sorted(repository.tags), min(2, len(repository.tags))):
        body, media_type, _ = repository.manifests[repository.tags[reference]]
        yield _case(
            "HEAD",
            f"/v2/{name}/manifests/{reference}",
            statuses=(200,),
            content_length=str(len(body)),
            content_type=media_type,
        )
    yield _tags(model, name)
    yield _case("GET", f"/v2/{name}/blobs/{vocabulary.absent(rng)}", statuses=(404,), codes="BLOB_UNKNOWN")


def _ranged(rng: random.Random, path: str, content: bytes) -> Case:
    first, last = rng.randrange(len(content) + 5), rng.randrange(len(content) + 5)
    headers = [RIGHT, (b"range", b"bytes=%d-%d" % (first, last))]
    if first > last or first >= len(content):
        return Case("GET", path.encode(), headers, wanted=expect(416, codes="RANGE_INVALID", body=b""))
    where = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
    return Case("GET", path.encode(), headers, wanted=expect(206, body=content[first : last + 1], content_range=where))


def _tags(model: Model, name: str) -> Case:
    known = model.repositories.get(name)
    if known is None:
        return _case("GET", f"/v2/{name}/tags/list", statuses=(404,), codes="NAME_UNKNOWN")
    body = json.dumps({"name": name, "tags": sorted(known.tags)}).encode()
    return Case("GET", f"/v2/{name}/tags/list".encode(), [RIGHT], wanted=expect(200, body=body))


def mount(model: Model) -> Journey:
    """A blob of another repository of this client."""
    source, held = model.choose()
    name, repository = model.choose()
    if name == source or not held.blobs:
        return
    digest = model.rng.choice(sorted(held.blobs))
    yield _case(
        "POST",
        f"/v2/{name}/blobs/uploads/?mount={digest}&from={source}",
        body=b"",
        statuses=(201,),
        docker_content_digest=digest,
    )
    repository.blobs[digest] = held.blobs[digest]
    model.keep(name, repository)
    yield _case("GET", f"/v2/{name}/blobs/{digest}", statuses=(200,), docker_content_digest=digest)


def delete(model: Model) -> Journey:
    """A tag, a manifest, or a blob, which stays while a manifest needs it."""
    rng = model.rng
    name, repository = model.choose()
    kind = rng.randrange(3)
    if kind == 0 and repository.tags:
        tag = rng.choice(sorted(repository.tags))
        yield _case("DELETE", f"/v2/{name}/manifests/{tag}", statuses=(202,))
        del repository.tags[tag]
        yield _case("GET", f"/v2/{name}/manifests/{tag}", statuses=(404,), codes="MANIFEST_UNKNOWN")
    elif kind == 1 and len(repository.manifests) > 2:
        digest = rng.choice(sorted(repository.manifests))
        yield _case("DELETE", f"/v2/{name}/manifests/{digest}", statuses=(202,))
        del repository.manifests[digest]
        repository.tags = {tag: where for tag, where in repository.tags.items() if where != digest}
        yield _case("HEAD", f"/v2/{name}/manifests/{digest}", statuses=(404,))
    elif kind == 2 and repository.blobs:
        digest = rng.choice(sorted(repository.blobs))
        used = any(digest in needed for _, _, needed in repository.manifests.values())
        yield _case("DELETE", f"/v2/{name}/blobs/{digest}", statuses=(405 if used else 202,), codes="UNSUPPORTED")
        if not used:
            del repository.blobs[digest]
        yield _case("HEAD", f"/v2/{name}/blobs/{digest}", statuses=(200 if used else 404,))


def refuse(model: Model) -> Journey:
    """Right in form, wrong in content."""
    rng = model.rng
    name = rng.choice(model.names)
    content, other = model.content(), vocabulary.absent(rng)
    start = f"/v2/{name}/blobs/uploads/"
    yield _case("POST", f"{start}?digest={other}", body=content, statuses=(400,), codes="DIGEST_INVALID")
    location = _path((yield _case("POST", start, body=b"", statuses=(202,))))
    yield _case("PUT", f"{location}?digest={other}", body=content, statuses=(400,), codes="DIGEST_INVALID")
    yield _case("GET", location, statuses=(404,), codes="BLOB_UPLOAD_UNKNOWN")
    location = _path((yield _case("POST", start, body=b"", statuses=(202,))))
    yield _case("DELETE", location, statuses=(204,))
    yield _case("PATCH", location, body=content, statuses=(404,), codes="BLOB_UPLOAD_UNKNOWN")
    body, _ = bodies.image(rng, rng.randbytes(9), [rng.randbytes(8), rng.randbytes(7)], None)
    answer = yield _case("PUT", f"/v2/{name}/manifests/v1", body=body, statuses=(400,), codes="MANIFEST_BLOB_UNKNOWN")
    if len(json.loads(answer.body)["errors"]) != 3:
        raise AssertionError(f"three blobs are missing: {answer.body!r}")
    yield _case("PUT", f"/v2/{name}/manifests/{other}", body=body, statuses=(400,), codes="DIGEST_INVALID")
    yield _tags(model, name)


def everything(model: Model) -> Journey:
    """All that was acknowledged and not deleted, byte for byte."""
    for name, repository in model.repositories.items():
        yield _tags(model, name)
        for digest, content in repository.blobs.items():
            yield Case("GET", f"/v2/{name}/blobs/{digest}".encode(), [RIGHT], wanted=expect(200, body=content))
        for reference in (*repository.manifests, *repository.tags):
            body, media_type, _ = repository.manifests[repository.tags.get(reference, reference)]
            wanted = expect(200, body=body, content_type=media_type)
            yield Case("GET", f"/v2/{name}/manifests/{reference}".encode(), [RIGHT], wanted=wanted)


WEIGHTS: dict[Callable[[Model], Journey], int] = {push_image: 2, read: 8, mount: 1, delete: 3, refuse: 1}


def choose(model: Model) -> Journey:
    """The next journey."""
    return model.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0](model)
