"""`hatoba serve` that is struck at its n-th change of the disk, counted over all its processes.

Arguments: the folder that counts, the number, whom it strikes (worker, parent, group), and what `hatoba` is told.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from faults.interception import CHANGES, Interception, Operation
from hatoba import cli

_DIE_WITH_PARENT = 1  # Linux's PR_SET_PDEATHSIG


def main() -> None:
    """Count, strike, serve."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)  # whoever ends a campaign ends this too
    disk, at, whom = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    parent = os.getpid()
    count = multiprocessing.get_context("fork").Value("i", 0)

    def handle(operation: Operation, real: Callable[..., Any]) -> Any:
        if operation.kind in CHANGES:
            with count.get_lock():
                count.value += 1
                mine = count.value == at
            if mine:
                if operation.kind == "write":
                    real(operation.payload[: len(operation.payload) // 2])
                _strike(whom, parent)
        return real(operation.payload) if operation.kind == "write" else real()

    Interception().watch(disk, handle)
    sys.argv = ["hatoba", *sys.argv[4:]]
    cli.main()


def _strike(whom: str, parent: int) -> None:
    if whom == "group":
        os.killpg(0, signal.SIGKILL)
    os.kill(parent if whom == "parent" else os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
