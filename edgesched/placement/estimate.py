"""What is remembered between requests: how fast each device is, whose turn it was, and the generator for ties.

Everything here can be lost: the estimates are learned again from finished attempts, starting from the board's profile.
Source of the quantities: queueing practice with exponentially weighted averages; a device's own *service* time is
averaged, never the round trip, which would count our own queue twice.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from random import Random
from typing import TypeGuard

from edgesched.domain.device import Device, DeviceId
from edgesched.ports import FinishedSample

ALPHA = 0.1
"""Weight of the newest sample."""

MIN_LINK_SAMPLE_BYTES = 32 * 1024
"""A smaller body measures the round trip more than the link."""

MIN_LINK_MBPS = 0.01
"""A link that is reported slower than this counts as this fast, so that every score stays a finite number."""


@dataclass(slots=True, kw_only=True)
class DeviceMemory:
    """What was learned about one device."""

    service_ms: dict[str, float] = field(default_factory=dict)  # model -> average
    ms_per_byte: float | None = None  # average of the link; None: nothing was measured yet
    last_turn: int = 0  # when it was chosen last; 0: never


class PlacementMemory:
    """The only state that placement has. seed: for ties."""

    def __init__(self, seed: int = 0) -> None:
        self.random = Random(seed)
        self._devices: dict[DeviceId, DeviceMemory] = {}
        self._turn = 0

    def of(self, device_id: DeviceId) -> DeviceMemory:
        memory = self._devices.get(device_id)
        if memory is None:
            memory = self._devices[device_id] = DeviceMemory()
        return memory

    def keep_only(self, device_ids: Collection[DeviceId]) -> None:
        """Forget devices that left, so that this never grows beyond the fleet."""
        for gone in [device_id for device_id in self._devices if device_id not in device_ids]:
            del self._devices[gone]

    def take_turn(self, device_id: DeviceId) -> None:
        self._turn += 1
        self.of(device_id).last_turn = self._turn

    def learn(self, sample: FinishedSample, device: Device) -> None:
        """Take one finished attempt into the averages. A failure teaches nothing: failing fast is not being fast."""
        if not sample.succeeded:
            return
        memory = self.of(device.device_id)
        if _is_duration(sample.service_ms) and sample.model in device.models:
            before = memory.service_ms.get(sample.model, device.profile.service_ms)
            memory.service_ms[sample.model] = before + ALPHA * (sample.service_ms - before)
        if _is_duration(sample.transfer_ms) and sample.size_bytes > MIN_LINK_SAMPLE_BYTES:
            # Averaged as time per byte, which is what is predicted: one impossibly fast reading then does no harm.
            cost = _learned_ms_per_byte(device, memory)
            memory.ms_per_byte = cost + ALPHA * (sample.transfer_ms / sample.size_bytes - cost)


def _learned_ms_per_byte(device: Device, memory: DeviceMemory) -> float:
    return memory.ms_per_byte if memory.ms_per_byte is not None else _ms_per_byte(device.profile.link_mbps)


def link_ms_per_byte(device: Device, memory: DeviceMemory) -> float:
    """Transfer time of one byte: what was learned (at first the profile), but never faster than the device reports."""
    learned = _learned_ms_per_byte(device, memory)
    reported = device.telemetry.link_bandwidth_mbps
    return learned if reported is None else max(learned, _ms_per_byte(reported))


def service_ms(device: Device, memory: DeviceMemory, model: str) -> float:
    """Time that one picture holds a slot of the device."""
    return memory.service_ms.get(model, device.profile.service_ms)


def round_trip_ms(device: Device) -> float:
    reported = device.telemetry.link_latency_ms
    return device.profile.round_trip_ms if reported is None else reported


def _ms_per_byte(mbps: float) -> float:
    return 8 / (1000 * max(mbps, MIN_LINK_MBPS))


def _is_duration(value: float | None) -> TypeGuard[float]:
    """Samples come from boards: one that is not a number must not poison an average for ever."""
    return value is not None and math.isfinite(value) and value >= 0
