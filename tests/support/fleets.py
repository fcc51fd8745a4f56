"""Devices, tasks and requests with sensible values, so that a test names only what it is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from edgesched.domain.device import BoardType, Device, DeviceId, DeviceProfile, DeviceState, Telemetry
from edgesched.domain.task import AttemptId, TaskId
from edgesched.placement.fleet import FleetSnapshot
from edgesched.placement.memory import PlacementMemory
from edgesched.ports import FinishedSample, InFlight, PlacementRequest, TaskToPlace

MODEL = "shapes"

RK3588 = DeviceProfile(slots=3, service_ms=27.0, link_mbps=100.0, round_trip_ms=2.0)
"""160,000 bytes take 12.8 ms on its link, one picture 9 ms of its slots: the link is the bottleneck."""


def device(device_id: str = "d", profile: DeviceProfile = RK3588, **changes: Any) -> Device:
    made = Device(
        device_id=DeviceId(device_id),
        board_type=BoardType.RK3588,
        emulated=True,
        address="10.0.0.5:20810",
        boot_id="boot-1",
        profile=profile,
        models=frozenset({MODEL}),
        window_tasks=8,
        window_bytes=64_000_000,
        state=DeviceState.READY,
    )
    return replace(made, **changes)


def acquainted(*devices: Device, seed: int = 0) -> PlacementMemory:
    """A memory for which none of the devices is new: their windows are open."""
    memory = PlacementMemory(seed)
    for known in devices:
        memory.of(known).completed = 1_000
    return memory


def fleet(*devices: Device) -> FleetSnapshot:
    return FleetSnapshot(devices=devices)


def telemetry(**readings: float) -> Telemetry:
    return Telemetry(**readings)


def task(
    task_id: str = "t", *, size_bytes: int = 160_000, model: str = MODEL, avoid: Sequence[str] = ()
) -> TaskToPlace:
    return TaskToPlace(
        task_id=TaskId(task_id), model=model, size_bytes=size_bytes, avoid=frozenset(map(DeviceId, avoid))
    )


def in_flight(device_id: str, count: int = 1, *, size_bytes: int = 160_000, model: str = MODEL) -> list[InFlight]:
    return [
        InFlight(
            attempt_id=AttemptId(f"{device_id}-{i}"),
            device_id=DeviceId(device_id),
            model=model,
            size_bytes=size_bytes,
            elapsed_ms=1.0,
        )
        for i in range(count)
    ]


def finished(device_id: str, **changes: Any) -> FinishedSample:
    sample = FinishedSample(
        device_id=DeviceId(device_id),
        model=MODEL,
        size_bytes=160_000,
        service_ms=None,
        transfer_ms=None,
        total_ms=50.0,
        succeeded=True,
    )
    return replace(sample, **changes)


def request(*tasks: TaskToPlace, flying: Sequence[InFlight] = (), **changes: Any) -> PlacementRequest:
    return replace(PlacementRequest(tasks=tasks or (task(),), in_flight=tuple(flying)), **changes)
