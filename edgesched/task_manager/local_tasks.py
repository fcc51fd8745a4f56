"""Answers and obeys the gateway: within the same process, and for the gRPC door when it is another one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from copy import deepcopy
from dataclasses import replace

from edgesched import wire
from edgesched.catalogue import Catalogue
from edgesched.clock import Clock
from edgesched.domain.lifecycle import State
from edgesched.domain.task import (
    MAX_COUNTED_UNDELIVERED,
    ModelFacts,
    Submission,
    Task,
    TaskCounts,
    TaskDetails,
    TaskFilter,
    TaskId,
    TaskPage,
    TaskStats,
)
from edgesched.errors import InvalidInput, NotKnown, nearest
from edgesched.images.base import ImageStore, PictureDamaged
from edgesched.ledger.base import Ledger
from edgesched.task_manager.backlog import Backlog
from edgesched.task_manager.changes import Changes
from edgesched.task_manager.control import TaskControl
from edgesched.task_manager.dispatcher import Dispatcher
from edgesched.task_manager.events import EventLog
from edgesched.task_manager.intake import Intake

LARGEST_CURSOR = 2**63 - 1
"""What the ledger and the wire can carry."""


class Figures:
    """What only the parts at work know: `TaskStats`, and why a task waits."""

    def __init__(
        self, ledger: Ledger, backlog: Backlog, dispatcher: Dispatcher, events: EventLog, *, clock: Clock
    ) -> None:
        self._ledger = ledger
        self._backlog = backlog
        self._dispatcher = dispatcher
        self._events = events
        self._clock = clock

    async def read(self) -> TaskStats:
        undelivered = await self._ledger.undelivered(limit=MAX_COUNTED_UNDELIVERED)
        labelled_at_ms = min((task.updated_at_ms for task in undelivered), default=None)
        return TaskStats(
            counts=await self._ledger.counts(),
            queued=await self._ledger.queued(),
            open_bytes=self._backlog.size_bytes,
            undelivered=len(undelivered),
            oldest_undelivered_ms=(
                None if labelled_at_ms is None else max(0.0, float(self._clock.wall_ms() - labelled_at_ms))
            ),
            commits=self._events.commits,
            commit_ms=self._events.commit_ms,
            ended=self._events.endings.counts.copy(),
            delivery=deepcopy(self._events.endings.delivery),
        )

    def why_waiting(self, task: Task) -> str | None:
        return self._dispatcher.why_waiting(task)


class LocalTasks:
    """Implements `ports.TaskDesk`. Where a picture lies is nobody's business outside: tasks leave without it."""

    def __init__(
        self,
        ledger: Ledger,
        images: ImageStore,
        catalogue: Catalogue,
        intake: Intake,
        control: TaskControl,
        changes: Changes,
        figures: Figures,
    ) -> None:
        self._ledger = ledger
        self._images = images
        self._catalogue = catalogue
        self._intake = intake
        self._control = control
        self._changes = changes
        self._figures = figures

    async def get(self, task_id: TaskId) -> TaskDetails:
        async with self._naming(task_id):
            details = await self._ledger.details(task_id)
        waits_for = self._figures.why_waiting(details.task) if details.task.state is State.QUEUED else None
        return replace(details, task=_without_place(details.task), waits_for=waits_for)

    async def list(self, filter_: TaskFilter, *, limit: int, cursor: int | None) -> TaskPage:
        if cursor is not None and cursor > LARGEST_CURSOR:
            raise InvalidInput(f"the cursor {cursor} was never given out")
        page = await self._ledger.list(filter_, limit=limit, cursor=cursor)
        return replace(page, tasks=tuple(map(_without_place, page.tasks)))

    async def counts(self) -> TaskCounts:
        return await self._ledger.counts()

    async def stats(self) -> TaskStats:
        return await self._figures.read()

    async def models(self) -> Sequence[ModelFacts]:
        models = [self._catalogue.get(name) for name in self._catalogue]
        return tuple(
            ModelFacts(name=m.name, version=m.version, description=m.description, labels=m.labels) for m in models
        )

    async def picture(self, task_id: TaskId) -> bytes:
        found = await self._ledger.get_many([task_id])
        if not found:
            raise await self._not_known(task_id)
        if found[0].image is None:
            raise NotKnown(f"the picture of task {task_id} was let go (image_retention_s, image_retention_bytes)")
        try:
            return await self._images.read(found[0].image)
        except PictureDamaged:
            raise NotKnown(f"the picture of task {task_id} is not on the disk any more as it was sent") from None

    async def changes(self) -> AsyncGenerator[Task, None]:
        async with contextlib.aclosing(self._changes.follow()) as changes:
            async for tasks in changes:
                for task in tasks:
                    yield _without_place(task)

    async def submit(self, submission: Submission) -> TaskId:
        return (await self._intake.accept(submission)).task_id

    async def cancel(self, task_id: TaskId) -> Task:
        async with self._naming(task_id):
            return _without_place(await self._control.cancel(task_id))

    async def retry(self, task_id: TaskId) -> Task:
        async with self._naming(task_id):
            return _without_place(await self._control.retry(task_id))

    async def abandon(self, task_id: TaskId) -> Task:
        async with self._naming(task_id):
            return _without_place(await self._control.abandon(task_id))

    @contextlib.asynccontextmanager
    async def _naming(self, task_id: TaskId) -> AsyncIterator[None]:
        """Whoever asks for a task that is not known is told which one may be meant."""
        try:
            yield
        except NotKnown:
            raise await self._not_known(task_id) from None

    async def _not_known(self, task_id: TaskId) -> NotKnown:
        return NotKnown(f"there is no task {task_id!r}{nearest(task_id, await self._ledger.ids_beside(task_id))}")


def _without_place(task: Task) -> Task:
    """The same as over the wire: whether there is a picture, not where."""
    return task if task.image is None else replace(task, image=wire.REMOTE_IMAGE)
