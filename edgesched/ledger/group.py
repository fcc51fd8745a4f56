"""One transaction's worth of commands.

Commands work on rows held in memory, in order; at the end each changed row is written once, many rows per statement.
So a group of a thousand events costs a handful of statements, whatever its commands were.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from edgesched.domain.lifecycle import OPEN_STATES, Event, State
from edgesched.domain.task import Attempt, AttemptId, Line, NewTask, Task, TaskId
from edgesched.errors import Conflict, StaleEpoch
from edgesched.ledger.base import Accepted, Applied, LedgerEvent
from edgesched.ledger.database import Head
from edgesched.ledger.rows import TASK_COLUMNS, TASK_WIDTH, Row, result_row, task_of
from edgesched.ledger.tables import (
    Key,
    Submission,
    insert_results,
    insert_tasks,
    load_attempts,
    load_submissions,
    load_tasks,
    take_ownership,
    update_tasks,
    write_attempts,
)
from edgesched.ledger.transition import Change, check_attribution, new_row, transition

MAX_CACHED_TASKS = 16_384


T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command(Generic[T]):
    """What one caller wants. The rows that it names are loaded before it runs, together with those of its group.

    run: may raise an EdgeSchedError, but only before it has changed anything.
    """

    run: Callable[[Group], T]
    task_ids: Sequence[TaskId] = ()
    attempt_ids: Sequence[AttemptId] = ()
    keys: Sequence[Key] = ()


@dataclass(slots=True)
class RowCache:
    """Unsettled tasks and their open attempts exactly as the disk has them: a task's life needs no SELECT.

    True because nobody else writes: each transaction checks the epoch first.
    """

    tasks: dict[TaskId, Task] = field(default_factory=dict)
    attempts: dict[AttemptId, Attempt] = field(default_factory=dict)
    max_tasks: int = MAX_CACHED_TASKS

    def trim(self, tasks: Iterable[TaskId], attempts: Iterable[AttemptId]) -> None:
        """Drop those of them that have come to their end, and the oldest beyond the limit."""
        for task_id in tasks:
            if (task := self.tasks.get(task_id)) is not None and task.is_settled:
                del self.tasks[task_id]
        for attempt_id in attempts:
            if (attempt := self.attempts.get(attempt_id)) is not None and attempt.ended_at_ms is not None:
                del self.attempts[attempt_id]
        while len(self.tasks) > self.max_tasks:
            task = self.tasks.pop(next(iter(self.tasks)))
            if task.attempt_id is not None:
                self.attempts.pop(task.attempt_id, None)


class Group:
    """Used inside one transaction. If that fails, cache and ledger are of no use any more."""

    def __init__(self, connection: sqlite3.Connection, cache: RowCache, head: Head, now_ms: int) -> None:
        self.connection = connection
        self.head = head.copy()
        self.now_ms = now_ms
        self._cache = cache
        self._tasks = cache.tasks
        self._attempts = cache.attempts
        self._submissions: dict[Key, Submission] = {}
        self._seen_tasks: set[TaskId] = set()
        self._seen_attempts: set[AttemptId] = set()
        self._written_revision = head.revision
        self._is_owned = False  # whether this transaction has found our epoch in the file
        # What is not written yet:
        self._inserted: dict[TaskId, NewTask] = {}
        self._replaced: dict[TaskId, Task] = {}  # as the disk still has them
        self._changed_attempts: dict[AttemptId, int] = {}  # -> seq of their task
        self._results: list[Row] = []

    def load(self, commands: Sequence[Command[Any]]) -> None:
        """Fetch what the commands name and the cache lacks: one query per kind for the whole group."""
        self._submissions = load_submissions(self.connection, {key for c in commands for key in c.keys})
        missing = {task_id for c in commands for task_id in c.task_ids} - self._tasks.keys()
        self._adopt(load_tasks(self.connection, missing))
        self._load_attempts({attempt_id for c in commands for attempt_id in c.attempt_ids})

    def accept(self, tasks: Sequence[NewTask]) -> list[Accepted]:
        """Their ids and keys were loaded. Raises: Conflict if a task id is taken."""
        self._refuse_taken_ids(tasks)
        return [self._accept_one(new) for new in tasks]

    def apply(self, events: Sequence[LedgerEvent]) -> list[Applied]:
        """Their tasks and attempts were loaded. Raises: InvalidInput for labels that no device is named for."""
        check_attribution(events, self._attempts)
        return [self._apply_one(event) for event in events]

    def expire_due(self, limit: int) -> list[Applied]:
        self.flush()
        due = self.connection.execute(_DUE, (self.now_ms, limit)).fetchall()
        tasks = self._adopt([task_of(row) for row in due])
        return self.apply([LedgerEvent(task_id=task.task_id, event=Event.EXPIRED) for task in tasks])

    def claim(self, line: Line, limit: int, after_seq: int) -> list[Task]:
        self.flush()
        rows = self.connection.execute(_QUEUED, (*line, after_seq, limit)).fetchall()
        tasks = self._adopt([task_of(row) for row in rows])
        of_earlier_owners = [t for t, row in zip(tasks, rows, strict=True) if row[TASK_WIDTH] != self.head.epoch]
        take_ownership(self.connection, of_earlier_owners, epoch=self.head.epoch)
        return tasks

    def outrank(self, epoch: int) -> int:
        """Returns: this owner's epoch from now on."""
        if epoch >= self.head.epoch:
            self._write_meta("epoch", epoch + 1)
            self.head.epoch = epoch + 1
        return self.head.epoch

    def replace_settled(self, before: Task, after: Task | None) -> None:
        """Retention has changed or deleted (None) the row by itself."""
        if self._tasks.pop(before.task_id, None) is not None and after is not None:
            self._tasks[before.task_id] = after

    def next_revision(self) -> int:
        self.head.revision += 1
        return self.head.revision

    def flush(self) -> None:
        """Write what is not written yet."""
        if self._inserted:
            new_tasks = [(self._tasks[task_id], new) for task_id, new in self._inserted.items()]
            insert_tasks(self.connection, new_tasks, epoch=self.head.epoch)
            self._inserted.clear()
        if self._replaced:
            update_tasks(self.connection, [(old, self._tasks[task_id]) for task_id, old in self._replaced.items()])
            self._replaced.clear()
        if self._changed_attempts:
            attempts = [(seq, self._attempts[attempt_id]) for attempt_id, seq in self._changed_attempts.items()]
            write_attempts(self.connection, attempts)
            self._changed_attempts.clear()
        if self._results:
            insert_results(self.connection, self._results)
            self._results.clear()
        if self._written_revision != self.head.revision:
            self._write_meta("revision", self.head.revision)
            self._written_revision = self.head.revision

    def end(self) -> None:
        """Write what is left. Raises: StaleEpoch if the ledger has a newer owner: then nothing of this may be kept."""
        self.flush()
        if not self._is_owned:
            self._refuse_newer_owner()

    def trim_cache(self) -> None:
        self._cache.trim(self._seen_tasks, self._seen_attempts)

    def _write_meta(self, column: Literal["epoch", "revision"], value: int) -> None:
        """One statement writes, and checks that the ledger is still ours."""
        before = self.connection.total_changes
        self.connection.execute(f"UPDATE meta SET {column} = ? WHERE epoch = ?", (value, self.head.epoch))
        if self.connection.total_changes == before:
            self._refuse_newer_owner()
        self._is_owned = True

    def _refuse_newer_owner(self) -> None:
        (epoch,) = self.connection.execute("SELECT epoch FROM meta").fetchone()
        if epoch != self.head.epoch:
            raise StaleEpoch(f"this ledger has a newer owner, of epoch {epoch}; ours was {self.head.epoch}")

    def _adopt(self, tasks: list[Task]) -> list[Task]:
        """Rows just read from the disk join the cache, with their open attempts."""
        for task in tasks:
            self._tasks[task.task_id] = task
            self._seen_tasks.add(task.task_id)
        self._load_attempts({t.attempt_id for t in tasks if t.attempt_id is not None and t.state in OPEN_STATES})
        return tasks

    def _load_attempts(self, attempt_ids: set[AttemptId]) -> None:
        for attempt in load_attempts(self.connection, attempt_ids - self._attempts.keys()):
            self._attempts[attempt.attempt_id] = attempt
            self._seen_attempts.add(attempt.attempt_id)

    def _refuse_taken_ids(self, tasks: Sequence[NewTask]) -> None:
        """Task ids are random: one that is taken under another key is the caller's fault."""
        fresh: dict[Key, TaskId] = {}
        for new in tasks:
            key = (new.client_id, new.submission_key)
            if key not in self._submissions:
                fresh.setdefault(key, new.task_id)
        if len(set(fresh.values())) < len(fresh) or not self._tasks.keys().isdisjoint(fresh.values()):
            raise Conflict("a task id is taken by another submission: make a new one")

    def _accept_one(self, new: NewTask) -> Accepted:
        key = (new.client_id, new.submission_key)
        if (earlier := self._submissions.get(key)) is not None:
            task = self._tasks.get(earlier.task.task_id, earlier.task)
            is_same = earlier.image_digest == new.image_digest and task.model == new.model
            return Accepted(task=task, created=False, conflict=not is_same)
        self.head.seq += 1
        task = new_row(new, seq=self.head.seq, revision=self.next_revision(), now_ms=self.now_ms)
        self.head.counts[task.state] += 1
        self.head.line_up(task.line)
        self.head.open_bytes += task.size_bytes
        self._tasks[task.task_id] = task
        self._seen_tasks.add(task.task_id)
        self._inserted[task.task_id] = new
        self._submissions[key] = Submission(task, new.image_digest)
        return Accepted(task=task, created=True)

    def _apply_one(self, event: LedgerEvent) -> Applied:
        task = self._tasks.get(event.task_id)
        if task is None:
            return Applied(task=None, before=None, is_stale=True)
        current = None
        if task.attempt_id is not None and task.state in OPEN_STATES:
            current = self._attempts.get(task.attempt_id)
        change = transition(
            task,
            event,
            current=current,
            named=None if event.attempt_id is None else self._attempts.get(event.attempt_id),
            revision=self.head.revision + 1,
            now_ms=self.now_ms,
        )
        if change.task is not task:
            self._remember(task, change)
        lasted_ms = change.task.updated_at_ms - task.updated_at_ms
        return Applied(task=change.task, before=task.state, is_stale=change.is_stale, lasted_ms=lasted_ms)

    def _remember(self, before: Task, change: Change) -> None:
        after = change.task
        self.head.revision = after.revision
        self.head.counts[before.state] -= 1
        self.head.counts[after.state] += 1
        if before.state is not after.state:
            if before.state is State.QUEUED:
                self.head.leave(before.line)
            elif after.state is State.QUEUED:
                self.head.line_up(after.line)
        self.head.open_bytes += after.size_bytes * ((after.state in OPEN_STATES) - (before.state in OPEN_STATES))
        self._tasks[after.task_id] = after
        self._seen_tasks.add(after.task_id)
        if after.task_id not in self._inserted:
            self._replaced.setdefault(after.task_id, before)
        for attempt in change.attempts:
            self._attempts[attempt.attempt_id] = attempt
            self._seen_attempts.add(attempt.attempt_id)
            self._changed_attempts[attempt.attempt_id] = after.seq
        if change.result is not None and after.attempt_id is not None:
            self._results.append(result_row(after.seq, after.attempt_id, change.result))


# INDEXED BY, here and below: left alone, SQLite would go through all queued tasks instead.
_DUE = f"""
    SELECT {TASK_COLUMNS} FROM task INDEXED BY task_deadline
    WHERE expires_at_ms <= ? AND expires_at_ms IS NOT NULL AND state IN ('queued', 'dispatched', 'running')
    ORDER BY expires_at_ms, seq LIMIT ?"""

_QUEUED = f"""
    SELECT {TASK_COLUMNS}, task.owner_epoch FROM task INDEXED BY task_in_line
    WHERE state = 'queued' AND model = ? AND priority = ? AND seq > ? ORDER BY seq LIMIT ?"""
