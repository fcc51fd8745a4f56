"""What a ledger promises. `tests/contract/` runs one suite over every implementation.

The ledger is the only memory of tasks. Every call is async and takes a batch; when a call returns, its changes are
durable. Whoever opened it owns it under an epoch that only grows; a write under an older epoch is refused (StaleEpoch).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from edgesched.domain.device import DeviceId
from edgesched.domain.fact import fact
from edgesched.domain.lifecycle import Event, State
from edgesched.domain.task import (
    Attempt,
    AttemptId,
    Failure,
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

NowMs = Callable[[], int]
"""Reads the ledger's clock: wall milliseconds since 1970."""


IDS_BESIDE = 3
"""On either side."""


@fact
class Ownership:
    """Who speaks for this ledger. Boards refuse an older epoch of the same ledger."""

    ledger_id: str  # made once, with the database
    owner_id: str
    epoch: int  # grows each time that somebody takes the ledger over


@fact
class Accepted:
    """What became of one NewTask.

    created: False if the same client and key were accepted before; `task` is that earlier one, and the new picture is
    not referenced by anybody.
    conflict: the key was used for another picture or model; `task` is that earlier one.
    """

    task: Task
    created: bool
    conflict: bool = False


@fact
class LedgerEvent:
    """One event of one task.

    attempt_id: the attempt that the event is about. SENT_OUT opens it (device_id and reason are required); FINISHED may
    name any attempt, even one that the ledger has never seen (then device_id is required), and makes it the winner;
    every other event about an attempt must name the current one, or it changes nothing (Applied.is_stale).
    SENT_OUT and FINISHED of an open task whose deadline has passed by the ledger's clock make it EXPIRED instead.
    GAVE_UP, ATTEMPT_FAILED and DEVICE_LOST carry the failure; FINISHED carries the result; PICTURE_LOST gives a reason.
    at_ms: when it happened, by the ledger's clock; None: now. An event may wait for the commit that it shares.
    """

    task_id: TaskId
    event: Event
    attempt_id: AttemptId | None = None
    device_id: DeviceId | None = None
    reason: str = ""
    failure: Failure | None = None
    result: Result | None = None
    at_ms: int | None = None


@fact
class Applied:
    """What one LedgerEvent did. Events that lost a race are no errors: they say so here and change nothing.

    task: as it is now; None if there is no such task.
    is_stale: the event named an attempt that is not the task's current one, the lifecycle has no such row, or there is
    nothing that it could change: a task without its picture to replay, without a receiver to abandon.
    lasted_ms: what the event ended had lasted so long: since the task had changed before. 0 if it changed nothing.
    """

    task: Task | None
    before: State | None
    is_stale: bool
    lasted_ms: int = 0


@fact
class Retired:
    """What one round of retention let go."""

    images: tuple[ImageRef, ...]  # no row names them any more; release them
    tasks: int


@fact
class Totals:
    """What the audit compares: `accepted` must equal the sum over `live` and `retired`."""

    accepted: int
    live: TaskCounts
    retired: TaskCounts


class Ledger(Protocol):
    @property
    def ownership(self) -> Ownership: ...

    async def outrank(self, epoch: int) -> Ownership:
        """Take an epoch above `epoch` if ours is not. A board has served a higher one: we run on a restored backup."""
        ...

    async def accept_many(self, tasks: Sequence[NewTask]) -> Sequence[Accepted]:
        """Insert tasks as QUEUED, in order. One transaction; the `accepted` counter grows by those created."""
        ...

    async def claim(self, line: Line, *, limit: int, after_seq: int = 0) -> Sequence[Task]:
        """The oldest QUEUED tasks of one line with seq > after_seq, and make them this owner's."""
        ...

    async def apply_many(self, events: Sequence[LedgerEvent]) -> Sequence[Applied]:
        """Apply events in order, one transaction, one Applied each.

        The state machine of `domain/lifecycle.py` decides; the row is written by compare-and-set. An ended attempt gets
        its end time, failure and timings. DEVICE_LOST never counts as a failed attempt; ATTEMPT_FAILED and GAVE_UP do
        when the failure's kind is in COUNTED_FAILURES. A FINISHED that changes nothing (DONE or later) is not stale:
        compare `attempt_id` with `task.attempt_id` to know the winner.
        """
        ...

    async def expire_due(self) -> Sequence[Applied]:
        """EXPIRE open tasks whose deadline has passed by the ledger's clock."""
        ...

    async def changes_since(self, cursor: int, *, limit: int) -> Sequence[Task]:
        """Tasks with revision > cursor in their newest state, by revision."""
        ...

    async def newest_revision(self) -> int: ...

    async def get_many(self, task_ids: Collection[TaskId]) -> Sequence[Task]:
        """Those of them that exist, in no particular order."""
        ...

    async def ids_beside(self, task_id: TaskId) -> Sequence[TaskId]:
        """A few ids on either side of that one in alphabetical order, for whoever mistyped it."""
        ...

    async def details(self, task_id: TaskId) -> TaskDetails:
        """Raises: NotKnown."""
        ...

    async def result(self, task_id: TaskId) -> Result | None:
        """The winning labels, checked against their digest. Raises: StorageFailed if they do not match."""
        ...

    async def list(self, filter_: TaskFilter, *, limit: int, cursor: int | None) -> TaskPage:
        """Newest first; `cursor` is the seq below which to go on."""
        ...

    async def counts(self) -> TaskCounts: ...

    async def queued(self) -> Mapping[Line, int]:
        """How many tasks are QUEUED in each line that has any."""
        ...

    async def totals(self) -> Totals:
        """Counted afresh from the rows, never from memory, so that an audit can fail."""
        ...

    async def open_bytes(self) -> int:
        """Bytes of pictures of tasks in OPEN_STATES."""
        ...

    async def open_attempts(self) -> Sequence[Attempt]:
        """Current attempts of DISPATCHED and RUNNING tasks, the oldest task first."""
        ...

    async def undelivered(self, *, limit: int, after_seq: int = 0) -> Sequence[Task]:
        """DONE tasks that name a receiver, oldest first."""
        ...

    async def live_images(self) -> frozenset[ImageRef]:
        """Every image that some row names."""
        ...

    async def retire_images(self, *, settled_before_ms: int, keep_bytes: int, limit: int) -> Retired:
        """Let settled tasks' pictures go: those settled before that time, and the oldest beyond keep_bytes.

        FAILED tasks keep their picture (it can be replayed); so does a DONE one that still has to be delivered.
        """
        ...

    async def retire_tasks(self, *, settled_before_ms: int, keys_before_ms: int, limit: int) -> Retired:
        """Delete rows of settled tasks (never an undelivered DONE); `retired_<state>` counters grow by them.

        A retired submission is remembered: its key still answers with the task as it was. Keys of rows that were
        retired before `keys_before_ms` are forgotten, or the file would grow for ever.
        """
        ...
