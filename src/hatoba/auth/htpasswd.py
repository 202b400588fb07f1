"""The htpasswd file, Docker's way: bcrypt lines only, re-read when it changes.

Owns the file's grammar, the edits that `hatoba users` makes to it, and the check of a password with its cache of
verified credentials. Does not know headers or rights: that is `access`. Hashes and passwords never get into a message.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import errno
import fcntl
import functools
import hmac
import logging
import os
import re
import secrets
import stat
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bcrypt

from hatoba.config.values import printable
from hatoba.errors import ConfigError, Unavailable
from hatoba.folders import make_durably

_BCRYPT = re.compile(r"\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")
_COST = 10  # what Docker's registry takes; 60 ms or so
_WAIT_MOST = 512  # a quarter of a minute of bcrypt's time
_BCRYPT_BYTES = 72  # bcrypt looks at no more of a password
_NAME_BYTES = 255
# Without 0, O, 1, l and I: people copy it from a terminal. 24 of 57 characters are 139 bits.
_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
# Why a file may be writable but not replaceable: a mount point, a folder that is read-only or not ours, an owner
# that cannot be given to the new file.
_NOT_REPLACEABLE = {errno.EBUSY, errno.EXDEV, errno.EROFS, errno.EACCES, errno.EPERM}
# The coarsest clock of a file system (FAT). Two changes closer than that may leave the same times behind.
_SETTLE_SECONDS = 2.0


def parse(text: str) -> dict[str, bytes]:
    """The bcrypt hash of each user in an htpasswd file's text; of several lines for one user the last counts.

    Users with another kind of hash, and the empty name, are left out. Raises ConfigError naming the number of a line
    without colon, never its content.
    """
    return {user: stored for user, stored in _entries(text).items() if stored is not None}


def readable(raw: bytes) -> str:
    """UTF-8, or Latin-1 when it is not: what the file and the Authorization header hold is in one or the other."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def create(path: Path, user: str = "admin") -> str:
    """Make the file at `path` and its folders with one user; the answer is the user's generated password.

    Durable when it returns. Raises FileExistsError when something is there, ConfigError when it is a directory or the
    file cannot be made. A crash half-way may leave an empty file, which lets nobody in.
    """
    password = "".join(secrets.choice(_ALPHABET) for _ in range(24))
    with _explained(path, "created"):
        if path.is_dir():
            raise IsADirectoryError
        _make_empty(path)
    try:
        HtpasswdFile(path).add(user, password)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return password


class HtpasswdFile:
    """The file at `path` as `hatoba users` edits it; new hashes get bcrypt's `cost`.

    Every method raises ConfigError when the file is missing (but `add` makes it), broken, or cannot be used.
    """

    def __init__(self, path: Path, *, cost: int = _COST) -> None:
        self._path = path
        self._cost = cost

    def load(self) -> dict[str, bytes]:
        """The bcrypt hash of each user who can log in."""
        return {user: stored for user, stored in self.entries().items() if stored is not None}

    def names(self) -> list[str]:
        """The users who can log in, in the file's order."""
        return list(self.load())

    def entries(self) -> dict[str, bytes | None]:
        """Every user of the file; None instead of a hash that is not bcrypt: that user cannot log in."""
        with _explained(self._path, "read"), os.fdopen(_open(self._path, os.O_RDONLY), "rb") as file:
            content = file.read()
        return _read_entries(self._path, content)

    def check(self, user: str, password: str) -> bool | None:
        """Whether this is the user's password, by its first 72 bytes; None when no such user can log in."""
        stored = self.load().get(user)
        try:
            return None if stored is None else bcrypt.checkpw(_checked_bytes(password), stored)
        except ValueError:  # a hash that only looks like one of bcrypt's
            return False

    def add(self, user: str, password: str) -> bool:
        """Add `user`, or change their password; whether they are new.

        Raises ConfigError too when the name or the password cannot be used. Atomic and durable, but not atomic where
        the file cannot be replaced (see `_replace`). Comments and other lines stay as they are.
        """
        line = line_of(user, password, self._cost)  # slow, so before the lock
        return not self._edit(user, line)

    def remove(self, user: str) -> bool:
        """Remove every line of `user`; False when there was none. As atomic as `add`."""
        return self._edit(user, None)

    def _edit(self, user: str, line: bytes | None) -> bool:
        # Behind a symbolic link lies the file to replace; the link stays.
        path = Path(os.path.realpath(self._path))
        with _explained(self._path, "written"), _locked(path, create=line is not None) as descriptor:
            with os.fdopen(os.dup(descriptor), "rb") as file:
                content = file.read()
            # The server would not take a broken file, edited or not: better to hear of it now.
            _read_entries(self._path, content)
            edited, found = _edited(content, user, line)
            if edited != content:
                _replace(path, descriptor, content, edited)
        return found


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
            flight = self._fly(key, _checked_bytes(password), stored)
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
        parts = (user.encode("utf-8", "surrogatepass"), b"\0", _checked_bytes(password), stored)
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


