"""The fleet as placement sees it: a snapshot of the devices, and how each one stands while a plan is made."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

from edgesched.domain.device import Device, Telemetry
from edgesched.errors import InvalidInput
from edgesched.placement.estimate import DeviceMemory, link_ms_per_byte, round_trip_ms, service_ms
from edgesched.placement.window import LATE_IN_WINDOW_MS, bandwidth_delay, window_tasks
from edgesched.ports import InFlight, Promise

INFINITE_BYTES = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSnapshot:
    """Every registered device at one instant. Their order means nothing."""

    devices: tuple[Device, ...]
    at_ms: float = 0.0  # a monotonic clock's reading; placement has no clock of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class TieBreakers:
    """Seconds of work that a fully used CPU or accelerator counts for under `load`: they decide between equals."""

    cpu: float = 0.001
    xpu: float = 0.001

    def __post_init__(self) -> None:
        for name in ("cpu", "xpu"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInput(f"the tie-breaker {name} must be 0..1 seconds, got {getattr(self, name)}")

    def score(self, telemetry: Telemetry) -> float:
        """What the board cannot report adds nothing."""
        return self.cpu * (telemetry.cpu_used_fraction or 0.0) + self.xpu * (telemetry.xpu_used_fraction or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is the same for all devices of one plan."""

    now_ms: float
    typical_bytes: float
    tie_breakers: TieBreakers


