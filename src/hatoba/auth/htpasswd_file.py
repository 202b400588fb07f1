"""The htpasswd file, Docker's way: bcrypt lines only.

Owns the file's grammar and the edits that `hatoba users` makes to it, atomic and durable. Who may pass, and how
often the file is read, is `htpasswd`. Hashes and passwords never get into a message.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import bcrypt

from hatoba.config.values import printable
from hatoba.durable import make_durably
from hatoba.errors import ConfigError

_BCRYPT = re.compile(r"\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")
COST = 10  # what Docker's registry takes; 60 ms or so
_BCRYPT_BYTES = 72  # bcrypt looks at no more of a password
_NAME_BYTES = 255
# Without 0, O, 1, l and I: people copy it from a terminal. 24 of 57 characters are 139 bits.
_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
# Why a file may be writable but not replaceable: a mount point, a folder that is read-only or not ours, an owner
# that cannot be given to the new file.
_NOT_REPLACEABLE = {errno.EBUSY, errno.EXDEV, errno.EROFS, errno.EACCES, errno.EPERM}


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

    def __init__(self, path: Path, *, cost: int = COST) -> None:
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
            return None if stored is None else bcrypt.checkpw(checked_bytes(password), stored)
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


def line_of(user: str, password: str, cost: int = COST) -> bytes:
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


def checked_bytes(password: str) -> bytes:
    """The part of a password that bcrypt looks at; Python's raises for more."""
    return password.encode("utf-8", "surrogatepass")[:_BCRYPT_BYTES]


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
