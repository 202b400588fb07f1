"""The flock that queues writers: held from before BEGIN until behind COMMIT or ROLLBACK, then given back."""

import fcntl

import pytest

from hatoba.db import sqlite

INSERT = "INSERT INTO repositories (name, created_at) VALUES (:name, 1)"


def is_held(folder):
    with (folder / "locks" / "write-metadata").open("ab") as other:
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@pytest.mark.parametrize("fails", [False, True])
async def test_the_queue_waits_until_the_transaction_has_ended(database, folder, monkeypatch, fails):
    seen = []
    real = sqlite._Writer._transact

    def transact(self, connection, work):
        seen.append(is_held(folder))
        try:
            return real(self, connection, work)
        finally:
            seen.append(is_held(folder))

    async def work(transaction):
        seen.append(is_held(folder))
        await transaction.run(INSERT, name="a")
        if fails:
            raise LookupError

    with monkeypatch.context() as patched:
        patched.setattr(sqlite._Writer, "_transact", transact)
        if fails:
            with pytest.raises(LookupError):
                await database.write(work)
        else:
            await database.write(work)
    assert seen == [True, True, True]
    database.close()
    assert not is_held(folder)
