"""Requests: one by one from the table of routes, each with what is known beforehand of its answer.

Every row of hatoba's table is met with every kind of name, reference, query, header and body, so a new row is too.
"""

from __future__ import annotations

import base64
import random
from dataclasses import dataclass, field

from fuzz import bodies, oracle, vocabulary
from fuzz.judge import Expect
from hatoba.web.v2 import routes

Headers = list[tuple[bytes, bytes]]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "BREW", "PROPFIND", "X" * 300)
READING = {"GET", "HEAD"}
USER, PASSWORD = "fuzz", "a-right-password"
QUERIES = (
    b"x=1", b"", b"&&&", b"=", b"%", b"%zz=%zz", b"n", b"n=", b"last=", b"last=%00", b"last=%ff",
    b"last=" + b"z" * 5000, b"artifactType=a%2Fb", b"artifactType=", b"artifactType=%00", b"ns=docker.io", b"ns=%ff",
    b"a=1;b=2", b"tag=v1", b"digest=", b"mount=", b"mount=x&from=y", b"from=..", b"x=" + b"%41" * 3000,
    b"&".join(b"x=%d" % i for i in range(300)), b"digest-algorithm=sha512", b"digest-algorithm=md5", b"last=\xc3\xa4",
    b"tag=" + b"&tag=".join(b"t%d" % i for i in range(101)),
)  # fmt: skip
DECORATIONS = (
    (b"accept", b"*/*"), (b"accept", b"application/vnd.oci.image.index.v1+json"), (b"accept", b"\xff\xfe"),
    (b"accept", b"a" * 9000), (b"accept-encoding", b"gzip, br"), (b"user-agent", b"docker/28.0"),
    (b"x-request-id", b"a" * 200), (b"x-request-id", b"\xff\n"[:1]), (b"x-forwarded-for", b"1.2.3.4"),
    (b"x-forwarded-for", b"::1, unknown, ["), (b"x-forwarded-for", b"," * 5000), (b"x-forwarded-for", b"\xff"),
    (b"x-forwarded-proto", b"gopher"), (b"x-forwarded-host", b"a b/../"), (b"forwarded", b"for=x"),
    (b"if-none-match", b"*"), (b"if-none-match", b'W/"x", ,"' + b"a" * 900), (b"if-match", b'"x"'),
    (b"if-range", b'"x"'), (b"if-modified-since", b"yesterday"), (b"range", b"bytes=0-0"), (b"cookie", b"a=b;" * 900),
    (b"connection", b"keep-alive"), (b"upgrade", b"h2c"), (b"te", b"trailers"), (b"origin", b"null"),
    (b"referer", b"\xff\xfe\xfd"), (b"content-type", b"text/\xff"), (b"content-encoding", b"gzip"), (b"x-empty", b""),
    (b"x" * 500, b"y" * 5000), (b"via", b"1.1 \xe4"), (b"pragma", b"x\ty"), (b"host", b"evil.example/../"),
    (b"accept", b"text/html;q=\xd9\xa1"), (b"max-forwards", b"-1"), (b"x-http-method-override", b"PUT"),
)  # fmt: skip
RANGES = (
    b"bytes=0-0", b"bytes=5-", b"bytes=-5", b"bytes=5-2", b"bytes=" + b"9" * 400 + b"-", b"bytes=-" + b"9" * 400,
    b"bytes=0-0,5-9", b"bytes=", b"bytes=-", b"bytes= 1 - 2 ", b"bytes=\xd9\xa1-\xd9\xa2", b"bytes=0-" + b"9" * 30,
    b"lines=1-2", b"bytes=-0", b"bytes 0-5", b"", b"\xff", b"bytes=--5", b"bytes=1-2-3", b"bytes=0x1-5",
    b"bytes=+1-5", b"bytes=1.5-2", b"BYTES=0-1", b"bytes=" + b"0-0," * 1000,
)  # fmt: skip
CONTENT_RANGES = (
    b"", b"-", b"0", b"0-", b"-5", b"5-2", b"a-b", b"0-4,5-9", b"0 - 4", b"--", b"\xd9\xa1-\xd9\xa2", b"0x0-4",
    b"+0-4", b"bytes 0-", b"\xff", b"9" * 19 + b"-" + b"9" * 19, b"9" * 500 + b"-" + b"9" * 500, b"bytes=0-4",
    b"0-4/5/6", b"-1--1", b"1_0-2_0", b"0.0-4.0", b"bytes */5",
)  # fmt: skip


