"""Facts for ledger tests: tasks, events and labels that differ only in what a test is about."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from edgesched.domain.detection import Detection
from edgesched.domain.device import DeviceId
from edgesched.domain.lifecycle import Event
from edgesched.domain.task import (
    AttemptId,
    Failure,
    FailureKind,
    ImageRef,
    Line,
    NewTask,
    Priority,
    Result,
    Task,
    TaskId,
    Timings,
)
from edgesched.ledger.base import Applied, Ledger, LedgerEvent

RECEIVER = "http://127.0.0.1:8888"
LINE = Line("shapes", Priority.NORMAL)  # where new_task() waits
BOARD = DeviceId("rk3588-1")

_numbers = count(1)


@dataclass(slots=True)
class SetClock:
    """Wall time that only a test moves."""

    wall_ms: int = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.wall_ms


def new_task(
    *,
    key: str | None = None,
    task_id: str | None = None,
    client_id: str = "camera-1",
    model: str = "shapes",
    image_digest: str = "d" * 64,
    size_bytes: int = 1_000,
    receiver_url: str | None = None,
    deadline_ms: int | None = None,
    priority: Priority = Priority.NORMAL,
) -> NewTask:
    number = next(_numbers)
    return NewTask(
        task_id=TaskId(task_id or f"task-{number}"),
        client_id=client_id,
        submission_key=key or f"key-{number}",
        model=model,
        file_name=f"{number}.jpg",
        image=ImageRef(f"1:{number}:1000"),
        image_digest=image_digest,
        size_bytes=size_bytes,
        receiver_url=receiver_url,
        deadline_ms=deadline_ms,
        priority=priority,
    )


def labels(confidence: float = 0.75, *, name: str = "Würfel", service_ms: float | None = 12.5) -> Result:
    box = Detection(class_id=2, label=name, confidence=confidence, x1=0.1, y1=3, x2=1e3, y2=1 / 3 + 4)
    return Result(detections=(box, box), width=640, height=480, timings=Timings(service_ms=service_ms))


def failure(kind: FailureKind = FailureKind.WORKER_ERROR, message: str = "it broke") -> Failure:
    return Failure(kind=kind, message=message)


def sent_out(task_id: TaskId, attempt: str, device_id: DeviceId = BOARD) -> LedgerEvent:
    return LedgerEvent(
        task_id=task_id,
        event=Event.SENT_OUT,
        attempt_id=AttemptId(attempt),
        device_id=device_id,
        reason="load: it is idle",
    )


def about(task_id: TaskId, event: Event, attempt: str | None = None, why: Failure | None = None) -> LedgerEvent:
    if why is None and event in (Event.DEVICE_LOST, Event.ATTEMPT_FAILED, Event.GAVE_UP):
        why = failure()
    attempt_id = None if attempt is None else AttemptId(attempt)
    return LedgerEvent(task_id=task_id, event=event, attempt_id=attempt_id, failure=why)


def picture_lost(task_id: TaskId) -> LedgerEvent:
    return LedgerEvent(task_id=task_id, event=Event.PICTURE_LOST, reason="its file is gone")


def finished(
    task_id: TaskId, attempt: str, result: Result | None = None, device_id: DeviceId | None = BOARD
) -> LedgerEvent:
    return LedgerEvent(
        task_id=task_id,
        event=Event.FINISHED,
        attempt_id=AttemptId(attempt),
        device_id=device_id,
        result=result or labels(),
    )


async def accepted(ledger: Ledger, new: NewTask | None = None) -> Task:
    """One freshly accepted task."""
    (answer,) = await ledger.accept_many([new or new_task()])
    assert answer.created
    return answer.task


async def applied(ledger: Ledger, event: LedgerEvent) -> Applied:
    (answer,) = await ledger.apply_many([event])
    return answer


async def done(ledger: Ledger, new: NewTask | None = None, attempt: str | None = None) -> Task:
    """One task with labels, won by `attempt`."""
    task = await accepted(ledger, new)
    attempt = attempt or f"attempt-{next(_numbers)}"
    answers = await ledger.apply_many([sent_out(task.task_id, attempt), finished(task.task_id, attempt)])
    assert answers[-1].task is not None
    return answers[-1].task


async def failed(ledger: Ledger, new: NewTask | None = None) -> Task:
    """One dead letter."""
    task = await accepted(ledger, new)
    attempt = f"attempt-{next(_numbers)}"
    answers = await ledger.apply_many([sent_out(task.task_id, attempt), about(task.task_id, Event.GAVE_UP, attempt)])
    assert answers[-1].task is not None
    return answers[-1].task
