"""After a fault: hatoba is started on what is left, and all that was acknowledged must be there and nothing by half.

Asked over HTTP first, as clients would; then rows, files and links are compared with one another; then clients go on.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

from faults.ledger import Contents, Known, Session, State
from faults.registry import Defect, Place, Registry, opened
from faults.workload import Answer, Ask, Client, digest_of
from hatoba.auth.htpasswd_file import HtpasswdFile
from hatoba.blobs import layout
from hatoba.oci.digest import Digest
from hatoba.operations.findings import Finding, Report
from hatoba.wiring import commands

NOTHING = State({})


async def judge(
    place: Place, known: Mapping[int, Known], *, sessions_last: bool = True, users: AbstractSet[str] = frozenset()
) -> None:
    """Start the registry, look at everything, push again. Raises Defect.

    Uploads under way need not outlive a loss of power or a disk that fails: then `sessions_last` is False.
    """
    async with opened(place) as registry:
        for number, client in known.items():
            await sees_what_it_may(registry, number, client)
            await _session(registry, client, lasts=sessions_last)
        await _verify(place)
        await rows_and_files(registry)
        await _links(registry)
        for number in known:
            await _push_again(registry, number)
    lost = users - set(_users(place))
    _demand(not lost, f"users {lost} were added and are gone")


def _users(place: Place) -> list[str]:
    return HtpasswdFile(place.htpasswd).names() if place.htpasswd.exists() else []


async def observe(registry: Registry, client: Known) -> dict[str, Contents]:
    """What a client sees of its repositories; of everything it ever pushed, what is there with the right bytes."""
    return {name: await _contents(registry, name, client) for name in client.certain.repositories}


async def _contents(registry: Registry, name: str, client: Known) -> Contents:
    listed = await _get(registry, f"/v2/{name}/tags/list", 200, 404)
    tags = json.loads(listed.body)["tags"] if listed.status == 200 else []
    return Contents(
        frozenset([digest for digest in client.blobs if await _digest(registry, name, "blobs", digest) == digest]),
        frozenset(
            [digest for digest in client.manifests if await _digest(registry, name, "manifests", digest) == digest]
        ),
        {tag: await _digest(registry, name, "manifests", tag) or "nothing" for tag in tags},
    )


async def _digest(registry: Registry, name: str, kind: str, reference: str) -> str | None:
    answer = await _get(registry, f"/v2/{name}/{kind}/{reference}", 200, 404)
    if answer.status == 404:
        return None
    found = digest_of(answer.body)
    _demand(found == reference or ":" not in reference, f"{name}: {kind} {reference} is served with other bytes")
    return found


async def _get(registry: Registry, target: str, *statuses: int) -> Answer:
    answer = await registry.ask(Ask("GET", target, NOTHING, 200))
    _demand(answer.status in statuses, f"GET {target}: {answer.status} {answer.body[:200]!r}")
    return answer


async def sees_what_it_may(registry: Registry, number: int, client: Known) -> None:
    """Its last answer holds, or what it asked for since. Raises Defect."""
    found = await observe(registry, client)
    if not any(found == state.repositories for state in client.allowed):
        raise Defect(f"client {number} sees what it was not told: {difference(client.certain.repositories, found)}")


def difference(expected: Mapping[str, Contents], found: Mapping[str, Contents]) -> str:
    """The two states apart, in words."""
    told = []
    for name, contents in expected.items():
        for kind in ("blobs", "manifests"):
            before, after = getattr(contents, kind), getattr(found[name], kind)
            told += [f"{name}: {kind} lost {sorted(before - after)}"] if before - after else []
            told += [f"{name}: {kind} more {sorted(after - before)}"] if after - before else []
        if contents.tags != found[name].tags:
            told.append(f"{name}: tags {dict(contents.tags)} are {dict(found[name].tags)}")
    return "; ".join(told)


async def _session(registry: Registry, client: Known, *, lasts: bool) -> None:
    """An open upload goes on where the registry says, never with bytes that it does not have."""
    sessions = [state.session for state in client.allowed if state.session]
    if not sessions:
        return
    longest = max(sessions, key=lambda session: len(session.content))
    answer = await _get(registry, longest.location, 204, 404)
    may_be_gone = not lasts or len(sessions) < len(client.allowed)
    if answer.status == 404:
        _demand(may_be_gone, f"the session {longest.location} is gone")
        return
    end = int(answer.headers["range"].partition("-")[2])
    offset = end + 1 if end else 0  # `0-0` is said of no byte and of one, which no session here has
    lengths = {len(session.content) for session in sessions} | ({0} if client.certain.session is None else set())
    _demand(offset in lengths if lasts else offset <= max(lengths), f"the session has {offset} bytes, not {lengths}")
    await _finish(registry, longest, offset)


async def _finish(registry: Registry, session: Session, offset: int) -> None:
    digest = digest_of(session.content)
    rest = session.content[offset:]
    answer = await registry.ask(Ask("PUT", f"{session.location}?digest={digest}", NOTHING, 201, (rest,)))
    if answer.status == 201:
        name = session.location.removeprefix("/v2/").partition("/blobs/uploads/")[0]
        _demand(await _digest(registry, name, "blobs", digest) == digest, "the finished upload is not there")
    else:  # its file is gone: the client hears so and begins anew
        _demand(answer.status == 404, f"the session cannot be finished: {answer.status} {answer.body!r}")


async def _verify(place: Place) -> None:
    """`hatoba verify`, beside the server, finds nothing."""
    found: list[Finding] = []
    async with commands.verification(place.settings()) as verification:
        await verification.run(Report(found.append), Unwatched(), 0, fix=False, restart=True)
    _demand(not found, f"hatoba verify: {found[:3]}")


class Unwatched:
    """Nobody wants to know how far it is."""

    def begin(self, what: str, total: int | None) -> None:
        """Nothing."""

    def advance(self, amount: int) -> None:
        """Nothing."""


async def rows_and_files(registry: Registry) -> None:
    """Every row that says `ready` has a file of its bytes, read-only; the databases are sound. Raises Defect."""
    for database in (registry.database, registry.uploads._sessions):
        for check in ("integrity_check", "foreign_key_check"):
            found = await database.all(f"PRAGMA {check}")
            _demand(found in ([("ok",)], []), f"{check}: {found[:3]}")
    for digest, key, size, state in await registry.database.all("SELECT digest, key, size, state FROM blobs"):
        path = registry.place.root / key
        _demand(state == "ready", f"{digest} is {state}")
        _demand(path.is_file(), f"{digest} has a row and no file")
        content = path.read_bytes()
        _demand(len(content) == size, f"{digest}: a file of {len(content)} bytes for a row of {size}")
        _demand(f"sha256:{hashlib.sha256(content).hexdigest()}" == digest, f"{digest}: a file with other bytes")
        _demand(stat.S_IMODE(path.stat().st_mode) == 0o444, f"{digest}: its file can be written")
    for digest, body in await registry.database.all("SELECT digest, body FROM manifest_bodies"):
        _demand(digest_of(body) == digest, f"{digest}: a row with other bytes")


async def _links(registry: Registry) -> None:
    """Docker's links say the same as the rows once the marked ones are written, and following them changes nothing."""
    _demand(await registry.settle() == 0, "marks of links are left")
    rows = await links_by_rows(registry)
    found = links_on_disk(registry.place.root)
    _demand(rows == found, f"links differ: without a row {_less(found, rows)}, wrong or absent {_less(rows, found)}")
    moves = await registry.database.all("SELECT count(*) FROM tag_moves")
    await registry.follow()
    _demand(await registry.database.all("SELECT count(*) FROM tag_moves") == moves, "the walk moved a tag")
    _demand(not await registry.database.all("SELECT 1 FROM mirror"), "the walk found links wrong")