@dataclass(slots=True)
class Case:
    """A request that is good HTTP, and what is known of its answer. `target` is path and query as sent."""

    method: str
    target: bytes
    headers: Headers = field(default_factory=list)
    body: bytes | None = None
    chunked: bool = False
    wanted: Expect = field(default_factory=Expect)
    session: bool = False

    @property
    def raw(self) -> bytes:
        """The bytes to send."""
        lines = [b"%s %s HTTP/1.1\r\nhost: fuzz" % (self.method.encode(), self.target)]
        lines += [b"%s: %s" % header for header in self.headers]
        body = self.body
        if body is None:
            return b"\r\n".join(lines) + b"\r\n\r\n"
        if not self.chunked:
            return b"\r\n".join(lines) + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        middle = len(body) // 2
        parts = [b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:middle], body[middle:]) if part]
        return b"\r\n".join(lines) + b"\r\ntransfer-encoding: chunked\r\n\r\n" + b"".join(parts) + b"0\r\n\r\n"


def credentials(user: str = USER, password: str = PASSWORD) -> tuple[bytes, bytes]:
    """An Authorization header."""
    return b"authorization", b"Basic " + base64.b64encode(f"{user}:{password}".encode())


RIGHT = credentials()
SPELLINGS = (
    RIGHT,
    (b"Authorization", RIGHT[1].replace(b"Basic", b"bAsIc")),
    (b"authorization", RIGHT[1].replace(b" ", b"   ")),
)
NO_CREDENTIALS = (
    b"", b"Basic", b"Basic ", b"Basic !!!", b"Basic \xff\xfe", b"Basic " + base64.b64encode(b"no colon"),
    b"Bearer x.y.z", b"Digest x", b"Basic " + base64.b64encode(b"x" * 9000), b"Basic " + b"A" * 20_001,
    b"Basic " + b"=" * 8, RIGHT[1][6:], b"Basic " + RIGHT[1], b"Basic " + RIGHT[1][6:] + b"!",
    b"Negotiate " + RIGHT[1][6:], b"Basic\t" + RIGHT[1][6:], b"Basic " + base64.b64encode(b"\xff\xfe"),
)  # fmt: skip