def _entries(text: str) -> dict[str, bytes | None]:
    """Every user of an htpasswd file's text; None for a hash that is not bcrypt. Raises ConfigError as `parse`."""
    found: dict[str, bytes | None] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if (entry := _significant(line)) is None:
            continue
        user, colon, stored = entry.partition(":")
        if not colon:
            raise ConfigError(f"line {number}: there is no colon after a user's name")
        # Docker's registry lets the empty name in; here it would pass for nobody.
        if user:
            # A later line counts even if it locks the user out.
            found[user] = stored.encode() if _BCRYPT.fullmatch(stored) else None
    return found


def _significant(line: str) -> str | None:
    """A line without the white space around it; None for a comment or nothing."""
    entry = line.strip().removeprefix("\ufeff").lstrip()  # Windows editors begin UTF-8 with U+FEFF
    return None if not entry or entry.startswith("#") else entry


def _read_entries(path: Path, content: bytes) -> dict[str, bytes | None]:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigError(f"{printable(path)}: is UTF-16, as PowerShell's > writes it; it must be UTF-8")
    try:
        return _entries("\n".join(readable(line) for line in content.split(b"\n")))
    except ConfigError as error:
        raise ConfigError(f"{printable(path)}: {error.message}") from None


def _edited(content: bytes, user: str, line: bytes | None) -> tuple[bytes, bool]:
    """The file's bytes with `line` as the only one of `user`, or without any; and whether the user was there."""
    lines: list[bytes] = []
    found = False
    for old in content.split(b"\n"):
        entry = _significant(readable(old))
        if entry is None or entry.partition(":")[0] != user:
            lines.append(old)
        else:
            # All of them go: an earlier line would come into force again when only the last is taken out.
            if line is not None and not found:
                lines.append(line)
            found = True
    if line is not None and not found:
        if not lines[-1]:
            lines.pop()
        lines += [line, b""]
    return b"\n".join(lines), found


def line_of(user: str, password: str, cost: int = _COST) -> bytes:
    """The line that lets `user` in with `password`; raises ConfigError when either cannot be used."""
    if not user or len(user.encode("utf-8", "surrogatepass")) > _NAME_BYTES:
        raise ConfigError(f"a user's name has 1 to {_NAME_BYTES} bytes")
    if ":" in user or not user.isprintable() or user != user.strip() or user.startswith("#"):
        raise ConfigError("a user's name holds no colon or control character, no # in front, no space around it")
    try:
        raw = password.encode()
    except UnicodeEncodeError:
        raise ConfigError("the password is not UTF-8") from None
    if not raw or b"\0" in raw:
        raise ConfigError("the password is empty or holds a NUL character")
    if len(raw) > _BCRYPT_BYTES:
        raise ConfigError(f"the password has {len(raw)} bytes: bcrypt looks at the first {_BCRYPT_BYTES} only")
    # $2b$ and $2y$ are the same, but Apache's and nginx's older bcrypt know $2y$ alone.
    stored = bcrypt.hashpw(raw, bcrypt.gensalt(cost)).replace(b"$2b$", b"$2y$", 1)
    return user.encode() + b":" + stored


