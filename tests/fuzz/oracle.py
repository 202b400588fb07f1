"""What the answer to any well-formed request may be, by the spec and docs alone: an implementation of its own."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote_to_bytes

from fuzz import vocabulary
from fuzz.judge import Expect, expect
from hatoba.web.v2 import routes

LONGEST_TARGET = 60_000
_UPLOADS = re.compile(r"/v2/(?P<name>.+)/blobs/uploads/?", re.DOTALL)
_UPLOAD = re.compile(r"/v2/(?P<name>.+)/blobs/uploads/(?P<reference>[^/]+)", re.DOTALL)
_TAGS = re.compile(r"/v2/(?P<name>.+)/tags/list", re.DOTALL)
_NAMED = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs|referrers)/(?P<reference>[^/]*)", re.DOTALL)
_KINDS = {"manifests": routes.MANIFEST, "blobs": routes.BLOB, "referrers": routes.REFERRERS}
# The spec's form and HTTP's, which some clients send.
_CONTENT_RANGE = re.compile(r"(bytes )?[0-9]{1,18}-[0-9]{1,18}(/([0-9]+|\*))?")
# What a request in order may be told: of content that is there or not, of an upload in whatever state.
_IN_ORDER = {
    (routes.PING, "GET"): {200},
    (routes.CATALOG, "GET"): {200},
    (routes.MANIFEST, "GET"): {200, 304, 404},
    (routes.MANIFEST, "PUT"): {201, 400, 413},
    (routes.MANIFEST, "DELETE"): {202, 404},
    (routes.BLOB, "GET"): {200, 206, 304, 404, 416},
    (routes.BLOB, "DELETE"): {202, 404, 405},
    (routes.UPLOADS, "POST"): {201, 202, 400, 416},
    (routes.UPLOAD, "GET"): {204, 404},
    (routes.UPLOAD, "PATCH"): {202, 400, 404, 416},
    (routes.UPLOAD, "PUT"): {201, 400, 404, 416, 429},
    (routes.UPLOAD, "DELETE"): {204, 404, 429},
    (routes.TAGS, "GET"): {200, 404},
    (routes.REFERRERS, "GET"): {200},
}


def find(path: str) -> tuple[str | None, str, str]:
    """Pattern, name and reference of a path; a pattern of None is no endpoint."""
    if path in {routes.PING, routes.CATALOG}:
        return path, "", ""
    for expression, pattern in (
        (_UPLOADS, routes.UPLOADS),
        (_UPLOAD, routes.UPLOAD),
        (_TAGS, routes.TAGS),
        (_NAMED, None),
    ):
        if (match := expression.fullmatch(path)) is not None:
            parts = match.groupdict()
            return pattern or _KINDS[parts["kind"]], parts["name"], parts.get("reference", "")
    return None, "", ""


def expected(
    method: str, target: bytes, headers: list[tuple[bytes, bytes]], sign_in: str, *, impossible: bool
) -> tuple[Expect, bool]:
    """What is known of the answer; whether a 202 begins an upload session. `impossible`: the body is no manifest."""
    path, _, query = target.partition(b"#")[0].partition(b"?")
    below = not vocabulary.PLAIN.issuperset(target) or len(target) > LONGEST_TARGET
    below = below or sum(len(name) + len(value) for name, value in headers) > LONGEST_TARGET
    text = unquote_to_bytes(path).decode("utf-8", "replace")
    pattern, name, reference = find(text)
    rows = [row for row in routes.ROUTES if row.pattern == pattern]
    answer = _before(pattern, name, rows, method, text, sign_in)
    if answer is None:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="replace")
        sent = {key.decode("latin-1").lower(): value.decode("latin-1").strip() for key, value in headers}
        answer = _refused(str(pattern), method, reference, pairs, sent)
        if answer is None and impossible and (pattern, method) == (routes.MANIFEST, "PUT"):
            answer = expect(400, codes="MANIFEST_INVALID DIGEST_INVALID")
        if answer is None:
            known = _IN_ORDER.get((str(pattern), "GET" if method == "HEAD" else method))
            answer = expect(*known) if known else Expect()
    wanted = Expect(answer.statuses and answer.statuses | {400, 414, 431}, None, below=True) if below else answer
    return wanted, method == "POST" and pattern == routes.UPLOADS


def _before(  # noqa: PLR0911  one a rule
    pattern: str | None, name: str, rows: list[routes.Route], method: str, path: str, sign_in: str
) -> Expect | None:
    """What is wrong whatever the rest says: the path, the method, the name, the credentials, in this order."""
    if method == "OPTIONS" and (path == "/v2" or path.startswith("/v2/")):
        return expect(204)
    if pattern is None:
        # Outside of /v2/ are probes and pages that others test; a path that begins in a hidden way may be any of them.
        return expect(404, codes="NAME_INVALID") if path.startswith("/v2/") else Expect()
    if pattern not in {routes.PING, routes.CATALOG} and name.startswith("/") and not name.strip("/"):
        return expect(400, 404, 405)
    if method not in {row.method for row in rows}:
        return expect(405, codes="UNSUPPORTED")
    if name and not vocabulary.is_name(name):
        return expect(400, codes="NAME_INVALID")
    if sign_in == "none":
        return expect(401, codes="UNAUTHORIZED")
    if sign_in == "either":
        return Expect()
    if sign_in == "wrong":
        return expect(401, 429, codes="UNAUTHORIZED TOOMANYREQUESTS")
    return None


def _refused(  # noqa: PLR0911  one a rule
    pattern: str, method: str, reference: str, query: list[tuple[str, str]], sent: dict[str, str]
) -> Expect | None:
    """What a right name, method and credentials cannot save."""
    values = dict(reversed(query))
    if pattern == routes.BLOB and not vocabulary.is_digest(reference):
        return expect(400, codes="DIGEST_INVALID")
    if pattern == routes.REFERRERS and not vocabulary.is_digest(reference, any_algorithm=True):
        return expect(400, codes="DIGEST_INVALID")
    if pattern == routes.MANIFEST:
        return _manifest(method, reference, query)
    if pattern in {routes.TAGS, routes.CATALOG} and values.get("n") and not vocabulary.is_count(values["n"]):
        return expect(400, codes="PAGINATION_NUMBER_INVALID")
    if pattern == routes.UPLOAD and method == "PUT" and not vocabulary.is_digest(values.get("digest", "")):
        return expect(400, codes="DIGEST_INVALID")
    if pattern == routes.UPLOADS and "mount" not in values:
        if not vocabulary.is_digest(values.get("digest", vocabulary.digest_of(b""))):
            return expect(400, codes="DIGEST_INVALID")
        if "digest" not in values and values.get("digest-algorithm", "") not in {"", "sha256", "sha512"}:
            return expect(400, codes="DIGEST_INVALID")
    ranged = (pattern == routes.UPLOAD and method in {"PUT", "PATCH"}) or (
        pattern == routes.UPLOADS and "digest" in values and "mount" not in values
    )
    if ranged and "content-range" in sent and not _CONTENT_RANGE.fullmatch(sent["content-range"]):
        return expect(416, codes="RANGE_INVALID")
    return None


def _manifest(method: str, reference: str, query: list[tuple[str, str]]) -> Expect | None:
    if ":" in reference:
        if not vocabulary.is_digest(reference):
            return expect(400, codes="DIGEST_INVALID")
    elif not vocabulary.is_tag(reference):
        if method == "PUT":
            return expect(400, codes="TAG_INVALID")
        return expect(404, codes="MANIFEST_UNKNOWN NAME_UNKNOWN")
    tags = [value for key, value in query if key == "tag"]
    if method == "PUT" and len(tags) > 100:
        return expect(414, codes="TAG_INVALID")
    if method == "PUT" and not all(vocabulary.is_tag(tag) for tag in tags):
        return expect(400, codes="TAG_INVALID")
    return None