class Standing:
    """One device while plans are made: what is known of it, and its work in flight with the plan's own choices.

    The request says what is in flight, so nothing here is older than the request. Times are in milliseconds from the
    request's instant. The reservations are those of online list scheduling: when the link is free again, and when each
    slot is (HEFT's earliest finish time; Topcuoglu et al. 2002).
    """

    __slots__ = (
        "_answers",
        "_services",
        "device",
        "free_ms",
        "half_trip_ms",
        "in_flight_bytes",
        "in_flight_tasks",
        "is_reachable",
        "link_free_ms",
        "memory",
        "ms_per_byte",
        "now_ms",
        "open_ms",
        "ready_ms",
        "ready_with_place_ms",
        "room_bytes",
        "slot_free_ms",
        "slots",
        "tie_breaker_s",
        "trying",
        "waiting_tasks",
        "way_back_ms",
        "window",
        "work_ms",
    )

    def __init__(self, device: Device, memory: DeviceMemory, outlook: Outlook, *, is_reachable: bool) -> None:
        self.device = device
        self.memory = memory
        self.is_reachable = is_reachable
        self.slots = device.profile.slots
        self.refresh(outlook)
        self.clear()

    def refresh(self, outlook: Outlook) -> None:
        """Take over what is known of the device now; its work in flight has to be counted again."""
        device, memory, now_ms = self.device, self.memory, outlook.now_ms
        self.now_ms = now_ms
        breakers = memory.breakers.items()
        self.open_ms = {model: left_ms for model, breaker in breakers if (left_ms := breaker.remaining_ms(now_ms))}
        """Models that the device gets no task of, and for how long."""
        self._services: dict[str, float] = {}
        used_s = outlook.tie_breakers.score(device.telemetry)
        self.tie_breaker_s = used_s * memory.report_weight(now_ms) if used_s else 0.0
        self.ms_per_byte = link_ms_per_byte(device, memory, now_ms)
        self.half_trip_ms = round_trip_ms(device) / 2
        late_ms = max(0.0, memory.late_ms)
        self.way_back_ms = self.half_trip_ms + late_ms
        fastest_ms = min((self.service_ms(model) for model in memory.service), default=device.profile.service_ms)
        self.window = window_tasks(
            memory,
            declared=device.window_tasks,
            bandwidth_delay_tasks=bandwidth_delay(
                service_ms=fastest_ms,
                transfer_ms=outlook.typical_bytes * self.ms_per_byte,
                round_trip_ms=2 * self.half_trip_ms + min(LATE_IN_WINDOW_MS, late_ms),
                slots=self.slots,
            ),
        )

    def clear(self) -> None:
        """Nothing is in flight."""
        self._forget_work()
        self.settle()

    def _forget_work(self) -> None:
        self.in_flight_tasks = 0
        self.waiting_tasks = 0  # of these: the ones that wait in line for a place here
        self.in_flight_bytes = 0
        self.trying: set[str] = set()
        """Models that failed here too often and have the one task that they may have until one succeeds."""
        self.work_ms = 0.0
        """Bottleneck time of everything in flight that is still to be done."""
        self.link_free_ms = 0.0
        self.slot_free_ms = [0.0] * self.slots
        self._answers: list[float] = []  # when each one is expected, rising

    # --- what one task costs here ---

    def service_ms(self, model: str) -> float:
        known = self._services.get(model)
        if known is None:
            known = self._services[model] = service_ms(self.device, self.memory, model, self.now_ms)
        return known

    def transfer_ms(self, size_bytes: int) -> float:
        return size_bytes * self.ms_per_byte

    def bottleneck_ms(self, model: str, size_bytes: int) -> float:
        """How long this task occupies the narrower of the link and the slots: what it adds to the device's work."""
        return max(size_bytes * self.ms_per_byte, self.service_ms(model) / self.slots)

    def unloaded_ms(self, model: str, size_bytes: int) -> float:
        """Time to the answer if nothing else were there."""
        return self.half_trip_ms + size_bytes * self.ms_per_byte + self.service_ms(model) + self.way_back_ms

    # --- work in flight ---

    def count(self, attempts: Sequence[InFlight]) -> None:
        """Forget what was in flight; this is.

        An overdue answer is expected to take as long again as it is late: a board that froze then looks ever worse,
        although nothing is heard of it.
        """
        self._forget_work()
        if self.memory.breakers:
            self.trying = {attempt.model for attempt in attempts if self.memory.is_on_trial(attempt.model)}
        ms_per_byte, slots, slot_free_ms = self.ms_per_byte, self.slots, self.slot_free_ms
        half_trip_ms, way_back_ms, answers = self.half_trip_ms, self.way_back_ms, self._answers
        for attempt in attempts:  # the hottest loop of all: once per attempt in flight and request
            remaining_ms, slot, size_bytes = attempt.predicted_remaining_ms, attempt.slot, attempt.size_bytes
            service_ms = self.service_ms(attempt.model)
            if slot is None or remaining_ms is None:
                self.settle()  # reserving needs to know what those before it take
                self.reserve(attempt.model, size_bytes, service_ms)
                continue
            if remaining_ms < 0:
                remaining_ms = -remaining_ms
            transfer_ms, work_ms = size_bytes * ms_per_byte, service_ms / slots
            if transfer_ms > work_ms:
                work_ms = transfer_ms
            unloaded_ms = half_trip_ms + transfer_ms + service_ms + way_back_ms + 1e-9
            if remaining_ms < unloaded_ms:  # work shrinks once the answer is nearer than an idle device's would be
                work_ms *= remaining_ms / unloaded_ms
            self.work_ms += work_ms
            self.in_flight_tasks += 1
            self.in_flight_bytes += size_bytes
            insort(answers, remaining_ms)
            transfer_left_ms = attempt.transfer_remaining_ms
            if transfer_left_ms is not None and transfer_left_ms > self.link_free_ms:
                self.link_free_ms = transfer_left_ms
            slot %= slots  # a device may come back with fewer slots
            if remaining_ms - way_back_ms > slot_free_ms[slot]:
                slot_free_ms[slot] = remaining_ms - way_back_ms
        self.settle()

    def take(self, model: str, size_bytes: int) -> Promise:
        """Reserve link, slot and window for one more task; it is sent as soon as there is a place for it."""
        service_ms = self.service_ms(model)
        slot, arrival_ms, end_ms = self.reserve(model, size_bytes, service_ms)
        return Promise(
            slot=slot,
            slots=self.slots,
            arrival_ms=arrival_ms,
            answer_ms=end_ms + self.way_back_ms,
            service_ms=service_ms,
            way_back_ms=self.way_back_ms,
        )

    def reserve(self, model: str, size_bytes: int, service_ms: float) -> tuple[int, float, float]:
        """Returns: slot, when the device has the picture, and when it has done it."""
        if self.memory.is_on_trial(model):
            self.trying.add(model)
        transfer_ms, share_ms = size_bytes * self.ms_per_byte, service_ms / self.slots
        has_room = size_bytes <= self.room_bytes
        ready_ms = self.ready_ms if has_room else self.ready_with_place_ms
        self.waiting_tasks += not has_room
        self.link_free_ms = arrival_ms = ready_ms + transfer_ms
        free_ms = self.free_ms
        slot = self.slot_free_ms.index(free_ms)
        self.slot_free_ms[slot] = end_ms = (arrival_ms if arrival_ms > free_ms else free_ms) + service_ms
        insort(self._answers, end_ms + self.way_back_ms)
        self.work_ms += transfer_ms if transfer_ms > share_ms else share_ms
        self.in_flight_tasks += 1
        self.in_flight_bytes += size_bytes
        self.settle()
        return slot, arrival_ms, end_ms

    def put_off(self, tasks: int, each_ms: float) -> None:
        """As if so many more tasks had been taken: those that wait in line before the next one that is looked at."""
        delay_ms = tasks * each_ms
        self.link_free_ms += delay_ms
        self.slot_free_ms = [free_ms + delay_ms for free_ms in self.slot_free_ms]
        self._answers = [answer_ms + delay_ms for answer_ms in self._answers]
        self.work_ms += delay_ms
        self.settle()

    def settle(self) -> None:
        """Sum up: the earliest free slot, the room in the window, and when a picture could be on the link."""
        self.free_ms = min(self.slot_free_ms)
        half_trip_ms, link_free_ms = self.half_trip_ms, self.link_free_ms
        self.ready_ms = self.ready_with_place_ms = half_trip_ms if half_trip_ms > link_free_ms else link_free_ms
        if not self.in_flight_tasks:  # an empty window takes any picture, or it never goes
            self.room_bytes = INFINITE_BYTES
            return
        excess = self.in_flight_tasks - self.window
        self.room_bytes = -1.0 if excess >= 0 else self.device.window_bytes - self.in_flight_bytes
        leaves_ms = self._answers[max(0, excess)] + half_trip_ms
        if leaves_ms > link_free_ms:
            self.ready_with_place_ms = leaves_ms

    def full_reason(self, size_bytes: int) -> str:
        """Why a picture of this size finds no room."""
        sent = self.in_flight_tasks - self.waiting_tasks
        if sent >= self.window:
            return f"window full: {sent} of {self.window} tasks"
        wanted = self.in_flight_bytes + size_bytes
        return f"window full: {wanted:,} of {self.device.window_bytes:,} bytes with this picture"
