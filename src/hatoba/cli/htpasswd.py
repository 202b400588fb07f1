"""`htpasswd` as Apache has it, for bcrypt alone: the command of hatoba's image, where tutorials look for it.

Owns the options, words and exit codes of Apache's 2.4; the file and its lines are `auth.htpasswd`'s. No script of the
package has that name: it would hide Apache's own.
"""

from __future__ import annotations

import getopt
import getpass
import sys
from pathlib import Path
from typing import NoReturn

from hatoba.auth.htpasswd_file import HtpasswdFile, line_of
from hatoba.config.values import printable
from hatoba.errors import ConfigError

_USAGE = """\
Usage:
	htpasswd [-ciBDv] [-C cost] passwordfile username
	htpasswd -b[cBDv] [-C cost] passwordfile username password

	htpasswd -n[iB] [-C cost] username
	htpasswd -nb[B] [-C cost] username password
 -c  Create a new file.
 -n  Don't update file; display results on stdout.
 -b  Use the password from the command line rather than prompting for it.
 -i  Read password from stdin without verification (for script usage).
 -B  Force bcrypt hashing of the password (always so here).
 -C  Set the computing time used for the bcrypt algorithm
     (higher is more secure but slower, default: 10, valid: 4 to 17).
 -D  Delete the specified user.
 -v  Verify password for the specified user."""
_FILE, _SYNTAX, _PASSWORD, _TOO_LONG, _BAD_NAME, _BAD_FILE = 1, 2, 3, 5, 6, 7
_INTERRUPTED = 130
_OTHER_ALGORITHMS = {"m", "2", "5", "d", "s", "p"}
_NAME_BYTES, _PASSWORD_BYTES = 255, 72
_LEAST_COST, _COST, _MOST_COST = 4, 10, 17


def main() -> None:
    """The command; ends with Apache's exit codes, and as a shell has it when interrupted."""
    try:
        _run()
    except EOFError:
        _end(_PASSWORD, "no password was given")
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None


def _run() -> None:
    letters, cost, path, arguments = _asked(sys.argv[1:])
    user = arguments[0]
    try:
        if "D" in letters and path is not None:
            removed = HtpasswdFile(path).remove(user)
            _say(f"Deleting password for user {user}" if removed else f"User {user} not found")
            return
        password = arguments[1] if "b" in letters else _read_password(letters)
        if path is None:
            sys.stdout.write(f"{_hashed(user, password, cost)}\n\n")
        elif "v" in letters:
            _verify(HtpasswdFile(path), user, password)
        else:
            _write(path, user, password, cost, create="c" in letters)
    except ConfigError as error:
        _end(_FILE if error.__cause__ else _BAD_FILE, error.message)
    except OSError as error:
        _end(_FILE, f"{printable(error.filename or '')}: {error.strerror}")


def _asked(words: list[str]) -> tuple[set[str], int, Path | None, list[str]]:
    """The letters of the options, the cost, the file (None with -n), and the user with or without a password."""
    try:
        options, arguments = getopt.getopt(words, "cinmB25dpsbDvC:r:")
    except getopt.GetoptError as error:
        _end(_SYNTAX, f"{error.msg}\n{_USAGE}")
    letters = {name[1:] for name, _ in options}
    if other := sorted(letters & _OTHER_ALGORITHMS):
        _end(_SYNTAX, f"-{other[0]}: hatoba takes bcrypt only, use -B")
    for exclusive in ("cnvD", "bi"):
        if len(letters & set(exclusive)) > 1:
            _end(_SYNTAX, f"only one of -{' -'.join(exclusive)} may be specified")
    if len(arguments) != 2 - ("n" in letters) + ("b" in letters):
        _end(_SYNTAX, _USAGE, name="")
    path = None if "n" in letters else Path(arguments.pop(0))
    _check_name(arguments[0])
    if path is not None and "c" not in letters and not path.is_file():
        _end(_FILE, f"cannot modify file {printable(path)}; use '-c' to create it")
    return letters, _cost(dict(options).get("-C", str(_COST))), path, arguments


def _write(path: Path, user: str, password: str, cost: int, *, create: bool) -> None:
    _hashed(user, password, _LEAST_COST)  # complains before the file is emptied
    if create:
        path.write_bytes(b"")
    new = HtpasswdFile(path, cost=cost).add(user, password)
    _say(f"{'Adding' if new else 'Updating'} password for user {user}")


def _verify(file: HtpasswdFile, user: str, password: str) -> None:
    if user not in file.entries():
        _end(_BAD_NAME, f"User {user} not found", name="")
    right = file.check(user, password)
    if right is None:
        _end(_PASSWORD, f"the hash of user {user} is not bcrypt's, so hatoba lets nobody in with it")
    if not right:
        _end(_PASSWORD, "password verification failed", name="")
    _say(f"Password for user {user} correct.")


def _hashed(user: str, password: str, cost: int) -> str:
    if len(password.encode("utf-8", "surrogateescape")) > _PASSWORD_BYTES:
        _end(_TOO_LONG, f"password too long (> {_PASSWORD_BYTES})")
    try:
        return line_of(user, password, cost).decode()
    except ConfigError as error:
        _end(_BAD_NAME if user != user.strip() or not user.isprintable() else _SYNTAX, error.message)


def _check_name(user: str) -> None:
    if len(user.encode("utf-8", "surrogateescape")) > _NAME_BYTES:
        _end(_TOO_LONG, f"username too long (> {_NAME_BYTES})")
    if ":" in user:
        _end(_BAD_NAME, "username contains illegal character ':'")


def _cost(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or int(text[:9]) == 0:
        _end(_SYNTAX, "argument to -C/-r must be a positive integer")
    if not _LEAST_COST <= int(text[:9]) <= _MOST_COST:
        _end(_PASSWORD, f"Unable to encode with bcrypt: -C must be {_LEAST_COST} to {_MOST_COST}")
    return int(text)


def _read_password(letters: set[str]) -> str:
    if "i" in letters or not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    if "v" in letters:
        return getpass.getpass("Enter password: ")
    first = getpass.getpass("New password: ")
    if getpass.getpass("Re-type new password: ") != first:
        _end(_PASSWORD, "password verification error")
    return first


def _say(line: str) -> None:
    sys.stderr.write(f"{printable(line)}\n")


def _end(code: int, line: str, *, name: str = "htpasswd: ") -> NoReturn:
    sys.stderr.write(f"{name}{line}\n")
    raise SystemExit(code)
