"""What clients were told: each has repositories of its own, so that its last answer and the request under way say all.

A state is what a client may see. After a fault it must see the state of its last answer or, of a request that was not
answered, the state after it: nothing in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Session:
    """An upload that goes on: `content` is what the client has been told is there."""

    location: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Contents:
    """What a repository holds, by digests."""

    blobs: frozenset[str] = frozenset()
    manifests: frozenset[str] = frozenset()
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class State:
    """What one client may see. `session` is None where it has none, or does not know of it."""

    repositories: Mapping[str, Contents]
    session: Session | None = None

    def changed(self, repository: str, **fields: object) -> State:
        """The state with another content of one repository."""
        contents = replace(self.repositories[repository], **fields)  # type: ignore[arg-type]
        return replace(self, repositories={**self.repositories, repository: contents})

    def holding(self, session: Session | None) -> State:
        """The state with another session."""
        return replace(self, session=session)


@dataclass(slots=True)
class Known:
    """What one client may see now; `digests` is all that it ever pushed or tried to: blobs and manifests."""

    certain: State
    under_way: State | None = None
    blobs: set[str] = field(default_factory=set)
    manifests: set[str] = field(default_factory=set)

    @property
    def allowed(self) -> list[State]:
        """The states that may be seen."""
        return [self.certain] if self.under_way is None else [self.certain, self.under_way]

    def asked(self, after: State) -> None:
        """A request goes out; `after` is what holds when it succeeds."""
        self.under_way = after
        for contents in after.repositories.values():
            self.blobs |= contents.blobs
            self.manifests |= contents.manifests

    def told(self, *, success: bool = True) -> None:
        """Its answer is here."""
        if success and self.under_way is not None:
            self.certain = self.under_way
        self.under_way = None
