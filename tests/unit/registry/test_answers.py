"""The small answers: remembered while nothing was committed, and never stored under a version they are older than."""

import asyncio

import pytest

from hatoba.registry import answers
from hatoba.registry.answers import Answers


class Versioned:
    """The one thing that `Answers` asks of a database."""

    def __init__(self):
        self.now = 1

    def version(self):
        return self.now


class Loader:
    def __init__(self, *values):
        self._values = list(values)
        self.calls = 0

    async def __call__(self):
        self.calls += 1
        return self._values.pop(0)


@pytest.fixture
def database():
    return Versioned()


@pytest.fixture
def remembered(database):
    return Answers(database)


async def test_an_answer_is_asked_for_once(remembered):
    load = Loader("first", "second")
    assert [await remembered.get("key", load) for _ in range(3)] == ["first"] * 3
    assert load.calls == 1


async def test_that_there_is_nothing_is_an_answer_too(remembered):
    load = Loader(None, "later")
    assert [await remembered.get("key", load) for _ in range(3)] == [None] * 3
    assert load.calls == 1


async def test_keys_are_apart(remembered):
    load = Loader("tag", "digest")
    assert await remembered.get(("tag", "a", "b"), load) == "tag"
    assert await remembered.get(("digest", "a", "b"), load) == "digest"
    assert await remembered.get(("tag", "a", "b"), load) == "tag"


async def test_a_commit_ends_all_answers(remembered, database):
    load = Loader(1, 2, 3, 4)
    assert (await remembered.get("a", load), await remembered.get("b", load)) == (1, 2)
    database.now = 2
    assert (await remembered.get("a", load), await remembered.get("b", load)) == (3, 4)
    assert (await remembered.get("a", load), await remembered.get("b", load)) == (3, 4)


async def test_a_version_that_went_back_is_another_one(remembered, database):
    load = Loader("old", "new", "newest")
    assert await remembered.get("key", load) == "old"
    database.now = 0
    assert await remembered.get("key", load) == "new"
    database.now = 1
    assert await remembered.get("key", load) == "newest"


async def test_an_error_is_not_remembered(remembered):
    async def fail():
        raise LookupError

    with pytest.raises(LookupError):
        await remembered.get("key", fail)
    assert await remembered.get("key", Loader("answer")) == "answer"


async def test_an_answer_read_before_a_commit_is_not_stored_under_the_version_after_it(remembered, database):
    """The load suspends (on another engine it may), a commit and another look-up come in between."""
    suspended, go_on = asyncio.Event(), asyncio.Event()

    async def load_old():
        suspended.set()
        await go_on.wait()
        return "old"

    loading = asyncio.ensure_future(remembered.get("key", load_old))
    await suspended.wait()
    database.now = 2
    assert await remembered.get("other", Loader("new")) == "new"
    go_on.set()
    assert await loading == "old", "its own request may have it: it asked before the commit"
    assert await remembered.get("key", Loader("new")) == "new"


async def test_an_answer_stored_after_a_commit_that_nobody_saw_yet_is_outdated(remembered, database):
    async def load_during_commit():
        database.now = 2
        return "old"

    assert await remembered.get("key", load_during_commit) == "old"
    assert await remembered.get("key", Loader("new")) == "new"


async def test_nothing_is_awaited_between_the_version_and_a_hit(remembered):
    await remembered.get("key", Loader("answer"))
    with pytest.raises(StopIteration) as done:
        remembered.get("key", Loader("never")).send(None)
    assert done.value.value == "answer"


async def test_answers_are_bounded(remembered, monkeypatch):
    monkeypatch.setattr(answers, "_MOST", 100)
    for number in range(1000):
        await remembered.get(number, Loader(number))
        assert len(remembered._known) <= 101
    assert await remembered.get(999, Loader("again")) == 999
