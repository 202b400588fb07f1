"""Rules of uploads: sessions that outlive requests, workers and restarts, and end as a blob.

Whoever writes or closes a session holds its file's lock (`BlobDriver.append`). Bytes become durable before the row
says so, and the row never says more than the disk has. docs/architecture.md, "Uploads", has the reasons.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import structlog

from hatoba.blobs import layout
from hatoba.blobs.driver import BlobDriver, BlobWriter, KeyBusy, KeyMissing, OutOfSpace
from hatoba.db import blobs, mirror, repositories, uploads
from hatoba.db.engine import Database, Transaction, now
from hatoba.db.mirror import MirrorRow
from hatoba.db.uploads import UploadRow
from hatoba.errors import (
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    InsufficientStorage,
    RangeInvalid,
    RegistryError,
    SizeInvalid,
    TooManyRequests,
)
from hatoba.oci.digest import CANONICAL, Digest
from hatoba.oci.reference import RepositoryName, is_name
from hatoba.registry.blobs import Blobs, is_whole
from hatoba.registry.intake import Intake, LiveHashers, read_back
from hatoba.registry.ports import BodyInterrupted, Chunk, Links

_PAGE = 200
_TIME_BYTES = 64


@dataclass(frozen=True, slots=True)
class Upload:
    """A session as its client sees it: `offset` bytes are safe."""

    id: str
    repository: str
    offset: int


class Uploads:
    """The upload sessions of all repositories. `sessions` is the database `uploads`, `database` is `metadata`."""

    def __init__(  # noqa: PLR0913, PLR0917  what the rules work on
        self,
        sessions: Database,
        database: Database,
        driver: BlobDriver,
        links: Links,
        blobs_: Blobs,
        most: int = 0,
    ) -> None:
        self._most = most
        self._sessions = sessions
        self._database = database
        self._driver = driver
        self._links = links
        self._blobs = blobs_
        self._hashers = LiveHashers()
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="hatoba-hash")
        self._log = structlog.stdlib.get_logger("hatoba.uploads")

    def close(self) -> None:
        """Stop the hashing threads."""
        self._pool.shutdown(wait=True)

    async def start(self, repository: RepositoryName, algorithm: str = CANONICAL) -> Upload:
        """Begin a session; `algorithm` is that of the digest it will be closed with, if the client said so.

        Raises TooManyRequests when `most` sessions are open.
        """
        upload_id = str(uuid.uuid4())
        at = now()
        empty = Digest.of(b"", algorithm)

        async def begin(transaction: Transaction) -> None:
            if self._most and await uploads.are_open(transaction, self._most):
                raise TooManyRequests("too many uploads are open", headers=(("Retry-After", "10"),))
            await uploads.start(transaction, upload_id, repository, empty, at)

        await self._sessions.write(begin)
        await self._driver.create(layout.upload(repository, upload_id))
        started = at.replace(microsecond=0).isoformat().replace("+00:00", "Z").encode()
        await self._driver.write_link(layout.upload_started_at(repository, upload_id), started)
        return Upload(upload_id, repository, 0)

    async def status(self, repository: RepositoryName, upload_id: str) -> Upload:
        """How far the session is; raises BlobUploadUnknown."""
        row = await self._find(repository, upload_id)
        return Upload(row.id, row.repository, row.offset)

    async def append(self, repository: RepositoryName, upload_id: str, chunk: Chunk) -> Upload:
        """Take a chunk; durable on return. Raises RangeInvalid when out of order or while another request writes.

        When the client goes away in the middle, what came is kept and the session can go on.
        """
        row = await self._find(repository, upload_id)
        _check_order(row, chunk)
        try:
            async with self._exclusive(row) as (row, writer):
                _check_order(row, chunk)
                offset = await self._receive(row, writer, chunk)
        except KeyBusy:
            row = await self._find(repository, upload_id)
            raise RangeInvalid("another request writes to this upload", headers=range_header(row.offset)) from None
        return Upload(row.id, row.repository, offset)

    async def commit(self, repository: RepositoryName, upload_id: str, digest: Digest, chunk: Chunk) -> None:
        """Close the session with its last chunk, maybe empty: the blob exists, durably, on return.

        Raises DigestInvalid (the session is then over), RangeInvalid, TooManyRequests while another request writes.
        Said again after it succeeded it succeeds: the client did not get the first answer.
        """
        try:
            row = await self._find(repository, upload_id)
            _check_order(row, chunk)
            async with self._exclusive(row) as (row, writer):
                _check_order(row, chunk)
                await self._close(row, writer, digest, chunk)
        except KeyBusy:
            raise TooManyRequests("another request writes to this upload", headers=(("Retry-After", "1"),)) from None
        except BlobUploadUnknown:
            if not await self._linked(repository, digest):
                raise

    async def push(self, repository: RepositoryName, digest: Digest, chunk: Chunk) -> None:
        """A whole blob in one request; nothing stays behind if it fails."""
        upload = await self.start(repository, digest.algorithm)
        try:
            await self.commit(repository, upload.id, digest, chunk)
        except BaseException:
            await self._discard(upload.repository, upload.id)
            raise

    async def cancel(self, repository: RepositoryName, upload_id: str) -> None:
        """End the session; raises BlobUploadUnknown, TooManyRequests while a request writes to it."""
        row = await self._find(repository, upload_id)
        try:
            async with self._exclusive(row) as (row, _):
                await self._discard(row.repository, row.id)
        except KeyBusy:
            raise TooManyRequests("another request writes to this upload", headers=(("Retry-After", "1"),)) from None

    async def purge(self, age: timedelta, *, dry_run: bool = False) -> int:
        """End sessions without a byte for `age`; those in use stay. How many ended (or would)."""
        ended = 0
        before = now() - age
        for row in await self._sessions.scan(lambda reader: uploads.idle(reader, before, _PAGE)):
            ended += 1
            self._log.info("purging idle upload", upload=row.id, repository=row.repository, dry_run=dry_run)
            if dry_run:
                continue
            try:
                async with self._driver.append(layout.upload(row.repository, row.id)):
                    current = await uploads.find(self._sessions, row.repository, row.id)
                    if current is not None and current.updated_at < before:
                        await self._discard(row.repository, row.id)
            except KeyMissing:
                await self._discard(row.repository, row.id)
            except KeyBusy:
                ended -= 1
        return ended

    async def purge_files(self, age: timedelta, *, dry_run: bool = False) -> int:
        """Remove files of no session: what a crash left, or a session of Docker's registry older than `age`.

        Walks the tree of repositories, as Docker's registry does for the same purpose. How many sessions' files went.
        """
        removed = 0
        seen: set[tuple[str, str]] = set()
        async for key in self._driver.walk(layout.REPOSITORIES):
            folder, found, rest = key.partition("/_uploads/")
            repository, upload_id = folder.removeprefix(f"{layout.REPOSITORIES}/"), rest.partition("/")[0]
            if not found or (repository, upload_id) in seen or not is_name(repository):
                continue
            seen.add((repository, upload_id))
            if await self._abandoned(repository, upload_id, now() - age):
                removed += 1
                self._log.info(
                    "removing files of no upload", upload=upload_id[:64], repository=repository, dry_run=dry_run
                )
                if not dry_run:
                    await self._driver.remove_tree(layout.upload_folder(repository, upload_id))
        return removed

    async def _abandoned(self, repository: str, upload_id: str, before: datetime) -> bool:
        """No row, nobody writing, and not begun since `before`. Ending a session removes `startedat` first."""
        # Before the lock, too: a client of the session would hear that another request writes to it.
        if await uploads.find(self._sessions, repository, upload_id) is not None:
            return False
        try:
            async with self._driver.append(layout.upload(repository, upload_id)):
                pass
        except KeyBusy:
            return False
        except KeyMissing:
            pass
        if await uploads.find(self._sessions, repository, upload_id) is not None:
            return False
        try:
            written = await self._driver.read(layout.upload_started_at(repository, upload_id), _TIME_BYTES)
            started = datetime.fromisoformat(written.decode().strip())
        except (KeyMissing, ValueError):
            return True
        return (started if started.tzinfo else started.replace(tzinfo=UTC)) < before

    async def _find(self, repository: RepositoryName, upload_id: str) -> UploadRow:
        row = await uploads.find(self._sessions, repository, upload_id)
        if row is None:
            raise BlobUploadUnknown(detail={"upload": upload_id[:64]})
        return row

    @asynccontextmanager
    async def _exclusive(self, row: UploadRow) -> AsyncIterator[tuple[UploadRow, BlobWriter]]:
        """Hold the session: its row read under the lock, its file cut to what the row says. Raises KeyBusy."""
        try:
            async with self._driver.append(layout.upload(row.repository, row.id)) as writer:
                current = await uploads.find(self._sessions, row.repository, row.id)
                if current is None:
                    raise BlobUploadUnknown(detail={"upload": row.id})
                await writer.truncate(current.offset)
                yield current, writer
        except KeyMissing:
            # The blob was made and the answer lost, or somebody removed the file: the session is over either way.
            await self._discard(row.repository, row.id)
            raise BlobUploadUnknown(detail={"upload": row.id}) from None

    async def _receive(self, row: UploadRow, writer: BlobWriter, chunk: Chunk) -> int:
        """Append and acknowledge a chunk; the offset after it."""
        live = self._hashers.take(row.id, row.offset, row.algorithm)
        intake = Intake(writer, live, row.offset, self._pool)
        interrupted = await self._fill(row, writer, intake, chunk)
        try:
            await writer.sync()
        except (OutOfSpace, RegistryError) as error:
            await self._give_up(row, error)
        digest = None if live is None else f"{row.algorithm}:{live.hexdigest()}"
        offset, at = intake.offset, now()
        if not await self._sessions.write(lambda t: uploads.advance(t, row, offset, digest, at)):
            raise BlobUploadUnknown(detail={"upload": row.id})
        if live is not None:
            self._hashers.keep(row.id, offset, live)
        if interrupted is not None:
            raise interrupted
        return offset

    async def _close(self, row: UploadRow, writer: BlobWriter, digest: Digest, chunk: Chunk) -> None:
        """Take the last chunk, compare the digest, make the blob."""
        live = self._hashers.take(row.id, row.offset, row.algorithm)
        intake = Intake(writer, live, row.offset, self._pool)
        interrupted = await self._fill(row, writer, intake, chunk)
        if interrupted is not None:
            raise interrupted
        known = "" if live is None else live.hexdigest()
        if live is None and intake.offset == row.offset and row.digest is not None:
            known = row.digest.partition(":")[2]
        try:
            size = await writer.seal()
            if not known or digest.algorithm != row.algorithm:
                known = await read_back(writer, intake.offset, digest.algorithm, self._pool)
        except (OutOfSpace, RegistryError) as error:
            await self._give_up(row, error)
        if size != intake.offset:
            await self._give_up(row, BlobUploadInvalid("the upload's file changed under the registry's hands"))
        if known != digest.encoded:
            await self._discard(row.repository, row.id)
            raise DigestInvalid(detail={"expected": str(digest), "found": f"{digest.algorithm}:{known}"})
        await self._make_blob(row, digest, size)

    async def _fill(self, row: UploadRow, writer: BlobWriter, intake: Intake, chunk: Chunk) -> BodyInterrupted | None:
        """Write the body behind what is there. An interruption is returned: what came before it is good."""
        received = 0
        expected = chunk.length_bytes if chunk.first is None else _span(chunk)
        interrupted: BodyInterrupted | None = None
        room = None if expected is None else await writer.room()
        if room is not None and expected is not None and expected > room:
            raise InsufficientStorage  # known before it comes: the session stays as it is
        try:
            try:
                async for part in chunk.body:
                    received += len(part)
                    if expected is not None and received > expected:
                        break
                    await intake.add(part)
            except BodyInterrupted as gone:
                interrupted = gone
            await intake.finish()
        except OutOfSpace as error:
            await intake.stop()
            await self._cut_back(row, writer, error)
        except RegistryError as error:
            await intake.stop()
            await self._give_up(row, error)
        finally:
            await intake.stop()
        if interrupted is None and expected is not None and received != expected:
            raise SizeInvalid(detail={"expected": expected, "received": received})
        return interrupted

    async def _make_blob(self, row: UploadRow, digest: Digest, size: int) -> None:
        source, key = layout.upload(row.repository, row.id), layout.blob(digest)
        await self._driver.prepare(key)

        async def commit(transaction: Transaction) -> list[MirrorRow]:
            at = now()
            known = await blobs.find(transaction, digest)
            whole = known is not None and known.size == size and await is_whole(self._driver, known)
            if not (whole and await blobs.touch(transaction, digest, at)):
                await self._driver.publish(source, key)
                await blobs.make_ready(transaction, digest, key, size, at)
            repository_id, _ = await repositories.ensure(transaction, row.repository, at)
            if await blobs.link(transaction, repository_id, digest, at):
                return [await mirror.mark(transaction, row.repository, "layer", str(digest), at)]
            return []

        marks = await self._database.write(commit)
        await self._links.write(marks)
        await self._discard(row.repository, row.id)

    async def _cut_back(self, row: UploadRow, writer: BlobWriter, error: OutOfSpace) -> NoReturn:
        """The disk is full: free what was not acknowledged and keep the session for when there is room."""
        self._hashers.forget(row.id)
        await writer.truncate(row.offset)
        self._log.error("disk full while receiving an upload", upload=row.id, repository=row.repository)
        raise InsufficientStorage from error

    async def _give_up(self, row: UploadRow, error: OutOfSpace | RegistryError) -> NoReturn:
        """End the session for good after a failed write or sync: the kernel reports that once, never again."""
        self._log.error("upload given up: writing failed", upload=row.id, repository=row.repository, reason=str(error))
        await self._discard(row.repository, row.id)
        if isinstance(error, OutOfSpace):
            raise InsufficientStorage from error
        raise error

    async def _discard(self, repository: str, upload_id: str) -> None:
        """Remove what is left of a session: row first, so that no request finds it without its file."""
        self._hashers.forget(upload_id)
        await self._sessions.write(lambda transaction: uploads.end(transaction, upload_id))
        await self._driver.remove(layout.upload_started_at(repository, upload_id))
        await self._driver.remove(layout.upload(repository, upload_id))

    async def _linked(self, repository: RepositoryName, digest: Digest) -> bool:
        row = await blobs.find_linked(self._database, repository, digest)
        return row is not None and await self._blobs.present(row, digest)


def range_header(offset: int) -> tuple[tuple[str, str], ...]:
    """The Range header of a session; Docker's registry says `0-0` for an empty one, and clients know that."""
    return (("Range", f"0-{max(offset - 1, 0)}"),)


def _span(chunk: Chunk) -> int:
    first, last = chunk.first or 0, chunk.last
    return (first if last is None else last + 1) - first


def _check_order(row: UploadRow, chunk: Chunk) -> None:
    if chunk.first is None:
        return
    if chunk.first != row.offset or _span(chunk) <= 0:
        raise RangeInvalid("chunk out of order", detail={"offset": row.offset}, headers=range_header(row.offset))
    if chunk.length_bytes is not None and chunk.length_bytes != _span(chunk):
        raise SizeInvalid(detail={"expected": _span(chunk), "received": chunk.length_bytes})
