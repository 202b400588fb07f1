"""granian: one parent, N workers, and what must hold when any of them is killed.

The parent holds `serve.lock` and the workers inherit it, so a second server cannot start while any process of the first
lives; a pipe whose writing end only the parent has tells the workers when it is gone. Nothing is open at the fork.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import multiprocessing
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import structlog
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings, HTTP2Settings
from granian.log import LogLevels

from hatoba import certificates, health, telemetry
from hatoba.config.settings import Settings
from hatoba.config.values import parse_address
from hatoba.connections import QuietConnections, prepare_port
from hatoba.durable import make_durably
from hatoba.errors import ConfigError, HatobaError, StartError
from hatoba.metrics.cells import Board
from hatoba.web.app import App
from hatoba.web.messages import Receive, Scope, Send
from hatoba.wiring import parts, serving
from hatoba.wiring.serving import DebugPort
from hatoba.workers import RETIRE, Workers

_BACKPRESSURE = 16_384
_OWN_DESCRIPTORS = 64  # databases, locks, uploads being written
_STREAM_WINDOW_BYTES = 512 * 1024
# Each frame of a body is one call of `receive`: with the usual 16 KiB uploads take several times as long.
_FRAME_BYTES = 256 * 1024
_STREAMS = 100
_HEADER_BYTES = 64 * 1024
_READY_SECONDS = 30.0
_LOOK_SECONDS = 0.02
_DEBUG_BACKLOG = 16
# Workers that were replaced go on while an upload of theirs does; a slot that nobody used takes no memory.
_SLOTS_A_WORKER = 32

Address = tuple[str, int] | Path  # host and port, or a socket's path


def check(settings: Settings) -> None:
    """Whether a server can be made of these settings; raises ConfigError naming the key."""
    if parts.root_of(settings) is None and settings.hatoba.workers > 1:
        raise ConfigError("hatoba.workers must be 1 with storage.inmemory, which is memory of one process")
    if certificates.read(settings.http.tls) is not None and not hasattr(os, "memfd_create"):
        raise ConfigError("http.tls.certificate is supported on Linux alone: put a proxy in front")


def serve(settings: Settings, announce: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain. `announce` is called once the lock is held and the port is free.

    `settings` have passed `check`. Raises StartError, ConfigError; SystemExit when the workers crash in a loop.
    """
    multiprocessing.set_start_method("fork", force=True)  # later Pythons prefer others, which cannot inherit
    root = parts.root_of(settings)
    _raise_descriptor_limit()
    with only_server(root):
        address = _claim(settings.http.socket_path) if settings.http.socket_path else _probe(*settings.http.listen)
        debug = _open_debug_port(settings)
        announce()
        asyncio.run(serving.prepare(settings))
        reading, writing = os.pipe()
        first = multiprocessing.Value("b", 1)  # whoever sees it first says that the port is open

        workers = _workers(settings, address)

        def load(_target: str) -> _Worker:
            os.close(writing)
            _end_with_parent(reading)
            return _Worker(settings, address, first, workers.say_ready, debug)

        with _told(settings, address):
            workers.serve(target_loader=load)


class _Worker:
    """The ASGI application of one worker: opens hatoba's parts at lifespan startup, closes them at shutdown."""

    def __init__(
        self, settings: Settings, address: Address, first: Any, ready: Callable[[], None], debug: DebugPort | None
    ) -> None:
        self._settings = settings
        self._address = address
        self._first = first
        self._ready = ready
        self._debug = debug
        self._app: App | None = None
        self._quiet: QuietConnections | None = None
        if isinstance(address, tuple) and settings.http.speaks_http2:
            self._quiet = QuietConnections(address[1], _stall_seconds(settings))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self._app is not None:
            if self._quiet is None:
                await self._app(scope, receive, send)
            else:
                host, port = scope["client"]
                with self._quiet.answering((host, int(port))):  # granian has the port as text
                    await self._app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        log = self._settings.log
        telemetry.configure(log.level, log.formatter, log.fields)
        try:
            async with serving.running(self._settings, self._debug) as self._app:
                loop = asyncio.get_running_loop()
                loop.add_signal_handler(RETIRE, self._app.retire)
                await send({"type": "lifespan.startup.complete"})
                listening = loop.create_task(self._listen())
                await receive()
                listening.cancel()
        except (HatobaError, OSError) as error:  # OSError: a disk that fails while folders are made and opened
            reason = error.message if isinstance(error, HatobaError) else f"{error.filename}: {error.strerror}"
            structlog.stdlib.get_logger("hatoba").error("a worker cannot start", reason=reason)
            await send({"type": "lifespan.startup.failed", "message": reason})
            return
        await send({"type": "lifespan.shutdown.complete"})

    async def _listen(self) -> None:
        """What is to be done once granian has opened the port, which it does after startup is complete."""
        if isinstance(self._address, tuple):
            await prepare_port(self._address[1], _stall_seconds(self._settings), self._settings.hatoba.workers)
        self._ready()
        await self._say_listening()
        if self._quiet is not None:
            await self._quiet.end_them()

    async def _say_listening(self) -> None:
        """Log the line that tutorials wait for, once the port answers."""
        with self._first.get_lock():
            mine, self._first.value = bool(self._first.value), 0
        if not mine:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READY_SECONDS):
                while True:
                    try:
                        _, writer = await _connect(self._address)
                    except OSError:
                        await asyncio.sleep(_LOOK_SECONDS)
                        continue
                    writer.close()
                    break
        how = " (https)" if self._settings.http.encrypted else ""
        structlog.stdlib.get_logger("hatoba").info(f"listening on {_shown(self._address)}{how}")


