"""A simulated device: a link that carries one picture after the other, a buffer, and slots that work side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edgesched.domain.device import Device, DeviceId, DeviceState, Telemetry
from edgesched.domain.task import AttemptId
from edgesched.ports import Promise
from edgesched.simulation.fleets import MODEL, WINDOW_BYTES, Board
from edgesched.simulation.workload import Picture

After = Callable[[float, "Callable[[Attempt], None]", "Attempt"], None]
"""Call something with an attempt so many milliseconds from now, in simulated time."""

FAIL_MS = 1.0
"""How long a board that fails fast takes to fail."""


@dataclass(slots=True)
class Attempt:
    """One picture on its way to, or on, a device."""

    attempt_id: AttemptId
    number: int  # of the picture
    picture: Picture
    device_id: DeviceId
    sent_at_ms: float
    promise: Promise
    boot: int = 0  # of the board, when it was sent: a board that died in between knows nothing of it
    transfer_ms: float = 0.0
    service_ms: float = 0.0
    ok: bool = True


class SimulatedBoard:
    """Tells `accepted(attempt)` and `answered(attempt, ok)` half a round trip after they happened."""

    def __init__(
        self,
        board: Board,
        *,
        now: Callable[[], float],
        after: After,
        accepted: Callable[[Attempt], None],
        answered: Callable[[Attempt], None],
    ) -> None:
        self.board = board
        self.declared = board.profile
        self.mbps = board.profile.link_mbps
        self.slowdown = 1.0
        self.others = 0.0  # part of the board that somebody else uses
        self.fails_fast = False
        self.is_alive = True
        self.boots = 1
        self.busy_ms = 0.0
        self.reports_frozen = False
        self._now = now
        self._after = after
        self._accepted = accepted
        self._answered = answered
        self._half_trip_ms = board.profile.round_trip_ms / 2
        self._link_free_at_ms = 0.0
        self._frozen_until_ms = 0.0
        self._waiting: deque[Attempt] = deque()
        self._running = 0
        self._busy_before_ms = 0.0
        self._reported_at_ms = 0.0
        self._telemetry = Telemetry(cpu_used_fraction=0.1, memory_used_fraction=0.4, xpu_used_fraction=0.0)

    def send(self, attempt: Attempt) -> None:
        """The master puts a picture on the link."""
        begins_at_ms = max(self._now() + self._half_trip_ms, self._link_free_at_ms)
        attempt.transfer_ms = attempt.picture.size_bytes * 8 / (1000 * self.mbps)
        self._link_free_at_ms = begins_at_ms + attempt.transfer_ms
        attempt.boot = self.boots
        self._after(self._link_free_at_ms - self._now(), self._arrives, attempt)

    def freeze(self, duration_ms: float) -> None:
        """Nothing begins or ends for so long."""
        self._frozen_until_ms = self._now() + duration_ms

    def thaw(self) -> None:
        """Go on, once `freeze` is over."""
        self._begin()

    def die(self) -> None:
        """The power is gone, and with it everything that was here."""
        self.is_alive = False
        self.boots += 1
        self._waiting.clear()
        self._running = 0
        self._link_free_at_ms = 0.0

    def device(self) -> Device:
        """As the gateway would describe it."""
        board = self.board
        return Device(
            device_id=board.device_id,
            board_type=board.board_type,
            emulated=True,
            address="simulated:1",
            boot_id=f"boot-{self.boots}",
            profile=self.declared,
            models=frozenset({MODEL}),
            window_tasks=board.window_tasks,
            window_bytes=WINDOW_BYTES,
            state=DeviceState.READY if self.is_alive else DeviceState.SILENT,
            telemetry=self._telemetry,
        )

    def report(self) -> None:
        """A heartbeat's readings: how busy the slots were since the last one, and what the link gave."""
        if self.reports_frozen:
            return
        span_ms = max(1e-9, self._now() - self._reported_at_ms)
        used = min(1.0, (self.busy_ms - self._busy_before_ms) / (span_ms * self.board.profile.slots))
        used += (1.0 - used) * self.others  # also while we do nothing
        self._busy_before_ms, self._reported_at_ms = self.busy_ms, self._now()
        self._telemetry = Telemetry(
            cpu_used_fraction=0.1 + 0.3 * used,
            memory_used_fraction=0.4,
            xpu_used_fraction=used,
            link_bandwidth_mbps=self.mbps,
            link_latency_ms=self.board.profile.round_trip_ms,
        )

    def _arrives(self, attempt: Attempt) -> None:
        if attempt.boot != self.boots:
            return
        self._after(self._half_trip_ms, self._accepted, attempt)
        self._waiting.append(attempt)
        self._begin()

    def _begin(self) -> None:
        while self._waiting and self._running < self.board.profile.slots and self._now() >= self._frozen_until_ms:
            attempt = self._waiting.popleft()
            self._running += 1
            alone_ms = self.board.profile.service_ms * self.slowdown * attempt.picture.effort
            attempt.service_ms = alone_ms / (1.0 - self.others)
            if self.fails_fast:
                attempt.service_ms, attempt.ok = FAIL_MS, False
            self._after(attempt.service_ms, self._ends, attempt)

    def _ends(self, attempt: Attempt) -> None:
        if attempt.boot != self.boots:
            return
        still_frozen_ms = self._frozen_until_ms - self._now()
        if still_frozen_ms > 0:
            attempt.service_ms += still_frozen_ms
            self._after(still_frozen_ms, self._ends, attempt)
            return
        self.busy_ms += attempt.service_ms
        self._running -= 1
        self._after(self._half_trip_ms, self._answered, attempt)
        self._begin()
