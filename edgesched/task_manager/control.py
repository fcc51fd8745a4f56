"""What people do to single tasks: cancel, replay, give up delivering. One place for every door."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from edgesched.domain.device import DeviceId
from edgesched.domain.lifecycle import Event, State
from edgesched.domain.task import AttemptId, Task, TaskId
from edgesched.errors import IllegalTransition, NotKnown
from edgesched.ledger.base import Applied, LedgerEvent
from edgesched.task_manager.attempts import OpenAttempts
from edgesched.task_manager.dispatcher import Dispatcher
from edgesched.task_manager.events import EventLog
from edgesched.task_manager.links import Links
from edgesched.task_manager.outcomes import withdraw

log = logging.getLogger(__name__)

BY_REQUEST = "an operator asked for it"


class TaskControl:
    """Each call returns after the commit, with the task as it is then."""

    def __init__(
        self,
        events: EventLog,
        dispatcher: Dispatcher,
        attempts: OpenAttempts,
        links: Links,
        *,
        on_abandoned: Callable[[DeviceId, AttemptId], None],
    ) -> None:
        """on_abandoned: told which labels need no delivery any more, so that their board stops trying."""
        self._events = events
        self._dispatcher = dispatcher
        self._attempts = attempts
        self._links = links
        self._on_abandoned = on_abandoned

    async def cancel(self, task_id: TaskId) -> Task:
        """Cancelled already: the same answer again. Raises: NotKnown; IllegalTransition unless it is open."""
        refusal = "only an open task can be cancelled"
        return await self._apply(task_id, Event.CANCELLED, self._stop, refusal, repeats=State.CANCELLED)

    async def retry(self, task_id: TaskId) -> Task:
        """Raises: NotKnown; IllegalTransition unless it is a dead letter that still has its picture."""
        refusal = "only a failed task that has its picture can be queued again"
        return await self._apply(task_id, Event.RETRY, self._dispatcher.requeue, refusal)

    async def abandon(self, task_id: TaskId) -> Task:
        """Raises: NotKnown; IllegalTransition unless its labels wait for delivery."""
        return await self._apply(task_id, Event.ABANDONED, self._tell_board, "its labels do not wait for delivery")

    async def _apply(
        self, task_id: TaskId, event: Event, act: Callable[[Task], None], refusal: str, repeats: State | None = None
    ) -> Task:
        """repeats: in this state the event changes nothing and is no error."""
        answered: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()

        def judged(applied: Applied) -> None:
            if applied.task is not None and not applied.is_stale:
                log.info("task.told", extra={"task_id": task_id, "event": event.value})
                act(applied.task)  # also when whoever asked has hung up
            if not answered.done():
                answered.set_result(applied)

        self._events.add(LedgerEvent(task_id=task_id, event=event, reason=BY_REQUEST), judged)
        applied = await answered
        if applied.task is None:
            raise NotKnown(f"there is no task {task_id!r}")
        if applied.is_stale and applied.task.state is not repeats:
            without = ", and its picture is gone" if applied.task.image is None else ""
            raise IllegalTransition(f"task {task_id} is {applied.task.state}{without}: {refusal}")
        return applied.task

    def _stop(self, task: Task) -> None:
        """Nobody wants the labels any more: the board may use its time better."""
        self._dispatcher.forget(task.task_id)
        for attempt in self._attempts.of_task(task.task_id):
            self._attempts.remove(attempt.attempt_id)
            withdraw(attempt, self._links.get(attempt.device_id))
        self._dispatcher.poke()

    def _tell_board(self, task: Task) -> None:
        if task.device_id is not None and task.attempt_id is not None:
            self._on_abandoned(task.device_id, task.attempt_id)