def _decoy(users: dict[str, bytes]) -> bytes:
    """A hash that no password has, as slow to check as the slowest of the file."""
    cost = max((int(stored[4:6]) for stored in users.values()), default=_COST)
    return b"$2b$%02d$" % cost + b"." * 53


def _checked_bytes(password: str) -> bytes:
    """The part of a password that bcrypt looks at; Python's raises for more."""
    return password.encode("utf-8", "surrogatepass")[:_BCRYPT_BYTES]


def _version(path: Path) -> tuple[int, ...]:
    """What changes whenever the file does (see `_SETTLE_SECONDS` for when it may not); empty without a file."""
    try:
        found = os.stat(path)  # noqa: PTH116  asked on every request, and Path.stat takes longer
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        return (error.errno or 0,)
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)


@contextlib.contextmanager
def _explained(path: Path, verb: str) -> Iterator[None]:
    """Turn an OSError, but FileExistsError, into a ConfigError that says what to do about it."""
    try:
        yield
    except FileExistsError:
        raise
    except IsADirectoryError:
        raise ConfigError(
            f"{printable(path)}: is a directory: Docker made it because the file did not exist on the host; "
            "remove it and create the file"
        ) from None
    except FileNotFoundError:
        raise ConfigError(f"{printable(path)}: no such file") from None
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise ConfigError(f"{printable(path)}: cannot be {verb} by uid {os.geteuid()}: {reason}") from error


def _open(path: Path, flags: int) -> int:
    """A descriptor of the regular file at `path`; raises IsADirectoryError, ConfigError for devices, OSError."""
    # Not blocking: opening a pipe would wait for whoever writes to it.
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError
    raise ConfigError(f"{printable(path)}: is not a regular file")


def _make_empty(path: Path) -> None:
    """A new empty file and the folders to it; raises FileExistsError when anything is at `path`."""
    try:
        make_durably(path.parent)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


@contextlib.contextmanager
def _locked(path: Path, *, create: bool) -> Iterator[int]:
    """A descriptor of the file at `path`, for whoever edits it next to wait for.

    The file itself is locked, as there may be no room for a second one beside it. Raises OSError, ConfigError.
    """
    while True:
        try:
            descriptor = _open(path, os.O_RDWR)
        except FileNotFoundError:
            if not create:
                raise
            with contextlib.suppress(FileExistsError):
                _make_empty(path)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            in_place = False
            with contextlib.suppress(FileNotFoundError):
                # Another edit may have replaced the file while this one waited: then the lock is on the old one.
                in_place = os.path.samestat(os.fstat(descriptor), path.stat())
            if in_place:
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _replace(path: Path, descriptor: int, old: bytes, new: bytes) -> None:
    """Make the file at `path`, open and locked as `descriptor`, hold `new` instead of `old`; durable. Raises OSError.

    Atomic: a reader sees the one or the other, and so does the next start after a crash. Not where the file cannot be
    replaced, above all when it is a mount of its own in a container: then it is overwritten.
    """
    try:
        _swap(path, os.fstat(descriptor), new)
    except OSError as error:
        if error.errno not in _NOT_REPLACEABLE:
            raise
        try:
            _write(descriptor, new)
        except OSError:
            # The disk is full, say. The old content had its room there.
            with contextlib.suppress(OSError):
                _write(descriptor, old)
            raise


def _swap(path: Path, like: os.stat_result, content: bytes) -> None:
    # Opened first: after the rename nothing may fail that would mean "not replaceable".
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor, name = tempfile.mkstemp(prefix=".htpasswd-", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchown(descriptor, like.st_uid, like.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
                _write(file.fileno(), content)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        os.fsync(folder)
    finally:
        os.close(folder)


def _write(descriptor: int, content: bytes) -> None:
    """Let the file hold `content` alone, durable."""
    written = 0
    while written < len(content):
        written += os.pwrite(descriptor, content[written:], written)
    os.ftruncate(descriptor, len(content))
    os.fsync(descriptor)
