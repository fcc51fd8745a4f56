"""What one process asks of another. Each port has two implementations: a function call and a network call."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edgesched.domain.device import DeviceId
from edgesched.domain.fact import fact
from edgesched.domain.task import (
    AttemptId,
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


@fact
class TaskToPlace:
    task_id: TaskId
    model: str
    size_bytes: int
    avoid: frozenset[DeviceId] = frozenset()  # devices where it failed; used only if nothing else can run it
    labels: Mapping[str, str] = field(default_factory=dict)  # a device must carry all of these


@dataclass(slots=True, kw_only=True)  # not frozen, though nobody changes one: it is made twice as fast, and that often
class InFlight:
    """One open attempt, as the task manager knows it: the truth about a device's work.

    The last three are what placement promised when it chose the device, brought up to date with every reply since, so
    that its reservations can be built again from this record alone. None: nothing was promised (an adopted attempt).
    """

    attempt_id: AttemptId
    device_id: DeviceId
    model: str
    size_bytes: int
    elapsed_ms: float  # since it was sent
    slot: int | None = None  # of the device, counted from 0
    predicted_remaining_ms: float | None = None  # until its answer; negative: overdue by so much
    transfer_remaining_ms: float | None = None  # until the device has the whole picture; 0 once it has


@fact
class FinishedSample:
    """What one finished attempt taught about its device. None where it taught nothing."""

    device_id: DeviceId
    model: str
    size_bytes: int
    service_ms: float | None
    transfer_ms: float | None
    total_ms: float  # sent out -> outcome, as the task manager saw it
    succeeded: bool
    predicted_ms: float | None = None  # what total_ms was promised to be when it was sent
    blames_device: bool = True  # False: it failed because of the picture; another device would have failed as well
    # For people, and not for placement:
    waited_ms: float | None = None  # accepted -> sent out this time
    decode_ms: float | None = None
    infer_ms: float | None = None


@fact
class Asker:
    """The task manager that asks for placement: a new one with each start."""

    ledger_id: str
    owner_id: str


@fact
class PlacementRequest:
    """Stateless about work: everything that is in flight travels with each request."""

    tasks: Sequence[TaskToPlace]
    in_flight: Sequence[InFlight]
    finished: Sequence[FinishedSample] = ()
    unreachable: frozenset[DeviceId] = frozenset()  # their stream is broken: no new work until it is healed
    strategy: str | None = None  # None: the gateway's default
    asker: Asker | None = None  # None: somebody who only tries
    explain: bool = True  # False: candidates come without their terms, which nobody reads at full speed


@fact
class Candidate:
    """One device's standing in a decision. `terms` are what the score is made of, in the units they are named with."""

    device_id: DeviceId
    score: float  # lower is better
    terms: Mapping[str, float] = field(default_factory=dict)


@fact
class Promise:
    """When a device should have a picture and answer it, in milliseconds from the decision."""

    slot: int  # the device's slot that it was given in the plan, counted from 0
    slots: int  # how many the device has
    arrival_ms: float  # the device has the whole picture
    answer_ms: float  # the answer is back
    service_ms: float  # how long it holds the slot
    way_back_ms: float  # from the end of the work to the answer


MOST_NAMED = 20
"""Devices in a sentence about why none can take a task."""


@fact
class Decision:
    """Where a task goes, and why. `device_id` is None when it has to wait or cannot run anywhere.

    With a strategy that waits, `chosen` may be a device without a free place: then `waits_for` says why it does not
    get the task yet, and the task stays in the queue.
    """

    task_id: TaskId
    device_id: DeviceId | None
    strategy: str
    chosen: Candidate | None
    runner_up: Candidate | None
    excluded: Mapping[DeviceId, str]  # device -> reason
    promise: Promise | None = None  # None if it has to wait
    waits_for: str | None = None  # why `chosen` cannot take it now
    next_opening: int | None = None
    """Of a task that waits: how many tasks must be in line before one of them finds a device; None: none has room."""

    def reason(self) -> str:
        """One sentence for people, the log and the task's attempt."""
        if self.waits_for is not None and self.chosen is None:
            return f"{self.strategy}: waits in line ({self.waits_for})"
        if self.chosen is None:
            why = "; ".join(f"{d}: {r}" for d, r in sorted(self.excluded.items())[:MOST_NAMED])
            more = f"; and {len(self.excluded) - MOST_NAMED} more" if len(self.excluded) > MOST_NAMED else ""
            return f"no device can take it now ({why or 'no device is registered'}{more})"
        text = f"{self.strategy}: {self.chosen.device_id} scores {self.chosen.score:.3f}"
        if self.waits_for is not None:
            text += f" but has no room, so the task waits ({self.waits_for})"
        if self.runner_up is not None:
            text += f"; next best {self.runner_up.device_id} {self.runner_up.score:.3f}"
        for device_id, reason in sorted(self.excluded.items())[:5]:
            text += f"; {device_id} excluded: {reason}"
        return text


@fact
class DeviceRoute:
    """How to reach a device, and whether something waits there."""

    device_id: DeviceId
    address: str  # host:port
    boot_id: str
    is_ready: bool
    outbox_count: int


@fact
class PlacementPlan:
    decisions: Sequence[Decision]
    routes: Sequence[DeviceRoute]  # every registered device


class Placement(Protocol):
    """Asked by the task manager, answered by whoever keeps the fleet."""

    async def place(self, request: PlacementRequest) -> PlacementPlan:
        """Raises: InvalidInput (unknown strategy), PeerUnavailable (the gateway cannot be reached)."""
        ...

    async def wait_for_change(self) -> None:
        """Return when the fleet may have changed: a hint to place again. May return without cause."""
        ...


class TaskQueries(Protocol):
    """Asked by the gateway, answered by the task manager. All raise PeerUnavailable if it cannot be reached."""

    async def get(self, task_id: TaskId) -> TaskDetails:
        """Raises: NotKnown."""
        ...

    async def list(self, filter_: TaskFilter, *, limit: int, cursor: int | None) -> TaskPage: ...

    async def counts(self) -> TaskCounts: ...

    async def stats(self) -> TaskStats: ...

    async def models(self) -> Sequence[ModelFacts]:
        """By name."""
        ...

    async def picture(self, task_id: TaskId) -> bytes:
        """The encoded picture as it was sent. Raises: NotKnown if there is no such task, or its picture was let go."""
        ...

    def changes(self) -> AsyncGenerator[Task, None]:
        """Tasks as they change from now on, each in its newest state; states in between may be missing, never the last.

        Ends only by being closed, or with PeerUnavailable: then whoever follows has to look at everything again.
        """
        ...


class TaskCommands(Protocol):
    """Told by people through the gateway, done by the task manager. All raise PeerUnavailable, as above."""

    async def submit(self, submission: Submission) -> TaskId:
        """Returns once it is durable. The same client and key again give the same task.

        Raises: InvalidInput, NotKnown (model), Conflict (the key was used for something else), Overloaded.
        """
        ...

    async def cancel(self, task_id: TaskId) -> Task:
        """End an open task without labels. Raises: NotKnown, IllegalTransition (it has ended in another way)."""
        ...

    async def retry(self, task_id: TaskId) -> Task:
        """Queue a dead letter again. Raises: NotKnown, IllegalTransition (it has not failed, or has no picture)."""
        ...

    async def abandon(self, task_id: TaskId) -> Task:
        """Give up delivering its labels. Raises: NotKnown, IllegalTransition (it does not wait for delivery)."""
        ...


class TaskDesk(TaskQueries, TaskCommands, Protocol):
    """Both: what a gateway holds."""
