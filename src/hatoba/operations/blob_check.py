"""Compares each blob's row with its file, byte for byte, and each manifest in the database with its digest.

A blob that is not what its digest says is marked missing at once, so that it is never served; its next push heals it.
What is said was looked at again inside a write transaction, in which no push can be half-way. Deletes no bytes.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC

from hatoba.blobs.driver import BlobDriver, Entry, KeyMissing
from hatoba.db import blobs, manifests
from hatoba.db.blobs import BlobRow
from hatoba.db.engine import Database, Transaction, now
from hatoba.errors import InsufficientStorage, Unavailable
from hatoba.oci.digest import Digest
from hatoba.operations.findings import Report
from hatoba.registry.intake import read_back

_NAMED = 3  # manifests named in a finding
_AGAIN = 5  # how often a file that changes while it is looked at is looked at anew
_FULL = "the disk is full, so nothing could be changed: make room and check again"
_IN_THE_WAY = "a file stands where a folder should be"
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # says nothing about the file

Pace = Callable[[int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Seen:
    """A blob's file as it was found: `kind` of the finding, or None when it is whole."""

    kind: str | None
    meaning: str
    entry: Entry | None


@dataclass(frozen=True, slots=True)
class _Done:
    """What was done: where the file went, "" if nowhere, None if not even a mark could be made; mended, or why not."""

    aside: str | None
    fix: bool
    manifest: bool
    failure: Exception | None


