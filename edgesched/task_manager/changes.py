"""Who follows tasks is fed from memory here, in the order of the commits; whoever falls behind asks the ledger."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from edgesched.domain.task import Result, Task, TaskId
from edgesched.ledger.base import Ledger

Listener = Callable[[Task, Result | None], None]
"""Told of a task, and of its labels when the change is that it has them."""

KEPT = 8_192
"""Changes that a follower may be behind."""
CATCH_UP_PAGE = 500


@dataclass(frozen=True, slots=True)
class Start:
    """A moment to follow from."""

    seen: int
    revision: int


class Changes:
    """Fan-out of committed changes within this process."""

    def __init__(self, ledger: Ledger, *, kept: int = KEPT) -> None:
        self._ledger = ledger
        self._by_task: defaultdict[TaskId, set[Listener]] = defaultdict(set)
        self._newest: deque[Task] = deque(maxlen=kept)
        self._count = 0  # ever published
        self._waiting: set[asyncio.Future[None]] = set()

    def publish(self, task: Task, result: Result | None = None) -> None:
        """Called after the commit that changed `task`, before anything of a later commit is published.

        result: its labels, if that commit has brought them.
        """
        for listener in tuple(self._by_task.get(task.task_id, ())):
            listener(task, result)
        self._newest.append(task)
        self._count += 1
        if self._waiting:
            for follower in self._waiting:
                if not follower.done():
                    follower.set_result(None)
            self._waiting.clear()

    async def follow(self, cursor: int | None = None) -> AsyncGenerator[Sequence[Task], None]:
        """Everything that changes after revision `cursor` (None: from now on), each task in its newest state.

        A change may be told twice, and one that was followed by another may be left out.
        """
        start = await self.start()  # before the ledger is read: what is published meanwhile comes again
        if cursor is not None:
            async for tasks in self._caught_up(cursor):
                yield tasks
        async for tasks in self.follow_from(start):
            yield tasks

    @property
    def followers(self) -> int:
        """That wait for news at the moment."""
        return len(self._waiting)

    async def start(self) -> Start:
        """This moment, to follow from."""
        return Start(self._count, await self._ledger.newest_revision())

    async def follow_from(self, start: Start) -> AsyncGenerator[Sequence[Task], None]:
        """As `follow`, from a moment that was kept."""
        seen, since = start.seen, start.revision
        while True:
            if self._count - seen > len(self._newest):
                seen = self._count
                async for tasks in self._caught_up(since):
                    since = tasks[-1].revision
                    yield tasks
            elif self._count > seen:
                news = self._after(seen, since)
                seen = self._count
                if news:
                    # Within one commit the order is by chance: others of the oldest commit in here may still come.
                    since = max(since, min(task.revision for task in news) - 1)
                    yield news
            else:
                await self._next()

    @contextmanager
    def listening(self, task_id: TaskId, listener: Listener) -> Iterator[None]:
        """Call `listener` with every later change of the task, as long as the block lasts."""
        self._by_task[task_id].add(listener)
        try:
            yield
        finally:
            self._by_task[task_id].discard(listener)
            if not self._by_task[task_id]:
                del self._by_task[task_id]

    async def _caught_up(self, cursor: int) -> AsyncGenerator[Sequence[Task], None]:
        while tasks := await self._ledger.changes_since(cursor, limit=CATCH_UP_PAGE):
            cursor = tasks[-1].revision
            yield tasks

    def _after(self, seen: int, since: int) -> list[Task]:
        """What was published after the first `seen`, unless it is no newer than revision `since`."""
        newest: dict[TaskId, Task] = {}
        for at in range(len(self._newest) - (self._count - seen), len(self._newest)):
            task = self._newest[at]
            if task.revision > since:
                newest.pop(task.task_id, None)
                newest[task.task_id] = task
        return list(newest.values())

    async def _next(self) -> None:
        """Return when something is published."""
        follower: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(follower)
        try:
            await follower
        finally:
            self._waiting.discard(follower)
