"""What an answer must look like: always, and for the case that was sent."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from fuzz.wire import Answer
from hatoba import errors

# What the HTTP server below hatoba says, without a body, to what is no HTTP or too much of it.
SERVER_REFUSALS = frozenset({400, 408, 413, 414, 417, 431, 501, 505})


def _pairs(root: type[errors.RegistryError]) -> set[tuple[str, int]]:
    found = {(kind.code, kind.status) for kind in root.__subclasses__()}
    return found.union(*(_pairs(kind) for kind in root.__subclasses__()))


# (code, status) of every error that is raised on purpose; 503 and 507 are true of no request that is sent here.
ERRORS = {pair for pair in _pairs(errors.RegistryError) if pair[1] < 500}


@dataclass(frozen=True, slots=True)
class Expect:
    """What is known beforehand of an answer. None: anything that is no failure of the server.

    `below`: the HTTP server may refuse the request itself. `headers` must be there with these values.
    """

    statuses: frozenset[int] | None = None
    codes: frozenset[str] | None = None
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    below: bool = False


def expect(*statuses: int, codes: str = "", body: bytes | None = None, below: bool = False, **headers: str) -> Expect:
    """An `Expect` in short; `codes` are separated by blanks, `headers` by _ instead of -."""
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Expect(frozenset(statuses) or None, frozenset(codes.split()) or None, body, named, below)


def violation(answer: Answer, method: str, path: bytes, wanted: Expect) -> str | None:
    """What is wrong with the answer; None when it is right. `path` is the request's target as sent."""
    status = answer.status
    if status >= 500 and not (wanted.below and status in SERVER_REFUSALS):
        return f"status {status}"
    version = answer.all("docker-distribution-api-version")
    if not version and wanted.below and status in SERVER_REFUSALS:
        return None if not answer.body else "a body where the server refused"
    if version != ["registry/2.0"]:
        return f"Docker-Distribution-Api-Version is {version}"
    return _expected(answer, wanted, method) or _error(answer, method, path) or _content(answer, method, path, wanted)


def _expected(answer: Answer, wanted: Expect, method: str) -> str | None:
    if wanted.statuses is not None and answer.status not in wanted.statuses:
        return f"status {answer.status}, not one of {sorted(wanted.statuses)}"
    if wanted.body is not None and method != "HEAD" and answer.status < 300 and answer.body != wanted.body:
        return f"another body, {len(answer.body)} bytes instead of {len(wanted.body)}"
    for name, value in wanted.headers:
        if answer.status < 300 and answer.get(name) != value:
            return f"{name} is {answer.get(name)!r}, not {value!r}"
    if wanted.codes is not None and answer.status >= 400 and method != "HEAD":
        found = codes(answer)
        if found is None or not wanted.codes.issuperset(found):
            return f"codes {found}, not of {sorted(wanted.codes)}"
    return None


def codes(answer: Answer) -> list[str] | None:
    """The codes of an error's body; None when it is not in the spec's form (3.7)."""
    try:
        document = json.loads(answer.body)
        entries = document["errors"]
        shaped = (
            set(document) == {"errors"} and entries and all(set(e) <= {"code", "message", "detail"} for e in entries)
        )
        return [entry["code"] for entry in entries] if shaped and all(e["message"] for e in entries) else None
    except (ValueError, TypeError, KeyError):
        return None


def _error(answer: Answer, method: str, path: bytes) -> str | None:  # noqa: PLR0911  one a rule
    status = answer.status
    if status < 400 or status == 408:  # 408 has no body: nobody listens
        return None
    if status == 401 and not (answer.get("www-authenticate") or "").startswith("Basic realm="):
        return "401 without a challenge"
    if not path.startswith(b"/v2/"):
        return None
    if not (answer.get("content-type") or "").startswith("application/json"):
        return f"an error of type {answer.get('content-type')!r}"
    if method == "HEAD":
        return None
    found = codes(answer)
    if found is None:
        return "an error whose body is not the spec's"
    unknown = {(code, status) for code in found} - ERRORS
    return f"{sorted(unknown)} is no error of hatoba" if unknown else None


def _content(answer: Answer, method: str, path: bytes, wanted: Expect) -> str | None:
    status = answer.status
    if status == 201 and not (answer.get("location") and answer.get("docker-content-digest")):
        return "201 without Location or digest"
    begun = status == 202 and method in {"POST", "PATCH"}
    if begun and not (answer.get("location") and (answer.get("range") or "").startswith("0-")):
        return "202 without Location or Range"
    if status == 206 and not (answer.get("content-range") or "").startswith("bytes "):
        return "206 without Content-Range"
    digest = answer.get("docker-content-digest") or ""
    if status == 200 and method == "GET" and wanted.body is None and digest.count(":") == 1:
        algorithm, _, encoded = digest.partition(":")
        if hashlib.new(algorithm, answer.body).hexdigest() != encoded:
            return "the body is not what Docker-Content-Digest says"
    return None
