"""What was promised for every attempt in flight, brought up to date with each reply.

Kept by whoever knows what is in flight: the task manager, and the simulator. A device works off its pictures in the
order in which they arrive, on as many slots as it has; so each reply says when the next one began.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from edgesched.domain.device import DeviceId
from edgesched.domain.task import AttemptId
from edgesched.ports import Promise


@dataclass(slots=True)
class _Work:
    """One attempt on its way to, or on, a device. Times are of the keeper's clock."""

    promise: Promise
    slot: int
    arrives_at_ms: float
    starts_at_ms: float
    is_here: bool = False  # the device said that it has the whole picture
    holds_slot: bool = False


class Expected(NamedTuple):
    """What is expected of one attempt now; a negative time has passed already."""

    slot: int
    remaining_ms: float  # until the answer
    transfer_remaining_ms: float


class Promises:
    """Bounded by the windows of the devices."""

    def __init__(self) -> None:
        self._works: dict[DeviceId, dict[AttemptId, _Work]] = {}

    def add(self, attempt_id: AttemptId, device_id: DeviceId, promise: Promise, now_ms: float) -> None:
        """The attempt is sent now."""
        self._works.setdefault(device_id, {})[attempt_id] = _Work(
            promise,
            promise.slot,
            now_ms + promise.arrival_ms,
            now_ms + promise.answer_ms - promise.way_back_ms - promise.service_ms,
        )

    def arrived(self, attempt_id: AttemptId, device_id: DeviceId, now_ms: float) -> None:
        """The device has the whole picture. Those behind it on the link come as much earlier or later."""
        works = self._works.get(device_id, {})
        work = works.get(attempt_id)
        if work is None or work.is_here:
            return
        there_ms = now_ms - work.promise.way_back_ms  # the instant that the news is from
        _begin(works, there_ms)
        error_ms = there_ms - work.arrives_at_ms
        for other in works.values():
            if not other.is_here:
                other.arrives_at_ms += error_ms
        work.is_here = True
        work.starts_at_ms = max(work.starts_at_ms, there_ms)
        _schedule(works, there_ms)

    def ended(self, attempt_id: AttemptId, device_id: DeviceId, now_ms: float) -> None:
        """Its answer came, or nobody waits for it any more: its slot is free."""
        works = self._works.get(device_id)
        work = works.get(attempt_id) if works is not None else None
        if works is None or work is None:
            return
        there_ms = now_ms - work.promise.way_back_ms
        _begin(works, there_ms)
        del works[attempt_id]
        if works:
            _schedule(works, there_ms)
        else:  # nothing in flight: errors cannot pile up
            del self._works[device_id]

    def outlook(self, attempt_id: AttemptId, device_id: DeviceId, now_ms: float) -> Expected | None:
        works = self._works.get(device_id)
        work = works.get(attempt_id) if works is not None else None
        if work is None:
            return None
        transfer_ms = 0.0 if work.is_here else work.arrives_at_ms - now_ms
        promise = work.promise
        return Expected(
            work.slot,
            work.starts_at_ms + promise.service_ms + promise.way_back_ms - now_ms,
            transfer_ms if transfer_ms > 0.0 else 0.0,
        )


def _begin(works: dict[AttemptId, _Work], there_ms: float) -> None:
    """Those that were expected to begin before this instant did so, oldest first, while a slot was idle."""
    due = [work for work in works.values() if not work.holds_slot and work.starts_at_ms <= there_ms]
    if not due:
        return
    idle = set(range(_slots(works))) - {work.slot for work in works.values() if work.holds_slot}
    for work in due:
        if idle:
            work.holds_slot = True
            work.slot = work.slot if work.slot in idle else min(idle)
            idle.discard(work.slot)


def _schedule(works: dict[AttemptId, _Work], there_ms: float) -> None:
    """First come, first served on the slots. What runs already stays as it was expected."""
    free_at_ms = [there_ms] * _slots(works)
    waiting: list[_Work] = []
    for work in works.values():
        if work.holds_slot:  # one that is overdue is expected to take as long again as it is late
            free_at_ms[work.slot] = there_ms + abs(work.starts_at_ms + work.promise.service_ms - there_ms)
        else:
            waiting.append(work)
    for work in waiting:
        soonest_ms = min(free_at_ms)
        work.slot = free_at_ms.index(soonest_ms)
        work.starts_at_ms = max(work.arrives_at_ms, soonest_ms)
        free_at_ms[work.slot] = work.starts_at_ms + work.promise.service_ms


def _slots(works: dict[AttemptId, _Work]) -> int:
    """Of the device; the most that was promised or is held, since it may have come back with another number."""
    slots = 1
    for work in works.values():
        if work.promise.slots > slots:
            slots = work.promise.slots
        if work.slot >= slots:
            slots = work.slot + 1
    return slots
