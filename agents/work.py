"""What the parts of the daemon hand to each other: an attempt, and the job that it becomes here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from edgesched.domain.task import AttemptId, Failure, Result, TaskId

Outcome = Result | Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One attempt that a task manager gave to this board."""

    ledger_id: str  # whose task it is: only that ledger may judge its outcome
    task_id: TaskId
    attempt_id: AttemptId
    model: str
    file_name: str
    receiver_url: str | None


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """An attempt whose picture is here, until a worker has answered it. Times are those of the event loop."""

    assignment: Assignment
    picture: Sequence[bytes]  # as its chunks came; they go to the worker as they are, so nothing is copied here
    size_bytes: int
    arrived_at: float  # when the picture was whole
    deadline_at: float
    transfer_ms: float | None
    started_at: float | None = None  # when a worker began it
    is_alone: bool = False  # its worker died while it ran together with others: from now on it shares no inference
    timer: asyncio.TimerHandle | None = None

    @property
    def attempt_id(self) -> AttemptId:
        return self.assignment.attempt_id
