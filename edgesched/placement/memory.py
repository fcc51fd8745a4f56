"""All that placement remembers between requests. Losing it costs a few seconds of learning, and never a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from edgesched.domain.device import Device, DeviceId
from edgesched.placement.estimate import DeviceMemory
from edgesched.placement.fleet import FleetSnapshot, Outlook, Standing, TieBreakers
from edgesched.placement.view import FleetView
from edgesched.placement.window import TYPICAL_BYTES, next_typical_bytes
from edgesched.ports import FinishedSample, PlacementRequest

LOOK_AGAIN_MS = 250.0
"""Estimates also change because time passes; devices that nothing else changed are looked at again this often."""


class PlacementMemory:
    """seed: for ties. Everything else is learned from the requests and from the fleet's reports."""

    def __init__(self, seed: int = 0, tie_breakers: TieBreakers | None = None) -> None:
        self.random = Random(seed)
        self._tie_breakers = tie_breakers or TieBreakers()
        self._typical_bytes = TYPICAL_BYTES
        self._devices: dict[DeviceId, DeviceMemory] = {}
        self._turn = 0
        self._seen: tuple[Device, ...] | None = None
        self._by_id: dict[DeviceId, Device] = {}
        self._unreachable: frozenset[DeviceId] = frozenset()
        self._looked_at_ms = 0.0
        self._view = FleetView()

    def of(self, device: Device) -> DeviceMemory:
        """What was learned about this start of the device."""
        memory = self._devices.get(device.device_id)
        if memory is None or memory.boot_id != device.boot_id:
            memory = self._devices[device.device_id] = DeviceMemory(boot_id=device.boot_id)
        return memory

    def take_turn(self, standing: Standing) -> None:
        self._turn += 1
        standing.memory.last_turn = self._turn

    def look(self, request: PlacementRequest, fleet: FleetSnapshot) -> FleetView:
        """Learn what the request and the fleet tell; then see the fleet with the request's work in flight."""
        is_stale = (
            self._seen is not fleet.devices
            or request.unreachable != self._unreachable
            or fleet.at_ms - self._looked_at_ms >= LOOK_AGAIN_MS
        )
        if self._seen is not fleet.devices:
            self._enter(fleet)
        changed = {sample.device_id for sample in request.finished if self._learn(sample, fleet.at_ms)}
        outlook = Outlook(now_ms=fleet.at_ms, typical_bytes=self._typical_bytes, tie_breakers=self._tie_breakers)
        if is_stale:
            self._unreachable, self._looked_at_ms = request.unreachable, fleet.at_ms
            self._view = self._fresh_view(fleet, outlook, self.of)
        else:
            self._view.refresh(changed, outlook)
        self._view.count_in_flight(request.in_flight)
        return self._view

    def idle_view(self, fleet: FleetSnapshot) -> FleetView:
        """The fleet as if nothing were in flight, its newest reports heard. Learns nothing."""

        def foreseen(device: Device) -> DeviceMemory:
            memory = replace(self.of(device))
            memory.hear(device, fleet.at_ms)
            return memory

        outlook = Outlook(now_ms=fleet.at_ms, typical_bytes=self._typical_bytes, tie_breakers=self._tie_breakers)
        return self._fresh_view(fleet, outlook, foreseen)

    def _fresh_view(
        self, fleet: FleetSnapshot, outlook: Outlook, memory_of: Callable[[Device], DeviceMemory]
    ) -> FleetView:
        return FleetView(
            Standing(device, memory_of(device), outlook, is_reachable=device.device_id not in self._unreachable)
            for device in fleet.devices
        )

    def _enter(self, fleet: FleetSnapshot) -> None:
        """New reports, perhaps new devices; those that left are forgotten, so that this never outgrows the fleet."""
        self._seen = fleet.devices
        self._by_id = {device.device_id: device for device in fleet.devices}
        self._devices = {known: memory for known, memory in self._devices.items() if known in self._by_id}
        for device in fleet.devices:
            self.of(device).hear(device, fleet.at_ms)

    def _learn(self, sample: FinishedSample, now_ms: float) -> bool:
        """Returns: whether the device is known."""
        device = self._by_id.get(sample.device_id)
        if device is None:
            return False
        self.of(device).learn(sample, device, now_ms)
        if sample.succeeded:
            self._typical_bytes = next_typical_bytes(self._typical_bytes, sample.size_bytes)
        return True
