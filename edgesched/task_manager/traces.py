"""One trace per task, made of what is known when something has ended. See docs/tracing.md.

Only this process's clock counts, and its wall clock is read once per task: whatever happens to it later, a trace stays
in order.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgesched.domain.device import DeviceId
from edgesched.domain.lifecycle import Event, State
from edgesched.domain.task import AttemptId, Task, TaskId
from edgesched.ledger.base import Applied, LedgerEvent
from edgesched.task_manager.board_time import Stage, board_stage

if TYPE_CHECKING:
    from edgesched.spans import Kind, Span, Tracing

SERVICE = "edgesched-task-manager"

MAX_FOLLOWED = 16_384
"""Of each kind. New tasks beyond it are not followed; of those that wait for their receiver the oldest is forgotten."""

ENDS_BADLY = frozenset({State.FAILED, State.EXPIRED, State.CANCELLED})

NowNs = Callable[[], int]


@dataclass(slots=True, kw_only=True)
class _Try:
    attempt_id: AttemptId
    device_id: DeviceId
    reason: str
    sent_ns: int
    accepted_ns: int | None = None  # when the board was heard to have the whole picture


@dataclass(slots=True, kw_only=True)
class _Life:
    """Times are of the monotonic clock; `wall_ns` more is the wall clock's."""

    span: Span
    wall_ns: int
    queued_ns: int
    attempt: _Try | None = None
    labelled_ns: int | None = None


class TaskTraces:
    """Told of every task that is accepted and of every committed event. In memory only: after a restart the tasks that
    were open go on without a trace."""

    def __init__(
        self,
        tracing: Tracing,
        *,
        now_ns: NowNs = time.monotonic_ns,
        wall_ns: NowNs = time.time_ns,
        most: int = MAX_FOLLOWED,
    ) -> None:
        self._tracing = tracing
        self._wall_ns = wall_ns
        self._most = most
        self._open: dict[TaskId, _Life] = {}
        self._undelivered: dict[TaskId, _Life] = {}
        self.now_ns = now_ns

    def accepted(self, task: Task, traceparent: str | None, arrived_ns: int) -> None:
        """The task is durable. arrived_ns: when its picture came."""
        if len(self._open) >= self._most:
            return
        now_ns = self.now_ns()
        wall_ns = self._wall_ns() - now_ns
        span = self._tracing.begin(
            SERVICE,
            "task",
            kind="consumer",
            traceparent=traceparent,
            started_ns=wall_ns + arrived_ns,
            attributes={
                "edgesched.task.id": task.task_id,
                "edgesched.model": task.model,
                "edgesched.client.id": task.client_id,
                "edgesched.picture.name": task.file_name,
                "edgesched.picture.bytes": task.size_bytes,
            },
        )
        if span is not None:
            self._open[task.task_id] = _Life(span=span, wall_ns=wall_ns, queued_ns=now_ns)
            span.child("accept", started_ns=wall_ns + arrived_ns).end(wall_ns + now_ns)

    def committed(self, event: LedgerEvent, applied: Applied, at_ns: int) -> None:
        """at_ns: when it happened, which is before its commit."""
        life = self._open.get(event.task_id) or self._undelivered.get(event.task_id)
        if life is None or applied.task is None or applied.is_stale:
            return
        task = applied.task
        if event.event is Event.ACCEPTED:
            if life.attempt is not None and life.attempt.accepted_ns is None:
                life.attempt.accepted_ns = at_ns
        elif event.event is Event.SENT_OUT and task.state is State.DISPATCHED:
            self._sent_out(life, event, at_ns)
        elif event.event is Event.DELIVERED and life.labelled_ns is not None:
            delivery = life.span.child("delivery", started_ns=life.wall_ns + life.labelled_ns)
            delivery.end(life.wall_ns + at_ns)
        elif life.attempt is not None:
            _end_attempt(life, life.attempt, event, at_ns)
            life.attempt, life.queued_ns = None, at_ns
        if task.is_settled:  # labels count from their commit on
            self._end(task, at_ns if event.event is Event.DELIVERED else self.now_ns())
        elif task.state is State.DONE and life.labelled_ns is None:
            life.labelled_ns = self.now_ns()  # since its commit it may be delivered
            self._await_delivery(task.task_id, life)

    def announced(self, task: Task) -> None:
        """It changed, by an event of ours or by time."""
        if task.is_settled:
            self._end(task, self.now_ns())

    def close(self) -> None:
        """The process ends; whoever has a part of a trace finds its root."""
        for life in (*self._open.values(), *self._undelivered.values()):
            self._forget(life, "the task manager stopped before the task had ended")
        self._open.clear()
        self._undelivered.clear()

    def _sent_out(self, life: _Life, event: LedgerEvent, at_ns: int) -> None:
        assert event.attempt_id is not None  # a rule of LedgerEvent
        assert event.device_id is not None
        life.span.child("queue", started_ns=life.wall_ns + life.queued_ns).end(life.wall_ns + at_ns)
        life.attempt = _Try(attempt_id=event.attempt_id, device_id=event.device_id, reason=event.reason, sent_ns=at_ns)

    def _await_delivery(self, task_id: TaskId, life: _Life) -> None:
        self._open.pop(task_id, None)
        if len(self._undelivered) >= self._most:
            oldest = self._undelivered.pop(next(iter(self._undelivered)))
            self._forget(oldest, "too many tasks wait for their receiver: this one is not followed any longer")
        self._undelivered[task_id] = life

    def _end(self, task: Task, at_ns: int) -> None:
        life = self._open.pop(task.task_id, None) or self._undelivered.pop(task.task_id, None)
        if life is None:
            return
        attributes: dict[str, str | int | float] = {
            "edgesched.task.state": str(task.state),
            "edgesched.attempts.failed": task.failed_attempts,
        }
        if task.device_id is not None:
            attributes["edgesched.device.id"] = task.device_id
        error = (task.last_error or str(task.state)) if task.state in ENDS_BADLY else None
        life.span.end(life.wall_ns + at_ns, error=error, attributes=attributes)

    def _forget(self, life: _Life, why: str) -> None:
        life.span.end(life.wall_ns + self.now_ns(), attributes={"edgesched.trace.cut": why})


