"""The decision: which headers let whom in, the challenge, and what the fast path does not do."""

import base64
import os

import bcrypt
import pytest

from hatoba.auth.access import Access, Actor, Anonymous, BasicAccess, Miss
from hatoba.auth.htpasswd import Htpasswd, HtpasswdFile
from hatoba.errors import Unauthorized


def basic(user: str, password: str, encoding: str = "utf-8") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode(encoding)).decode()


class Counted:
    def __init__(self):
        self.calls = 0

    def __call__(self, password, stored):
        self.calls += 1
        return bcrypt.checkpw(password, stored)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def path(tmp_path):
    return tmp_path / "htpasswd"


@pytest.fixture
def file(path):
    file = HtpasswdFile(path, cost=4)
    file.add("alice", "se:cret")
    file.add("zoë", "pässwort")
    return file


@pytest.fixture
def check():
    return Counted()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def users(path, file, check, clock):
    users = Htpasswd(path, check=check, clock=clock)
    yield users
    users.close()


@pytest.fixture
def access(users):
    return BasicAccess(users, "hatoba")


async def refused(access: Access, header: str | None) -> Unauthorized:
    assert access.cached(header) is Miss.MISS
    with pytest.raises(Unauthorized) as raised:
        await access.authorize(header, "pull", "library/alpine")
    assert access.cached(header) is Miss.MISS
    return raised.value


def test_actor():
    assert Actor().anonymous
    assert not Actor("alice").anonymous
    assert not Actor("").anonymous


@pytest.mark.parametrize("header", [None, "", "Basic !", "Bearer x", basic("alice", "x")])
async def test_anonymous_lets_everybody_do_everything(header):
    access: Access = Anonymous()
    for action in ("pull", "push", "delete", "catalog", "ping"):
        assert await access.authorize(header, action, None) is None
        assert access.cached(header) is None


class TestBasic:
    @pytest.mark.parametrize("action", ["pull", "push", "delete", "catalog", "ping"])
    async def test_every_user_has_every_right(self, access, action):
        header = basic("alice", "se:cret")
        assert await access.authorize(header, action, "a/b") == "alice"
        assert await access.authorize(header, action, None) == "alice"

    @pytest.mark.parametrize("scheme", ["Basic ", "basic ", "BASIC ", "Basic   "])
    async def test_the_scheme_in_any_case(self, access, scheme):
        header = scheme + basic("alice", "se:cret").removeprefix("Basic ")
        assert await access.authorize(header, "pull", None) == "alice"

    @pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
    async def test_utf_8_and_latin_1(self, access, encoding):
        assert await access.authorize(basic("zoë", "pässwort", encoding), "pull", None) == "zoë"

    @pytest.mark.parametrize(
        "header",
        [
            None,
            "",
            " ",
            "Basic",
            "Basic ",
            "Basic:YWxpY2U6c2U6Y3JldA==",
            "BasicYWxpY2U6c2U6Y3JldA==",
            "Bearer YWxpY2U6c2U6Y3JldA==",
            "Digest username=alice",
            "Basic YWxpY2U6c2U6Y3JldA",
            "Basic YWxpY2U6c2U6Y3JldA=",
            "Basic YWxpY2U6c2U6Y3JldA===",
            "Basic YWxpY2U6\nc2U6Y3JldA==",
            "Basic YWxpY2U6 c2U6Y3JldA==",
            "Basic YWxpY2U6c2U6Y3JldA==, Basic x",
            "Basic \u00e9\u20ac\udcff",
            "Basic ////",
            "Basic \0",
            "Basic " + base64.b64encode(b"alice").decode(),
            "Basic " + base64.b64encode(b"").decode(),
            "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode(),
            "Basic " + base64.b64encode(b":").decode(),
            "Basic " + "A" * 100_000,
            basic("alice", "wrong"),
            basic("alice", "se:cret\0"),
            basic("alice", ""),
            basic("", "se:cret"),
            basic("mallory", "se:cret"),
            basic("ALICE", "se:cret"),
        ],
    )
    async def test_anything_else_is_challenged(self, access, header):
        error = await refused(access, header)
        assert error.status == 401
        assert error.headers == (("WWW-Authenticate", 'Basic realm="hatoba"'),)

    async def test_a_name_without_colon_is_no_empty_password(self, access, path):
        path.write_bytes(b"empty:" + bcrypt.hashpw(b"", bcrypt.gensalt(4)) + b"\n")
        await refused(access, "Basic " + base64.b64encode(b"empty").decode())
        assert await access.authorize(basic("empty", ""), "pull", None) == "empty"

    async def test_the_error_repeats_nothing_of_the_header(self, access):
        error = await refused(access, basic("alice", "hunter2"))
        assert error.entries() == [{"code": "UNAUTHORIZED", "message": "authentication required"}]

    @pytest.mark.parametrize(
        ("realm", "quoted"),
        [
            ("Registry Realm", "Registry Realm"),
            ('my "own" one', r"my \"own\" one"),
            ("back\\slash", r"back\\slash"),
            ('\\"', r"\\\""),
            ("a\r\nSet-Cookie: x", "a??Set-Cookie: x"),
            ("波止場", "???"),
        ],
    )
    async def test_the_realm_is_always_a_legal_header(self, users, realm, quoted):
        error = await refused(BasicAccess(users, realm), None)
        assert error.headers == (("WWW-Authenticate", f'Basic realm="{quoted}"'),)


