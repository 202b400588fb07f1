"""The decision: which headers let whom in, the challenge, and what the fast path does not do."""

import asyncio
import base64
import contextlib
import os
import threading

import bcrypt
import pytest

from hatoba.auth import htpasswd
from hatoba.auth.access import Access, Anonymous, BasicAccess, Miss
from hatoba.auth.guesses import Guesses
from hatoba.auth.htpasswd import Htpasswd
from hatoba.auth.htpasswd_file import HtpasswdFile
from hatoba.errors import TooManyRequests, Unauthorized, Unavailable
from hatoba.metrics.catalogue import CREDENTIAL_CHECKS, OUTCOMES
from hatoba.metrics.cells import Recorder

ADDRESS = "203.0.113.9"
ELSEWHERE = "198.51.100.1"


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
def access(users, clock):
    return BasicAccess(users, "hatoba", Guesses(clock=clock))


async def refused(access: Access, header: str | None) -> Unauthorized:
    assert access.cached(header, ADDRESS) is Miss.MISS
    with pytest.raises(Unauthorized) as raised:
        await access.authorize(header, "pull", "library/alpine", ADDRESS)
    assert access.cached(header, ADDRESS) is Miss.MISS
    return raised.value


@pytest.mark.parametrize("header", [None, "", "Basic !", "Bearer x", basic("alice", "x")])
async def test_anonymous_lets_everybody_do_everything(header):
    access: Access = Anonymous()
    for action in ("pull", "push", "delete", "catalog", "ping"):
        assert await access.authorize(header, action, None, ADDRESS) is None
        assert access.cached(header, ADDRESS) is None


class TestBasic:
    @pytest.mark.parametrize("action", ["pull", "push", "delete", "catalog", "ping"])
    async def test_every_user_has_every_right(self, access, action):
        header = basic("alice", "se:cret")
        assert await access.authorize(header, action, "a/b", ADDRESS) == "alice"
        assert await access.authorize(header, action, None, ADDRESS) == "alice"

    @pytest.mark.parametrize("scheme", ["Basic ", "basic ", "BASIC ", "Basic   "])
    async def test_the_scheme_in_any_case(self, access, scheme):
        header = scheme + basic("alice", "se:cret").removeprefix("Basic ")
        assert await access.authorize(header, "pull", None, ADDRESS) == "alice"

    @pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
    async def test_utf_8_and_latin_1(self, access, encoding):
        assert await access.authorize(basic("zoë", "pässwort", encoding), "pull", None, ADDRESS) == "zoë"

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
        assert await access.authorize(basic("empty", ""), "pull", None, ADDRESS) == "empty"

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
        error = await refused(BasicAccess(users, realm, Guesses()), None)
        assert error.headers == (("WWW-Authenticate", f'Basic realm="{quoted}"'),)