def _end_attempt(life: _Life, attempt: _Try, event: LedgerEvent, at_ns: int) -> None:
    """Whatever happened to the task, its attempt is over."""
    span = life.span.child(
        "attempt",
        started_ns=life.wall_ns + attempt.sent_ns,
        kind="client",
        attributes={
            "edgesched.attempt.id": attempt.attempt_id,
            "edgesched.device.id": attempt.device_id,
            "edgesched.placement.reason": attempt.reason,
        },
    )
    if event.event is Event.FINISHED and event.attempt_id == attempt.attempt_id and event.result is not None:
        timings = event.result.timings
        board = board_stage(timings, sent_ns=attempt.sent_ns, accepted_ns=attempt.accepted_ns, ended_ns=at_ns)
        if board is not None:
            _tell(span, board, life.wall_ns, attempt.device_id, kind="server")
        span.end(life.wall_ns + at_ns)
    elif event.failure is not None:
        kind = {"error.type": str(event.failure.kind)}
        span.end(life.wall_ns + at_ns, error=event.failure.message or str(event.failure.kind), attributes=kind)
    else:
        is_late = event.event is Event.FINISHED
        why = "another attempt had the labels first" if is_late else event.reason or str(event.event)
        span.end(life.wall_ns + at_ns, error=why, attributes={"error.type": str(event.event)})


def _tell(parent: Span, stage: Stage, wall_ns: int, device_id: DeviceId, *, kind: Kind = "internal") -> None:
    span = parent.child(
        stage.name,
        started_ns=wall_ns + stage.started_ns,
        service=stage.service,
        kind=kind,
        attributes={"edgesched.device.id": device_id},
    )
    for part in stage.parts:
        _tell(span, part, wall_ns, device_id)
    span.end(wall_ns + stage.ended_ns)
