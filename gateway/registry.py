"""The fleet: which devices are registered, what they said last, and when.

Lives in one event loop and in memory only: after a restart the agents find themselves unknown and register again.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgesched.clock import Clock
from edgesched.domain.device import Device, DeviceId, DeviceState, Telemetry
from edgesched.errors import Conflict, EdgeSchedError, InvalidInput, NotKnown, Overloaded, nearest
from edgesched.placement.filters import MAX_MEMORY_USED_FRACTION
from edgesched.placement.fleet import FleetSnapshot
from edgesched.rest import DeviceEntry, DeviceRegistration, Heartbeat, WorkerReport

log = logging.getLogger(__name__)

DIAL_TIMEOUT_S = 2.0
MAX_DEVICES = 10_000
FULL_RETRY_MS = 60_000


class AgentUnreachable(EdgeSchedError):
    """The address under which an agent wants to be reached does not answer."""


@dataclass(slots=True, kw_only=True)
class _Entry:
    registration: DeviceRegistration
    address: str
    heard_at_ms: float  # monotonic
    heartbeat: Heartbeat | None = None
    heard_at_wall_ms: int = 0
    state: DeviceState = DeviceState.READY  # as it was last seen; time alone can make it SILENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What an operator wants of a device. It outlives the device's registration."""

    is_cordoned: bool = False
    is_draining: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)  # win over those that the agent brings


NO_WISHES = Wishes()
Listener = Callable[[DeviceId], None]


