"""Answers the gateway's questions about tasks within the same process."""

from __future__ import annotations

from edgesched.domain.task import TaskCounts, TaskDetails, TaskFilter, TaskId, TaskPage
from edgesched.ledger.base import Ledger


class LocalTasks:
    """Implements `ports.TaskQueries`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def get(self, task_id: TaskId) -> TaskDetails:
        return await self._ledger.details(task_id)

    async def list(self, filter_: TaskFilter, *, limit: int, cursor: int | None) -> TaskPage:
        return await self._ledger.list(filter_, limit=limit, cursor=cursor)

    async def counts(self) -> TaskCounts:
        return await self._ledger.counts()
