"""Counts of several processes: added up, and kept when one of them is killed."""

import contextlib
import os
import signal

import pytest

from hatoba.metrics.catalogue import COUNTED, CREDENTIAL_CHECKS, IN_FLIGHT, LOOP_DELAY, REQUESTS, WORKER_STARTS
from hatoba.metrics.cells import Board, Recorder


@contextlib.contextmanager
def worker(board, work):
    """A forked process that claims a slot, does `work(recorder)` and stays until the context ends, by SIGKILL."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work(board.claim())
            os.write(writing, b"x")
            signal.pause()
        finally:
            os._exit(1)
    try:
        os.close(writing)
        assert os.read(reading, 1) == b"x"
        yield pid
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def total(board, metric, *labels):
    found = [one.numbers for one in board.totals()[metric] if one.labels == labels]
    return found[0] if found else None


def guess(recorder):
    recorder.counter(CREDENTIAL_CHECKS, "wrong").add()
    recorder.cells[recorder.index(IN_FLIGHT, "blob")] += 1


def test_counts_of_all_workers_are_added_up():
    board = Board(4)
    with worker(board, guess) as first, worker(board, guess) as second:
        assert total(board, CREDENTIAL_CHECKS, "wrong") == (2.0,)
        assert total(board, IN_FLIGHT, "blob") == (2.0,)
        assert sorted(board.workers()) == sorted([first, second])
    assert board.workers() == []


def test_a_killed_worker_leaves_its_counts_and_nothing_else():
    board = Board(4)
    with worker(board, guess):
        pass
    assert total(board, CREDENTIAL_CHECKS, "wrong") == (1.0,)
    assert total(board, IN_FLIGHT, "blob") == (0.0,)
    with worker(board, guess):
        assert total(board, CREDENTIAL_CHECKS, "wrong") == (2.0,)
        assert total(board, IN_FLIGHT, "blob") == (1.0,)


def test_a_slot_that_nobody_reads_out_is_cleared_by_who_takes_it_over():
    board = Board(1)
    with worker(board, guess):
        pass
    with worker(board, guess):
        assert total(board, IN_FLIGHT, "blob") == (1.0,)


def test_slots_are_used_again_and_starts_counted():
    board = Board(2)
    for _ in range(5):
        with worker(board, guess):
            pass
    assert total(board, WORKER_STARTS) == (5.0,)


def test_more_workers_than_slots(caplog):
    board = Board(1)
    with worker(board, guess):
        guess(board.claim())
        assert total(board, CREDENTIAL_CHECKS, "wrong") == (1.0,)
    assert "does not show in the metrics" in caplog.text


def test_reading_takes_no_slot():
    board = Board(1)
    board.totals()
    with worker(board, guess) as pid:
        assert board.workers() == [pid]


def test_a_worker_may_read_too_and_stays_alive_by_it():
    board = Board(2)

    def read(recorder):
        guess(recorder)
        board.totals()

    with worker(board, read), worker(board, read):
        assert total(board, IN_FLIGHT, "blob") == (2.0,)
        assert len(board.workers()) == 2


def test_a_histogram_has_a_number_a_bucket_then_the_rest_then_the_sum():
    board = Board(1)
    histogram = board.claim().histogram(LOOP_DELAY)
    for value in (0.0, 0.0005, 0.3, 31.0):
        histogram.observe(value)
    *counts, beyond, added = total(board, LOOP_DELAY)
    assert len(counts) == len(LOOP_DELAY.buckets)
    assert {bound: n for bound, n in zip(LOOP_DELAY.buckets, counts, strict=True) if n} == {0.0005: 2.0, 0.5: 1.0}
    assert beyond == 1.0
    assert added == pytest.approx(31.3005)


def test_series_with_labels_appear_once_counted_but_gauges_and_those_without_always():
    found = Board(1).totals()
    assert set(found) == set(COUNTED)
    assert found[REQUESTS] == []
    assert len(found[IN_FLIGHT]) == 8
    assert [one.labels for one in found[WORKER_STARTS]] == [()]


def test_no_two_series_share_a_cell():
    recorder = Recorder.unshared()
    taken = []
    for metric in COUNTED:
        width = len(metric.buckets) + 2 if metric.kind == "histogram" else 1
        series = [()]
        for _, values in metric.labels:
            series = [(*labels, value) for labels in series for value in values]
        for labels in series:
            index = recorder.index(metric, *labels)
            taken += range(index, index + width)
    assert len(taken) == len(set(taken))
    assert not {0, 1} & set(taken), "the process's id is there, and whether the slot is used"
    assert max(taken) + 1 == len(recorder.cells)


def test_an_unknown_label_is_a_mistake():
    with pytest.raises(KeyError):
        Recorder.unshared().counter(CREDENTIAL_CHECKS, "perhaps")