def _stall_seconds(settings: Settings) -> float:
    return settings.hatoba.limits.stalltimeout.total_seconds()


def _workers(settings: Settings, address: Address) -> Workers:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return Workers(
        settings.http.tls,
        drain_seconds=max(1, round(settings.http.draintimeout.total_seconds())),
        replaceable=parts.root_of(settings) is not None,
        **_binding(address),
        interface=Interfaces.ASGI,
        workers=settings.hatoba.workers,
        loop=Loops.asyncio,
        # Without a guard of our own a connection that sends nothing would never be timed out by `auto`.
        http=HTTPModes.auto if settings.http.speaks_http2 else HTTPModes.http1,
        websockets=False,
        backlog=1024,
        # A client takes two descriptors while a blob is sent: the connection's and the file's.
        backpressure=max(16, min((limit - _OWN_DESCRIPTORS) // 2, _BACKPRESSURE)),
        http1_settings=HTTP1Settings(
            header_read_timeout=round(settings.hatoba.limits.headertimeout.total_seconds() * 1000)
        ),
        http2_settings=HTTP2Settings(
            # One upload that is not read yet must not stop the others of its connection.
            initial_stream_window_size=_STREAM_WINDOW_BYTES,
            initial_connection_window_size=16 * _STREAM_WINDOW_BYTES,
            max_concurrent_streams=_STREAMS,
            max_frame_size=_FRAME_BYTES,
            max_headers_size=_HEADER_BYTES,
        ),
        log_level=LogLevels.error,
        log_dictconfig={
            "version": 1,
            "disable_existing_loggers": False,
            "loggers": {"_granian": {"level": "ERROR", "propagate": True}},
        },
        respawn_failed_workers=True,
        respawn_interval=0.5,
    )


@contextlib.contextmanager
def only_server(root: Path | None) -> Iterator[None]:
    """Hold `<root>/hatoba/serve.lock`; raises StartError naming the process that has it."""
    if root is None:
        yield
        return
    path = root / "hatoba" / "serve.lock"
    try:
        make_durably(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StartError(f"{path} cannot be written by uid {os.getuid()}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise StartError(f"{root} is served by another hatoba, pid {holder or 'unknown'}") from None
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _told(settings: Settings, address: Address) -> Iterator[None]:
    """While this lasts a file tells a health check where to ask; one that cannot be written stops no server."""
    file = settings.hatoba.addressfile
    if file is None:
        yield
        return
    try:
        file.write_text(health.told(address, tls=settings.http.encrypted), "utf-8")
    except OSError as error:
        structlog.stdlib.get_logger("hatoba").error(
            "hatoba.addressfile cannot be written: health checks will fail", path=str(file), reason=error.strerror
        )
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink()


def _claim(path: Path) -> Path:
    """Make way for a socket at `path`: one that a dead server left goes. Raises StartError when it is in use."""
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()
                else:
                    raise StartError(f"cannot listen on {path}: another server answers there")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.bind(str(path))
            path.unlink()
    except OSError as error:
        raise StartError(f"cannot listen on {path}: {error.strerror or error}") from None
    return path


def _probe(host: str, port: int) -> tuple[str, int]:
    """Look whether the port is free: SO_REUSEPORT would let two servers share it silently. Raises StartError."""
    with _bind(host, port, "choose another with --addr") as probe:
        address = probe.getsockname()
        return str(address[0]), address[1]


def _open_debug_port(settings: Settings) -> DebugPort | None:
    """The debug port, listening before any worker is there; None if there shall be none. Raises StartError."""
    debug = settings.http.debug
    if not debug.addr:
        return None
    listener = _bind(*parse_address(debug.addr), "http.debug.addr")
    board = Board(_SLOTS_A_WORKER * settings.hatoba.workers) if debug.prometheus.enabled else None
    return DebugPort(listener, board)


def _bind(host: str, port: int, advice: str) -> socket.socket:
    """A socket that listens there alone; raises StartError, which ends with `advice`."""
    wanted = host or "::"
    try:
        found = socket.getaddrinfo(wanted, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # Of a name with both the IPv4 address, as Docker's registry does: Docker's clients try 127.0.0.1 for localhost.
        family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            bound.bind(address)
            bound.listen(_DEBUG_BACKLOG)
        except BaseException:
            bound.close()
            raise
    except OSError as error:
        if not host and error.errno in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
            return _bind("0.0.0.0", port, advice)  # noqa: S104  what `:5000` means on a host without IPv6
        raise StartError(f"cannot listen on {_shown((wanted, port))}: {error.strerror or error}; {advice}") from None
    return bound


def _end_with_parent(reading: int) -> None:
    """End this worker when the parent is gone, however it went: workers without it would serve on for ever."""

    def wait() -> None:
        os.read(reading, 1)
        logging.getLogger("hatoba").error("the parent process is gone; ending")
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="hatoba-parent", daemon=True).start()


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else 1_048_576
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _shown(address: Address) -> str:
    if isinstance(address, Path):
        return str(address)
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _binding(address: Address) -> dict[str, Any]:
    # Whoever may enter the folder may connect, as with Docker's registry; sign-in says what they may do.
    if isinstance(address, Path):
        return {"uds": address, "uds_permissions": 0o777}
    return {"address": address[0], "port": address[1]}


async def _connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(address, Path):
        return await asyncio.open_unix_connection(address)
    host, port = address
    *others, last = health.reached_at(host)
    for other in others:
        with contextlib.suppress(OSError):
            return await asyncio.open_connection(other, port)
    return await asyncio.open_connection(last, port)
