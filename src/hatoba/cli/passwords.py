"""A password from standard input, for commands that take one."""

from __future__ import annotations

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
        raise ConfigError("the password is not UTF-8") from None
