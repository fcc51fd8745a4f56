"""The board's work, whichever stream it came over: what is taken, what is refused, what is here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from agents.outbox import Entry, Outbox
from agents.supervisor import Supervisor
from agents.work import Assignment, Job
from edgesched.domain.task import AttemptId

SLACK = 2
"""The task manager keeps the window; it frees a place when it cancels an attempt or gives it up, which may still be
running here. The bound that protects the board's memory is therefore this many windows."""


class Stream(Protocol):
    """The stream that is served, as the rest of the daemon sees it."""

    @property
    def ledger_id(self) -> str: ...

    def due(self, entry: Entry) -> None:
        """It has news."""
        ...


class Uplink:
    """Where news for the task manager go: the present stream, or nowhere. What is missed is said after Hello."""

    def __init__(self) -> None:
        self.stream: Stream | None = None

    def news(self, entry: Entry) -> None:
        if self.stream is not None and self.stream.ledger_id == entry.assignment.ledger_id:
            self.stream.due(entry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the board takes. `models`: those that its workers are given; some may turn out not to load."""

    models: frozenset[str]
    window_tasks: int
    window_bytes: int


class Desk:
    """One per daemon."""

    def __init__(self, supervisor: Supervisor, outbox: Outbox, limits: Limits) -> None:
        self.outbox = outbox
        self._supervisor = supervisor
        self._limits = limits
        self._is_closed = False

    @property
    def unhealthy_reason(self) -> str | None:
        return self._supervisor.unhealthy_reason or self.outbox.trouble

    def refusal(self, model: str, size_bytes: int, *, arriving_tasks: int, arriving_bytes: int) -> str | None:
        """Why a picture cannot be taken now; None: it can. The arriving ones are those that are not whole yet."""
        tasks = self._supervisor.held_count + arriving_tasks
        used_bytes = self._supervisor.held_bytes + arriving_bytes
        if self._is_closed:
            return "the agent is stopping"
        if self.unhealthy_reason is not None:
            return f"the board cannot work: {self.unhealthy_reason}"
        if (why := self._supervisor.refusal(model)) is not None:
            return why
        if model not in self._limits.models:
            return f"this board cannot run model {model!r}"
        if tasks >= SLACK * self._limits.window_tasks:
            return f"the board is full: it holds {tasks} pictures"
        if tasks and used_bytes + size_bytes > SLACK * self._limits.window_bytes:
            return f"the board is full: it holds {used_bytes} bytes of pictures"
        if not self.outbox.has_room_for(tasks + 1):
            return "the outbox is full: its labels wait to be delivered or settled"
        return None

    def knows(self, attempt_id: AttemptId) -> bool:
        """Whether it is in hand, or has an outcome that waits."""
        return self._supervisor.holds(attempt_id) or self.outbox.get(attempt_id) is not None

    def submit(self, job: Job) -> None:
        self._supervisor.submit(job)

    def cancel(self, attempt_id: AttemptId) -> bool:
        return self._supervisor.cancel(attempt_id)

    def held(self, ledger_id: str) -> Iterator[Assignment]:
        """Attempts that are queued or running."""
        return (assignment for assignment in self._supervisor.held() if assignment.ledger_id == ledger_id)

    async def close(self) -> None:
        """Take nothing more, hand back what no worker has, and wait for the rest."""
        self._is_closed = True
        self._supervisor.hand_back("the agent is stopping")
        await self._supervisor.idle()
