"""The ledger in one SQLite file: written by the event loop's own thread, synced in another, read in a third."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from edgesched.domain.task import (
    Attempt,
    ImageRef,
    Line,
    NewTask,
    Result,
    Task,
    TaskCounts,
    TaskDetails,
    TaskFilter,
    TaskId,
    TaskPage,
)
from edgesched.errors import InvalidInput, NotKnown
from edgesched.ledger import reader, retention
from edgesched.ledger.base import Accepted, Applied, LedgerEvent, NowMs, Ownership, Retired, Totals
from edgesched.ledger.database import Durability, LogFile, open_for_reading, open_for_writing
from edgesched.ledger.group import Command
from edgesched.ledger.reader import Reader
from edgesched.ledger.transition import MAX_INTEGER, MAY_NAME_ANOTHER_ATTEMPT, check_event, check_new_task, is_storable
from edgesched.ledger.writer import Writer
from edgesched.own_thread import OwnThread

EXPIRE_BATCH = 1_000
"""Tasks that one expire_due ends at most, so that it never holds a commit up for long."""


class SqliteLedger:
    """Ledger. Whoever opens it must hold the workspace's lock."""

    def __init__(self, writer: Writer, reader_: Reader, ownership: Ownership) -> None:
        self._writer = writer
        self._reader = reader_
        self._ownership = ownership

    @classmethod
    @asynccontextmanager
    async def opened(cls, path: Path, *, now_ms: NowMs, durability: Durability) -> AsyncIterator[SqliteLedger]:
        """Open the ledger under a new epoch; make it if there is no such file.

        now_ms: the ledger's clock.
        durability: what an answered call survives, a power cut or only the death of the process.
        Raises: StartupError naming the file if it cannot be made, is damaged, or belongs to a newer release.
        """
        with OwnThread("ledger-disk") as disk, OwnThread("ledger-reader") as reading:
            write_end, ownership, head = await disk.call(open_for_writing, path)
            try:
                with contextlib.ExitStack() as files:
                    log_file = None
                    if durability == "power":
                        log_file = files.enter_context(contextlib.closing(LogFile(path)))
                        await disk.call(log_file.sync)  # nobody hears of an epoch that may be lost
                    read_end = await reading.call(open_for_reading, path)
                    try:
                        writer = Writer(disk, write_end, log_file, head, now_ms)
                        try:
                            yield cls(writer, Reader(reading, read_end), ownership)
                        finally:
                            await writer.close()
                    finally:
                        await reading.call(read_end.close)
            finally:  # the last connection to close folds the write-ahead log into the file
                await disk.call(write_end.close)

    @property
    def ownership(self) -> Ownership:
        return self._ownership

    async def until_failed(self) -> NoReturn:
        """Wait until nothing can be written any more, and raise why (StorageFailed, StaleEpoch): end the process."""
        await self._writer.until_failed()

    async def outrank(self, epoch: int) -> Ownership:
        if not 0 <= epoch < MAX_INTEGER:
            raise InvalidInput(f"an epoch must be 0..{MAX_INTEGER - 1}, got {epoch}")
        now = await self._writer.write(Command(run=lambda group: group.outrank(epoch)))
        self._ownership = replace(self._ownership, epoch=now)
        return self._ownership

    async def accept_many(self, tasks: Sequence[NewTask]) -> Sequence[Accepted]:
        """Raises: InvalidInput (cannot be stored), Conflict (a task id is taken)."""
        if not tasks:
            return []
        for new in tasks:
            check_new_task(new)
        command = Command(
            run=lambda group: group.accept(tasks),
            task_ids=[new.task_id for new in tasks],
            keys=[(new.client_id, new.submission_key) for new in tasks],
        )
        return await self._writer.write(command)

    async def claim(self, line: Line, *, limit: int, after_seq: int = 0) -> Sequence[Task]:
        if not is_storable(line.model):
            return []
        limit, after_seq = _row_number(limit), _row_number(after_seq)
        return await self._writer.write(Command(run=lambda group: group.claim(line, limit, after_seq)))

    async def apply_many(self, events: Sequence[LedgerEvent]) -> Sequence[Applied]:
        """Raises: InvalidInput (an event lacks what its kind needs, or cannot be stored); then none is applied."""
        if not events:
            return []
        for event in events:
            check_event(event)
        command = Command(
            run=lambda group: group.apply(events),
            task_ids=[event.task_id for event in events],
            attempt_ids=[
                event.attempt_id
                for event in events
                if event.attempt_id is not None and event.event in MAY_NAME_ANOTHER_ATTEMPT
            ],
        )
        return await self._writer.write(command)

    async def expire_due(self) -> Sequence[Applied]:
        """At most EXPIRE_BATCH of them; ask again for more."""
        return await self._writer.write(Command(run=lambda group: group.expire_due(EXPIRE_BATCH)))

    async def changes_since(self, cursor: int, *, limit: int) -> Sequence[Task]:
        return await self._reader.read(
            partial(reader.changes_since, cursor=_row_number(cursor), limit=_row_number(limit))
        )

    async def newest_revision(self) -> int:
        return self._writer.head.revision

    async def get_many(self, task_ids: Collection[TaskId]) -> Sequence[Task]:
        known = [task_id for task_id in task_ids if is_storable(task_id)]
        return await self._reader.read(partial(reader.get_many, task_ids=known))

    async def ids_beside(self, task_id: TaskId) -> Sequence[TaskId]:
        if not is_storable(task_id):
            return []
        return await self._reader.read(partial(reader.ids_beside, task_id=task_id))

    async def details(self, task_id: TaskId) -> TaskDetails:
        if not is_storable(task_id):
            raise NotKnown(f"there is no task {task_id!r}")
        return await self._reader.read(partial(reader.details, task_id=task_id))

    async def result(self, task_id: TaskId) -> Result | None:
        if not is_storable(task_id):
            return None
        return await self._reader.read(partial(reader.result, task_id=task_id))

    async def list(self, filter_: TaskFilter, *, limit: int, cursor: int | None) -> TaskPage:
        if not all(is_storable(text or "") for text in (filter_.model, filter_.client_id, filter_.device_id)):
            return TaskPage(tasks=(), next_cursor=None)
        below = MAX_INTEGER if cursor is None else _row_number(cursor)
        return await self._reader.read(partial(reader.page, filter_=filter_, limit=_row_number(limit), cursor=below))

    async def counts(self) -> TaskCounts:
        return dict(self._writer.head.counts)

    async def queued(self) -> Mapping[Line, int]:
        return dict(self._writer.head.queued)

    async def totals(self) -> Totals:
        return await self._reader.read(reader.totals)

    async def open_bytes(self) -> int:
        return self._writer.head.open_bytes

    async def open_attempts(self) -> Sequence[Attempt]:
        return await self._reader.read(reader.open_attempts)

    async def undelivered(self, *, limit: int, after_seq: int = 0) -> Sequence[Task]:
        return await self._reader.read(
            partial(reader.undelivered, limit=_row_number(limit), after_seq=_row_number(after_seq))
        )

    async def live_images(self) -> frozenset[ImageRef]:
        return await self._reader.read(reader.live_images)

    async def retire_images(self, *, settled_before_ms: int, keep_bytes: int, limit: int) -> Retired:
        run = partial(
            retention.retire_images,
            settled_before_ms=settled_before_ms,
            keep_bytes=keep_bytes,
            limit=_row_number(limit),
        )
        return await self._writer.write(Command(run=run))

    async def retire_tasks(self, *, settled_before_ms: int, keys_before_ms: int, limit: int) -> Retired:
        run = partial(
            retention.retire_tasks,
            settled_before_ms=settled_before_ms,
            keys_before_ms=keys_before_ms,
            limit=_row_number(limit),
        )
        return await self._writer.write(Command(run=run))


def _row_number(number: int) -> int:
    """Cursors and limits come from outside: SQLite takes a negative limit for none, and refuses larger numbers."""
    return max(0, min(number, MAX_INTEGER - 1))