class Registry:
    """Devices by id. A silent device stays listed until it leaves: people should see that it is missing."""

    def __init__(self, clock: Clock, *, heartbeat_interval_ms: int, heartbeat_timeout_ms: int) -> None:
        self.heartbeat_interval_ms = heartbeat_interval_ms
        self.version = 0
        """Grows when placement may come out differently."""
        self._clock = clock
        self._timeout_ms = heartbeat_timeout_ms
        self._entries: dict[DeviceId, _Entry] = {}
        self._wishes: dict[DeviceId, Wishes] = {}
        self._changed = asyncio.Event()
        self.listeners: list[Listener] = []
        """Told which device said something, changed, or left. They must not block."""

    def wishes(self, device_id: DeviceId) -> Wishes:
        return self._wishes.get(device_id, NO_WISHES)

    def set_wishes(self, device_id: DeviceId, wishes: Wishes) -> None:
        """Also of a device that is not registered (yet)."""
        self._wishes[device_id] = wishes
        self._notify(device_id)

    async def register(self, registration: DeviceRegistration, *, seen_ip: str | None) -> str:
        """Take a device in, once its agent answers at its address. The same boot_id again only refreshes it.

        seen_ip: where the request came from; used unless the agent advertises an address.
        Returns: the address, HOST:PORT.
        Raises: InvalidInput (bad address), AgentUnreachable, Conflict (a live agent has that id), Overloaded.
        """
        device_id = DeviceId(registration.device_id)
        address = _agent_address(registration, seen_ip)
        while True:
            known = self._entries.get(device_id)
            if known is None and len(self._entries) >= MAX_DEVICES:
                raise Overloaded(
                    f"{MAX_DEVICES} devices are registered, which is the limit; let some leave",
                    retry_after_ms=FULL_RETRY_MS,
                )
            if known is None or (known.registration.boot_id, known.address) != (registration.boot_id, address):
                await self._check_reachable(address)
            if known is not None:
                await self._check_not_in_use(known, registration, address)
            if self._entries.get(device_id) is known:  # nobody else registered it while we were dialling
                break
        self._store(device_id, registration, address, known)
        return address

    def heartbeat(self, device_id: DeviceId, heartbeat: Heartbeat) -> None:
        """Raises: NotKnown if the device, or this start of its agent, is not registered (then it registers again)."""
        entry = self._started(device_id, heartbeat.boot_id)
        before = (entry.state, *_facts_that_matter(entry.heartbeat))
        entry.heartbeat = heartbeat
        entry.heard_at_ms = self._clock.monotonic_ms()
        entry.heard_at_wall_ms = self._clock.wall_ms()
        if before != (self._state(entry), *_facts_that_matter(heartbeat)):
            self._notify(device_id)
        else:
            self._tell(device_id)

    def check_start(self, device_id: DeviceId, boot_id: str) -> None:
        """Raises: NotKnown if the device, or this start of its agent, is not registered (then it registers again)."""
        self._started(device_id, boot_id)

    def leave(self, device_id: DeviceId, boot_id: str) -> None:
        """Raises: NotKnown if the device, or this start of its agent, is not registered."""
        self._started(device_id, boot_id)
        del self._entries[device_id]
        log.info("device.left", extra={"device_id": device_id})
        self._notify(device_id)

    def remove(self, device_id: DeviceId) -> None:
        """It was silent for so long that it is archived. Whoever reports for it is told to register again."""
        if self._entries.pop(device_id, None) is not None:
            log.info("device.archived", extra={"device_id": device_id})
            self._notify(device_id)

    def knows(self, device_id: DeviceId) -> bool:
        return device_id in self._entries

    def ids(self) -> frozenset[DeviceId]:
        return frozenset(self._entries)

    def silent_for_ms(self) -> Mapping[DeviceId, float]:
        """Every device, and the time since it was last heard of. Who fell silent meanwhile is noticed here."""
        now_ms = self._clock.monotonic_ms()
        for entry in self._entries.values():
            self._state(entry)
        return {device_id: now_ms - entry.heard_at_ms for device_id, entry in self._entries.items()}

    def snapshot(self) -> FleetSnapshot:
        return FleetSnapshot(devices=tuple(self._device(entry) for entry in self._entries.values()))

    def entries(self) -> Sequence[DeviceEntry]:
        """Every device, by id."""
        return [self._entry(self._entries[device_id]) for device_id in sorted(self._entries)]

    def entry(self, device_id: DeviceId) -> DeviceEntry:
        """Raises: NotKnown."""
        try:
            return self._entry(self._entries[device_id])
        except KeyError:
            meant = nearest(device_id, self._entries)
            raise NotKnown(f"no device {device_id!r} is registered{meant}; GET /devices lists those that are") from None

    async def changed_since(self, version: int) -> None:
        """Wait until `version` is old. That a device falls silent is noticed only when somebody looks."""
        while self.version == version:
            await self._changed.wait()

    def _started(self, device_id: DeviceId, boot_id: str) -> _Entry:
        entry = self._entries.get(device_id)
        if entry is None or entry.registration.boot_id != boot_id:
            raise NotKnown(f"device {device_id!r} is not registered here with that boot_id; register again")
        return entry

    def _store(self, device_id: DeviceId, registration: DeviceRegistration, address: str, known: _Entry | None) -> None:
        is_same_start = known is not None and known.registration.boot_id == registration.boot_id
        self._entries[device_id] = _Entry(
            registration=registration,
            address=address,
            heard_at_ms=self._clock.monotonic_ms(),
            heard_at_wall_ms=self._clock.wall_ms(),
            heartbeat=known.heartbeat if known is not None and is_same_start else None,
        )
        log.info(
            "device.registered",
            extra={
                "device_id": device_id,
                "board_type": registration.board_type,
                "emulated": registration.emulated,
                "address": address,
                "models": ",".join(sorted(registration.models)),
            },
        )
        self._notify(device_id)

    async def _check_reachable(self, address: str) -> None:
        if not await accepts_connections(address):
            raise AgentUnreachable(
                f"the gateway cannot reach the agent at {address}; "
                "open that port or start the agent with --advertise HOST:PORT"
            )

    async def _check_not_in_use(self, known: _Entry, registration: DeviceRegistration, address: str) -> None:
        """Two boards with one id would take turns in destroying each other's work."""
        is_another = known.registration.boot_id != registration.boot_id and known.address != address
        if not is_another or self._state(known) is DeviceState.SILENT:
            return
        if await accepts_connections(known.address):
            raise Conflict(
                f"device id {registration.device_id!r} is in use by a live agent at {known.address}; "
                "give this one another --device-id"
            )

    def _state(self, entry: _Entry) -> DeviceState:
        """The state at this moment. A change is logged once, by whoever sees it first."""
        state = DeviceState.READY
        if self._clock.monotonic_ms() - entry.heard_at_ms > self._timeout_ms:
            state = DeviceState.SILENT
        elif entry.heartbeat is not None and entry.heartbeat.unhealthy_reason is not None:
            state = DeviceState.UNHEALTHY
        if state is not entry.state:
            level = logging.INFO if state is DeviceState.READY else logging.WARNING
            device_id = DeviceId(entry.registration.device_id)
            log.log(level, "device.state_changed", extra={"device_id": device_id, "state": state.value})
            entry.state = state
            self._tell(device_id)
        return state

    def _device(self, entry: _Entry) -> Device:
        registration, heartbeat = entry.registration, entry.heartbeat
        device_id = DeviceId(registration.device_id)
        wishes = self.wishes(device_id)
        return Device(
            device_id=device_id,
            board_type=registration.board_type,
            emulated=registration.emulated,
            address=entry.address,
            boot_id=registration.boot_id,
            profile=registration.profile,
            models=registration.models,
            window_tasks=registration.window_tasks,
            window_bytes=registration.window_bytes,
            state=self._state(entry),
            unhealthy_reason=heartbeat.unhealthy_reason if heartbeat else None,
            telemetry=heartbeat.telemetry if heartbeat else Telemetry(),
            last_heartbeat_age_ms=self._clock.monotonic_ms() - entry.heard_at_ms,
            outbox_count=heartbeat.outbox_count if heartbeat else 0,
            is_cordoned=wishes.is_cordoned,
            is_draining=wishes.is_draining,
            labels={**registration.labels, **wishes.labels},
        )

    def _entry(self, entry: _Entry) -> DeviceEntry:
        simulated: tuple[str, ...] = entry.heartbeat.simulated if entry.heartbeat else ()
        workers: tuple[WorkerReport, ...] = entry.heartbeat.workers if entry.heartbeat else ()
        device = self._device(entry)
        return DeviceEntry(
            device=device,
            simulated=simulated,
            workers=workers,
            unavailable_models=entry.heartbeat.unavailable_models if entry.heartbeat else {},
            warnings=entry.heartbeat.warnings if entry.heartbeat else (),
            operator_labels=dict(self.wishes(device.device_id).labels),
            last_heard_at_ms=entry.heard_at_wall_ms,
        )

    def _notify(self, device_id: DeviceId) -> None:
        """Placement may come out differently."""
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()
        self._tell(device_id)

    def _tell(self, device_id: DeviceId) -> None:
        for listener in self.listeners:
            listener(device_id)


