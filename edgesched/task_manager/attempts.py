"""The in-flight truth: every open attempt, on which device it is, and since when."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgesched.clock import Clock
from edgesched.domain.device import DeviceId
from edgesched.domain.task import AttemptId, Task, TaskId
from edgesched.placement.promises import Promises
from edgesched.ports import InFlight, Promise

NOT_PROMISED = (None, None, None)


@dataclass(slots=True)
class OpenAttempt:
    """One picture on its way to, or on, a device. Times are of the monotonic clock."""

    attempt_id: AttemptId
    task: Task
    device_id: DeviceId
    started_at_ms: float
    avoid: frozenset[DeviceId] = frozenset()  # where the task failed before
    promise: Promise | None = None  # what placement expected when it chose the device
    is_accepted: bool = False  # the device holds the whole picture
    is_sent: bool = False  # its last chunk was written to the stream

    def elapsed_ms(self, now_ms: float) -> float:
        return now_ms - self.started_at_ms


class OpenAttempts:
    """By id and by device."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._promises = Promises()
        self._by_id: dict[AttemptId, OpenAttempt] = {}
        self._by_device: defaultdict[DeviceId, dict[AttemptId, OpenAttempt]] = defaultdict(dict)
        self._none_left = asyncio.Event()
        self._none_left.set()

    def add(self, attempt: OpenAttempt) -> None:
        self._none_left.clear()
        self._by_id[attempt.attempt_id] = attempt
        self._by_device[attempt.device_id][attempt.attempt_id] = attempt
        if attempt.promise is not None:
            self._promises.add(attempt.attempt_id, attempt.device_id, attempt.promise, self._clock.monotonic_ms())

    def get(self, attempt_id: AttemptId) -> OpenAttempt | None:
        return self._by_id.get(attempt_id)

    def remove(self, attempt_id: AttemptId) -> OpenAttempt | None:
        attempt = self._by_id.pop(attempt_id, None)
        if attempt is not None:
            of_device = self._by_device[attempt.device_id]
            del of_device[attempt_id]
            if not of_device:
                del self._by_device[attempt.device_id]
            self._promises.ended(attempt_id, attempt.device_id, self._clock.monotonic_ms())
            if not self._by_id:
                self._none_left.set()
        return attempt

    def accepted(self, attempt: OpenAttempt) -> None:
        """The device holds the whole picture."""
        attempt.is_accepted = True
        self._promises.arrived(attempt.attempt_id, attempt.device_id, self._clock.monotonic_ms())

    async def none_left(self) -> None:
        """Return when no attempt is open."""
        await self._none_left.wait()

    def of_device(self, device_id: DeviceId) -> Sequence[OpenAttempt]:
        return tuple(self._by_device.get(device_id, {}).values())

    def of_task(self, task_id: TaskId) -> Sequence[OpenAttempt]:
        return [attempt for attempt in self._by_id.values() if attempt.task.task_id == task_id]

    def devices(self) -> Iterable[DeviceId]:
        return tuple(self._by_device)

    def task_ids(self) -> frozenset[TaskId]:
        return frozenset(a.task.task_id for a in self._by_id.values())

    def overdue(self, now_ms: float, timeout_ms: float) -> Sequence[OpenAttempt]:
        return [a for a in self._by_id.values() if a.elapsed_ms(now_ms) > timeout_ms]

    def is_busy(self, device_id: DeviceId) -> bool:
        return device_id in self._by_device

    def snapshot(self, now_ms: float) -> Sequence[InFlight]:
        outlook = self._promises.outlook
        found: list[InFlight] = []
        for attempt in self._by_id.values():
            slot, remaining_ms, transfer_ms = outlook(attempt.attempt_id, attempt.device_id, now_ms) or NOT_PROMISED
            task = attempt.task
            found.append(
                InFlight(
                    attempt_id=attempt.attempt_id,
                    device_id=attempt.device_id,
                    model=task.model,
                    size_bytes=task.size_bytes,
                    elapsed_ms=now_ms - attempt.started_at_ms,
                    slot=slot,
                    predicted_remaining_ms=remaining_ms,
                    transfer_remaining_ms=transfer_ms,
                )
            )
        return found

    def __len__(self) -> int:
        return len(self._by_id)
