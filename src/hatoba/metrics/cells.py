"""Where metrics are counted: numbers in memory that the parent and all workers share, each worker in a slot of its own.

The parent makes the `Board` before it forks; each worker claims a slot and counts there alone, so nothing is locked on
the way of a request and any process can add all slots up. A slot outlives its worker, `kill -9` included, and the next
one goes on counting in it: no counter ever goes backwards. Nothing of this is on a disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import logging
import mmap
import os
import tempfile
import threading
from bisect import bisect_left
from dataclasses import dataclass

from hatoba.metrics.catalogue import COUNTED, WORKER_STARTS, Metric

_CELL_BYTES = 8
# The first cells of a slot: the process that counts there, 0 if none does; and whether one ever did.
_PID, _USED = 0, 1


@dataclass(frozen=True, slots=True)
class Series:
    """One series: the values of its labels, in the metric's order; and its cells, summed over all workers.

    Of a histogram one number a bucket, not cumulated, then those beyond all buckets, then the sum; else one number.
    """

    labels: tuple[str, ...]
    numbers: tuple[float, ...]


class Counter:
    """A number that grows."""

    def __init__(self, cells: memoryview[float], index: int) -> None:
        self._cells = cells
        self._index = index
        self._lock = threading.Lock()

    def add(self, number: float = 1.0) -> None:
        """Count; from any thread."""
        with self._lock:
            self._cells[self._index] += number


class Histogram:
    """How often values fell into which bucket."""

    def __init__(self, cells: memoryview[float], index: int, buckets: tuple[float, ...]) -> None:
        self._cells = cells
        self._index = index
        self._buckets = buckets
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        """Count a value; from any thread."""
        index = self._index
        with self._lock:
            self._cells[index + bisect_left(self._buckets, value)] += 1.0
            self._cells[index + len(self._buckets) + 1] += value


class Recorder:
    """What one process counts with. Takes the cells of its slot."""

    def __init__(self, cells: memoryview[float]) -> None:
        self.cells = cells

    @classmethod
    def unshared(cls) -> Recorder:
        """One whose numbers nobody reads."""
        return cls(memoryview(bytearray(_length() * _CELL_BYTES)).cast("d"))

    def index(self, metric: Metric, *labels: str) -> int:
        """The first cell of a series, for who counts by hand, on one thread alone; raises KeyError."""
        return _layout()[metric][labels]

    def counter(self, metric: Metric, *labels: str) -> Counter:
        """What counts a series of a counter; the labels' values in the metric's order. Raises KeyError."""
        return Counter(self.cells, self.index(metric, *labels))

    def histogram(self, metric: Metric, *labels: str) -> Histogram:
        """The same of a histogram."""
        return Histogram(self.cells, self.index(metric, *labels), metric.buckets)


class Board:
    """The slots of all workers. Made by the parent; whoever it forks shares it."""

    def __init__(self, slots: int) -> None:
        self._slot_bytes = _length() * _CELL_BYTES
        self._descriptor = _unnamed_file(slots * self._slot_bytes)
        shared = memoryview(mmap.mmap(self._descriptor, slots * self._slot_bytes)).cast("d")
        length = _length()
        self._slots = [shared[number * length : (number + 1) * length] for number in range(slots)]
        self._own: int | None = None

    def claim(self) -> Recorder:
        """What this process counts with from now on, for life. Is no slot free, nobody reads it; the log says so."""
        for number, cells in enumerate(self._slots):
            if not self._lock(number):
                continue
            self._own = number
            _clear_gauges(cells)
            cells[_PID], cells[_USED] = float(os.getpid()), 1.0
            recorder = Recorder(cells)
            recorder.counter(WORKER_STARTS).add()
            return recorder
        logging.getLogger("hatoba").error("more workers than expected live on: this one does not show in the metrics")
        return Recorder.unshared()

    def workers(self) -> list[int]:
        """The ids of the workers that live."""
        self._lay_out_dead()
        return [int(cells[_PID]) for cells in self._slots if cells[_PID]]

    def totals(self) -> dict[Metric, list[Series]]:
        """All series of gauges or without labels, and what else was ever counted, by dead workers too."""
        self._lay_out_dead()
        used = [cells.tolist() for cells in self._slots if cells[_USED]]
        sums = [sum(column) for column in zip(*used, strict=True)] or [0.0] * _length()
        found: dict[Metric, list[Series]] = {}
        for metric, places in _layout().items():
            width = _width(metric)
            series = (Series(labels, tuple(sums[index : index + width])) for labels, index in places.items())
            shown = metric.kind == "gauge" or not metric.labels
            found[metric] = [one for one in series if shown or any(one.numbers)]
        return found

    def _lay_out_dead(self) -> None:
        """What a dead worker was doing is done by nobody; what it has counted stays."""
        for number, cells in enumerate(self._slots):
            if number != self._own and cells[_PID] and self._lock(number):
                try:
                    _clear_gauges(cells)
                    cells[_PID] = 0.0
                finally:
                    fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, number)

    def _lock(self, number: int) -> bool:
        # A record lock is the process's, not inherited by a fork, and the kernel ends it with the process.
        with contextlib.suppress(BlockingIOError, PermissionError):
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
            return True
        return False


def _unnamed_file(size: int) -> int:
    """A file in memory where there is such a thing, else one without a name; gone with the last who has it open."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("hatoba-metrics")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def _clear_gauges(cells: memoryview[float]) -> None:
    for metric, places in _layout().items():
        if metric.kind == "gauge":
            for index in places.values():
                cells[index] = 0.0


@functools.cache
def _layout() -> dict[Metric, dict[tuple[str, ...], int]]:
    """Metric -> labels -> its first cell: the same in every process of one server."""
    following = _USED + 1
    found: dict[Metric, dict[tuple[str, ...], int]] = {}
    for metric in COUNTED:
        found[metric] = {}
        for labels in itertools.product(*(values for _, values in metric.labels)):
            found[metric][labels] = following
            following += _width(metric)
    return found


def _length() -> int:
    """How many cells a slot has."""
    return _USED + 1 + sum(_width(metric) * len(places) for metric, places in _layout().items())


def _width(metric: Metric) -> int:
    return len(metric.buckets) + 2 if metric.kind == "histogram" else 1
