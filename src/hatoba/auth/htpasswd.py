"""Whether a password is right by the htpasswd file, which is re-read when it changes.

Owns the check of a password with its cache of verified credentials. The file's grammar is `htpasswd_file`; headers and
rights are `access`.
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import logging
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bcrypt

from hatoba.auth.htpasswd_file import COST, HtpasswdFile, checked_bytes
from hatoba.config.values import printable
from hatoba.errors import ConfigError, Unavailable

_WAIT_MOST = 512  # a quarter of a minute of bcrypt's time
# The coarsest clock of a file system (FAT). Two changes closer than that may leave the same times behind.
_SETTLE_SECONDS = 2.0


class Htpasswd:
    """Says whether a user's password is right, by the file at `path` as it is now. For one event loop.

    Each call stats the file and reads it when it changed: microseconds, on the loop's thread. A broken file is logged
    and the last good one stays in force; without a file nobody gets in. Credentials found right are kept for
    `keep_seconds`, the `keep_most` last used, by a keyed hash; a change of the file drops them. `check` is called as
    check(password, hash) on one of two threads, and more than `_WAIT_MOST` checks at a time are refused.
    """

    def __init__(
        self,
        path: Path,
        *,
        keep_seconds: float = 300.0,
        keep_most: int = 1024,
        check: Callable[[bytes, bytes], bool] = bcrypt.checkpw,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._keep_seconds = keep_seconds
        self._keep_most = keep_most
        self._check = check
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._log = logging.getLogger("hatoba.auth")
        self._pool: ThreadPoolExecutor | None = None
        self._flights: dict[bytes, asyncio.Future[bool]] = {}
        self._verified: OrderedDict[bytes, float] = OrderedDict()  # key of a credential: when it ends
        self._version: tuple[int, ...] | None = None
        self._seen = 0.0  # when this version was first met
        self._settled = False
        self._generation = 0
        self._users: dict[str, bytes] = {}
        self._decoy = _decoy(self._users)
        self._problem = ""

    def load(self) -> None:
        """Read the file now; raises ConfigError when it is missing or broken. For the server's start."""
        HtpasswdFile(self._path).load()
        self._refresh()

    async def verify(self, user: str, password: str) -> bool:
        """Whether this is the user's password; only its first 72 bytes count, as for every bcrypt htpasswd.

        Never raises, but Unavailable when `close` comes in between or too many checks wait already.
        """
        if "\0" in password:  # ends a password in C: what comes after it would not count
            return False
        while True:
            self._refresh()
            stored = self._users.get(user)
            key = self._key(user, password)
            if self._is_kept(key):
                return True
            flight = self._fly(key, checked_bytes(password), stored)
            # Unlike a plain await this does not end the check for the others when one of them goes away.
            await asyncio.wait([flight])
            if flight.cancelled():
                raise Unavailable("the registry is stopping")
            self._refresh()
            if self._users.get(user) == stored:  # else the file changed meanwhile: begin again
                return flight.result()

    def key_of(self, user: str, password: str) -> bytes:
        """What `is_verified` knows these credentials by, while the user's hash in the file stays the same."""
        self._refresh()
        return self._key(user, password)

    def _key(self, user: str, password: str) -> bytes:
        stored = self._users.get(user, self._decoy)
        # Unambiguous: a password holds no NUL and the hashes are all of one length.
        parts = (user.encode("utf-8", "surrogatepass"), b"\0", checked_bytes(password), stored)
        return hmac.digest(self._secret, b"".join(parts), "sha256")

    def is_verified(self, key: bytes) -> bool:
        """Whether the credentials behind `key` were found right, not too long ago, by the file as it still is."""
        self._refresh()
        return self._is_kept(key)

    def close(self) -> None:
        """End the threads: waits for the checks that run, and fails those that wait with Unavailable."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def _is_kept(self, key: bytes) -> bool:
        ends = self._verified.get(key)
        if ends is None:
            return False
        if self._clock() >= ends:
            del self._verified[key]
            return False
        self._verified.move_to_end(key)
        return True

    def _fly(self, key: bytes, password: bytes, stored: bytes | None) -> asyncio.Future[bool]:
        """The one check of these credentials that is under way; its outcome is remembered if it is good."""
        flight = self._flights.get(key)
        if flight is None:
            if len(self._flights) >= _WAIT_MOST:  # the last would hear of it when its client has given up
                raise Unavailable("too many sign-ins at a time", headers=(("Retry-After", "5"),))
            if self._pool is None:
                self._pool = ThreadPoolExecutor(2, thread_name_prefix="hatoba-bcrypt")
            # An unknown user costs as much time as a known one: how long the answer takes must not tell them apart.
            work = functools.partial(self._matches, password, stored or self._decoy, known=stored is not None)
            flight = asyncio.get_running_loop().run_in_executor(self._pool, work)
            flight.add_done_callback(functools.partial(self._landed, key, self._generation))
            self._flights[key] = flight
        return flight

    def _matches(self, password: bytes, stored: bytes, *, known: bool) -> bool:
        try:
            return self._check(password, stored) and known
        except ValueError:  # a hash that only looks like one of bcrypt's
            return False

    def _landed(self, key: bytes, generation: int, flight: asyncio.Future[bool]) -> None:
        del self._flights[key]
        if flight.cancelled() or flight.exception() is not None or not flight.result():
            return
        # What was asked before the file changed says nothing about the file of now.
        if generation == self._generation:
            self._verified[key] = self._clock() + self._keep_seconds
            self._verified.move_to_end(key)
            if len(self._verified) > self._keep_most:
                self._verified.popitem(last=False)

    def _refresh(self) -> None:
        """Take over the file as it is now. Never raises."""
        version = _version(self._path)
        if version == self._version and self._settled:
            return
        changed = version != self._version
        now = self._clock()
        if changed:
            self._version, self._seen = version, now
        # Until a file's times can tell the next change from the last one, its content is compared as well.
        self._settled = now - self._seen >= _SETTLE_SECONDS
        users, problem = self._users, ""
        try:
            entries = HtpasswdFile(self._path).entries() if version else {}
        except ConfigError as error:
            self._settled = False  # out of descriptors, perhaps: the same file may be readable the next time
            problem = f"{error.message}; {'the users read before stay in force' if users else 'nobody can log in'}"
        else:
            users = {user: stored for user, stored in entries.items() if stored is not None}
            if changed and (barred := len(entries) - len(users)):
                self._log.warning("%s: users locked out for want of a bcrypt hash: %d", printable(self._path), barred)
        if not version:
            problem = f"{printable(self._path)}: no such file; nobody can log in"
        if problem and (changed or problem != self._problem):
            self._log.error("%s", problem)
        self._problem = problem
        if changed or users != self._users:
            self._generation += 1
            self._verified.clear()
            self._users = users
            self._decoy = _decoy(users)


def _decoy(users: dict[str, bytes]) -> bytes:
    """A hash that no password has, as slow to check as the slowest of the file."""
    cost = max((int(stored[4:6]) for stored in users.values()), default=COST)
    return b"$2b$%02d$" % cost + b"." * 53


def _version(path: Path) -> tuple[int, ...]:
    """What changes whenever the file does (see `_SETTLE_SECONDS` for when it may not); empty without a file."""
    try:
        found = os.stat(path)  # noqa: PTH116  asked on every request, and Path.stat takes longer
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        return (error.errno or 0,)
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