class Generator:
    """Makes cases; one a client. `own` are names that its journeys keep, which are only read here."""

    def __init__(self, rng: random.Random, prefix: str, own: list[str], known: list[str]) -> None:
        self._rng = rng
        self._own = own
        self._known = known
        self._scratch = [vocabulary.name(rng, f"scratch/{prefix}") for _ in range(3)]
        self._scratch += [f"scratch/shared{number}" for number in range(3)]
        self.sessions: list[bytes] = []  # of scratch repositories: whole paths

    def case(self) -> Case:
        """The next case."""
        rng = self._rng
        route = rng.choice(routes.ROUTES)
        method = route.method if rng.random() < 0.92 else rng.choice(METHODS)
        path = self._path(route.pattern, method)
        if rng.random() < 0.04:
            where = rng.randrange(4, len(path) + 1)
            path = path[:where] + vocabulary.spoiled(rng, path[where:] or b"/")
        query = self._query(route.pattern, method)
        if query is not None and rng.random() < 0.1:
            query += b"&" + (self._query(route.pattern, method) or b"")
        case = Case(method, path + (b"?" + query if query is not None else b""))
        sign_in = self._decorate(case)
        impossible = self._body(case, route.pattern)
        case.wanted, case.session = oracle.expected(
            case.method, case.target, case.headers, sign_in, impossible=impossible
        )
        return case

    def _path(self, pattern: str, method: str) -> bytes:
        rng = self._rng
        if pattern == routes.UPLOAD and self.sessions and rng.random() < 0.5:
            return rng.choice(self.sessions)
        path = b""
        for number, part in enumerate(pattern.replace("}", "{").split("{")):
            path += part.encode() if number % 2 == 0 else self._filled(part, method)
        return path

    def _filled(self, what: str, method: str) -> bytes:  # noqa: PLR0911  one a kind
        rng = self._rng
        odd = rng.random()
        if what == "name":
            if odd < 0.15:
                return rng.choice(vocabulary.BAD_NAMES)
            name = rng.choice(self._own if method in READING and self._own and odd < 0.6 else self._scratch)
            if odd > 0.97:
                return vocabulary.spoiled(rng, name.encode())
            return vocabulary.escaped(rng, name)
        if what == "id":
            return rng.choice(
                (
                    b"00000000-0000-0000-0000-000000000000",
                    b"%00",
                    b"..",
                    b"%2e%2e%2fx",
                    b"x" * 3000,
                    b"%ff",
                    b"*",
                    b"\xff",
                )
            )
        if odd < 0.15:
            return rng.choice(vocabulary.BAD_DIGESTS)
        if what == "reference" and odd < 0.6:
            return rng.choice(vocabulary.BAD_TAGS) if odd < 0.3 else vocabulary.escaped(rng, vocabulary.tag(rng))
        digest = rng.choice(self._known) if self._known and odd < 0.8 else vocabulary.absent(rng)
        return vocabulary.spoiled(rng, digest.encode()) if odd > 0.97 else vocabulary.escaped(rng, digest)

    def _query(self, pattern: str, method: str) -> bytes | None:
        rng = self._rng
        digest = rng.choice(
            (rng.choice(vocabulary.BAD_DIGESTS), vocabulary.absent(rng).encode(), vocabulary.digest_of(b"").encode())
        )
        if pattern == routes.UPLOAD and method == "PUT" and rng.random() < 0.85:
            return b"digest=" + digest
        if pattern == routes.UPLOADS and rng.random() < 0.8:
            kind = rng.randrange(4)
            if kind == 0:
                return b"mount=%s&from=%s" % (digest, rng.choice((b"x", b"..", self._scratch[0].encode(), b"%00", b"")))
            return b"digest=" + digest
        if pattern in {routes.TAGS, routes.CATALOG} and rng.random() < 0.7:
            return b"n=" + rng.choice(vocabulary.BAD_NUMBERS if rng.random() < 0.5 else vocabulary.GOOD_NUMBERS)
        if pattern == routes.MANIFEST and method == "PUT" and rng.random() < 0.2:
            return b"&".join(
                b"tag=" + rng.choice((*vocabulary.BAD_TAGS, b"v1", b"v2", b"latest")) for _ in range(rng.randint(1, 4))
            )
        return rng.choice(QUERIES) if rng.random() < 0.1 else None

    def _decorate(self, case: Case) -> str:
        """Headers; how the request signs in: right, wrong, not at all (none), or in two ways (either)."""
        rng = self._rng
        sign_in = rng.random()
        kind = "right"
        if sign_in < 0.9:
            case.headers.append(rng.choice(SPELLINGS) if sign_in < 0.1 else RIGHT)
        elif sign_in < 0.998:
            kind = "none"
            if sign_in > 0.94:
                case.headers.append((b"authorization", rng.choice(NO_CREDENTIALS)))
        elif sign_in > 0.999:
            kind = "either"  # HTTP leaves open which of two counts
            case.headers += rng.sample([RIGHT, (b"authorization", rng.choice(NO_CREDENTIALS))], 2)
        else:
            kind = "wrong"
            address = ".".join(str(rng.randrange(1, 250)) for _ in range(4)).encode()
            case.headers += [
                credentials(rng.choice((USER, "nobody", "", "\u00e4")), str(rng.random())),
                (b"x-forwarded-for", address),
            ]
            return kind
        if rng.random() < 0.3:
            case.headers += rng.choices(DECORATIONS, k=rng.randint(1, 3))
        if case.method in READING and rng.random() < 0.2:
            case.headers.append((b"range", rng.choice(RANGES)))
        if case.method in {"PATCH", "PUT", "POST"} and rng.random() < 0.3:
            case.headers.append((b"content-range", rng.choice(CONTENT_RANGES)))
        return kind

    def _body(self, case: Case, pattern: str) -> bool:
        """A body, where there may be one; whether it can be no manifest."""
        rng = self._rng
        if case.method not in {"PUT", "PATCH", "POST"} and rng.random() < 0.97:
            return True
        case.chunked = rng.random() < 0.15
        impossible = rng.random() < 0.9
        if pattern == routes.MANIFEST:
            case.body = bodies.impossible(rng) if impossible else bodies.possible(rng)
            if rng.random() < 0.5:
                case.headers.append((b"content-type", rng.choice(bodies.TYPES).encode()))
        else:
            case.body = rng.randbytes(rng.choice((0, 0, 1, 10, 100, 1000)))
        if rng.random() < 0.05:
            case.headers.append((b"expect", b"100-continue"))
        return impossible
