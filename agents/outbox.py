"""Outcomes that the ledger has not settled yet. Labels that wait for it are written to the disk.

The ledger judges an outcome, and has its labels, before anybody acts on it, and as a rule that takes some milliseconds:
what is settled so soon is never written. Labels that die with the board before the ledger has them cost their attempt,
nothing else.

Only the labels are durable, not what became of them: after a restart every entry waits for the ledger's verdict again,
the ledger repeats it, and receivers accept a repeated delivery.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from agents.outbox_files import STORED_OUTCOME, Group, OutboxFiles, StoredOutcome
from agents.work import Assignment, Outcome
from edgesched.domain.task import AttemptId, Failure, Result
from edgesched.errors import StartupError
from edgesched.wake import Wake

RESERVED_PER_ATTEMPT = 64 * 1024
"""Room kept for the labels of each attempt on the board: 300 detections take about 45 KB."""

MAX_FAILURES = 1_000
"""Failures have no labels to lose: they wait in memory, and beyond this number the oldest is forgotten. The next Hello
omits it, and the task manager queues the task again."""

RETRY_WRITE_S = 1.0

WRITE_AFTER_S = 0.25
"""What is not settled in this time waits for a task manager or a receiver that is away, or much too busy: it may wait
long. Writing costs as much as all else that the daemon does for a picture, and SD cards wear out."""

REMOVE_AFTER_S = 0.5
"""Settled groups go with the next group that is written, or after this time."""

log = logging.getLogger(__name__)


class Stage(StrEnum):
    WAITING_ACK = "waiting_ack"  # the ledger has not judged it, or we have not heard of it
    DELIVERING = "delivering"  # judged the winner: its labels go to the receiver
    REPORTING = "reporting"  # the receiver has answered; the task manager has to know


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    assignment: Assignment
    stage: Stage
    failure: Failure | None = None
    result: Result | None = None  # until it is written
    line: bytes = b""  # from then on, a StoredOutcome as JSON; kept small like this, entries may wait for hours
    group: Group | None = None
    added_at: float = 0.0  # time.monotonic()
    created_at_ms: int = 0
    is_delivered: bool = False
    error: str = ""  # why the receiver rejected it for good

    @property
    def attempt_id(self) -> AttemptId:
        return self.assignment.attempt_id

    def outcome(self) -> Outcome:
        return self.failure or self.result or STORED_OUTCOME.parse(self.line).result

    def stored(self) -> bytes:
        assert self.result is not None  # only labels that are not written yet are
        assignment = self.assignment
        return STORED_OUTCOME.dump(
            StoredOutcome(
                ledger_id=assignment.ledger_id,
                task_id=assignment.task_id,
                attempt_id=assignment.attempt_id,
                model=assignment.model,
                file_name=assignment.file_name,
                receiver_url=assignment.receiver_url,
                created_at_ms=self.created_at_ms,
                result=self.result,
            )
        )


class Outbox:
    """All of this board's unsettled outcomes, of every ledger."""

    def __init__(self, directory: Path, *, max_bytes: int, on_due: Callable[[Entry], None]) -> None:
        """on_due: called when an entry has news for the task manager: its outcome, or its delivery."""
        self._files = OutboxFiles(directory)
        self._max_bytes = max_bytes
        self._on_due = on_due
        self._entries: dict[AttemptId, Entry] = {}
        self._unwritten: dict[AttemptId, Entry] = {}  # oldest first
        self._obsolete: list[Group] = []
        self._failures: dict[AttemptId, Entry] = {}
        self._delivering: dict[str, dict[AttemptId, Entry]] = {}
        self._bytes = 0
        self._wake = Wake()
        self._writing = asyncio.Lock()
        self.deliverable = asyncio.Event()
        """Set when an entry is to be delivered; the result sender clears it."""
        self.trouble: str | None = None
        """Why labels cannot be stored at the moment."""

    @classmethod
    @asynccontextmanager
    async def opened(cls, directory: Path, *, max_bytes: int, on_due: Callable[[Entry], None]) -> AsyncIterator[Outbox]:
        """Read what an earlier life left; at the end write what is left to write.

        Raises: StartupError if the directory cannot be used.
        """
        outbox = cls(directory, max_bytes=max_bytes, on_due=on_due)
        try:
            found = await asyncio.to_thread(outbox._files.recover)
        except OSError as error:
            raise StartupError(
                f"{directory}: the outbox cannot be used ({error.strerror}): choose another --workspace"
            ) from error
        for group, lines in found:
            outbox._adopt(group, lines)
        if found:
            log.info("outbox.recovered", extra={"entries": outbox.count, "bytes": outbox._bytes})
        try:
            yield outbox
        finally:
            await outbox.flush()

    async def run(self) -> None:
        """Write what is not settled in time, and remove the files of what is settled. Until cancelled."""
        while True:
            await self._wake.wait()
            if self._due_in_s() == 0.0 or self._obsolete or self.trouble:
                # In full also if this is cancelled: its thread cannot be stopped half way.
                is_written = await asyncio.shield(self._flush(is_due=self._due_in_s() == 0.0))
                if not is_written:
                    await asyncio.sleep(RETRY_WRITE_S)
                    self._wake.now()
            if self._unwritten:
                self._wake.within(self._due_in_s())

    async def flush(self) -> None:
        """Write all that is not settled now."""
        await self._flush(is_due=True)

    # --- filled by the supervisor ---

    def add(self, assignment: Assignment, outcome: Outcome) -> None:
        """Keep an outcome until it is settled, and tell of it at once."""
        entry = Entry(assignment=assignment, stage=Stage.WAITING_ACK)
        self._entries[entry.attempt_id] = entry
        if isinstance(outcome, Failure):
            entry.failure = outcome
            self._failures[entry.attempt_id] = entry
            if len(self._failures) > MAX_FAILURES:
                self._remove(next(iter(self._failures.values())))
        else:
            entry.result = outcome
            entry.added_at, entry.created_at_ms = time.monotonic(), time.time_ns() // 1_000_000
            if not self._unwritten:
                self._wake.within(WRITE_AFTER_S)
            self._unwritten[entry.attempt_id] = entry
        self._on_due(entry)

    def has_room_for(self, attempts: int) -> bool:
        """Whether the labels of that many attempts still fit."""
        return self._bytes + (len(self._unwritten) + attempts) * RESERVED_PER_ATTEMPT <= self._max_bytes

    # --- read by whoever speaks with the task manager ---

    @property
    def count(self) -> int:
        return len(self._entries)

    def get(self, attempt_id: AttemptId) -> Entry | None:
        return self._entries.get(attempt_id)

    def entries(self) -> Iterator[Entry]:
        return iter(tuple(self._entries.values()))

    def judged(self, ledger_id: str, attempt_id: AttemptId, *, deliver: bool) -> None:
        """The ledger's verdict on an outcome. Said twice, or about an unknown attempt: nothing happens."""
        entry = self._entries.get(attempt_id)
        if entry is None or entry.assignment.ledger_id != ledger_id:
            return
        url = entry.assignment.receiver_url
        if not deliver or url is None or entry.failure is not None:
            self._remove(entry)
        elif entry.stage is Stage.WAITING_ACK:
            entry.stage = Stage.DELIVERING
            self._delivering.setdefault(url, {})[attempt_id] = entry
            self.deliverable.set()

    def delivery_known(self, ledger_id: str, attempt_id: AttemptId) -> None:
        """The task manager has noted the delivery: the entry has done its duty."""
        entry = self._entries.get(attempt_id)
        if entry is not None and entry.assignment.ledger_id == ledger_id:
            self._remove(entry)

    # --- read by the result sender ---

    def receivers(self) -> tuple[str, ...]:
        """URLs that something has to be delivered to."""
        return tuple(self._delivering)

    def to_deliver(self, url: str) -> Iterator[Entry]:
        return iter(self._delivering.get(url, {}).values())

    def delivered(self, entry: Entry) -> None:
        self._report(entry, is_delivered=True, error="")

    def rejected(self, entry: Entry, error: str) -> None:
        """The receiver will never take it. It is kept until the task manager knows."""
        self._report(entry, is_delivered=False, error=error)

    # --- inside ---

    def _report(self, entry: Entry, *, is_delivered: bool, error: str) -> None:
        if entry.stage is not Stage.DELIVERING or self._entries.get(entry.attempt_id) is not entry:
            return  # the ledger settled it meanwhile
        self._stop_delivering(entry)
        entry.stage, entry.is_delivered, entry.error = Stage.REPORTING, is_delivered, error
        self._on_due(entry)

    def _stop_delivering(self, entry: Entry) -> None:
        url = entry.assignment.receiver_url or ""
        waiting = self._delivering.get(url)
        if waiting is not None:
            waiting.pop(entry.attempt_id, None)
            if not waiting:
                del self._delivering[url]

    def _remove(self, entry: Entry) -> None:
        del self._entries[entry.attempt_id]
        self._failures.pop(entry.attempt_id, None)
        self._unwritten.pop(entry.attempt_id, None)
        self._stop_delivering(entry)
        if entry.group is not None:
            self._leave(entry.group)

    def _leave(self, group: Group) -> None:
        """An entry of it is settled."""
        group.live -= 1
        if group.live == 0:
            self._bytes -= group.size_bytes
            self._obsolete.append(group)
            self._wake.within(REMOVE_AFTER_S)

    def _adopt(self, group: Group, lines: list[bytes]) -> None:
        self._bytes += group.size_bytes
        for line in lines:
            stored = STORED_OUTCOME.parse(line)
            assignment = Assignment(
                ledger_id=stored.ledger_id,
                task_id=stored.task_id,
                attempt_id=stored.attempt_id,
                model=stored.model,
                file_name=stored.file_name,
                receiver_url=stored.receiver_url,
            )
            self._entries[stored.attempt_id] = Entry(
                assignment=assignment, stage=Stage.WAITING_ACK, line=line, group=group
            )

    def _due_in_s(self) -> float:
        """When something has to be written; infinity if nothing has."""
        oldest = next(iter(self._unwritten.values()), None)
        return math.inf if oldest is None else max(0.0, oldest.added_at + WRITE_AFTER_S - time.monotonic())

    async def _flush(self, *, is_due: bool) -> bool:
        """Settled groups off the disk, and if it is due one group with all that is not settled onto it.

        Returns: whether the disk took it.
        """
        async with self._writing:
            batch = list(self._unwritten.values()) if is_due else []
            obsolete, self._obsolete = self._obsolete, []
            lines = [entry.stored() for entry in batch]
            try:
                group = await asyncio.to_thread(self._files.write, lines, obsolete)
            except OSError as error:
                self._obsolete = obsolete + self._obsolete
                self.trouble = (
                    f"labels cannot be stored on this board: {error.strerror}; free space or replace the disk"
                )
                log.error("outbox.write_failed", extra={"entries": len(batch), "reason": str(error)})
                return False
            self.trouble = None
            if group is not None:
                log.debug("outbox.written", extra={"entries": len(batch), "bytes": group.size_bytes})
                self._bytes += group.size_bytes
                for entry, line in zip(batch, lines, strict=True):
                    self._unwritten.pop(entry.attempt_id, None)
                    entry.line, entry.group, entry.result = line, group, None
                    if self._entries.get(entry.attempt_id) is not entry:  # settled meanwhile
                        self._leave(group)
            return True
