"""A password from standard input or the terminal, for commands that take one."""

from __future__ import annotations

import getpass
import sys

from hatoba.errors import ConfigError

# A password of bcrypt has 72 bytes at most; a longer line is read far enough to say so.
_LINE_BYTES = 4096


def read_password() -> str:
    """One line of standard input; raises ConfigError when it is no text."""
    line = sys.stdin.buffer.readline(_LINE_BYTES)
    try:
        return line.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        raise _no_text() from None


def ask_password(question: str = "Password: ") -> str:
    """What is typed unseen at the terminal; raises ConfigError when it is no text, EOFError at its end.

    Ctrl-C is a KeyboardInterrupt here, as everywhere, where Typer's prompt would make a failure of it.
    """
    try:
        return getpass.getpass(question)
    except UnicodeDecodeError:
        raise _no_text() from None


def checked_password(password: str) -> str:
    """The password itself; raises ConfigError when it is empty or no text, as an argument's bytes may be."""
    if not password:
        raise ConfigError("the password is empty")
    try:
        password.encode()
    except UnicodeEncodeError:
        raise _no_text() from None
    return password


def _no_text() -> ConfigError:
    return ConfigError("the password is not UTF-8")
