"""Any order of events: the SQLite ledger does exactly what its twin of plain dicts does, and the audit's sums hold."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edgesched.domain.detection import digest
from edgesched.domain.device import DeviceId
from edgesched.domain.lifecycle import LABELLED_STATES, OPEN_STATES, TRANSITIONS, Event, State
from edgesched.domain.task import AttemptId, FailureKind, Line, Priority, TaskFilter, TaskId
from edgesched.errors import EdgeSchedError
from edgesched.ledger.audit import LedgerFile
from edgesched.ledger.base import Applied, Ledger, LedgerEvent
from edgesched.ledger.memory import MemoryLedger
from edgesched.ledger.sqlite import SqliteLedger
from tests.support.ledgers import RECEIVER, SetClock, failure, labels, new_task

FINAL = frozenset({State.DELIVERED, State.CANCELLED, State.EXPIRED})
MAX_TASKS = 8
ALL = 10_000

digests = st.sampled_from(["d" * 64, "e" * 64])
deadlines = st.sampled_from([None, 0, 100])
priorities = st.sampled_from(Priority)
attempts = st.sampled_from(["current", "current", "current", "", "0", "1", "2", "another task's"])
devices = st.sampled_from([DeviceId("atlas-1"), DeviceId("orin-1"), DeviceId("orin-2"), None])
steps = st.integers(0, 9)  # which of the events that are legal now
wanted_events = st.one_of(steps, st.sampled_from(Event))
events = st.tuples(st.integers(0, MAX_TASKS), wanted_events, attempts, devices, st.sampled_from(FailureKind))
calls = st.lists(st.lists(events, min_size=1, max_size=3), min_size=1, max_size=3)
Wanted = tuple[int, Event | int, str, DeviceId | None, FailureKind]

NEEDS_ATTEMPT = frozenset(Event) - {
    Event.RETRY,
    Event.EXPIRED,
    Event.CANCELLED,
    Event.DELIVERED,
    Event.ABANDONED,
    Event.PICTURE_LOST,
}


class LedgerMachine(RuleBasedStateMachine):
    """Both ledgers get every call. Those of one rule reach the SQLite ledger at the same time, as one group."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.clock = SetClock()
        self.memory = MemoryLedger(now_ms=self.clock.now_ms)
        self.task_ids: list[TaskId] = []
        self.stack = AsyncExitStack()
        self.sqlite = self.run(self.open_sqlite())

    def teardown(self) -> None:
        self.the_audit_finds_nothing()
        self.run(self.stack.aclose())
        self.runner.close()
        self.directory.cleanup()

    def the_audit_finds_nothing(self) -> None:
        """Whatever was done to it: what the audit looks for never happens by itself."""
        with LedgerFile.opened(Path(self.directory.name, "ledger.sqlite3")) as ledger, ledger.snapshot():
            rows, counts = list(ledger.broken_rows()), list(ledger.broken_counts(ledger.facts()))
            labels_ = [finding for finding in ledger.damaged_labels() if finding is not None]
        assert (rows, counts, labels_) == ([], [], [])

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    async def open_sqlite(self) -> SqliteLedger:
        path = Path(self.directory.name, "ledger.sqlite3")
        return await self.stack.enter_async_context(
            SqliteLedger.opened(path, now_ms=self.clock.now_ms, durability="process")
        )

    def both(self, *asked: Callable[[Ledger], Awaitable[Any]]) -> list[Any]:
        """The answers, which must be the same of both. An error's answer is its kind."""

        async def ask() -> tuple[list[Any], list[Any]]:
            expected = [(await asyncio.gather(call(self.memory), return_exceptions=True))[0] for call in asked]
            found = await asyncio.gather(*(call(self.sqlite) for call in asked), return_exceptions=True)
            return expected, found

        expected, found = ([comparable(answer) for answer in answers] for answers in self.run(ask()))
        assert found == expected
        return found

    @initialize()
    def accept_some(self) -> None:
        for number in range(2):
            self.accept([(number, "d" * 64, True, None, Priority.NORMAL)])

    @rule(
        wanted=st.lists(
            st.tuples(st.integers(0, MAX_TASKS - 1), digests, st.booleans(), deadlines, priorities),
            min_size=1,
            max_size=3,
        )
    )
    def accept(self, wanted: list[tuple[int, str, bool, int | None, Priority]]) -> None:
        tasks = [
            new_task(
                key=f"k{key}",
                image_digest=image_digest,
                receiver_url=RECEIVER if wants_delivery else None,
                deadline_ms=deadline_ms,
                size_bytes=10**key,
                priority=priority,
            )
            for key, image_digest, wants_delivery, deadline_ms, priority in wanted
        ]
        (answers,) = self.both(lambda ledger: ledger.accept_many(tasks))
        for answer in answers:
            if answer.created:
                self.task_ids = [*self.task_ids, answer.task.task_id][-MAX_TASKS:]
            assert not (answer.created and answer.conflict)

    @rule(wanted=calls)
    def apply(self, wanted: list[list[Wanted]]) -> None:
        batches = [[self.event(*one) for one in batch] for batch in wanted]
        answers = self.both(*(lambda ledger, batch=batch: ledger.apply_many(batch) for batch in batches))
        for batch, applied in zip(batches, answers, strict=True):
            if isinstance(applied, list):
                for event, one in zip(batch, applied, strict=True):
                    check_step(event, one, self.clock.wall_ms)

    @rule(
        wanted=st.lists(st.tuples(st.integers(0, MAX_TASKS - 1), steps, devices), min_size=1, max_size=8),
        restart_before=st.integers(0, 8),
    )
    def go_on(self, wanted: list[tuple[int, int, DeviceId | None]], restart_before: int) -> None:
        for number, (task, step, device) in enumerate(wanted):
            if number == restart_before:
                self.start_anew()
            attempt = "current" if step else str(number)
            self.apply([[(task, step, attempt, device, FailureKind.WORKER_ERROR)]])

    def event(
        self, task: int, event: Event | int, attempt: str, device: DeviceId | None, kind: FailureKind
    ) -> LedgerEvent:
        task_id = self.task_ids[task % len(self.task_ids)] if task < MAX_TASKS else TaskId("nobody")
        (now,) = self.run(self.memory.get_many([task_id])) or [None]
        if isinstance(event, int):
            legal = [e for state, e in TRANSITIONS if now is not None and state is now.state] or list(Event)
            event = legal[event % len(legal)]
        attempt_id = now.attempt_id if attempt == "current" and now is not None else None
        if attempt_id is None and (attempt or event in NEEDS_ATTEMPT):
            attempt_id = AttemptId(attempt if attempt == "another task's" else f"{task_id}-{attempt}")
        return LedgerEvent(
            task_id=task_id,
            event=event,
            attempt_id=attempt_id,
            device_id=device or (DeviceId("rk3588-1") if event is Event.SENT_OUT else None),
            reason="why",
            failure=failure(kind),
            result=labels(len(attempt) / 16),
        )

    @rule(moved_ms=st.sampled_from([1, 99, 100]))
    def tick(self, moved_ms: int) -> None:
        self.clock.wall_ms += moved_ms

    @rule()
    def expire(self) -> None:
        (answers,) = self.both(lambda ledger: ledger.expire_due())
        assert all(answer.task.state is State.EXPIRED for answer in answers)

    @rule(priority=priorities, limit=st.integers(0, 3), after_seq=st.integers(0, 5))
    def claim(self, priority: Priority, limit: int, after_seq: int) -> None:
        self.both(lambda ledger: ledger.claim(Line("shapes", priority), limit=limit, after_seq=after_seq))

    @rule(age_ms=st.sampled_from([0, 100]), keep_bytes=st.sampled_from([0, 1_000, 10**9]), limit=st.integers(1, 3))
    def retire_images(self, age_ms: int, keep_bytes: int, limit: int) -> None:
        before_ms = self.clock.wall_ms - age_ms
        self.both(lambda ledger: ledger.retire_images(settled_before_ms=before_ms, keep_bytes=keep_bytes, limit=limit))

    @rule(age_ms=st.sampled_from([0, 1, 100]), key_age_ms=st.sampled_from([0, 100]), limit=st.integers(1, 3))
    def retire_tasks(self, age_ms: int, key_age_ms: int, limit: int) -> None:
        before_ms, keys_before_ms = self.clock.wall_ms - age_ms, self.clock.wall_ms - key_age_ms
        self.both(
            lambda ledger: ledger.retire_tasks(settled_before_ms=before_ms, keys_before_ms=keys_before_ms, limit=limit)
        )

    def start_anew(self) -> None:
        earlier = self.sqlite.ownership

        async def reopen() -> None:
            await self.stack.aclose()
            self.sqlite = await self.open_sqlite()

        self.run(reopen())
        assert self.sqlite.ownership.epoch == earlier.epoch + 1
        assert self.sqlite.ownership.ledger_id == earlier.ledger_id

    @invariant()
    def both_look_the_same(self) -> None:
        self.both(
            lambda ledger: ledger.counts(),
            lambda ledger: ledger.open_bytes(),
            lambda ledger: ledger.newest_revision(),
            lambda ledger: ledger.changes_since(0, limit=ALL),
            lambda ledger: ledger.open_attempts(),
            lambda ledger: ledger.undelivered(limit=ALL),
            lambda ledger: ledger.live_images(),
            lambda ledger: ledger.list(TaskFilter(state=State.DONE), limit=2, cursor=None),
            lambda ledger: ledger.list(TaskFilter(model="shapes"), limit=2, cursor=4),
        )

    @invariant()
    def nothing_is_lost_from_the_count(self) -> None:
        (totals,) = self.both(lambda ledger: ledger.totals())
        assert sum(totals.live.values()) + sum(totals.retired.values()) == totals.accepted
        assert totals.live == self.run(self.sqlite.counts())
        assert self.run(self.sqlite.queued()) == self.run(self.memory.queued())

    @invariant()
    def labels_have_exactly_one_winner(self) -> None:
        for details in self.both(*(lambda ledger, id_=id_: ledger.details(id_) for id_ in self.task_ids)):
            if isinstance(details, type):
                continue  # retired
            winners = [a.attempt_id for a in details.attempts if a.ended_at_ms is not None and a.failure is None]
            if details.task.state in LABELLED_STATES:
                assert winners == [details.task.attempt_id]
                assert digest(details.result.detections) in ALL_DIGESTS
            else:
                assert winners == []
                assert details.result is None
            is_on_board = details.task.state in (State.DISPATCHED, State.RUNNING)
            still_open = [a.attempt_id for a in details.attempts if a.ended_at_ms is None]
            assert still_open == ([details.task.attempt_id] if is_on_board else [])


ALL_DIGESTS = {digest(labels(length / 16).detections) for length in range(16)}


def comparable(answer: Any) -> Any:
    if isinstance(answer, EdgeSchedError):
        return type(answer)
    if isinstance(answer, BaseException):
        raise answer
    return list(answer) if isinstance(answer, Sequence) else answer


def check_step(event: LedgerEvent, applied: Applied, now_ms: int) -> None:
    if applied.task is None or applied.before is None:
        return
    if applied.before in FINAL:
        assert applied.task.state is applied.before
    if applied.before in OPEN_STATES and event.event in (Event.SENT_OUT, Event.FINISHED):
        is_overdue = applied.task.expires_at_ms is not None and applied.task.expires_at_ms <= now_ms
        assert not is_overdue or applied.task.state is State.EXPIRED
    if applied.before is State.FAILED and applied.task.state is not State.FAILED:
        assert event.event in (Event.RETRY, Event.FINISHED)
    if applied.is_stale:
        assert applied.task.state is applied.before


LedgerMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestLedgers = LedgerMachine.TestCase
