"""What granian's parent sleeps on: nothing that is set is slept over, and a signal may come at any moment."""

import os
import signal
import threading

from hatoba.workers import Wake, Workers


def test_what_is_set_is_seen_once():
    wake = Wake()
    wake.set()
    wake.set()
    wake.wait()
    awake = threading.Event()
    sleeper = threading.Thread(target=lambda: (wake.wait(), awake.set()))
    sleeper.start()
    assert not awake.wait(0.2), "both were taken at once"
    wake.set()
    assert awake.wait(30)
    sleeper.join()


def test_what_comes_before_clear_is_not_lost():
    """granian clears after it has looked at its reasons: a signal in between would be lost."""
    wake = Wake()
    wake.set()
    wake.clear()
    wake.wait()


def test_any_number_may_be_set_while_nobody_waits():
    wake = Wake()
    for _ in range(70_000):  # more than a pipe holds
        wake.set()
    wake.wait()


def test_signals_while_it_goes_on_and_on(request):
    """A handler that sets an Event hangs here: it comes while the loop holds the lock that it needs."""
    wake, handled = Wake(), []

    def handler(*_):
        handled.append(1)
        wake.set()

    before = signal.signal(signal.SIGUSR2, handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGUSR2, before))
    done = threading.Event()

    def send():
        while not done.is_set():
            os.kill(os.getpid(), signal.SIGUSR2)

    sender = threading.Thread(target=send)
    sender.start()
    for _ in range(2_000):
        wake.set()
        wake.wait()
        wake.clear()
    done.set()
    sender.join()
    assert handled


def test_a_reload_is_answered_once():
    workers = Workers.__new__(Workers)
    workers.main_loop_interrupt = Wake()
    workers.reload_signal, replaced = False, []
    workers._replace = lambda *_: replaced.append(1)
    workers.signal_handler_reload()
    assert workers.reload_signal
    workers._reload(None, None)
    assert (workers.reload_signal, replaced) == (False, [1])
