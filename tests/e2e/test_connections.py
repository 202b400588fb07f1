"""What the kernel is told about a port, and which connections are ended: with sockets of this very process."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from hatoba.connections import QuietConnections, prepare_port


@pytest.fixture
def listen():
    """listen(port) is one more socket that listens there, as each of granian's workers has one."""
    with contextlib.ExitStack() as stack:

        def make(port: int = 0) -> socket.socket:
            made = stack.enter_context(socket.socket())
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind(("127.0.0.1", port))
            made.listen(200)
            made.setblocking(False)
            return made

        yield make


def came_to(listening: list[socket.socket], connections: int = 100) -> list[int]:
    """How many of so many new connections each got."""
    with contextlib.ExitStack() as stack:
        for _ in range(connections):
            stack.enter_context(socket.create_connection(listening[0].getsockname()))
        counts = []
        for each in listening:
            counts.append(0)
            with contextlib.suppress(BlockingIOError):
                while True:
                    stack.enter_context(each.accept()[0])
                    counts[-1] += 1
        return counts


async def test_whoever_listened_last_gets_the_new_connections(listen):
    old = [listen()]
    port = old[0].getsockname()[1]
    old.append(listen(port))
    await prepare_port(60, workers=2)
    assert min(came_to(old)) > 0, "both serve while there are two"
    new = [listen(port), listen(port)]
    await prepare_port(60, workers=2)
    counts = came_to([*old, *new])
    assert counts[:2] == [0, 0]
    assert min(counts[2:]) > 0
    for each in old:
        each.close()
    assert min(came_to(new)) > 0
    assert sum(came_to(new)) == 100


async def test_only_the_quiet_that_nobody_answers_are_ended(listen):
    listening = listen()
    with contextlib.ExitStack() as stack:
        theirs = [stack.enter_context(socket.create_connection(listening.getsockname())) for _ in range(3)]
        ours = [stack.enter_context(listening.accept()[0]) for _ in theirs]
        elsewhere, _ = (stack.enter_context(each) for each in socket.socketpair())
        quiet = QuietConnections(0.4)
        ending = asyncio.create_task(quiet.end_them())
        busy, idle, talking = (each.getsockname() for each in theirs)
        with quiet.answering(busy), quiet.answering(busy):
            with quiet.answering(busy):
                pass
            for _ in range(15):
                ours[2].send(b"x")
                await asyncio.sleep(0.1)
            assert [is_open(each) for each in (*theirs, elsewhere)] == [True, False, True, True], (busy, idle, talking)
        for _ in range(600):
            if not is_open(theirs[0]):
                break
            await asyncio.sleep(0.05)
        assert not is_open(theirs[0]), "nobody answers it any more"
        ending.cancel()


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1000) != b""
    except BlockingIOError:
        return True
