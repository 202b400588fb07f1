"""Runs a program under the system call filter that a systemd unit asks for: SYSTEM-CALLS-FILE PROGRAM ARGUMENT…

The file names the calls that are allowed, one a line; all others fail with EPERM, as do memory that can be written and
executed (MemoryDenyWriteExecute) and sockets but of IPv4, IPv6 and the file system (RestrictAddressFamilies).
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys
from pathlib import Path

ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
EQUAL, MASKED_EQUAL = 4, 7
WRITE, EXECUTE = 2, 4
SHARED_EXECUTE = 0o100000
OF_MMAP, OF_SHMAT, OF_SOCKET = 2, 2, 0


class Comparison(ctypes.Structure):
    """`struct scmp_arg_cmp`."""

    _fields_ = (("argument", ctypes.c_uint), ("how", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def conditions(name: str) -> list[tuple[Comparison, ...]]:
    """With which arguments a call is allowed; one empty entry: with any."""
    if name == "mmap":
        return [(Comparison(OF_MMAP, MASKED_EQUAL, WRITE | EXECUTE, wanted),) for wanted in (0, WRITE, EXECUTE)]
    if name in {"mprotect", "pkey_mprotect"}:
        return [(Comparison(OF_MMAP, MASKED_EQUAL, EXECUTE, 0),)]
    if name == "shmat":
        return [(Comparison(OF_SHMAT, MASKED_EQUAL, SHARED_EXECUTE, 0),)]
    if name == "socket":
        families = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
        return [(Comparison(OF_SOCKET, EQUAL, family, 0),) for family in families]
    return [()]


def main() -> None:
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(REFUSE)))
    for name in Path(sys.argv[1]).read_text("ascii").split():
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        for comparisons in conditions(name) if number >= 0 else []:  # below: of another kind of machine
            array = (Comparison * len(comparisons))(*comparisons)
            failed = seccomp.seccomp_rule_add_array(context, ctypes.c_uint32(ALLOW), number, len(comparisons), array)
            if failed:
                raise OSError(-failed, f"no rule for {name}")
    if failed := seccomp.seccomp_load(context):
        raise OSError(-failed, "the filter cannot be loaded")
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606  that is what it is for


if __name__ == "__main__":
    main()
