"""The counting of wrong passwords by itself: what is one account, what is forgotten, what is never kept."""

import pytest

from hatoba.auth.guesses import Guesses
from hatoba.errors import TooManyRequests


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def guesses(clock):
    return Guesses(most=2, clock=clock)


def fail(guesses, user="alice", address="203.0.113.9", times=2):
    for number in range(times):
        guesses.end(guesses.begin(user, address, b"%d" % number), right=False)


def is_open(guesses, user="alice", address="203.0.113.9"):
    try:
        guesses.end(guesses.begin(user, address, b"other"), right=None)
    except TooManyRequests:
        return False
    return True


def seconds(guesses):
    with pytest.raises(TooManyRequests) as raised:
        guesses.begin("alice", "203.0.113.9", b"other")
    return dict(raised.value.headers)["Retry-After"]


@pytest.mark.parametrize(
    ("address", "also_closed", "open_still"),
    [
        ("203.0.113.9", "203.0.113.9", "203.0.113.10"),
        ("2001:db8::1", "2001:db8:0:0:ffff::", "2001:db8:0:1::1"),
        ("-", "-", "203.0.113.9"),
    ],
)
def test_what_is_one_address(guesses, address, also_closed, open_still):
    fail(guesses, address=address)
    assert not is_open(guesses, address=also_closed)
    assert is_open(guesses, address=open_still)


def test_a_name_cannot_pose_as_another_pair(guesses):
    fail(guesses, "203.0.113.10\0alice", "-")
    assert is_open(guesses, "alice", "203.0.113.10")
    assert is_open(guesses, "alice", "-")
    fail(guesses, "\udcff")
    assert is_open(guesses, "\udcfe")


def test_retry_after_is_whole_and_never_0(guesses, clock):
    fail(guesses)
    clock.now += 0.001
    assert seconds(guesses) == "60"
    clock.now += 59.99
    assert seconds(guesses) == "1"


def test_guesses_under_way_are_decided_soon(guesses):
    first, second = (guesses.begin("alice", "203.0.113.9", key) for key in (b"1", b"2"))
    assert seconds(guesses) == "1"
    guesses.end(first, right=None)
    assert is_open(guesses)
    guesses.end(second, right=False)
    assert is_open(guesses)


def test_only_the_first_end_counts(guesses):
    first = guesses.begin("alice", "203.0.113.9", b"1")
    assert guesses.begin("alice", "203.0.113.9", b"1") is first
    for _ in range(5):
        guesses.end(first, right=False)
    again = guesses.begin("alice", "203.0.113.9", b"1")
    assert again is not first
    guesses.end(first, right=False)
    guesses.end(again, right=None)
    assert is_open(guesses)


def test_memory_is_bounded(clock):
    guesses = Guesses(most=2, keep_most=3, clock=clock)
    for number in range(10):
        fail(guesses, f"user{number}")
    assert len(guesses._failures) == 3
    assert all(len(failures) <= 2 for failures in guesses._failures.values())
    assert [is_open(guesses, f"user{number}") for number in range(5, 10)] == [True, True, False, False, False]
    assert guesses._open == {}
    for number in range(10):
        guesses.end(guesses.begin("alice", f"203.0.113.{number}", b"right"), right=True)
    assert len(guesses._right) == 3


def test_what_is_over_is_forgotten_when_asked(guesses, clock):
    fail(guesses)
    clock.now += 60
    assert is_open(guesses)
    assert guesses._failures == {}


def test_what_was_right_there_before_may_be_tried_again(guesses):
    guesses.end(guesses.begin("alice", "203.0.113.9", b"right"), right=True)
    fail(guesses)
    assert not is_open(guesses)
    guesses.end(guesses.begin("alice", "203.0.113.9", b"right"), right=True)
    assert guesses.lets_in("alice", "203.0.113.9", b"right")
    fail(guesses, address="203.0.113.10")
    assert not guesses.lets_in("alice", "203.0.113.10", b"right")


def test_what_could_not_be_checked_was_not_right(guesses):
    guesses.end(guesses.begin("alice", "203.0.113.9", b"right"), right=None)
    fail(guesses)
    assert not guesses.lets_in("alice", "203.0.113.9", b"right")
    with pytest.raises(TooManyRequests):
        guesses.begin("alice", "203.0.113.9", b"right")
