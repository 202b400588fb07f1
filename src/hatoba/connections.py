"""The sockets that granian opens and gives out nowhere: found among the process's descriptors, on Linux.

Owns what the kernel is told about the listening port, and the end of connections on which nothing happens. granian has
no time-out for sending, and none for a TLS client that has shaken hands and says no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import stat
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import structlog

_FOUND_SECONDS = 30.0
_LOOK_SECONDS = 0.02
_LONGEST_LOOK_SECONDS = 10.0

_SO_ATTACH_REUSEPORT_CBPF = 51
# struct tcp_info: milliseconds since data was last sent, and last received.
_IDLE_TIMES = "44xI4xI"

Peer = tuple[str, int]


async def prepare_port(port: int, stall_seconds: float, workers: int) -> None:
    """Wait until this process listens on `port`, and tell the kernel how the port is to be treated.

    Every connection whose client takes nothing of what is sent for `stall_seconds` is ended: granian sends files, and
    what it has taken over from us, without a time-out of its own. Accepted sockets inherit the option.

    And whoever listened last gets the new connections while there are more than `workers` that listen.
    """
    if not hasattr(socket, "TCP_USER_TIMEOUT") or not os.access("/proc/self/fd", os.R_OK):  # Linux has both
        return
    for _ in range(round(_FOUND_SECONDS / _LOOK_SECONDS)):
        found = False
        for each in _sockets(listening=True):
            if each.getsockname()[1] != port:  # the debug port is there all the time
                continue
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(stall_seconds * 1000)))
            _prefer_the_newest(each, workers)
            found = True
        if found:
            return
        await asyncio.sleep(_LOOK_SECONDS)
    structlog.stdlib.get_logger("hatoba").error("no listening port found: clients that never read are not cut")


def _prefer_the_newest(listening: socket.socket, workers: int) -> None:
    """Let new connections come to those beyond the first `workers` that listen on this port, if there are any.

    So a worker that is being replaced gets none, and can end without resetting those in its queue. The kernel numbers
    the sockets of a port in the order in which they began to listen, and asks this program for the number of the one
    to take; for a number that none has it chooses itself, as it does without a program.
    """
    random = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM
    steps = [
        (0x20, random),  # A = random number
        (0x94, workers),  # A %= workers
        (0x04, workers),  # A += workers
        (0x16, 0),  # return A
    ]
    code = b"".join(struct.pack("HBBI", operation, 0, 0, value) for operation, value in steps)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HP", len(steps), ctypes.addressof(buffer))
    with contextlib.suppress(OSError):  # a kernel without it resets the few that wait in the queue at that moment
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)


class QuietConnections:
    """Ends connections on which no request is being answered and no byte has moved for so long.

    Used on the loop thread. What the application waits for it bounds itself; here is what granian alone sees: a
    client that says nothing after the TLS handshake, or in HTTP/2 nothing more or makes no room for what is sent.
    """

    def __init__(self, quiet_seconds: float) -> None:
        self._quiet_seconds = quiet_seconds
        self._answering: Counter[Peer] = Counter()

    @contextlib.contextmanager
    def answering(self, peer: Peer) -> Iterator[None]:
        """While a request of this peer is being answered."""
        self._answering[peer] += 1
        try:
            yield
        finally:
            self._answering[peer] -= 1
            if not self._answering[peer]:
                del self._answering[peer]

    async def end_them(self) -> None:
        """Look again and again, until cancelled."""
        pause = min(_LONGEST_LOOK_SECONDS, self._quiet_seconds / 4)
        while True:
            await asyncio.sleep(pause)
            await asyncio.to_thread(_end_quiet, self._quiet_seconds, set(self._answering))


def _end_quiet(seconds: float, answering: Collection[Peer]) -> None:
    ports = {each.getsockname()[1] for each in _sockets(listening=True)}
    for each in _sockets(listening=False):
        with contextlib.suppress(OSError):  # closed by the client since
            if each.getsockname()[1] in ports and _quiet_seconds(each) > seconds and _peer(each) not in answering:
                each.shutdown(socket.SHUT_RDWR)  # granian sees that as the client's end, and closes


def _quiet_seconds(connection: socket.socket) -> float:
    told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, struct.calcsize(_IDLE_TIMES))
    sent, received = struct.unpack(_IDLE_TIMES, told)
    return float(min(sent, received) / 1000)


def _peer(connection: socket.socket) -> Peer:
    host, port, *_ = connection.getpeername()
    return host.partition("%")[0], port  # granian names no interface


def _sockets(*, listening: bool) -> Iterator[socket.socket]:
    """The TCP sockets of this process; each is a duplicate, for the number may be another socket's a moment later."""
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed since
            if not stat.S_ISSOCK(entry.stat().st_mode):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as found:
                inet = found.family in {socket.AF_INET, socket.AF_INET6} and found.type == socket.SOCK_STREAM
                if inet and bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) == listening:
                    yield found
