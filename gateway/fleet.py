"""The devices as people see them: registered, missing since a restart, or archived; and what operators want of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from edgesched.clock import Clock
from edgesched.domain.device import DeviceId, DeviceState
from edgesched.errors import InvalidInput, NotKnown, StorageFailed, nearest
from edgesched.rest import DeviceEntry
from gateway.activity import Activity, ObservedPlacement, PlacementFacts
from gateway.registry import NO_WISHES, Registry, Wishes
from gateway.state import MAX_REMEMBERED, GatewayState, Remembered

log = logging.getLogger(__name__)

UPKEEP_S = 30.0
"""How often what is known is written down: the last facts of a device that vanished are at most so old."""

MAX_LABELS = 64
SILENT, LEFT = "silent", "left"


class Fleet:
    """The registry's devices with what they do, and everything that the gateway's state file adds."""

    def __init__(
        self,
        registry: Registry,
        placement: ObservedPlacement,
        activity: Activity,
        state: GatewayState,
        clock: Clock,
        *,
        archive_after_s: int,
    ) -> None:
        self._registry = registry
        self._placement = placement
        self._activity = activity
        self._state = state
        self._clock = clock
        self._archive_after_ms = archive_after_s * 1000
        self._absent: dict[DeviceId, Remembered] = {}
        """Known from the file and not registered: missing since a restart, or archived."""
        self._setting = asyncio.Lock()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read what the file knows; keep it up to date while the context lasts, and once more at its end."""
        for device_id, wishes in (await self._state.wishes()).items():
            self._registry.set_wishes(device_id, wishes)
        for known in reversed(await self._state.remembered()):
            self._absent[known.device_id] = known
        async with asyncio.TaskGroup() as tasks:
            upkeep = tasks.create_task(self._keep_up(), name="Fleet.upkeep")
            try:
                yield
            finally:
                upkeep.cancel()
        await self._try_to_write_down()

    # --- looking ---

    def entries(self) -> Sequence[DeviceEntry]:
        """Registered devices and those that are missing since a restart, by id."""
        learned = self._placement.learned()
        live = {entry.device.device_id: entry for entry in self._registry.entries()}
        found = [self._with_work(entry, learned) for entry in live.values()]
        found += [self._aged(k) for k in self._absent.values() if k.archived is None and k.device_id not in live]
        return sorted(found, key=lambda entry: entry.device.device_id)

    def archived(self) -> Sequence[DeviceEntry]:
        """Newest first, with their last facts."""
        live = {entry.device.device_id for entry in self._registry.entries()}
        gone = [k for k in self._absent.values() if k.archived is not None and k.device_id not in live]
        return [self._aged(known) for known in sorted(gone, key=lambda known: -known.heard_at_ms)]

    def entry(self, device_id: DeviceId) -> DeviceEntry:
        """Raises: NotKnown with the nearest match."""
        try:
            return self._with_work(self._registry.entry(device_id), self._placement.learned())
        except NotKnown:
            known = self._absent.get(device_id)
            if known is not None and known.archived is None:
                return self._aged(known)
            if known is not None:
                raise NotKnown(
                    f"device {device_id!r} is archived ({known.archived}); "
                    "GET /devices?archived=true has its last facts"
                ) from None
            meant = nearest(device_id, (entry.device.device_id for entry in self.entries()))
            raise NotKnown(f"there is no device {device_id!r}{meant}; GET /devices lists those there are") from None

    def listed_ids(self) -> frozenset[DeviceId]:
        """Registered, or missing since a restart; without the archived ones."""
        missing = (device_id for device_id, known in self._absent.items() if known.archived is None)
        return self._registry.ids() | frozenset(missing)

    # --- what operators want ---

    async def cordon(self, device_id: DeviceId) -> DeviceEntry:
        return await self._set(device_id, is_cordoned=True, is_draining=False)

    async def drain(self, device_id: DeviceId) -> DeviceEntry:
        return await self._set(device_id, is_cordoned=True, is_draining=True)

    async def uncordon(self, device_id: DeviceId) -> DeviceEntry:
        return await self._set(device_id, is_cordoned=False, is_draining=False)

    async def label(self, device_id: DeviceId, changes: Mapping[str, str | None]) -> DeviceEntry:
        """None takes back what an operator set. Raises: NotKnown, InvalidInput (too many)."""
        async with self._setting:
            self.entry(device_id)
            wishes = self._registry.wishes(device_id)
            labels = {name: value for name, value in {**wishes.labels, **changes}.items() if value is not None}
            if len(labels) > MAX_LABELS:
                raise InvalidInput(f"labels: at most {MAX_LABELS} on one device, this would make {len(labels)}")
            await self._store(device_id, replace(wishes, labels=labels))
        return self.entry(device_id)

    async def _set(self, device_id: DeviceId, *, is_cordoned: bool, is_draining: bool) -> DeviceEntry:
        """Said twice it changes nothing. Raises: NotKnown."""
        async with self._setting:
            self.entry(device_id)
            wishes = self._registry.wishes(device_id)
            await self._store(device_id, replace(wishes, is_cordoned=is_cordoned, is_draining=is_draining))
        return self.entry(device_id)

    async def _store(self, device_id: DeviceId, wishes: Wishes) -> None:
        """On the disk first: what was answered survives a restart."""
        if wishes != self._registry.wishes(device_id):
            await self._state.set_wishes(device_id, wishes)
            self._registry.set_wishes(device_id, wishes)

    # --- coming and going ---

    async def leave(self, device_id: DeviceId, boot_id: str) -> None:
        """The agent stopped in good order. Raises: NotKnown."""
        entry = self._registry.entry(device_id)
        self._registry.leave(device_id, boot_id)
        self._activity.forget(device_id)
        await self._put_away([_remember(entry, archived=LEFT)])

    async def forget(self, device_id: DeviceId) -> None:
        """Drop what is known of a device that is not registered, and what operators wanted of it. Raises: NotKnown."""
        if self._absent.pop(device_id, None) is None:
            meant = nearest(
                device_id, [*self._absent, *(device.device_id for device in self._registry.snapshot().devices)]
            )
            raise NotKnown(f"there is no device {device_id!r}{meant}")
        await self._state.forget([device_id])
        self._registry.set_wishes(device_id, NO_WISHES)

    def is_registered(self, device_id: DeviceId) -> bool:
        return self._registry.knows(device_id)

    async def write_down(self) -> None:
        """Archive who was silent for too long; keep the newest facts of all others."""
        now_ms = self._clock.wall_ms()
        silent = {d for d, ms in self._registry.silent_for_ms().items() if ms > self._archive_after_ms}
        entries = {entry.device.device_id: entry for entry in self._registry.entries()}
        for device_id in silent:
            self._registry.remove(device_id)
            self._activity.forget(device_id)
        missing = [
            replace(known, archived=SILENT)
            for known in self._absent.values()
            if known.archived is None
            and known.device_id not in entries
            and now_ms - known.heard_at_ms > self._archive_after_ms
        ]
        await self._put_away([*(_remember(entries[d], archived=SILENT) for d in silent), *missing])
        await self._state.remember([_remember(entry) for d, entry in entries.items() if d not in silent])
        for device_id in entries.keys() - silent:
            self._absent.pop(device_id, None)

    async def _put_away(self, devices: Sequence[Remembered]) -> None:
        for known in devices:
            self._absent.pop(known.device_id, None)
            self._absent[known.device_id] = known
        while len(self._absent) > MAX_REMEMBERED:
            del self._absent[next(iter(self._absent))]  # put away longest ago
        if devices:
            await self._state.remember(devices)

    async def _keep_up(self) -> None:
        while True:
            await asyncio.sleep(UPKEEP_S)
            await self._try_to_write_down()

    async def _try_to_write_down(self) -> None:
        """Last facts are worth having, and not worth a gateway: placement goes on when the disk is full."""
        try:
            await self.write_down()
        except StorageFailed as error:
            log.error("fleet.not_written", extra={"cause": str(error)})

    def _with_work(self, entry: DeviceEntry, learned: Mapping[DeviceId, PlacementFacts]) -> DeviceEntry:
        device = entry.device
        work = self._activity.of(device.device_id)
        facts = learned.get(device.device_id, PlacementFacts())
        return entry.model_copy(
            update={
                "in_flight": work.in_flight,
                "in_flight_bytes": work.in_flight_bytes,
                "pictures_per_s": work.pictures_per_s,
                "window_tasks": facts.window_tasks,
                "failing_model": facts.failing_model,
                "failures_in_a_row": facts.failures,
                "breaker_open_ms": facts.open_ms,
                "is_drained": device.is_draining and work.in_flight == 0 and device.outbox_count == 0,
            }
        )

    def _aged(self, known: Remembered) -> DeviceEntry:
        """Last facts, as old as they are."""
        wishes = self._registry.wishes(known.device_id)
        device = replace(
            known.entry.device,
            state=DeviceState.SILENT,
            last_heartbeat_age_ms=float(max(0, self._clock.wall_ms() - known.heard_at_ms)),
            is_cordoned=wishes.is_cordoned,
            is_draining=wishes.is_draining,
        )
        update = {"device": device, "archived": known.archived, "last_heard_at_ms": known.heard_at_ms}
        return known.entry.model_copy(update=update)


def _remember(entry: DeviceEntry, archived: str | None = None) -> Remembered:
    return Remembered(
        device_id=entry.device.device_id, entry=entry, heard_at_ms=entry.last_heard_at_ms or 0, archived=archived
    )
