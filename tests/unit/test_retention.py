"""How long what is left of a settled task stays."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from edgesched.domain.task import Task, TaskId
from edgesched.images.memory import MemoryImageStore
from edgesched.ledger.base import Retired
from edgesched.ledger.memory import MemoryLedger
from edgesched.task_manager.retention import Retention, RetentionLimits
from tests.support.ledgers import RECEIVER, SetClock, done, new_task

LIMITS = RetentionLimits(image_s=10, image_bytes=10**9, task_s=100, key_s=1_000, keep_upload=False)
WITHIN_S = 10.0


class WatchedLedger(MemoryLedger):
    """Says when a round of retention is over."""

    def __init__(self, clock: SetClock) -> None:
        super().__init__(now_ms=clock.now_ms)
        self.is_looked_through = asyncio.Event()

    async def retire_tasks(self, **limits: Any) -> Retired:
        retired = await super().retire_tasks(**limits)
        self.is_looked_through.set()
        return retired


class FixedClock:
    def __init__(self, wall_ms: int) -> None:
        self._wall_ms = wall_ms

    def wall_ms(self) -> int:
        return self._wall_ms

    def monotonic_ms(self) -> float:
        return 0.0


class Shelf:
    """A ledger with pictures, and retention that looks through them once."""

    def __init__(self) -> None:
        self.clock = SetClock()
        self.ledger = WatchedLedger(self.clock)
        self.images = MemoryImageStore(now_ms=self.clock.now_ms)

    async def settled(self, key: str, receiver_url: str | None = None) -> Task:
        (ref,) = await self.images.put_many([b"picture"])
        return await done(self.ledger, replace(new_task(key=key, receiver_url=receiver_url), image=ref))

    async def look_through(self, limits: RetentionLimits, after_s: int) -> None:
        self.clock.wall_ms += after_s * 1_000
        self.ledger.is_looked_through.clear()
        clock = FixedClock(self.clock.wall_ms)
        retention = asyncio.create_task(Retention(self.ledger, self.images, clock=clock, limits=limits).run())
        async with asyncio.timeout(WITHIN_S):
            await self.ledger.is_looked_through.wait()
            await asyncio.sleep(0)  # what was let go is released right after
        retention.cancel()

    async def left(self, task_id: TaskId, key: str) -> tuple[bool, bool, bool]:
        """Are its picture, its row and its key still known?"""
        rows = await self.ledger.get_many([task_id])
        pictures = {image.ref for image in await self.images.inventory()}
        (again,) = await self.ledger.accept_many([new_task(key=key)])
        return bool(rows and rows[0].image in pictures), bool(rows), not again.created


@pytest.mark.parametrize(
    ("after_s", "left"),
    [(9, (True, True, True)), (11, (False, True, True)), (101, (False, False, True))],
)
async def test_the_picture_goes_first_then_the_row_and_the_key_stays(
    after_s: int, left: tuple[bool, bool, bool]
) -> None:
    shelf = Shelf()
    task = await shelf.settled("k")
    await shelf.look_through(LIMITS, after_s)
    assert await shelf.left(task.task_id, "k") == left


async def test_the_key_is_forgotten_its_own_time_after_the_row_went() -> None:
    shelf = Shelf()
    task = await shelf.settled("k")
    await shelf.look_through(LIMITS, after_s=5_000)
    await shelf.look_through(LIMITS, after_s=1_000)
    assert await shelf.left(task.task_id, "k") == (False, False, True)
    await shelf.look_through(LIMITS, after_s=1)
    assert await shelf.left(task.task_id, "k") == (False, False, False)


async def test_with_keep_upload_neither_picture_nor_row_ever_goes() -> None:
    shelf = Shelf()
    task = await shelf.settled("k")
    limits = replace(LIMITS, keep_upload=True, image_bytes=1)
    await shelf.look_through(limits, after_s=10**8)
    assert await shelf.left(task.task_id, "k") == (True, True, True)


async def test_what_is_not_delivered_never_goes_by_age() -> None:
    shelf = Shelf()
    task = await shelf.settled("k", receiver_url=RECEIVER)
    await shelf.look_through(replace(LIMITS, image_bytes=1), after_s=10**8)
    assert await shelf.left(task.task_id, "k") == (True, True, True)


async def test_pictures_go_by_their_bytes_the_longest_settled_first() -> None:
    shelf = Shelf()
    tasks = [await shelf.settled(f"k{number}") for number in range(3)]
    await shelf.look_through(replace(LIMITS, image_bytes=2 * tasks[0].size_bytes), after_s=1)
    kept = [(await shelf.left(task.task_id, f"k{number}"))[0] for number, task in enumerate(tasks)]
    assert kept == [False, True, True]
