"""What happens at the n-th operation on the disk: the process dies, or the operation fails, once or from then on."""

from __future__ import annotations

import errno
import os
import random
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import apsw

from faults.interception import CHANGES, READS, Operation

ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EROFS": errno.EROFS}
_SQLITE = {errno.ENOSPC: apsw.FullError, errno.EIO: apsw.IOError, errno.EROFS: apsw.ReadOnlyError}


@dataclass
class Death:
    """SIGKILL at the n-th change: before it, behind it, or half-way where something is written."""

    at: int
    rng: random.Random
    _count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def handle(self, operation: Operation, real: Callable[..., Any]) -> Any:
        """Do it, if it is not the one."""
        if operation.kind not in CHANGES:
            return real()
        with self._lock:
            self._count += 1
            if self._count != self.at:
                return real(operation.payload) if operation.kind == "write" else real()
            if operation.kind == "write":
                real(operation.payload[: self.rng.randrange(len(operation.payload) + 1)])
            elif self.rng.random() < 0.5:
                real()
            os.kill(os.getpid(), signal.SIGKILL)
            return signal.pause()  # it does not come back


@dataclass
class Failure:
    """The n-th operation fails, and if `lasting` all that come after it; what is read fails only by EIO."""

    at: int
    number: int
    lasting: bool
    rng: random.Random
    failed: list[Operation] = field(default_factory=list)
    over: bool = False
    _count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def handle(self, operation: Operation, real: Callable[..., Any]) -> Any:
        """Do it or raise, as a disk would."""
        if self._meets(operation):
            return self._fail(operation, real)
        return real(operation.payload) if operation.kind == "write" else real()

    def _meets(self, operation: Operation) -> bool:
        with self._lock:
            if self.over or operation.kind not in CHANGES | (READS if self.number == errno.EIO else set()):
                return False
            if self.number == errno.ENOSPC and operation.kind in {"unlink", "rmdir", "chmod"}:
                return False  # what frees room, or needs none
            self._count += 1
            if self._count != self.at and not (self.lasting and self._count > self.at):
                return False
            self.failed.append(operation)
            return True

    def _fail(self, operation: Operation, real: Callable[..., Any]) -> Any:
        if operation.kind == "write" and self.rng.random() < 0.5:
            half = operation.payload[: len(operation.payload) // 2]
            if not operation.sqlite and half and not self.lasting:
                return real(half)  # a short write: the rest is asked for again
            real(half)
        if operation.sqlite:
            raise _SQLITE[self.number]
        raise OSError(self.number, os.strerror(self.number), operation.path)