class TestCached:
    async def test_knows_the_header_after_the_first_time(self, access, check):
        header = basic("alice", "se:cret")
        assert access.cached(header, ADDRESS) is Miss.MISS
        await access.authorize(header, "pull", None, ADDRESS)
        assert access.cached(header, ADDRESS) == "alice"
        assert access.cached(header + "=", ADDRESS) is Miss.MISS
        assert access.cached(basic("alice", "wrong"), ADDRESS) is Miss.MISS
        assert check.calls == 1

    async def test_ends_with_the_verified_credential(self, access, clock):
        header = basic("alice", "se:cret")
        await access.authorize(header, "pull", None, ADDRESS)
        clock.now += 299.9
        assert access.cached(header, ADDRESS) == "alice"
        clock.now += 0.2
        assert access.cached(header, ADDRESS) is Miss.MISS

    async def test_ends_when_the_user_is_removed(self, access, file):
        header = basic("alice", "se:cret")
        await access.authorize(header, "pull", None, ADDRESS)
        file.remove("alice")
        await refused(access, header)

    async def test_ends_when_the_password_changes(self, access, file):
        header = basic("alice", "se:cret")
        await access.authorize(header, "pull", None, ADDRESS)
        file.add("alice", "changed")
        await refused(access, header)
        assert await access.authorize(basic("alice", "changed"), "pull", None, ADDRESS) == "alice"

    async def test_ends_when_the_file_is_removed(self, access, path):
        header = basic("alice", "se:cret")
        await access.authorize(header, "pull", None, ADDRESS)
        path.unlink()
        await refused(access, header)

    async def test_any_change_asks_bcrypt_again(self, access, path, check):
        header = basic("alice", "se:cret")
        await access.authorize(header, "pull", None, ADDRESS)
        os.utime(path, ns=(0, 0))
        assert access.cached(header, ADDRESS) is Miss.MISS
        assert await access.authorize(header, "pull", None, ADDRESS) == "alice"
        assert access.cached(header, ADDRESS) == "alice"
        assert check.calls == 2

    async def test_two_spellings_of_one_credential_share_a_check(self, access, check):
        await access.authorize(basic("zoë", "pässwort"), "pull", None, ADDRESS)
        await access.authorize(basic("zoë", "pässwort", "latin-1"), "pull", None, ADDRESS)
        assert check.calls == 1

    async def test_the_least_used_header_goes_first(self, users):
        access = BasicAccess(users, "hatoba", Guesses(), keep_most=2)
        first, second, third = basic("alice", "se:cret"), basic("zoë", "pässwort"), basic("zoë", "pässwort", "latin-1")
        await access.authorize(first, "pull", None, ADDRESS)
        await access.authorize(second, "pull", None, ADDRESS)
        assert access.cached(first, ADDRESS) == "alice"
        await access.authorize(third, "pull", None, ADDRESS)
        assert access.cached(second, ADDRESS) is Miss.MISS
        assert access.cached(first, ADDRESS) == "alice"
        assert access.cached(third, ADDRESS) == "zoë"

    async def test_nothing_of_a_credential_is_kept(self, access, users):
        header = basic("alice", "se:cret")
        await access.authorize(header, "pull", None, ADDRESS)
        kept = repr([vars(access), vars(users)])
        for secret in ("se:cret", header, header.removeprefix("Basic ")):
            assert secret not in kept


async def test_each_sign_in_is_counted_by_its_outcome(users, clock, monkeypatch):
    recorder = Recorder.unshared()
    access = BasicAccess(users, "hatoba", Guesses(most=2, clock=clock), recorder=recorder)

    async def ask(password):
        with contextlib.suppress(Unauthorized, TooManyRequests, Unavailable):
            await access.authorize(basic("alice", password), "pull", None, ADDRESS)
        return [recorder.cells[recorder.index(CREDENTIAL_CHECKS, outcome)] for outcome in OUTCOMES]

    assert await ask("se:cret") == [1, 0, 0, 0]
    assert await ask("se:cret") == [1, 0, 0, 0], "known by now"
    monkeypatch.setattr(htpasswd, "_WAIT_MOST", 0)
    assert await ask("wrong") == [1, 0, 0, 1]
    monkeypatch.undo()
    for wrong in (1, 2):
        assert await ask(f"wrong{wrong}") == [1, wrong, 0, 1]
    assert await ask("wrong3") == [1, 2, 1, 1]


