"""The decision a request: who is asking, by the Authorization header, and may they do it.

Owns the Basic scheme's header and challenge. Whether a password is right is `htpasswd`'s business; which action a
route needs is `web`'s. Raw credentials are never kept.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from collections import OrderedDict
from enum import Enum
from typing import Literal, Protocol

from hatoba.auth.guesses import Guesses
from hatoba.auth.htpasswd import Htpasswd
from hatoba.auth.htpasswd_file import readable
from hatoba.errors import TooManyRequests, Unauthorized, Unavailable
from hatoba.metrics.catalogue import CREDENTIAL_CHECKS, OUTCOMES
from hatoba.metrics.cells import Recorder

Action = Literal["pull", "push", "delete", "catalog", "ping"]
_OUTCOMES = {True: "right", False: "wrong", None: "busy"}


class Miss(Enum):
    """The answer of `Access.cached` that is neither a name nor nobody: ask `authorize`."""

    MISS = "miss"


class Access(Protocol):
    """Decides about requests; one for each worker."""

    async def authorize(
        self, authorization: str | None, action: str, repository: str | None, address: str
    ) -> str | None:
        """The name of the user whom this Authorization header lets do `action`; None is anonymous.

        `action` is an `Action`; `repository` is None for what concerns none; `address` is the client's. Raises
        Unauthorized, carrying the challenge, Denied, TooManyRequests after too many failures, or Unavailable, and
        nothing else for whatever the header holds.
        """

    def cached(self, authorization: str | None, address: str) -> str | Miss | None:
        """The answer of `authorize` when it is known already and right for every action; never waits, never raises."""


class Anonymous:
    """`auth: none`: everybody may do everything and nobody is looked at."""

    async def authorize(
        self,
        authorization: str | None,  # noqa: ARG002
        action: str,  # noqa: ARG002
        repository: str | None,  # noqa: ARG002
        address: str,  # noqa: ARG002
    ) -> str | None:
        """See `Access.authorize`."""
        return None

    def cached(self, authorization: str | None, address: str) -> str | Miss | None:  # noqa: ARG002
        """See `Access.cached`."""
        return None


class BasicAccess:
    """`auth: htpasswd`: whoever has a password may do everything.

    Docker sends the same header with every request, so the headers last found right are kept, by a keyed hash and the
    address they came from, each pointing at what `htpasswd` has verified: it counts only as long as that does. While
    too many `guesses` of an account have failed from an address, what was right from there before is let in; all else
    is not even checked.
    """

    def __init__(
        self,
        htpasswd: Htpasswd,
        realm: str,
        guesses: Guesses,
        *,
        keep_most: int = 4096,
        recorder: Recorder | None = None,
    ) -> None:
        recorder = recorder or Recorder.unshared()
        self._checks = {outcome: recorder.counter(CREDENTIAL_CHECKS, outcome) for outcome in OUTCOMES}
        self._htpasswd = htpasswd
        self._guesses = guesses
        self._challenge = (("WWW-Authenticate", f'Basic realm="{_quoted(realm)}"'),)
        self._keep_most = keep_most
        self._secret = secrets.token_bytes(32)
        # Header and address: the user and the key of the credentials.
        self._headers: OrderedDict[tuple[bytes, str], tuple[str, bytes]] = OrderedDict()

    async def authorize(
        self,
        authorization: str | None,
        action: str,  # noqa: ARG002
        repository: str | None,  # noqa: ARG002
        address: str,
    ) -> str:
        """See `Access.authorize`."""
        known = self.cached(authorization, address)
        if known is not Miss.MISS:
            return known
        credentials = _credentials(authorization or "")
        if authorization is None or credentials is None or not await self._verify(*credentials, address):
            raise Unauthorized(headers=self._challenge)
        self._keep(self._header(authorization, address), credentials[0], self._htpasswd.key_of(*credentials))
        return credentials[0]

    def cached(self, authorization: str | None, address: str) -> str | Miss:
        """See `Access.cached`."""
        if authorization is None:
            return Miss.MISS
        header = self._header(authorization, address)
        known = self._headers.get(header)
        if known is None:
            return Miss.MISS
        user, key = known
        if not self._htpasswd.is_verified(key):
            del self._headers[header]
            return Miss.MISS
        self._headers.move_to_end(header)
        return user

    async def _verify(self, user: str, password: str, address: str) -> bool:
        key = self._htpasswd.key_of(user, password)
        if self._htpasswd.is_verified(key) and self._guesses.lets_in(user, address, key):
            return True
        try:
            guess = self._guesses.begin(user, address, key)
        except TooManyRequests:
            self._checks["refused"].add()
            raise
        right: bool | None = False  # so it counts when the client goes away: it may ask for the outcome by the cache
        try:
            right = await self._htpasswd.verify(user, password)
        except Unavailable:
            right = None
            raise
        finally:
            self._guesses.end(guess, right=right)
            self._checks[_OUTCOMES[right]].add()
        return right

    def _keep(self, header: tuple[bytes, str], user: str, key: bytes) -> None:
        self._headers[header] = (user, key)
        self._headers.move_to_end(header)
        if len(self._headers) > self._keep_most:
            self._headers.popitem(last=False)

    def _header(self, authorization: str, address: str) -> tuple[bytes, str]:
        return hmac.digest(self._secret, authorization.encode("utf-8", "surrogatepass"), "sha256"), address


def _credentials(authorization: str) -> tuple[str, str] | None:
    """User and password of a Basic header (RFC 7617); None when it is anything else."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        content = base64.b64decode(token.strip(" "), validate=True)
    except ValueError:
        return None
    user, colon, password = readable(content).partition(":")
    return (user, password) if colon else None


def _quoted(realm: str) -> str:
    """The inside of a quoted-string. What a header cannot carry becomes "?": a realm is only shown to people."""
    plain = "".join(character if " " <= character <= "~" else "?" for character in realm)
    return plain.replace("\\", "\\\\").replace('"', '\\"')
