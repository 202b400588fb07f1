"""Why the registry is not ready, for `/healthz/ready` and `/debug/health`; nothing that strangers should not read."""

from __future__ import annotations

from datetime import timedelta

from hatoba.errors import RegistryError
from hatoba.operations.follow import Following
from hatoba.operations.mirror import Mirror
from hatoba.operations.storage_watch import StorageWatch

_OVERDUE = timedelta(minutes=1)


class Readiness:
    """What the parts of one worker say of themselves; `storage` is None where nobody looks at it."""

    def __init__(self, mirror: Mirror, following: Following, storage: StorageWatch | None) -> None:
        self._mirror = mirror
        self._following = following
        self._storage = storage

    async def problems(self) -> dict[str, str]:
        """The check that fails -> what is wrong, in the names of Docker's registry where it has one."""
        found = {}
        if self._storage is not None and self._storage.problem is not None:
            found["storagedriver_filesystem"] = self._storage.problem
        try:
            if reading := await self._following.problems():
                found["tree"] = "; ".join(reading)
            if overdue := await self._mirror.pending(_OVERDUE):
                found["links"] = f"{overdue} link files cannot be written"
        except RegistryError:
            found["database"] = "the database does not answer"
        return found

    async def sentences(self) -> list[str]:
        """What is wrong alone."""
        return list((await self.problems()).values())