class TestGuessing:
    async def closed(self, access, header, address=ADDRESS) -> int:
        """Refused without a check; how long for."""
        with pytest.raises(TooManyRequests) as raised:
            await access.authorize(header, "pull", None, address)
        assert (raised.value.status, raised.value.code) == (429, "TOOMANYREQUESTS")
        ((name, seconds),) = raised.value.headers
        assert name == "Retry-After"
        return int(seconds)

    async def fail(self, access, user="alice", times=10, address=ADDRESS):
        for number in range(times):
            with pytest.raises(Unauthorized):
                await access.authorize(basic(user, f"wrong{number}"), "pull", None, address)

    @pytest.mark.parametrize("user", ["alice", "mallory", "", "b\u00f6b"])
    async def test_ten_a_minute_whether_the_account_exists_or_not(self, access, check, clock, user):
        await self.fail(access, user)
        assert check.calls == 10
        assert await self.closed(access, basic(user, "wrong")) == 60
        clock.now += 59.5
        assert await self.closed(access, basic(user, "wrong")) == 1
        assert check.calls == 10
        clock.now += 0.5
        await self.fail(access, user)
        assert await self.closed(access, basic(user, "wrong")) == 60

    async def test_the_same_wrong_password_counts_each_time(self, access):
        for _ in range(10):
            await refused(access, basic("alice", "old"))
        await self.closed(access, basic("alice", "old"))

    async def test_the_minute_slides(self, access, clock):
        await self.fail(access, times=5)
        clock.now += 30
        await self.fail(access, times=5)
        assert await self.closed(access, basic("alice", "wrong")) == 30
        clock.now += 30
        await self.fail(access, times=5)
        assert await self.closed(access, basic("alice", "wrong")) == 30

    async def test_a_right_password_is_refused_until_the_minute_is_over(self, access, check, clock):
        header = basic("alice", "se:cret")
        await self.fail(access)
        assert await self.closed(access, header) == 60
        assert check.calls == 10
        clock.now += 60
        assert await access.authorize(header, "pull", None, ADDRESS) == "alice"

    async def test_what_was_right_from_there_stays_so(self, access, check):
        header = basic("zoë", "pässwort")
        await access.authorize(header, "pull", None, ADDRESS)
        await self.fail(access, "zoë")
        await self.closed(access, basic("zoë", "wrong"))
        assert access.cached(header, ADDRESS) == "zoë"
        assert await access.authorize(header, "pull", None, ADDRESS) == "zoë"
        assert await access.authorize(basic("zoë", "pässwort", "latin-1"), "pull", None, ADDRESS) == "zoë"
        assert check.calls == 11

    async def test_also_when_it_was_taken_there_unchecked(self, access, check):
        header = basic("alice", "se:cret")
        await access.authorize(header, "pull", None, ELSEWHERE)
        assert access.cached(header, ADDRESS) is Miss.MISS
        await access.authorize(header, "pull", None, ADDRESS)
        assert check.calls == 1
        await self.fail(access)
        assert await access.authorize(header, "pull", None, ADDRESS) == "alice"

    async def test_also_when_it_must_be_checked_again(self, access, clock, file):
        header = basic("alice", "se:cret")
        await access.authorize(header, "pull", None, ADDRESS)
        clock.now += 290
        await self.fail(access)
        clock.now += 20
        assert await access.authorize(header, "pull", None, ADDRESS) == "alice"
        file.add("bob", "another")
        assert await access.authorize(header, "pull", None, ADDRESS) == "alice"
        file.add("alice", "changed")
        await self.closed(access, header)

    async def test_nobody_learns_of_a_password_that_is_used_elsewhere(self, access, check):
        header = basic("alice", "se:cret")
        await access.authorize(header, "pull", None, ELSEWHERE)
        await self.fail(access)
        assert access.cached(header, ADDRESS) is Miss.MISS
        assert await self.closed(access, header) == 60
        assert await access.authorize(header, "pull", None, ELSEWHERE) == "alice"
        assert check.calls == 11

    async def test_nor_by_guesses_that_were_too_many_to_be_checked(self, access, monkeypatch):
        header = basic("alice", "se:cret")
        with monkeypatch.context() as patched:
            patched.setattr(htpasswd, "_WAIT_MOST", 0)
            with pytest.raises(Unavailable):
                await access.authorize(header, "pull", None, ADDRESS)
        await access.authorize(header, "pull", None, ELSEWHERE)
        await self.fail(access)
        await self.closed(access, header)

    async def test_other_accounts_and_addresses_stay_open(self, access):
        await self.fail(access)
        assert await access.authorize(basic("alice", "se:cret"), "pull", None, ELSEWHERE) == "alice"
        assert await access.authorize(basic("zoë", "pässwort"), "pull", None, ADDRESS) == "zoë"

    async def test_no_credentials_are_no_failure(self, access):
        for header in (None, "", "Basic !", "Bearer x") * 10:
            await refused(access, header)
        assert await access.authorize(basic("alice", "se:cret"), "pull", None, ADDRESS) == "alice"

    async def test_successes_are_no_failures(self, access, clock):
        for _ in range(20):
            await access.authorize(basic("alice", "se:cret"), "pull", None, ADDRESS)
            clock.now += 300.1  # the cache has forgotten it
            await self.fail(access, times=1)

    async def test_many_at_once_are_not_let_through(self, access, check):
        headers = [basic("alice", f"wrong{number}") for number in range(50)]
        outcomes = await asyncio.gather(
            *(access.authorize(header, "pull", None, ADDRESS) for header in headers), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [Unauthorized] * 10 + [TooManyRequests] * 40
        assert check.calls == 10
        assert await self.closed(access, headers[0]) == 60

    async def test_one_client_may_ask_for_many_things_at_once(self, access, check):
        header = basic("alice", "se:cret")
        asked = [access.authorize(header, "pull", None, ADDRESS) for _ in range(50)]
        assert await asyncio.gather(*asked) == ["alice"] * 50
        assert check.calls == 1

    async def test_a_guess_whose_client_goes_away_counts(self, access):
        for number in range(10):
            asking = asyncio.create_task(access.authorize(basic("alice", f"wrong{number}"), "pull", None, ADDRESS))
            await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        await self.closed(access, basic("alice", "se:cret"))

    async def test_what_was_not_checked_does_not_count(self, access, check, monkeypatch):
        monkeypatch.setattr(htpasswd, "_WAIT_MOST", 0)
        for number in range(20):
            with pytest.raises(Unavailable) as raised:
                await access.authorize(basic("alice", f"wrong{number}"), "pull", None, ADDRESS)
            assert raised.value.headers == (("Retry-After", "5"),)
        assert check.calls == 0

    async def test_nothing_of_a_guess_is_kept_or_told(self, access):
        await self.fail(access)
        with pytest.raises(TooManyRequests) as raised:
            await access.authorize(basic("alice", "hunter2"), "pull", None, ADDRESS)
        kept = repr(vars(access._guesses)) + repr(raised.value.entries())
        for secret in ("alice", "wrong", "hunter2", ADDRESS):
            assert secret not in kept


class TestFlood:
    @pytest.mark.usefixtures("file")
    async def test_does_not_slow_users_whose_credentials_are_cached(self, path, clock):
        gate = threading.Event()
        gate.set()

        def check(password, stored):
            assert gate.wait(10)
            return bcrypt.checkpw(password, stored)

        users = Htpasswd(path, check=check, clock=clock)
        access = BasicAccess(users, "hatoba", Guesses(clock=clock))
        header = basic("alice", "se:cret")
        await access.authorize(header, "pull", None, ADDRESS)
        gate.clear()
        flood = [
            asyncio.create_task(access.authorize(basic(f"user{number}", "wrong"), "pull", None, ADDRESS))
            for number in range(300)
        ]
        await asyncio.sleep(0.05)
        for _ in range(100):  # while no check comes to its end
            assert access.cached(header, ADDRESS) == "alice"
            assert await asyncio.wait_for(access.authorize(header, "pull", None, ADDRESS), 1) == "alice"
        assert not any(asked.done() for asked in flood)
        gate.set()
        outcomes = await asyncio.gather(*flood, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {Unauthorized}
        users.close()