class TestCached:
    async def test_knows_the_header_after_the_first_time(self, access, check):
        header = basic("alice", "se:cret")
        assert access.cached(header) is Miss.MISS
        await access.authorize(header, "pull", None)
        assert access.cached(header) == "alice"
        assert access.cached(header + "=") is Miss.MISS
        assert access.cached(basic("alice", "wrong")) is Miss.MISS
        assert check.calls == 1

    async def test_ends_with_the_verified_credential(self, access, clock):
        header = basic("alice", "se:cret")
        await access.authorize(header, "pull", None)
        clock.now += 299.9
        assert access.cached(header) == "alice"
        clock.now += 0.2
        assert access.cached(header) is Miss.MISS

    async def test_ends_when_the_user_is_removed(self, access, file):
        header = basic("alice", "se:cret")
        await access.authorize(header, "pull", None)
        file.remove("alice")
        await refused(access, header)

    async def test_ends_when_the_password_changes(self, access, file):
        header = basic("alice", "se:cret")
        await access.authorize(header, "pull", None)
        file.add("alice", "changed")
        await refused(access, header)
        assert await access.authorize(basic("alice", "changed"), "pull", None) == "alice"

    async def test_ends_when_the_file_is_removed(self, access, path):
        header = basic("alice", "se:cret")
        await access.authorize(header, "pull", None)
        path.unlink()
        await refused(access, header)

    async def test_any_change_asks_bcrypt_again(self, access, path, check):
        header = basic("alice", "se:cret")
        await access.authorize(header, "pull", None)
        os.utime(path, ns=(0, 0))
        assert access.cached(header) is Miss.MISS
        assert await access.authorize(header, "pull", None) == "alice"
        assert access.cached(header) == "alice"
        assert check.calls == 2

    async def test_two_spellings_of_one_credential_share_a_check(self, access, check):
        await access.authorize(basic("zoë", "pässwort"), "pull", None)
        await access.authorize(basic("zoë", "pässwort", "latin-1"), "pull", None)
        assert check.calls == 1

    async def test_the_least_used_header_goes_first(self, users):
        access = BasicAccess(users, "hatoba", keep_most=2)
        first, second, third = basic("alice", "se:cret"), basic("zoë", "pässwort"), basic("zoë", "pässwort", "latin-1")
        await access.authorize(first, "pull", None)
        await access.authorize(second, "pull", None)
        assert access.cached(first) == "alice"
        await access.authorize(third, "pull", None)
        assert access.cached(second) is Miss.MISS
        assert access.cached(first) == "alice"
        assert access.cached(third) == "zoë"

    async def test_nothing_of_a_credential_is_kept(self, access, users):
        header = basic("alice", "se:cret")
        await access.authorize(header, "pull", None)
        kept = repr([vars(access), vars(users)])
        for secret in ("se:cret", header, header.removeprefix("Basic ")):
            assert secret not in kept
