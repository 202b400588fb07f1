"""The check of passwords: how often bcrypt runs, what is remembered, and what a change of the file does."""

import asyncio
import logging
import os
import threading
from types import SimpleNamespace

import bcrypt
import pytest

from hatoba.auth import htpasswd
from hatoba.auth.htpasswd import Htpasswd
from hatoba.auth.htpasswd_file import HtpasswdFile
from hatoba.errors import ConfigError, Unavailable


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Check:
    """Counts what bcrypt is asked; while `gate` is closed the answers wait."""

    def __init__(self):
        self.calls = []
        self.threads = set()
        self.gate = threading.Event()
        self.gate.set()
        self.running = self.most = 0
        self.lock = threading.Lock()

    def __call__(self, password, stored):
        with self.lock:
            self.calls.append((password, stored))
            self.threads.add(threading.current_thread())
            self.running += 1
            self.most = max(self.most, self.running)
        assert self.gate.wait(10)
        with self.lock:
            self.running -= 1
        return bcrypt.checkpw(password, stored)

    async def called(self, times):
        async with asyncio.timeout(10):
            while len(self.calls) < times:  # noqa: ASYNC110  the check counts on a thread
                await asyncio.sleep(0.001)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "htpasswd"


@pytest.fixture
def file(path):
    file = HtpasswdFile(path, cost=4)
    file.add("alice", "secret")
    return file


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def check():
    return Check()


@pytest.fixture
def users(path, file, check, clock):
    users = Htpasswd(path, check=check, clock=clock)
    yield users
    check.gate.set()
    users.close()


@pytest.fixture
def errors(caplog):
    caplog.set_level(logging.WARNING, "hatoba.auth")
    return lambda: [(record.levelname, record.getMessage()) for record in caplog.records]


class TestVerify:
    async def test_right_and_wrong(self, users):
        assert await users.verify("alice", "secret")
        assert not await users.verify("alice", "Secret")
        assert not await users.verify("alice", "")
        assert not await users.verify("Alice", "secret")
        assert not await users.verify("", "secret")

    @pytest.mark.usefixtures("file")
    async def test_bcrypt_itself_is_the_usual_check(self, path):
        users = Htpasswd(path)
        assert await users.verify("alice", "secret")
        assert not await users.verify("alice", "wrong")
        users.close()

    async def test_other_hashes_never_match(self, path, users, errors):
        path.write_text("alice:secret\nbob:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n")
        assert not await users.verify("alice", "secret")
        assert not await users.verify("bob", "secret")
        assert errors() == [("WARNING", f"{path}: users locked out for want of a bcrypt hash: 2")]

    async def test_only_the_first_72_bytes_count(self, path, users):
        HtpasswdFile(path, cost=4).add("long", "x" * 72)
        assert await users.verify("long", "x" * 72)
        assert await users.verify("long", "x" * 100)
        assert not await users.verify("long", "x" * 71)
        assert not await users.verify("long", "x" * 71 + "y" * 20)

    async def test_nul_never_matches_and_costs_nothing(self, users, check):
        assert not await users.verify("alice", "secret\0")
        assert not await users.verify("alice", "secret\0x")
        assert not await users.verify("alice", "\0")
        assert check.calls == []

    async def test_a_nul_in_the_name_cannot_pose_as_another_pair(self, users):
        assert await users.verify("alice", "secret")
        assert not await users.verify("alice\0secret", "")
        assert not await users.verify("alice\0", "secret")

    async def test_text_that_is_no_unicode(self, users):
        assert not await users.verify("\udcff", "\ud800")
        assert not await users.verify("alice", "\ud800")

    @pytest.mark.usefixtures("file")
    async def test_a_hash_that_only_looks_like_one(self, path):
        def fail(_password, _stored):
            raise ValueError("Invalid salt")

        users = Htpasswd(path, check=fail)
        assert not await users.verify("alice", "secret")
        users.close()

    async def test_an_unknown_user_costs_one_check_at_the_highest_cost(self, path, users, check):
        HtpasswdFile(path, cost=6).add("bob", "secret")
        HtpasswdFile(path, cost=5).add("carol", "secret")
        assert not await users.verify("mallory", "secret")
        ((password, stored),) = check.calls
        assert password == b"secret"
        assert stored[4:6] == b"06"
        assert bcrypt.checkpw(b"secret", stored) is False

    @pytest.mark.usefixtures("file")
    async def test_a_check_that_says_yes_lets_no_unknown_user_in(self, path):
        users = Htpasswd(path, check=lambda *_: True)
        assert not await users.verify("mallory", "secret")
        assert not await users.verify("mallory", "secret")
        assert not users.is_verified(users.key_of("mallory", "secret"))
        users.close()


