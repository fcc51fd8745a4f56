"""Whoever follows tasks sees each one's newest state, however slowly it reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from edgesched.domain.lifecycle import State
from edgesched.domain.task import Task
from edgesched.ledger.memory import MemoryLedger
from edgesched.task_manager.changes import Changes
from tests.support.ledgers import SetClock, new_task, sent_out

WITHIN_S = 10.0


class Master:
    """Commits and publishes, as intake and event log do."""

    def __init__(self, kept: int = 100) -> None:
        self.ledger = MemoryLedger(now_ms=SetClock().now_ms)
        self.changes = Changes(self.ledger, kept=kept)

    async def accept(self, count: int) -> list[Task]:
        accepted = [one.task for one in await self.ledger.accept_many([new_task() for _ in range(count)])]
        for task in reversed(accepted):  # within one commit the order is by chance
            self.changes.publish(task)
        return accepted

    async def send_out(self, task: Task) -> None:
        event = sent_out(task.task_id, f"of-{task.task_id}")
        (applied,) = await self.ledger.apply_many([event])
        assert applied.task is not None
        self.changes.publish(applied.task)


async def read_until(changes: AsyncGenerator[Sequence[Task], None], newest: dict[str, State]) -> dict[str, State]:
    """Read until these tasks were seen in these states. Returns: everything that was seen last."""
    seen: dict[str, State] = {}
    async with asyncio.timeout(WITHIN_S):
        while any(seen.get(task_id) is not state for task_id, state in newest.items()):
            seen |= {task.task_id: task.state for task in await anext(changes)}
    return seen


async def test_it_begins_with_what_changes_from_now_on() -> None:
    master = Master()
    (old,) = await master.accept(1)
    changes = master.changes.follow()
    reading = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    (new,) = await master.accept(1)
    assert [task.task_id for task in await asyncio.wait_for(reading, WITHIN_S)] == [new.task_id]
    assert old.task_id != new.task_id
    await changes.aclose()


async def test_with_a_cursor_nothing_after_it_is_missing() -> None:
    master = Master()
    first, second = await master.accept(2)
    changes = master.changes.follow(first.revision)
    assert [task.task_id for task in await asyncio.wait_for(anext(changes), WITHIN_S)] == [second.task_id]
    await changes.aclose()


async def test_a_task_that_changed_twice_is_told_once_in_its_newest_state() -> None:
    master = Master()
    changes = master.changes.follow_from(await master.changes.start())
    (task,) = await master.accept(1)
    await master.send_out(task)
    news = await asyncio.wait_for(anext(changes), WITHIN_S)
    assert [(task.task_id, task.state) for task in news] == [(task.task_id, State.DISPATCHED)]
    await changes.aclose()


@pytest.mark.parametrize("kept", [1, 3, 100])
async def test_a_slow_reader_misses_no_task(kept: int) -> None:
    master = Master(kept)
    changes = master.changes.follow_from(await master.changes.start())
    early = await master.accept(2)
    assert await read_until(changes, {task.task_id: State.QUEUED for task in early})
    many = await master.accept(10)  # more than are kept
    for task in (early[0], many[3]):
        await master.send_out(task)
    wanted = {task.task_id: State.QUEUED for task in many} | {
        early[0].task_id: State.DISPATCHED,
        many[3].task_id: State.DISPATCHED,
    }
    seen = await read_until(changes, wanted)
    assert seen.items() >= wanted.items()
    await changes.aclose()


async def test_a_follower_that_left_is_forgotten() -> None:
    master = Master()
    changes = master.changes.follow_from(await master.changes.start())
    reading = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait({reading})
    await master.accept(1)
    assert master.changes.followers == 0