async def accepts_connections(address: str) -> bool:
    """Whether something at HOST:PORT accepts a TCP connection. Bounded."""
    host, port = split_address(address)
    try:
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            await writer.wait_closed()
    except (OSError, TimeoutError, ValueError):  # ValueError: a name that no resolver takes
        return False
    return True


def split_address(address: str) -> tuple[str, int]:
    """HOST:PORT or [IPv6]:PORT.

    Raises: InvalidInput.
    """
    host, colon, port = address.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if is_bracketed:
        host = host[1:-1]
    is_port = port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535
    if not colon or not host or not is_port or (":" in host and not is_bracketed):
        raise InvalidInput(f"an address is HOST:PORT or [IPv6]:PORT, got {address!r}")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _agent_address(registration: DeviceRegistration, seen_ip: str | None) -> str:
    if registration.advertise is not None:
        return join_address(*split_address(registration.advertise))
    if seen_ip is None:
        raise InvalidInput("the gateway cannot see the agent's address; start the agent with --advertise HOST:PORT")
    seen = ipaddress.ip_address(seen_ip)
    if isinstance(seen, ipaddress.IPv6Address) and seen.ipv4_mapped is not None:
        seen = seen.ipv4_mapped  # a socket that serves both families shows IPv4 peers so
    return join_address(str(seen), registration.agent_port)


def _facts_that_matter(heartbeat: Heartbeat | None) -> tuple[bool, bool]:
    """What else than its state decides whether a device gets work or a connection: outbox, full memory."""
    if heartbeat is None:
        return (False, False)
    used = heartbeat.telemetry.memory_used_fraction
    return (heartbeat.outbox_count > 0, used is not None and used > MAX_MEMORY_USED_FRACTION)
