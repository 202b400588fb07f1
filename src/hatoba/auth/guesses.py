"""How often somebody may guess: wrong passwords are counted per account and address, and too many close the door.

Owns the counting alone; what a guess is and whether it was right is `access`'s business. Names, addresses and passwords
are not kept, only keyed hashes. Each worker counts for itself: N workers let through up to N times as many guesses.
"""

from __future__ import annotations

import hmac
import math
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any

from hatoba.errors import TooManyRequests


@dataclass(frozen=True, slots=True, eq=False)
class Guess:
    """One password that is being tried. `account` is a hash of name and address."""

    account: bytes
    key: bytes


class Guesses:
    """Lets each account and address fail `most` times in any `seconds`. For one event loop.

    Unknown accounts count like known ones, so that nothing tells them apart. Whoever was right before may try that
    password again, however many others failed. The `keep_most` accounts that failed last are remembered, more than
    bcrypt of cost 10 can check in a minute; and as many passwords that were right, each with its account.
    """

    def __init__(
        self,
        *,
        most: int = 10,
        seconds: float = 60.0,
        keep_most: int = 8192,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._seconds = seconds
        self._keep_most = keep_most
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._failures: OrderedDict[bytes, deque[float]] = OrderedDict()  # account: when, the oldest first
        self._open: dict[bytes, dict[bytes, Guess]] = {}  # account: the guesses that are being checked
        self._right: OrderedDict[tuple[bytes, bytes], None] = OrderedDict()  # account and password

    def lets_in(self, user: str, address: str, key: bytes) -> bool:
        """Whether the password behind `key`, known to be right, may be taken as such without being checked again.

        While the account is closed only if it was right from that address before: elsewhere the answer would tell a
        guesser, whom nothing slows here, that he has hit upon the password that its owner uses at this moment.
        """
        account = self._account(user, address)
        if len(self._recent(account)) >= self._most and (account, key) not in self._right:
            return False
        self._was_right(account, key)
        return True

    def begin(self, user: str, address: str, key: bytes) -> Guess:
        """Take up a guess before it is checked; `key` says which password it is. Each must come to its `end`.

        Raises TooManyRequests. A guess under way counts as failed, or many at once would all be let through; the same
        password again is the same guess: a client that knows it may ask for many things at once.
        """
        account = self._account(user, address)
        under_way = self._open.get(account, {})
        if (guess := under_way.get(key)) is not None:
            return guess
        failures = self._recent(account)
        if len(failures) + len(under_way) >= self._most and (account, key) not in self._right:
            # Those under way are decided in a moment.
            seconds = failures[0] + self._seconds - self._clock() if len(failures) >= self._most else 1.0
            raise TooManyRequests(
                "too many failed sign-ins; come back later", headers=(("Retry-After", str(max(1, math.ceil(seconds)))),)
            )
        guess = Guess(account, key)
        self._open.setdefault(account, {})[key] = guess
        return guess

    def end(self, guess: Guess, *, right: bool | None) -> None:
        """The guess was checked, or given up; None: it could not be checked. Only the first end of a guess counts."""
        under_way = self._open.get(guess.account, {})
        if under_way.get(guess.key) is not guess:
            return
        del under_way[guess.key]
        if not under_way:
            del self._open[guess.account]
        if right:
            self._was_right(guess.account, guess.key)
        elif right is not None:
            self._failures.setdefault(guess.account, deque(maxlen=self._most)).append(self._clock())
            _keep_newest(self._failures, guess.account, self._keep_most)

    def _was_right(self, account: bytes, key: bytes) -> None:
        self._right.setdefault((account, key))
        _keep_newest(self._right, (account, key), self._keep_most)

    def _recent(self, account: bytes) -> deque[float]:
        failures = self._failures.get(account)
        if failures is None:
            return deque()
        ended = self._clock() - self._seconds
        while failures and failures[0] <= ended:
            failures.popleft()
        if not failures:
            del self._failures[account]
        return failures

    def _account(self, user: str, address: str) -> bytes:
        # The address goes first: it holds no NUL, and a name may hold anything.
        parts = f"{_place(address)}\0{user}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._secret, parts, "sha256")


def _keep_newest(kept: OrderedDict[Any, Any], newest: object, most: int) -> None:
    kept.move_to_end(newest)
    if len(kept) > most:
        kept.popitem(last=False)


def _place(address: str) -> str:
    """An address, or its network: a host of IPv6 has 2^64 addresses to choose from."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return parsed.exploded[:19] if isinstance(parsed, IPv6Address) else address