def _less(one: dict[str, str], other: dict[str, str]) -> dict[str, str]:
    return {key: content for key, content in one.items() if other.get(key) != content}


async def links_by_rows(registry: Registry) -> dict[str, str]:
    """The link of each tag, manifest and layer, and what it must hold."""
    all_ = registry.database.all
    found = {}
    for name, digest in await all_("SELECT name, digest FROM repositories JOIN repository_blobs ON repository_id = id"):
        found[layout.layer_link(name, Digest.parse(digest))] = digest
    for name, digest in await all_("SELECT name, digest FROM repositories JOIN manifests ON repository_id = id"):
        found[layout.revision_link(name, Digest.parse(digest))] = digest
    for name, tag, digest in await all_(
        "SELECT repositories.name, tags.name, digest FROM repositories JOIN tags ON repository_id = id"
    ):
        found[layout.tag_link(name, tag)] = digest
        found[layout.tag_index_link(name, tag, Digest.parse(digest))] = digest
    return found


def links_on_disk(root: Path) -> dict[str, str]:
    """Every link, but those of digests that a tag named before: they stay as Docker's registry keeps them."""
    found = {}
    for link in (root / layout.REPOSITORIES).rglob("link"):
        key = str(link.relative_to(root))
        tag = link.parents[3]
        if link.parents[2].name == "index" and tag.parent.name == "tags" and (tag / "current/link").exists():
            current = (tag / "current/link").read_text()
            if current != f"{link.parents[1].name}:{link.parent.name}":
                continue
        found[key] = link.read_text()
    return found


async def _push_again(registry: Registry, number: int) -> None:
    """Clients can go on."""
    client = Client(f"again {number}", number)
    asking = client.push_image(client.names[0])
    answer = None
    while True:
        try:
            ask = next(asking) if answer is None else asking.send(answer)
        except StopIteration:
            return
        answer = await registry.ask(ask)
        _demand(answer.status == ask.wanted, f"{ask.method} {ask.target} afterwards: {answer.status} {answer.body!r}")


def _demand(condition: object, message: str) -> None:
    if not condition:
        raise Defect(message)
