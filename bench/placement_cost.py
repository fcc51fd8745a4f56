"""What one decision costs on this machine, for fleets of 10 to 10,000 devices; and a whole call of the gateway's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from edgesched.clock import SystemClock
from edgesched.domain.device import BoardType, Device, DeviceId, DeviceProfile, DeviceState
from edgesched.domain.task import AttemptId, TaskId
from edgesched.placement.fleet import FleetSnapshot
from edgesched.placement.memory import PlacementMemory
from edgesched.placement.planner import plan
from edgesched.placement.promises import Promises
from edgesched.ports import FinishedSample, InFlight, PlacementRequest, TaskToPlace
from gateway.activity import Activity, ObservedPlacement
from gateway.metrics import PlacementFigures

MODEL = "m"
BATCH = 64
ROUNDS = 60
KINDS = (
    DeviceProfile(slots=2, service_ms=8.0, link_mbps=800.0, round_trip_ms=1.0),
    DeviceProfile(slots=1, service_ms=12.0, link_mbps=320.0, round_trip_ms=3.0),
    DeviceProfile(slots=3, service_ms=27.0, link_mbps=100.0, round_trip_ms=2.0),
)


def fleet(count: int) -> tuple[Device, ...]:
    return tuple(
        Device(
            device_id=DeviceId(f"d{i}"),
            board_type=BoardType.GENERIC,
            emulated=True,
            address="bench:1",
            boot_id="b",
            profile=KINDS[i % len(KINDS)],
            models=frozenset({MODEL}),
            window_tasks=10_000,
            window_bytes=1 << 40,
            state=DeviceState.READY,
        )
        for i in range(count)
    )


def request(tasks: int, busy: int) -> PlacementRequest:
    """busy: so many devices have one attempt in flight."""
    return PlacementRequest(
        tasks=[TaskToPlace(task_id=TaskId(f"t{i}"), model=MODEL, size_bytes=50_000 + 7_000 * i) for i in range(tasks)],
        in_flight=[
            InFlight(
                attempt_id=AttemptId(f"a{i}"),
                device_id=DeviceId(f"d{i}"),
                model=MODEL,
                size_bytes=160_000,
                elapsed_ms=5.0,
                slot=0,
                predicted_remaining_ms=5.0 + i % 7,
                transfer_remaining_ms=0.0,
            )
            for i in range(busy)
        ],
        strategy="fastest",
        explain=False,
    )


def median_us(count: int) -> tuple[float, float]:
    """Microseconds of one decision among many in one request, and of a whole request with a single task."""
    devices, memory = fleet(count), PlacementMemory()
    for device in devices:
        memory.of(device).completed = 1_000
    busy = min(count, 64)
    batch, single = request(BATCH, busy), request(1, busy)
    snapshot = FleetSnapshot(devices=devices)
    plan(single, snapshot, memory)  # the first one also builds the tables
    batches: list[float] = []
    singles: list[float] = []
    for _ in range(ROUNDS):
        for asked, into in ((batch, batches), (single, singles)):
            began = time.thread_time_ns()
            plan(asked, snapshot, memory)
            into.append((time.thread_time_ns() - began) / 1000)
    whole = median(singles)
    return (median(batches) - whole) / (BATCH - 1), whole


CALL_DEVICES, CALL_IN_FLIGHT, CALLS = 10, 20, 1_500


class StillFleet:
    """In place of the registry: devices that never change."""

    version = 0

    def snapshot(self) -> FleetSnapshot:
        return FleetSnapshot(devices=fleet(CALL_DEVICES))


def call_us(tasks: int) -> float:
    """Microseconds of a call of the gateway's placement as the dispatcher makes it: so many tasks, as many samples of
    what ended since the last call, everybody who observes placement, and `CALL_IN_FLIGHT` attempts in flight."""
    clock, registry, memory = SystemClock(), StillFleet(), PlacementMemory()
    for device in fleet(CALL_DEVICES):
        memory.of(device).completed = 1_000
    anything: Any = registry
    placement = ObservedPlacement(anything, memory, None, clock)
    placement.observers = (Activity(clock).observe, PlacementFigures().observe)
    return asyncio.run(_calls(placement, clock, tasks))


async def _calls(placement: ObservedPlacement, clock: SystemClock, tasks: int) -> float:
    promises, spent = Promises(), []
    open_: dict[AttemptId, tuple[DeviceId, TaskToPlace, float]] = {}
    finished: Sequence[FinishedSample] = ()
    for call in range(CALLS):
        now_ms = clock.monotonic_ms()
        asked = PlacementRequest(
            tasks=[
                TaskToPlace(task_id=TaskId(f"t{call}-{i}"), model=MODEL, size_bytes=50_000 + 7_000 * (call % 60))
                for i in range(tasks)
            ],
            in_flight=[_in_flight(promises, a, *open_[a], now_ms) for a in open_],
            finished=finished,
            explain=False,
        )
        began = time.thread_time_ns()
        plan_ = await placement.place(asked)
        spent.append((time.thread_time_ns() - began) / 1000)
        for task, decision in zip(asked.tasks, plan_.decisions, strict=True):
            if decision.device_id is not None and decision.promise is not None:
                attempt_id = AttemptId(task.task_id)
                promises.add(attempt_id, decision.device_id, decision.promise, now_ms)
                open_[attempt_id] = (decision.device_id, task, now_ms)
        oldest = list(open_)[: max(0, len(open_) - CALL_IN_FLIGHT)]
        finished = [_finished(promises, attempt_id, *open_.pop(attempt_id), now_ms) for attempt_id in oldest]
    return median(spent)


def _in_flight(
    promises: Promises, attempt_id: AttemptId, device_id: DeviceId, task: TaskToPlace, sent_at_ms: float, now_ms: float
) -> InFlight:
    expected = promises.outlook(attempt_id, device_id, now_ms)
    return InFlight(
        attempt_id=attempt_id,
        device_id=device_id,
        model=MODEL,
        size_bytes=task.size_bytes,
        elapsed_ms=now_ms - sent_at_ms,
        slot=expected.slot if expected else None,
        predicted_remaining_ms=expected.remaining_ms if expected else None,
        transfer_remaining_ms=expected.transfer_remaining_ms if expected else None,
    )


def _finished(
    promises: Promises, attempt_id: AttemptId, device_id: DeviceId, task: TaskToPlace, sent_at_ms: float, now_ms: float
) -> FinishedSample:
    promises.ended(attempt_id, device_id, now_ms)
    return FinishedSample(
        device_id=device_id,
        model=MODEL,
        size_bytes=task.size_bytes,
        service_ms=20.0,
        transfer_ms=8.0,
        total_ms=40.0,
        succeeded=True,
        predicted_ms=40.0,
    )
