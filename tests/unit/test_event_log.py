"""Events are committed in order and in groups, and those that nobody waits for are not forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from edgesched.clock import SystemClock
from edgesched.domain.lifecycle import State
from edgesched.domain.task import Result, Task
from edgesched.ledger.base import Applied, LedgerEvent
from edgesched.ledger.memory import MemoryLedger
from edgesched.task_manager.backlog import Backlog
from edgesched.task_manager.changes import Changes
from edgesched.task_manager.events import EventLog
from tests.support.ledgers import SetClock, accepted, finished, labels, sent_out

WITHIN_S = 10.0


class CountingLedger(MemoryLedger):
    def __init__(self) -> None:
        super().__init__(now_ms=SetClock().now_ms)
        self.commits: list[int] = []
        self.committed = asyncio.Event()

    async def apply_many(self, events: Sequence[LedgerEvent]) -> Sequence[Applied]:
        applied = await super().apply_many(events)
        self.commits.append(len(events))
        self.committed.set()
        return applied


@asynccontextmanager
async def running(ledger: CountingLedger) -> AsyncIterator[EventLog]:
    clock = SystemClock()
    backlog = Backlog(clock, max_tasks=100, max_bytes=1_000_000)
    events = EventLog(ledger, Changes(ledger), backlog, clock=clock)
    task = asyncio.create_task(events.run())
    try:
        yield events
    finally:
        task.cancel()
        await asyncio.wait({task})


async def state_of(ledger: CountingLedger, task: Task) -> State:
    (now,) = await ledger.get_many([task.task_id])
    return now.state


async def test_an_event_that_nobody_waits_for_is_committed_in_the_end() -> None:
    ledger = CountingLedger()
    task = await accepted(ledger)
    async with running(ledger) as events, asyncio.timeout(WITHIN_S):
        events.add(sent_out(task.task_id, "a1"))
        await ledger.committed.wait()
    assert await state_of(ledger, task) is State.DISPATCHED


async def test_whoever_waits_takes_the_others_along_in_their_order() -> None:
    ledger = CountingLedger()
    task = await accepted(ledger)
    verdict: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
    async with running(ledger) as events:
        events.add(sent_out(task.task_id, "a1"))
        events.add(finished(task.task_id, "a1"), verdict.set_result)
        applied = await asyncio.wait_for(verdict, WITHIN_S)
    assert applied.task is not None
    assert applied.task.state is State.DONE
    assert ledger.commits == [2]


async def test_labels_are_told_once_and_never_those_of_a_late_answer() -> None:
    ledger = CountingLedger()
    task = await accepted(ledger)
    told: list[tuple[State, Result | None]] = []
    first, late = finished(task.task_id, "a1"), finished(task.task_id, "a1", labels(confidence=0.25))
    async with running(ledger) as events:
        with events._changes.listening(task.task_id, lambda task, result: told.append((task.state, result))):
            for event in (sent_out(task.task_id, "a1"), first, late):
                events.add(event, is_urgent=True)
            await asyncio.wait_for(events.drained(), WITHIN_S)
    assert told == [(State.DISPATCHED, None), (State.DONE, first.result), (State.DONE, None)]


async def test_before_the_end_everything_is_committed_whether_somebody_waits_or_not() -> None:
    ledger = CountingLedger()
    tasks = [await accepted(ledger) for _ in range(3)]
    async with running(ledger) as events:
        for task in tasks:
            events.add(sent_out(task.task_id, f"of-{task.task_id}"))
        await asyncio.wait_for(events.drained(), WITHIN_S)
    assert [await state_of(ledger, task) for task in tasks] == [State.DISPATCHED] * 3


async def test_an_event_after_which_more_follows_waits_for_it_while_others_are_committed() -> None:
    ledger = CountingLedger()
    slow, quick = await accepted(ledger), await accepted(ledger)
    verdict: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
    async with running(ledger) as events:
        events.add(sent_out(slow.task_id, "a1"))
        events.add(sent_out(quick.task_id, "a2"))
        events.add(finished(quick.task_id, "a2"), verdict.set_result)
        await asyncio.wait_for(verdict, WITHIN_S)
        assert (ledger.commits, await state_of(ledger, slow)) == ([2], State.QUEUED)
        ledger.committed.clear()
        await asyncio.wait_for(ledger.committed.wait(), WITHIN_S)
    assert (ledger.commits, await state_of(ledger, slow)) == ([2, 1], State.DISPATCHED)
