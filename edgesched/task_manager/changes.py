"""Who waits for a task to change is woken here. Only a hint: the ledger is the truth, and it is asked again."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgesched.domain.task import Task, TaskId

Listener = Callable[[Task], None]


class Changes:
    """Fan-out of committed changes within this process."""

    def __init__(self) -> None:
        self._by_task: defaultdict[TaskId, set[Listener]] = defaultdict(set)
        self._newest_revision = 0
        self._pulse = asyncio.Event()

    def publish(self, task: Task) -> None:
        """Called after the commit that changed `task`."""
        for listener in tuple(self._by_task.get(task.task_id, ())):
            listener(task)
        self._newest_revision = max(self._newest_revision, task.revision)
        pulse, self._pulse = self._pulse, asyncio.Event()
        pulse.set()

    async def wait(self, revision: int) -> None:
        """Return when something newer than `revision` was published."""
        while self._newest_revision <= revision:
            await self._pulse.wait()

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
