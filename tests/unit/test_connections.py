"""Which of a process's ports the kernel is told about: hatoba's own, and no other."""

import socket

from hatoba.connections import prepare_port


async def test_the_port_is_told_from_the_debug_port():
    """That one is there all the time, and granian opens the other after the worker's start."""
    with socket.create_server(("127.0.0.1", 0)) as debug, socket.create_server(("127.0.0.1", 0)) as own:
        await prepare_port(own.getsockname()[1], 7.0, 1)
        assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
        assert debug.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
