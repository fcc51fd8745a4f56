"""Tasks, attempts and results: frozen facts, as the ledger knows them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import fields
from enum import StrEnum
from typing import NamedTuple, NewType

from edgesched.domain.detection import Detection
from edgesched.domain.device import DeviceId
from edgesched.domain.durations import Durations
from edgesched.domain.fact import fact
from edgesched.domain.lifecycle import State, is_settled

TaskId = NewType("TaskId", str)
AttemptId = NewType("AttemptId", str)


def new_id() -> str:
    """32 hex digits: 48 bits of wall time, 80 random bits.

    Ids that grow with time keep a ledger's index pages together: accepting is twice as fast as with random ones.
    """
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


ImageRef = NewType("ImageRef", str)
"""Opaque: only the image store that made it can read it."""


class FailureKind(StrEnum):
    """Why an attempt ended without labels."""

    INVALID_INPUT = "invalid_input"  # the picture cannot be decoded: no other device will fare better
    WORKER_ERROR = "worker_error"  # the backend or the decoder raised
    WORKER_CRASHED = "worker_crashed"  # the worker process died with the task in hand
    TIMED_OUT = "timed_out"  # the worker hung beyond the attempt's time
    REFUSED = "refused"  # the agent would not take it: draining, full, model gone
    DEVICE_LOST = "device_lost"  # the link or the board died


COUNTED_FAILURES = frozenset(
    {FailureKind.INVALID_INPUT, FailureKind.WORKER_ERROR, FailureKind.WORKER_CRASHED, FailureKind.TIMED_OUT}
)
"""Failures that the task itself may have caused. Only they count towards `max_attempts`."""


class Priority(StrEnum):
    """Whose turn comes sooner while tasks wait. A share of the turns, not a wall: no priority starves another."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class Line(NamedTuple):
    """Which queued tasks wait one behind the other, in the order of their acceptance."""

    model: str
    priority: Priority


@fact
class Failure:
    kind: FailureKind
    message: str


@fact
class Timings:
    """Durations in milliseconds, measured on the device. None where the backend cannot know one."""

    queued_ms: float | None = None  # on the board, before a worker took it
    decode_ms: float | None = None
    preprocess_ms: float | None = None
    infer_ms: float | None = None
    postprocess_ms: float | None = None
    service_ms: float | None = None  # the whole time that it held a worker
    transfer_ms: float | None = None  # first to last chunk, as the agent received them


TIMING_FIELDS = tuple(field.name for field in fields(Timings))


@fact
class Result:
    """The labels of one picture. width and height are pixels of the original; None if it was not decoded."""

    detections: tuple[Detection, ...]
    width: int | None
    height: int | None
    timings: Timings


@fact
class NewTask:
    """A checked submission, its picture already durable in the image store."""

    task_id: TaskId
    client_id: str
    submission_key: str  # unique per client: the same key again is the same submission
    model: str
    file_name: str
    image: ImageRef
    image_digest: str  # tells two pictures apart
    size_bytes: int
    receiver_url: str | None
    deadline_ms: int | None  # time left for the whole task when it was submitted
    priority: Priority


@fact
class Task:
    """One row of the ledger."""

    task_id: TaskId
    seq: int  # order of acceptance
    revision: int  # grows with every change of any task: the cursor of `changes_since`
    state: State
    client_id: str
    model: str
    file_name: str
    image: ImageRef | None  # None once the picture was retired
    size_bytes: int
    receiver_url: str | None
    created_at_ms: int  # ledger's wall clock
    updated_at_ms: int
    expires_at_ms: int | None
    attempt_id: AttemptId | None  # the current one; the winning one once DONE
    device_id: DeviceId | None  # of that attempt
    failed_attempts: int  # those that count towards max_attempts
    last_error: str | None
    priority: Priority

    @property
    def line(self) -> Line:
        """Where it waits while it is QUEUED."""
        return Line(self.model, self.priority)

    @property
    def is_settled(self) -> bool:
        return is_settled(self.state, wants_delivery=self.receiver_url is not None)


@fact
class Attempt:
    """One try of one task on one device. `ended_at_ms` is None while it is open."""

    attempt_id: AttemptId
    task_id: TaskId
    device_id: DeviceId
    reason: str  # why placement chose this device
    started_at_ms: int
    ended_at_ms: int | None
    failure: Failure | None
    timings: Timings | None


@fact
class TaskFilter:
    state: State | None = None
    model: str | None = None
    client_id: str | None = None
    device_id: DeviceId | None = None  # the one that it was sent to last
    priority: Priority | None = None


@fact
class TaskPage:
    """Newest first. `next_cursor` is None on the last page."""

    tasks: tuple[Task, ...]
    next_cursor: int | None


@fact
class TaskDetails:
    task: Task
    attempts: tuple[Attempt, ...]
    result: Result | None
    waits_for: str | None = None  # why it is not with a device yet, as long as it is QUEUED; the ledger does not know


TaskCounts = Mapping[State, int]


@fact
class Submission:
    """One picture as a client sends it, not yet checked."""

    model: str
    file_name: str
    image: bytes
    client_id: str
    submission_key: str
    receiver_url: str | None
    remaining_ms: int | None
    priority: Priority = Priority.NORMAL
    traceparent: str | None = None  # the trace that it belongs to; the ledger does not keep it


@fact
class ModelFacts:
    """What clients may know of a model of the catalogue."""

    name: str
    version: str
    description: str
    labels: tuple[str, ...]


@fact
class TaskStats:
    """How much there is to do, and how the ledger keeps up."""

    counts: TaskCounts
    queued: Mapping[Line, int]  # lines without a task are absent
    open_bytes: int  # pictures of open tasks
    undelivered: int  # tasks with labels that their receiver has not taken; counted up to MAX_COUNTED_UNDELIVERED
    oldest_undelivered_ms: float | None  # since it had its labels; None if there is none
    commits: int  # of task events, since the task manager started
    commit_ms: float  # that all of them took
    ended: Mapping[tuple[State, str, DeviceId | None], int]  # by state, model and last device, since then as well
    delivery: Mapping[str, Durations]  # model -> from labels in the ledger to labels at their receiver, since then


MAX_COUNTED_UNDELIVERED = 1_000
