"""granian's parent process, but for how it replaces its workers: on SIGHUP, and when the certificate has changed.

Owns that nobody notices: the new workers listen before the old ones are told to go, which then answer what they have
begun, for as long as it moves. Does not know what a worker does.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import structlog
from granian.server.mp import MPServer, WorkerProcess

from hatoba import certificates
from hatoba.certificates import KeptInMemory
from hatoba.config.http import TLSSettings
from hatoba.errors import ConfigError

# What a worker hears when others have taken its place: it answers on, but keeps no connection for a next request.
RETIRE = signal.SIGUSR1

_LOOK_SECONDS = 1.0  # files that are being written are left alone: changed is what two looks find the same
_START_SECONDS = 30.0
_HANDOVER_SECONDS = 2.0  # for what is in the old workers' queues and within a TLS handshake, which granian would drop
_PAUSE_SECONDS = 0.1

Loader = Callable[..., Any]


class Wake:
    """What granian's loop sleeps on, in the place of `threading.Event`, which a signal handler must not touch.

    A handler that interrupts the loop within the event's lock would wait for that lock for ever. And what is set while
    the loop is about to `clear` would be slept over; here each `wait` takes what was set before it, and the loop looks
    at its reasons after that.
    """

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)

    def set(self) -> None:
        """Let `wait` return; for any thread and any signal handler."""
        with contextlib.suppress(BlockingIOError):  # full: it will wake up
            os.write(self._writing, b".")

    def wait(self) -> None:
        """Sleep until it is set."""
        os.read(self._reading, select.PIPE_BUF)

    def clear(self) -> None:
        """Nothing: `wait` has done it."""


class Workers(MPServer):
    """The parent and its workers, with `tls` and the options of granian's server.

    At the end requests may go on for `drain_seconds`. With `replaceable` false SIGHUP does nothing. Raises ConfigError
    when the certificate cannot be served.
    """

    ssl_ctx: Any  # what granian hands to each worker that it starts
    main_loop_interrupt: Any  # a `Wake`

    def __init__(self, tls: TLSSettings, *, drain_seconds: int, replaceable: bool, **options: Any) -> None:
        super().__init__("hatoba", workers_kill_timeout=drain_seconds, **options)
        self.main_loop_interrupt = Wake()
        self._drain_seconds = drain_seconds
        self._tls = tls
        self._replaceable = replaceable
        self._log = structlog.stdlib.get_logger("hatoba")
        self._kept: KeptInMemory | None = None
        self._tried = self._seen = certificates.signature(tls)
        self._leaving: list[WorkerProcess] = []
        self._ready: tuple[int, int] | None = None
        found = certificates.read(tls)
        if found is not None:
            self._serve_certificates(KeptInMemory(found))
            self._say_certificate(found)

    def say_ready(self) -> None:
        """In a worker: it listens."""
        if self._ready is not None:
            reading, writing = self._ready
            self._ready = None
            with contextlib.suppress(OSError):  # nobody waits any more
                os.write(writing, b".")
            os.close(writing)
            os.close(reading)

    def startup(self, spawn_target: Loader, target_loader: Loader) -> None:
        """granian's, and the look at the certificate's files begins: a thread would be running when workers fork."""
        super().startup(spawn_target, target_loader)
        if self._kept is not None:
            signal.signal(signal.SIGALRM, self._look)
            signal.setitimer(signal.ITIMER_REAL, _LOOK_SECONDS, _LOOK_SECONDS)

    def _look(self, _number: int, _frame: FrameType | None) -> None:
        found = certificates.signature(self._tls)
        if found == self._seen and found != self._tried:
            self.signal_handler_reload()
        self._seen = found

    def _reload(self, spawn_target: Loader, target_loader: Loader) -> None:
        """Replace all workers at once; granian would do it one by one, each waiting for the last request of its own."""
        self.reload_signal = False
        self._replace(spawn_target, target_loader)

    def _replace(self, spawn_target: Loader, target_loader: Loader) -> None:
        if not self._replaceable:
            self._log.warning("SIGHUP does nothing with storage.inmemory, which a new process would not have")
            return
        self._tried = certificates.signature(self._tls)
        try:
            found = certificates.read(self._tls)
        except ConfigError as error:
            self._log.error("the certificate cannot be served, the old one stays", reason=error.message)
            return
        before = self.ssl_ctx, self._kept
        if found is not None:
            self._serve_certificates(KeptInMemory(found))
        new = self._start_others(spawn_target, target_loader)
        if not new:
            self._forget(self._kept, unless=before[1])
            self.ssl_ctx, self._kept = before
            return
        self._forget(before[1], unless=self._kept)
        self._hand_over(new)
        if found is not None:
            self._say_certificate(found)
        self._log.info("workers replaced", workers=len(new))

    def _start_others(self, spawn_target: Loader, target_loader: Loader) -> list[WorkerProcess]:
        """New workers that listen; none when one of them does not come to that, or the server is to end."""
        reading, writing = self._ready = os.pipe()
        new = []
        for index in range(self.workers):
            worker = self._spawn_worker(idx=index, target=spawn_target, callback_loader=target_loader)
            worker.interrupt_by_parent = True  # its end is no crash of a worker that serves
            worker.start()
            new.append(worker)
        self._ready = None
        os.close(writing)
        try:
            if self._all_ready(reading):
                return new
        finally:
            os.close(reading)
        for worker in new:
            worker.kill()
            worker.join()
        if not self.interrupt_signal:
            self._log.error("the new workers do not start, the old ones go on")
        return []

    def _all_ready(self, reading: int) -> bool:
        end = time.monotonic() + _START_SECONDS
        missing = self.workers
        while missing and time.monotonic() < end and not self.interrupt_signal:
            if select.select([reading], [], [], _PAUSE_SECONDS)[0]:
                told = os.read(reading, missing)
                if not told:  # all have closed it, so one has died
                    return False
                missing -= len(told)
        return not missing

    def _hand_over(self, new: list[WorkerProcess]) -> None:
        old, self.wrks = self.wrks, new
        for worker in old:
            worker.interrupt_by_parent = True
        for worker in new:
            worker.interrupt_by_parent = False
        self.respawned_wrks.clear()
        self.interrupt_children[:] = [worker.idx for worker in new if not worker.is_alive()]
        self._leaving = [worker for worker in self._leaving if worker.is_alive()] + old
        for worker in old:
            if worker.is_alive():
                os.kill(worker.inner.pid, RETIRE)
        end = time.monotonic() + _HANDOVER_SECONDS
        while time.monotonic() < end and not self.interrupt_signal:
            time.sleep(_PAUSE_SECONDS)
        for worker in old:
            worker.terminate()

    def _stop_workers(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        end = time.monotonic() + self._drain_seconds
        super()._stop_workers()
        for worker in self._leaving:  # they were told long ago; a second time would do them harm
            worker.join(max(0.001, end - time.monotonic()))
            if worker.is_alive():
                worker.kill()
                worker.join()

    def _serve_certificates(self, kept: KeptInMemory) -> None:
        verified = self._tls.clientauth == "require-and-verify-client-cert"
        self._kept = kept
        self.ssl_ctx = (True, kept.chain, kept.key, None, self._tls.minimumtls, kept.authorities, [], verified)

    @staticmethod
    def _forget(kept: KeptInMemory | None, *, unless: KeptInMemory | None) -> None:
        if kept is not None and kept is not unless:
            kept.close()

    def _say_certificate(self, found: certificates.Certificates) -> None:
        path = str(Path(self._tls.certificate or ""))
        self._log.info("serving a certificate", names=found.names, until=f"{found.end:%Y-%m-%d}", path=path)
        for warning in certificates.warnings(found):
            self._log.warning(warning)