class TestRemembered:
    async def test_one_check_for_many_logins(self, users, check):
        for _ in range(20):
            assert await users.verify("alice", "secret")
        assert len(check.calls) == 1

    async def test_a_wrong_password_is_checked_every_time(self, users, check):
        await users.verify("alice", "secret")
        for _ in range(3):
            assert not await users.verify("alice", "wrong")
        assert len(check.calls) == 4

    async def test_five_minutes_and_no_longer_however_often_it_is_used(self, users, check, clock):
        await users.verify("alice", "secret")
        for _ in range(299):
            clock.now += 1
            assert await users.verify("alice", "secret")
        assert len(check.calls) == 1
        clock.now += 1
        key = users.key_of("alice", "secret")
        assert not users.is_verified(key)
        assert await users.verify("alice", "secret")
        assert len(check.calls) == 2
        assert users.is_verified(key)

    async def test_the_least_used_goes_first(self, path, file, check, clock):
        for user in ("bob", "carol"):
            file.add(user, "secret")
        users = Htpasswd(path, keep_most=2, check=check, clock=clock)
        for user in ("alice", "bob", "alice", "carol"):
            await users.verify(user, "secret")
        assert len(check.calls) == 3
        await users.verify("alice", "secret")
        assert len(check.calls) == 3
        await users.verify("bob", "secret")
        assert len(check.calls) == 4
        users.close()

    async def test_keys_are_the_processs_own_and_hold_no_password(self, users, path, check):
        other = Htpasswd(path, check=check)
        await users.verify("alice", "secret")
        users.load()
        other.load()
        assert users.key_of("alice", "secret") != other.key_of("alice", "secret")
        assert not other.is_verified(users.key_of("alice", "secret"))
        assert "secret" not in repr(list(vars(users).values()))


