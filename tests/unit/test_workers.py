"""Replacing workers, as far as it goes without processes: the signal to stop is never slept over."""

import threading

import pytest

from hatoba.workers import Workers


@pytest.fixture
def workers():
    """A parent in the middle of its life; `replaced` counts."""
    made = Workers.__new__(Workers)
    made.main_loop_interrupt = threading.Event()
    made.interrupt_signal, made.interrupt_children, made.replaced = False, [], 0

    def replace(*_):
        made.replaced += 1

    made._replace = replace
    return made


def test_replaced_and_asleep_again(workers):
    workers.signal_handler_reload()
    workers._reload(None, None)
    assert workers.replaced == 1
    assert not workers.reload_signal
    assert not workers.main_loop_interrupt.is_set()


def test_the_signal_to_stop_goes_first(workers):
    workers.signal_handler_reload()
    workers.signal_handler_interrupt()
    workers._reload(None, None)
    assert workers.replaced == 0
    assert workers.main_loop_interrupt.is_set(), "or granian's loop would wait for the next signal"


@pytest.mark.parametrize("happens", ["signal_handler_interrupt", "signal_handler_reload"])
def test_what_comes_meanwhile_is_seen_afterwards(workers, happens):
    workers.signal_handler_reload()
    workers._replace = lambda *_: (getattr(workers, happens)(), workers.main_loop_interrupt.clear())
    workers._reload(None, None)
    assert workers.main_loop_interrupt.is_set()
