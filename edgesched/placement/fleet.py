"""The fleet as placement sees it: a snapshot of the devices, and how each one stands while a plan is made."""

from __future__ import annotations

from dataclasses import dataclass

from edgesched.domain.device import Device
from edgesched.placement.estimate import DeviceMemory, link_ms_per_byte, round_trip_ms, service_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSnapshot:
    """Every registered device at one instant. Their order means nothing."""

    devices: tuple[Device, ...]


class Standing:
    """One device while one plan is made: its work in flight, the plan's own earlier choices included.

    The request says what is in flight, so nothing here is older than the request; heartbeats only break ties.
    """

    __slots__ = ("_ms_per_byte", "device", "in_flight_bytes", "in_flight_tasks", "is_reachable", "memory", "work_ms")

    def __init__(self, device: Device, memory: DeviceMemory, *, is_reachable: bool) -> None:
        self.device = device
        self.memory = memory
        self.is_reachable = is_reachable
        self.in_flight_tasks = 0
        self.in_flight_bytes = 0
        self.work_ms = 0.0  # bottleneck time of everything in flight
        self._ms_per_byte = link_ms_per_byte(device, memory)

    def take(self, model: str, size_bytes: int) -> None:
        """Count one more task as in flight."""
        self.work_ms += self.bottleneck_ms(model, size_bytes)
        self.in_flight_tasks += 1
        self.in_flight_bytes += size_bytes

    def transfer_ms(self, size_bytes: int) -> float:
        return size_bytes * self._ms_per_byte

    def service_ms(self, model: str) -> float:
        return service_ms(self.device, self.memory, model)

    def bottleneck_ms(self, model: str, size_bytes: int) -> float:
        """How long this task occupies the narrower of the link and the slots: what it adds to the device's work."""
        return max(self.transfer_ms(size_bytes), self.service_ms(model) / self.device.profile.slots)

    def unloaded_ms(self, model: str, size_bytes: int) -> float:
        """Time to the answer if nothing else were there."""
        return round_trip_ms(self.device) + self.transfer_ms(size_bytes) + self.service_ms(model)
