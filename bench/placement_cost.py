"""What one decision costs on this machine, for fleets of 10 to 10,000 devices."""

from __future__ import annotations

import time
from statistics import median

from edgesched.domain.device import BoardType, Device, DeviceId, DeviceProfile, DeviceState
from edgesched.domain.task import AttemptId, TaskId
from edgesched.placement.fleet import FleetSnapshot
from edgesched.placement.memory import PlacementMemory
from edgesched.placement.planner import plan
from edgesched.ports import InFlight, PlacementRequest, TaskToPlace

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
    batches, singles = [], []
    for _ in range(ROUNDS):
        for asked, into in ((batch, batches), (single, singles)):
            began = time.thread_time_ns()
            plan(asked, snapshot, memory)
            into.append((time.thread_time_ns() - began) / 1000)
    whole = median(singles)
    return (median(batches) - whole) / (BATCH - 1), whole
