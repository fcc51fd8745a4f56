"""Placement as a function call: the registry's snapshot, the planner, and what it remembers."""

from __future__ import annotations

import asyncio
import contextlib
import math

from edgesched.clock import Clock, SystemClock
from edgesched.domain.device import Device, DeviceState
from edgesched.placement.filters import ANY_MODEL
from edgesched.placement.fleet import FleetSnapshot
from edgesched.placement.memory import PlacementMemory
from edgesched.placement.planner import plan, preview
from edgesched.placement.strategies import strategy_name
from edgesched.ports import Decision, DeviceRoute, PlacementPlan, PlacementRequest
from gateway.registry import Registry

SNAPSHOT_VALID_MS = 50.0
"""Heartbeats come every few seconds and placement calls hundreds of times a second: a snapshot serves many of them,
unless the registry says that something changed which matters."""

SNAPSHOT_COST_MS = 0.1
"""Of a large fleet one is taken less often, by so much per device: ten thousand must not keep the process busy."""


class LocalPlacement:
    """The `Placement` port where the fleet is at hand.

    default_strategy: None means placement's own default.
    Raises: InvalidInput if it is not known.
    """

    def __init__(
        self,
        registry: Registry,
        memory: PlacementMemory | None = None,
        default_strategy: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._registry = registry
        self._clock = clock or SystemClock()
        self._devices: tuple[Device, ...] = ()
        self._routes: tuple[DeviceRoute, ...] = ()
        self._taken_at_ms = -math.inf
        self._taken_version = -1
        self._memory = memory or PlacementMemory()
        self._default_strategy = strategy_name(default_strategy)
        self._seen_version = -1

    async def place(self, request: PlacementRequest) -> PlacementPlan:
        self._seen_version = self._registry.version
        fleet = self._snapshot()
        decisions = plan(request, fleet, self._memory, default_strategy=self._default_strategy)
        return PlacementPlan(decisions=decisions, routes=self._routes)

    async def wait_for_change(self) -> None:
        """Return at once if the fleet changed since the last plan, and after one heartbeat interval at the latest.

        The bound is what notices silence: a device that says nothing causes no event.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._registry.heartbeat_interval_ms / 1000):
                await self._registry.changed_since(self._seen_version)
        self._seen_version = self._registry.version

    def dry_run(self, *, model: str | None, size_bytes: int, strategy: str | None) -> Decision:
        """What the next decision would be on an idle fleet. Changes nothing.

        model: None for any. Raises: InvalidInput if the strategy is not known.
        """
        return preview(
            model=model or ANY_MODEL,
            size_bytes=size_bytes,
            strategy=strategy or self._default_strategy,
            fleet=self._snapshot(),
            memory=self._memory,
        )

    def _snapshot(self) -> FleetSnapshot:
        now_ms = self._clock.monotonic_ms()
        is_old = now_ms - self._taken_at_ms >= max(SNAPSHOT_VALID_MS, SNAPSHOT_COST_MS * len(self._devices))
        if is_old or self._taken_version != self._registry.version:
            self._devices = self._registry.snapshot().devices
            self._routes = tuple(_route(device) for device in self._devices)
            self._taken_at_ms, self._taken_version = now_ms, self._registry.version
        return FleetSnapshot(devices=self._devices, at_ms=now_ms)


def _route(device: Device) -> DeviceRoute:
    return DeviceRoute(
        device_id=device.device_id,
        address=device.address,
        boot_id=device.boot_id,
        is_ready=device.state is DeviceState.READY,
        outbox_count=device.outbox_count,
    )
