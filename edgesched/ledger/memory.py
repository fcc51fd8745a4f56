"""The ledger in plain dicts: for tests, and as the twin that shows what a ledger means. Nothing outlives it."""

from __future__ import annotations

import uuid
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from edgesched.domain.lifecycle import OPEN_STATES, Event, State
from edgesched.domain.task import (
    Attempt,
    AttemptId,
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
from edgesched.errors import Conflict, NotKnown
from edgesched.ledger.base import IDS_BESIDE, Accepted, Applied, LedgerEvent, NowMs, Ownership, Retired, Totals
from edgesched.ledger.transition import (
    check_attribution,
    check_event,
    check_new_task,
    is_overdue,
    new_row,
    retirable_pictures,
    transition,
)

EXPIRE_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class _Submission:
    task_id: TaskId
    model: str
    image_digest: str


class MemoryLedger:
    """Ledger."""

    def __init__(self, *, now_ms: NowMs) -> None:
        self._now_ms = now_ms
        self._ownership = Ownership(ledger_id=uuid.uuid4().hex, owner_id=uuid.uuid4().hex, epoch=1)
        self._tasks: dict[TaskId, Task] = {}  # in the order of seq
        self._attempts: dict[AttemptId, Attempt] = {}  # in the order in which they were heard of
        self._results: dict[TaskId, Result] = {}
        self._submissions: dict[tuple[str, str], _Submission] = {}
        self._remembered: dict[TaskId, tuple[Task, int]] = {}  # retired tasks, and when they were
        self._retired = dict.fromkeys(State, 0)
        self._seq = 0
        self._revision = 0

    @property
    def ownership(self) -> Ownership:
        return self._ownership

    async def outrank(self, epoch: int) -> Ownership:
        if epoch >= self._ownership.epoch:
            self._ownership = replace(self._ownership, epoch=epoch + 1)
        return self._ownership

    async def accept_many(self, tasks: Sequence[NewTask]) -> Sequence[Accepted]:
        for new in tasks:
            check_new_task(new)
        fresh = {(t.client_id, t.submission_key): t.task_id for t in reversed(tasks)}
        new_ids = [task_id for key, task_id in fresh.items() if key not in self._submissions]
        if len(set(new_ids)) < len(new_ids) or any(task_id in self._tasks for task_id in new_ids):
            raise Conflict("a task id is taken by another submission: make a new one")
        return [self._accept(new) for new in tasks]

    def _accept(self, new: NewTask) -> Accepted:
        key = (new.client_id, new.submission_key)
        if (earlier := self._submissions.get(key)) is not None:
            task = self._tasks.get(earlier.task_id) or self._remembered[earlier.task_id][0]
            is_same = (earlier.image_digest, earlier.model) == (new.image_digest, new.model)
            return Accepted(task=task, created=False, conflict=not is_same)
        self._seq += 1
        task = new_row(new, seq=self._seq, revision=self._next_revision(), now_ms=self._now_ms())
        self._tasks[task.task_id] = task
        self._submissions[key] = _Submission(task.task_id, new.model, new.image_digest)
        return Accepted(task=task, created=True)

    async def claim(self, line: Line, *, limit: int, after_seq: int = 0) -> Sequence[Task]:
        return self._first(limit, (t for t in self._queued() if t.line == line and t.seq > after_seq))

    async def apply_many(self, events: Sequence[LedgerEvent]) -> Sequence[Applied]:
        for event in events:
            check_event(event)
        check_attribution(events, self._attempts)
        return [self._apply(event) for event in events]

    def _apply(self, event: LedgerEvent) -> Applied:
        task = self._tasks.get(event.task_id)
        if task is None:
            return Applied(task=None, before=None, is_stale=True)
        current = self._attempts.get(task.attempt_id) if task.attempt_id is not None else None
        change = transition(
            task,
            event,
            current=current if task.state in OPEN_STATES else None,
            named=None if event.attempt_id is None else self._attempts.get(event.attempt_id),
            revision=self._revision + 1,
            now_ms=self._now_ms(),
        )
        self._tasks[task.task_id] = change.task
        self._revision = max(self._revision, change.task.revision)
        for attempt in change.attempts:
            self._attempts[attempt.attempt_id] = attempt
        if change.result is not None:
            self._results[task.task_id] = change.result
        lasted_ms = change.task.updated_at_ms - task.updated_at_ms
        return Applied(task=change.task, before=task.state, is_stale=change.is_stale, lasted_ms=lasted_ms)

    async def expire_due(self) -> Sequence[Applied]:
        now_ms = self._now_ms()
        due = [
            (task.expires_at_ms, task.seq, task.task_id) for task in self._tasks.values() if is_overdue(task, now_ms)
        ]
        return [
            self._apply(LedgerEvent(task_id=task_id, event=Event.EXPIRED))
            for _, _, task_id in sorted(due)[:EXPIRE_BATCH]
        ]

    async def changes_since(self, cursor: int, *, limit: int) -> Sequence[Task]:
        newer = (task for task in self._tasks.values() if task.revision > cursor)
        return self._first(limit, sorted(newer, key=lambda task: task.revision))

    async def newest_revision(self) -> int:
        return self._revision

    async def get_many(self, task_ids: Collection[TaskId]) -> Sequence[Task]:
        return [self._tasks[task_id] for task_id in set(task_ids) if task_id in self._tasks]

    async def ids_beside(self, task_id: TaskId) -> Sequence[TaskId]:
        ids = sorted(self._tasks)
        at = bisect_left(ids, task_id)
        return ids[max(0, at - IDS_BESIDE) : at + IDS_BESIDE]

    async def details(self, task_id: TaskId) -> TaskDetails:
        if task_id not in self._tasks:
            raise NotKnown(f"there is no task {task_id!r}")
        attempts = tuple(a for a in self._attempts.values() if a.task_id == task_id)
        return TaskDetails(task=self._tasks[task_id], attempts=attempts, result=self._results.get(task_id))

    async def result(self, task_id: TaskId) -> Result | None:
        return self._results.get(task_id)

    async def list(self, filter_: TaskFilter, *, limit: int, cursor: int | None) -> TaskPage:
        fitting = [
            task
            for task in reversed(self._tasks.values())
            if (cursor is None or task.seq < cursor)
            and filter_.state in (None, task.state)
            and filter_.model in (None, task.model)
            and filter_.client_id in (None, task.client_id)
            and filter_.device_id in (None, task.device_id)
            and filter_.priority in (None, task.priority)
        ]
        tasks = tuple(self._first(limit, fitting))
        return TaskPage(tasks=tasks, next_cursor=tasks[-1].seq if tasks and len(fitting) > len(tasks) else None)

    async def counts(self) -> TaskCounts:
        states = [task.state for task in self._tasks.values()]
        return {state: states.count(state) for state in State}

    async def queued(self) -> Mapping[Line, int]:
        return Counter(task.line for task in self._queued())

    async def totals(self) -> Totals:
        return Totals(accepted=self._seq, live=await self.counts(), retired=dict(self._retired))

    async def open_bytes(self) -> int:
        return sum(task.size_bytes for task in self._tasks.values() if task.state in OPEN_STATES)

    async def open_attempts(self) -> Sequence[Attempt]:
        still_open = [attempt for attempt in self._attempts.values() if attempt.ended_at_ms is None]
        return sorted(still_open, key=lambda attempt: self._tasks[attempt.task_id].seq)

    async def undelivered(self, *, limit: int, after_seq: int = 0) -> Sequence[Task]:
        return self._first(
            limit,
            (t for t in self._tasks.values() if t.state is State.DONE and not t.is_settled and t.seq > after_seq),
        )

    async def live_images(self) -> frozenset[ImageRef]:
        return frozenset(task.image for task in self._tasks.values() if task.image is not None)

    async def retire_images(self, *, settled_before_ms: int, keep_bytes: int, limit: int) -> Retired:
        pictures = [t for t in self._longest_settled() if t.image is not None and t.state is not State.FAILED]
        going = retirable_pictures(
            self._first(limit, pictures),
            total_bytes=sum(task.size_bytes for task in pictures),
            settled_before_ms=settled_before_ms,
            keep_bytes=keep_bytes,
        )
        for task in going:
            self._tasks[task.task_id] = replace(task, image=None, revision=self._next_revision())
        return Retired(images=tuple(task.image for task in going if task.image is not None), tasks=0)

    async def retire_tasks(self, *, settled_before_ms: int, keys_before_ms: int, limit: int) -> Retired:
        self._forget_submissions(keys_before_ms, limit)
        settled = [task for task in self._longest_settled() if task.updated_at_ms < settled_before_ms]
        going = self._first(limit, settled)
        for task in going:
            del self._tasks[task.task_id]
            self._results.pop(task.task_id, None)
            self._attempts = {id_: a for id_, a in self._attempts.items() if a.task_id != task.task_id}
            self._remembered[task.task_id] = (replace(task, image=None), self._now_ms())
            self._retired[task.state] += 1
        return Retired(images=tuple(task.image for task in going if task.image is not None), tasks=len(going))

    def _forget_submissions(self, retired_before_ms: int, limit: int) -> None:
        old = [
            (self._remembered[submission.task_id][1], key)
            for key, submission in self._submissions.items()
            if submission.task_id in self._remembered
        ]
        for _, key in sorted(item for item in old if item[0] < retired_before_ms)[: max(0, limit)]:
            del self._remembered[self._submissions.pop(key).task_id]

    def _queued(self) -> Iterable[Task]:
        return (task for task in self._tasks.values() if task.state is State.QUEUED)

    def _longest_settled(self) -> Sequence[Task]:
        settled = [task for task in self._tasks.values() if task.is_settled]
        return sorted(settled, key=lambda task: (task.updated_at_ms, task.seq))

    def _next_revision(self) -> int:
        self._revision += 1
        return self._revision

    @staticmethod
    def _first(limit: int, tasks: Iterable[Task]) -> Sequence[Task]:
        return list(islice(tasks, max(0, limit)))
