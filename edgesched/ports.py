"""What one process asks of another. Each port has two implementations: a function call and a network call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edgesched.domain.device import DeviceId
from edgesched.domain.task import (
    AttemptId,
    TaskCounts,
    TaskDetails,
    TaskFilter,
    TaskId,
    TaskPage,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskToPlace:
    task_id: TaskId
    model: str
    size_bytes: int
    avoid: frozenset[DeviceId] = frozenset()  # devices where it failed; used only if nothing else can run it


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """One open attempt, as the task manager knows it: the truth about a device's work."""

    attempt_id: AttemptId
    device_id: DeviceId
    model: str
    size_bytes: int
    elapsed_ms: float  # since it was sent


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedSample:
    """What one finished attempt taught about its device. None where it taught nothing."""

    device_id: DeviceId
    model: str
    size_bytes: int
    service_ms: float | None
    transfer_ms: float | None
    total_ms: float  # sent out -> outcome, as the task manager saw it
    succeeded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRequest:
    """Stateless about work: everything that is in flight travels with each request."""

    tasks: Sequence[TaskToPlace]
    in_flight: Sequence[InFlight]
    finished: Sequence[FinishedSample] = ()
    unreachable: frozenset[DeviceId] = frozenset()  # their stream is broken: no new work until it is healed
    strategy: str | None = None  # None: the gateway's default


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One device's standing in a decision. `terms` are what the score is made of, in the units they are named with."""

    device_id: DeviceId
    score: float  # lower is better
    terms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Where a task goes, and why. `device_id` is None when it has to wait or cannot run anywhere."""

    task_id: TaskId
    device_id: DeviceId | None
    strategy: str
    chosen: Candidate | None
    runner_up: Candidate | None
    excluded: Mapping[DeviceId, str]  # device -> reason

    def reason(self) -> str:
        """One sentence for people, the log and the task's attempt."""
        if self.chosen is None:
            why = "; ".join(f"{d}: {r}" for d, r in sorted(self.excluded.items()))
            return f"no device can take it now ({why or 'no device is registered'})"
        text = f"{self.strategy}: {self.chosen.device_id} scores {self.chosen.score:.3f}"
        if self.runner_up is not None:
            text += f"; next best {self.runner_up.device_id} {self.runner_up.score:.3f}"
        for device_id, reason in sorted(self.excluded.items())[:5]:
            text += f"; {device_id} excluded: {reason}"
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRoute:
    """How to reach a device, and whether something waits there."""

    device_id: DeviceId
    address: str  # host:port
    boot_id: str
    is_ready: bool
    outbox_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
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