class BlobCheck:
    """Looks at one blob after the other. With `fix` files that are wrong are set aside and manifests written again."""

    def __init__(self, database: Database, driver: BlobDriver, report: Report, pace: Pace, *, fix: bool) -> None:
        self._database = database
        self._driver = driver
        self._report = report
        self._pace = pace
        self._fix = fix

    async def blob(self, text: str, *, hashing: bool = True) -> None:
        """Look at the blob with this digest. Without `hashing` bytes are read only where the row says `missing`.

        Raises Unavailable when neither the file's fault nor the registry's: out of descriptors or memory.
        """
        digest = Digest.parse(text)
        for _ in range(_AGAIN):
            row = await blobs.find(self._database, digest)
            if row is None:
                return
            seen = await self._look(row, digest, hashing=hashing or not row.ready)
            if row.ready and seen.kind is None:
                break
            if await self._settle(row, digest, seen):
                break
        self._report.blobs += 1

    async def manifest(self, text: str) -> None:
        """Look at the bytes of a manifest that the database keeps: they are what a pull gives."""
        digest = Digest.parse(text)
        self._report.manifests += 1
        body = await manifests.find_body(self._database, digest)
        if body is None or Digest.of(body, digest.algorithm) == digest:
            return
        row = await blobs.find(self._database, digest)
        good = None if row is None else await self._bytes(row, digest)
        used = await self._used(digest)
        meaning = f"the database holds other bytes under this digest, and does not serve them; {used}"
        mended = False
        if good is not None and self._fix:
            with contextlib.suppress(InsufficientStorage):
                await self._database.write(lambda transaction: manifests.keep_body(transaction, digest, good))
                mended = True
        if mended:
            fix = "mended: taken from its file"
        elif good is None:
            fix = "push it again: its file is not right either"
        else:
            fix = _FULL if self._fix else "verify --fix takes the bytes from its file; so does a push"
        self._report.add("manifest-rotten", text, meaning, fix, mended=mended)

    async def _look(self, row: BlobRow, digest: Digest, *, hashing: bool) -> _Seen:
        try:
            entry = await self._driver.inspect(row.key)
            size = await self._driver.stat(row.key)
        except Unavailable as error:
            return _unreadable(error, None)
        if entry is None:
            return _Seen("blob-missing", "there is no file", None)
        if entry.kind in {"folder", "other"}:
            return _Seen("blob-strange", "a folder, socket or device is where the file should be", entry)
        if size is None:
            return _Seen("blob-missing", "a symbolic link that leads to no file", entry)
        if size != row.size:
            return _Seen("blob-wrong-size", f"its file has {size} bytes instead of {row.size}", entry)
        return await self._read(row, digest, entry) if hashing else _Seen(None, "", entry)

    async def _read(self, row: BlobRow, digest: Digest, entry: Entry) -> _Seen:
        try:
            with contextlib.closing(await self._driver.open(row.key)) as reader:
                found = await read_back(reader, row.size, digest.algorithm, pace=self._paced)
        except KeyMissing:
            return _Seen("blob-missing", "there is no file", await self._entry(row.key))
        except Unavailable as error:
            return _unreadable(error, entry)
        if found != digest.encoded:
            return _Seen("blob-rotten", f"its file's content is {digest.algorithm}:{found}", entry)
        return _Seen(None, "it was missing, and its file is there again and whole", entry)

    async def _entry(self, key: str) -> Entry | None:
        """As `inspect`; None also where nobody may look."""
        with contextlib.suppress(Unavailable):
            return await self._driver.inspect(key)
        return None

    async def _paced(self, length: int) -> None:
        self._report.hashed_bytes += length
        await self._pace(length)

    async def _settle(self, row: BlobRow, digest: Digest, seen: _Seen) -> bool:
        """Say what was seen if it is still so, and mark or mend it in the same transaction; False if it is not.

        What a disk does not let be mended is marked at least; where it does not even take a mark, reading goes on.
        """
        body = await self._right_body(digest) if seen.kind is not None else None
        failure: Exception | None = None
        for fix in (True, False) if self._fix else (False,):
            try:
                done = await self._changed(row, digest, seen, body if fix else None, fix=fix)
            except (InsufficientStorage, Unavailable, KeyMissing) as error:
                failure = error
            else:
                if done is not None:
                    await self._say(digest, seen, _Done(done, fix, body is not None, failure))
                return done is not None
        if not isinstance(failure, InsufficientStorage):
            raise failure or AssertionError("each try ends")
        await self._say(digest, seen, _Done(None, fix=False, manifest=body is not None, failure=failure))
        return True

    async def _changed(self, row: BlobRow, digest: Digest, seen: _Seen, body: bytes | None, *, fix: bool) -> str | None:
        """Where the file went that was there, or ""; None when it is not as it was seen any more."""
        staged = None
        if body is not None:
            await self._driver.prepare(row.key)
            staged = await self._driver.stage(body)

        async def settle(transaction: Transaction) -> str | None:
            if await blobs.find(transaction, digest) != row or await self._entry(row.key) != seen.entry:
                return None
            if seen.kind is None:
                if fix:
                    await blobs.make_ready(transaction, digest, row.key, row.size, now())
                return ""
            aside = ""
            if fix and seen.entry is not None:
                moment = now().astimezone(UTC)
                name = f"{digest.algorithm}-{digest.encoded}-{moment:%Y%m%dT%H%M%S%f}"
                aside = await self._driver.set_aside(row.key, name)
            if staged is not None:
                await self._driver.publish(staged, row.key)
                await blobs.make_ready(transaction, digest, row.key, row.size, now())
            else:
                await blobs.mark_missing(transaction, digest)
            return aside

        try:
            return await self._database.write(settle)
        finally:
            if staged is not None:
                await self._driver.remove(staged)

    async def _say(self, digest: Digest, seen: _Seen, done: _Done) -> None:
        meaning = f"{seen.meaning}; {await self._used(digest)}"
        if done.aside is None:
            fix = _FULL
        elif seen.kind is None and done.fix:
            fix = "mended: served again"
        elif seen.kind is None:
            fix = "a running server serves it again within minutes; so does --fix"
        elif done.manifest and done.fix:
            fix = "mended: written from the database"
        elif done.manifest:
            fix = "its bytes are in the database, and pulls are answered: verify --fix writes the file again"
        else:
            fix = "not served until it is pushed again"
        if done.aside:
            fix += f"; what was there is now {done.aside}"
        elif done.aside is not None and done.failure is not None:
            fix += f"; --fix fails: {_IN_THE_WAY if isinstance(done.failure, KeyMissing) else done.failure}"
        mended = done.fix and (seen.kind is None or done.manifest)
        self._report.add(seen.kind or "blob-returned", str(digest), meaning, fix, mended=mended)

    async def _right_body(self, digest: Digest) -> bytes | None:
        """The bytes of the manifest that this blob is, if it is one and the database has them right."""
        body = await manifests.find_body(self._database, digest)
        return body if body is not None and Digest.of(body, digest.algorithm) == digest else None

    async def _bytes(self, row: BlobRow, digest: Digest) -> bytes | None:
        """The content of a manifest's file if it is right."""
        try:
            content = await self._driver.read(row.key, row.size + 1)
        except (KeyMissing, Unavailable):
            return None
        return content if Digest.of(content, digest.algorithm) == digest else None

    async def _used(self, digest: Digest) -> str:
        """Which images suffer, for whoever has to push them again."""
        found = await blobs.naming(self._database, digest, _NAMED + 1)
        names = [f"{name}:{tag}" if tag else f"{name}@{manifest}" for name, manifest, tag in found]
        if not names:
            return "no manifest names it"
        more = " and more" if len(names) > _NAMED else ""
        return f"needed by {', '.join(dict.fromkeys(names[:_NAMED]))}{more}"


def _unreadable(error: Unavailable, entry: Entry | None) -> _Seen:
    if getattr(error.__cause__, "errno", None) in _PASSING:
        raise error
    return _Seen("blob-unreadable", error.message, entry)