class TestTogether:
    async def test_the_same_credentials_share_a_check(self, users, check):
        check.gate.clear()
        logins = [asyncio.create_task(users.verify("alice", "secret")) for _ in range(50)]
        wrong = [asyncio.create_task(users.verify("alice", "wrong")) for _ in range(50)]
        await check.called(2)
        check.gate.set()
        assert await asyncio.gather(*logins) == [True] * 50
        assert await asyncio.gather(*wrong) == [False] * 50
        assert len(check.calls) == 2

    async def test_two_at_a_time(self, users, check):
        check.gate.clear()
        logins = [asyncio.create_task(users.verify("alice", f"wrong{n}")) for n in range(6)]
        await check.called(2)
        await asyncio.sleep(0.05)
        assert len(check.calls) == 2
        check.gate.set()
        await asyncio.gather(*logins)
        assert check.most == 2
        assert threading.main_thread() not in check.threads

    async def test_only_so_many_wait(self, users, check, monkeypatch):
        monkeypatch.setattr(htpasswd, "_WAIT_MOST", 4)
        assert await users.verify("alice", "secret")
        check.gate.clear()
        logins = [asyncio.create_task(users.verify("alice", f"wrong{n}")) for n in range(4)]
        await check.called(3)
        same = asyncio.create_task(users.verify("alice", "wrong3"))
        with pytest.raises(Unavailable, match="too many sign-ins at a time"):
            await users.verify("alice", "wrong4")
        assert await users.verify("alice", "secret")  # is cached
        check.gate.set()
        assert await asyncio.gather(*logins, same) == [False] * 5
        assert not await users.verify("alice", "wrong4")

    async def test_whoever_goes_away_takes_nobody_along(self, users, check):
        check.gate.clear()
        first = asyncio.create_task(users.verify("alice", "secret"))
        second = asyncio.create_task(users.verify("alice", "secret"))
        await check.called(1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        third = asyncio.create_task(users.verify("alice", "secret"))
        await asyncio.sleep(0)
        check.gate.set()
        assert await second
        assert await third
        assert len(check.calls) == 1

    async def test_a_check_that_nobody_waits_for_any_more_is_not_lost(self, users, check):
        check.gate.clear()
        login = asyncio.create_task(users.verify("alice", "secret"))
        await check.called(1)
        login.cancel()
        with pytest.raises(asyncio.CancelledError):
            await login
        check.gate.set()
        assert await users.verify("alice", "secret")
        assert len(check.calls) == 1


class TestChange:
    async def test_a_changed_password_counts_at_once(self, path, users, check, clock):
        assert await users.verify("alice", "secret")
        clock.now += 10  # from now on only the file's times give a change away
        assert await users.verify("alice", "secret")
        HtpasswdFile(path, cost=4).add("alice", "changed")
        assert not users.is_verified(users.key_of("alice", "secret"))
        assert not await users.verify("alice", "secret")
        assert await users.verify("alice", "changed")
        assert len(check.calls) == 3

    async def test_a_change_drops_what_was_remembered_even_of_others(self, path, users, check):
        await users.verify("alice", "secret")
        HtpasswdFile(path, cost=4).add("bob", "secret")
        assert await users.verify("alice", "secret")
        assert len(check.calls) == 2

    async def test_a_removed_user_is_out(self, path, users):
        HtpasswdFile(path, cost=4).add("bob", "secret")
        assert await users.verify("alice", "secret")
        HtpasswdFile(path).remove("alice")
        assert not await users.verify("alice", "secret")
        assert await users.verify("bob", "secret")

    async def test_a_file_with_the_old_size_and_modification_time_is_a_change(self, path, users, clock):
        users.load()
        clock.now += 10  # from now on only the file's times give a change away
        users.load()
        before = path.stat()
        other = HtpasswdFile(path.with_name("other"), cost=4)
        other.add("alice", "changed")
        path.write_bytes(path.with_name("other").read_bytes())
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        after = path.stat()
        assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
        assert await users.verify("alice", "changed")

    @pytest.mark.parametrize("field", ["st_mtime_ns", "st_ctime_ns", "st_size", "st_ino"])
    def test_each_of_the_files_numbers_is_looked_at(self, path, monkeypatch, field):
        numbers = dict.fromkeys(("st_mtime_ns", "st_ctime_ns", "st_size", "st_ino"), 1)
        monkeypatch.setattr(os, "stat", lambda _path: SimpleNamespace(**numbers))
        before = htpasswd._version(path)
        assert htpasswd._version(path) == before
        numbers[field] = 2
        assert htpasswd._version(path) != before

    async def test_a_change_too_fast_for_the_files_clock_is_seen(self, file, users, clock, monkeypatch):
        # Same size, same inode, same tick: as if the file system counted in seconds.
        frozen = (1, 2, 3, 4)
        monkeypatch.setattr("hatoba.auth.htpasswd._version", lambda _path: frozen)
        assert await users.verify("alice", "secret")
        file.add("alice", "changed")
        clock.now += 1.9
        assert not await users.verify("alice", "secret")
        assert await users.verify("alice", "changed")
        file.add("alice", "again")
        clock.now += 60  # nobody asked in between: still seen
        assert not await users.verify("alice", "changed")

    async def test_a_settled_file_is_not_read_again(self, users, clock, monkeypatch):
        await users.verify("alice", "secret")
        clock.now += 3
        await users.verify("alice", "secret")
        monkeypatch.setattr(HtpasswdFile, "entries", lambda _self: pytest.fail("read"))
        assert await users.verify("alice", "secret")

    async def test_reading_an_unchanged_file_keeps_what_is_remembered(self, users, check, clock):
        await users.verify("alice", "secret")
        for _ in range(5):
            clock.now += 1
            assert await users.verify("alice", "secret")
        assert len(check.calls) == 1

    async def test_a_broken_file_leaves_the_last_good_one_in_force(self, path, users, errors, clock):
        assert await users.verify("alice", "secret")
        path.write_text("hunter2\n")
        for _ in range(5):
            clock.now += 1
            assert await users.verify("alice", "secret")
        message = f"{path}: line 1: there is no colon after a user's name; the users read before stay in force"
        assert errors() == [("ERROR", message)]
        path.write_text("hunter22\n")
        assert await users.verify("alice", "secret")
        assert errors() == [("ERROR", message)] * 2
        HtpasswdFile(path.with_name("good"), cost=4).add("bob", "secret")
        path.with_name("good").replace(path)
        assert await users.verify("bob", "secret")
        assert not await users.verify("alice", "secret")
        assert len(errors()) == 2

    async def test_broken_from_the_start_lets_nobody_in(self, path, users, errors):
        path.write_text("hunter2\n")
        assert not await users.verify("alice", "secret")
        assert errors() == [("ERROR", f"{path}: line 1: there is no colon after a user's name; nobody can log in")]

    async def test_a_removed_file_lets_nobody_in(self, path, users, errors, clock):
        assert await users.verify("alice", "secret")
        content = path.read_bytes()
        path.unlink()
        for _ in range(5):
            clock.now += 1
            assert not await users.verify("alice", "secret")
        assert not users.is_verified(users.key_of("alice", "secret"))
        assert errors() == [("ERROR", f"{path}: no such file; nobody can log in")]
        path.write_bytes(content)
        assert await users.verify("alice", "secret")
        assert len(errors()) == 1

    async def test_a_file_that_could_not_be_read_once_is_read_later(self, file, users, clock, monkeypatch):
        assert await users.verify("alice", "secret")
        file.add("alice", "changed")
        entries = HtpasswdFile.entries

        def exhausted(_self):
            raise ConfigError("too many open files")

        monkeypatch.setattr(HtpasswdFile, "entries", exhausted)
        clock.now += 1
        await users.verify("alice", "secret")
        clock.now += 10
        await users.verify("alice", "secret")
        monkeypatch.setattr(HtpasswdFile, "entries", entries)
        clock.now += 10
        assert not await users.verify("alice", "secret")
        assert await users.verify("alice", "changed")

    async def test_a_login_from_before_a_change_is_not_remembered_after_it(self, path, users, check):
        check.gate.clear()
        login = asyncio.create_task(users.verify("alice", "secret"))
        await check.called(1)
        os.utime(path, ns=(0, 0))  # the content stays
        other = asyncio.create_task(users.verify("bob", "secret"))
        await check.called(2)
        check.gate.set()
        assert await login
        await other
        assert not users.is_verified(users.key_of("alice", "secret"))
        assert await users.verify("alice", "secret")
        assert len(check.calls) == 3

    @pytest.mark.parametrize("noticed", [True, False])
    async def test_a_user_removed_during_the_login_is_refused(self, file, users, check, noticed):
        file.add("bob", "secret")
        check.gate.clear()
        login = asyncio.create_task(users.verify("alice", "secret"))
        await check.called(1)
        key = users.key_of("alice", "secret")
        file.remove("alice")
        if noticed:
            assert not users.is_verified(key)
        check.gate.set()
        assert not await login
        assert not users.is_verified(key)

    async def test_a_password_hashed_anew_during_the_login_is_checked_again(self, file, users, check):
        check.gate.clear()
        login = asyncio.create_task(users.verify("alice", "secret"))
        await check.called(1)
        file.add("alice", "secret")
        check.gate.set()
        assert await login
        assert len(check.calls) == 2

    async def test_logins_after_a_change_do_not_wait_for_one_from_before(self, file, users, check):
        check.gate.clear()
        before = asyncio.create_task(users.verify("alice", "changed"))
        await check.called(1)
        file.add("alice", "changed")
        after = asyncio.create_task(users.verify("alice", "changed"))
        await check.called(2)
        assert check.calls[0][1] != check.calls[1][1]
        check.gate.set()
        assert await after
        assert await before


class TestLife:
    def test_making_one_touches_nothing(self, tmp_path):
        threads = threading.active_count()
        Htpasswd(tmp_path / "nowhere" / "htpasswd").close()
        assert threading.active_count() == threads

    def test_load_says_what_is_wrong(self, tmp_path, path):
        with pytest.raises(ConfigError, match="no such file"):
            Htpasswd(tmp_path / "missing").load()
        path.write_text("x\n")
        with pytest.raises(ConfigError, match="line 1"):
            Htpasswd(path).load()

    async def test_close_ends_the_threads_and_may_be_repeated(self, users, check):
        assert await users.verify("alice", "secret")
        assert any(thread.is_alive() for thread in check.threads)
        users.close()
        assert not any(thread.is_alive() for thread in check.threads)
        users.close()

    async def test_a_login_that_close_comes_before_is_told(self, users, check):
        check.gate.clear()
        logins = [asyncio.create_task(users.verify("alice", f"wrong{n}")) for n in range(4)]
        await check.called(2)
        asyncio.get_running_loop().call_later(0.05, check.gate.set)
        closing = asyncio.create_task(asyncio.to_thread(users.close))
        outcomes = await asyncio.gather(*logins, return_exceptions=True)
        await closing
        assert outcomes[:2] == [False, False]
        assert [type(outcome) for outcome in outcomes[2:]] == [Unavailable, Unavailable]
