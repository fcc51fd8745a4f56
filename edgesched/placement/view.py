"""The fleet while plans are made: devices that can run a model side by side, as objects and, for many, as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgesched.domain.device import DeviceId
from edgesched.placement.filters import inability
from edgesched.placement.fleet import Outlook, Standing
from edgesched.ports import InFlight, TaskToPlace

ARRAYS_FROM = 64
"""Devices from which one numpy expression is cheaper than a loop over objects."""

Column = NDArray[np.float64]
LaneKey = tuple[str, tuple[tuple[str, str], ...]]


class Columns:
    """What strategies need of many devices, one array per quantity (see `Standing` for their meaning)."""

    def __init__(self, standings: Sequence[Standing], services_ms: Sequence[float]) -> None:
        self._table = np.empty((10, len(standings)))
        (
            self.ms_per_byte,
            self.room_bytes,
            self.ready_ms,
            self.ready_with_place_ms,
            self.free_ms,
            self.work_ms,
            self.service_and_way_back_ms,
            self.share_ms,
            self.tie_breaker_s,
            self.last_turn,
        ) = self._table
        for i, standing in enumerate(standings):
            self.set(i, standing, services_ms[i])

    def set(self, i: int, standing: Standing, service_ms: float) -> None:
        """Device number i has changed."""
        self._table[:, i] = (
            standing.ms_per_byte,
            standing.room_bytes,
            standing.ready_ms,
            standing.ready_with_place_ms,
            standing.free_ms,
            standing.work_ms,
            service_ms + standing.way_back_ms,
            service_ms / standing.slots,
            standing.tie_breaker_s,
            standing.memory.last_turn,
        )


class Lane:
    """The devices that can run one kind of task, and why the others cannot."""

    def __init__(self, task: TaskToPlace, standings: Iterable[Standing]) -> None:
        self.standings: list[Standing] = []
        self.unable: dict[DeviceId, str] = {}
        self._numbers: dict[DeviceId, int] = {}
        for standing in standings:
            reason = inability(task, standing)
            if reason is None:
                self._numbers[standing.device.device_id] = len(self.standings)
                self.standings.append(standing)
            else:
                self.unable[standing.device.device_id] = reason
        self._model = task.model
        self._suspects = {i for i, standing in enumerate(self.standings) if standing.memory.is_on_trial(task.model)}
        self.services_ms = [standing.service_ms(task.model) for standing in self.standings]
        is_long = len(self.standings) >= ARRAYS_FROM
        self.columns = Columns(self.standings, self.services_ms) if is_long else None

    def numbers(self, device_ids: Iterable[DeviceId]) -> Sequence[int]:
        """Places of these devices in `standings`; those that cannot run the task have none."""
        return [self._numbers[device_id] for device_id in device_ids if device_id in self._numbers]

    def on_trial(self) -> list[int]:
        """Places of the devices where the model failed too often, and that have the one task that may try again."""
        return [i for i in self._suspects if self._model in self.standings[i].trying] if self._suspects else []

    def full(self, size_bytes: int) -> Iterable[Standing]:
        """Those whose window has no room for a picture of this size."""
        if self.columns is None:
            return [standing for standing in self.standings if size_bytes > standing.room_bytes]
        return [self.standings[i] for i in np.flatnonzero(size_bytes > self.columns.room_bytes)]

    def learned(self, standing: Standing) -> None:
        """The device may be faster or slower than was thought, and the model may have failed there, or succeeded."""
        i = self._numbers.get(standing.device.device_id)
        if i is not None:
            self.services_ms[i] = standing.service_ms(self._model)
            if standing.memory.is_on_trial(self._model):
                self._suspects.add(i)
            else:
                self._suspects.discard(i)

    def changed(self, standing: Standing) -> None:
        """The device has more or less to do."""
        i = self._numbers.get(standing.device.device_id)
        if i is not None and self.columns is not None:
            self.columns.set(i, standing, self.services_ms[i])


class FleetView:
    """Kept from request to request, so that only what changed is worked out again."""

    def __init__(self, standings: Iterable[Standing] = ()) -> None:
        self.standings = {standing.device.device_id: standing for standing in standings}
        self._lanes: dict[LaneKey, Lane] = {}
        self._busy: dict[DeviceId, Standing] = {}

    def lane(self, task: TaskToPlace) -> Lane:
        key = (task.model, tuple(sorted(task.labels.items())) if task.labels else ())
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(task, self.standings.values())
        return lane

    def refresh(self, device_ids: Iterable[DeviceId], outlook: Outlook) -> None:
        """Something was learned about these devices: they may be able now, or not any more."""
        for device_id in device_ids:
            standing = self.standings[device_id]
            were_open = standing.open_ms.keys()
            standing.refresh(outlook)
            if were_open != standing.open_ms.keys():
                self._lanes.clear()
            self._busy[device_id] = standing
            for lane in self._lanes.values():
                lane.learned(standing)

    def count_in_flight(self, attempts: Iterable[InFlight]) -> None:
        """Forget the work of the request before, and count this one's."""
        flying: dict[DeviceId, list[InFlight]] = {device_id: [] for device_id in self._busy}
        for attempt in attempts:
            of_device = flying.get(attempt.device_id)
            if of_device is not None:
                of_device.append(attempt)
            elif attempt.device_id in self.standings:
                flying[attempt.device_id] = [attempt]
        self._busy = {}
        for device_id, of_device in flying.items():
            standing = self.standings[device_id]
            standing.count(of_device)
            if of_device:
                self._busy[device_id] = standing
            self._show(standing)

    def has_changed(self, standing: Standing) -> None:
        """The plan gave it something."""
        self._busy[standing.device.device_id] = standing
        self._show(standing)

    def _show(self, standing: Standing) -> None:
        if len(self.standings) >= ARRAYS_FROM:  # else there are no arrays to keep up to date
            for lane in self._lanes.values():
                lane.changed(standing)
