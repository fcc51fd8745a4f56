"""The task manager's part in a simulation: what waits, what is in flight, and when placement is asked.

It asks as the dispatcher does; the placement code behind it is the production code, unchanged.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgesched.domain.device import Device, DeviceId
from edgesched.domain.task import AttemptId, TaskId
from edgesched.placement.fleet import FleetSnapshot
from edgesched.placement.memory import PlacementMemory
from edgesched.placement.planner import plan
from edgesched.placement.promises import Promises
from edgesched.ports import FinishedSample, InFlight, PlacementRequest, TaskToPlace
from edgesched.simulation.boards import Attempt
from edgesched.simulation.fleets import MODEL
from edgesched.simulation.workload import Picture

FIRST_BITE = 64
LARGEST_BITE = 256
DEEPEST_LOOK = 1_024
NEVER = 1 << 62
MAX_FAILURES = 3
BACKOFF_MS = 500.0


@dataclass(order=True, slots=True)
class _Waiting:
    number: int
    picture: Picture = field(compare=False)


class Master:
    """strategy: as people name it. send: puts a picture on a board's link."""

    def __init__(self, strategy: str, *, seed: int, send: Callable[[Attempt], None]) -> None:
        self.unreachable: set[DeviceId] = set()
        self.attempts = 0
        self._strategy = strategy
        self._memory = PlacementMemory(seed)
        self._send = send
        self._devices: tuple[Device, ...] = ()
        self._waiting: list[_Waiting] = []
        self._in_flight: dict[AttemptId, Attempt] = {}
        self._promises = Promises()
        self._finished: list[FinishedSample] = []
        self._failures: dict[int, int] = {}
        self._avoid: dict[int, frozenset[DeviceId]] = {}
        self._quiet_until = 0  # a line that only grew needs no decision before it is so long

    def meet(self, devices: tuple[Device, ...]) -> None:
        """The fleet as it says that it is now."""
        self._devices = devices
        self._quiet_until = 0

    def offer(self, number: int, picture: Picture) -> None:
        if self._waiting and number < self._waiting[-1].number:
            self._quiet_until = 0  # it does not come last: it was tried before
        insort(self._waiting, _Waiting(number, picture))

    def accepted(self, attempt: Attempt, now_ms: float) -> None:
        if attempt.attempt_id in self._in_flight:
            self._promises.arrived(attempt.attempt_id, attempt.device_id, now_ms)

    def ended(self, attempt: Attempt, now_ms: float) -> bool:
        """Returns: whether it was still waited for."""
        if self._in_flight.pop(attempt.attempt_id, None) is None:
            return False
        self._promises.ended(attempt.attempt_id, attempt.device_id, now_ms)
        self._quiet_until = 0
        self._finished.append(
            FinishedSample(
                device_id=attempt.device_id,
                model=MODEL,
                size_bytes=attempt.picture.size_bytes,
                service_ms=attempt.service_ms if attempt.ok else None,
                transfer_ms=attempt.transfer_ms if attempt.ok else None,
                total_ms=now_ms - attempt.sent_at_ms,
                succeeded=attempt.ok,
                predicted_ms=attempt.promise.answer_ms,
            )
        )
        return True

    def retry_after_failure(self, attempt: Attempt) -> float | None:
        """How long the next try has to wait; None: there is none, the picture is a dead letter."""
        failures = self._failures[attempt.number] = self._failures.get(attempt.number, 0) + 1
        self._avoid[attempt.number] = self._avoid.get(attempt.number, frozenset()) | {attempt.device_id}
        return None if failures >= MAX_FAILURES else float(BACKOFF_MS * 2 ** (failures - 1))

    def lost(self, device_id: DeviceId, boot: int, now_ms: float) -> Sequence[Attempt]:
        """Take back what was sent to an earlier start of this device."""
        gone = [a for a in self._in_flight.values() if a.device_id == device_id and a.boot != boot]
        for attempt in gone:
            del self._in_flight[attempt.attempt_id]
            self._promises.ended(attempt.attempt_id, device_id, now_ms)
        return gone

    def place(self, now_ms: float) -> None:
        """Placement calls until nothing more finds a device."""
        if len(self._waiting) < self._quiet_until:
            return  # it would be told the same again
        bite = FIRST_BITE
        while self._waiting:
            heads = self._waiting[:bite]
            sent, opening = self._place_some(heads, now_ms)
            if sent == len(heads):
                bite = min(LARGEST_BITE, 2 * bite)
            elif opening is not None and len(heads) == bite < opening <= DEEPEST_LOOK:
                bite = opening + FIRST_BITE
            else:
                if len(heads) == bite:  # deeper than was looked: newcomers at the end change nothing
                    self._quiet_until = NEVER if opening is None else opening
                return

    def _place_some(self, heads: Sequence[_Waiting], now_ms: float) -> tuple[int, int | None]:
        """Returns: how many found a device, and how deep in line the next one is that does."""
        request = PlacementRequest(
            tasks=[self._to_place(head) for head in heads],
            in_flight=[self._as_in_flight(attempt, now_ms) for attempt in self._in_flight.values()],
            finished=self._finished,
            unreachable=frozenset(self.unreachable),
            strategy=self._strategy,
            explain=False,
        )
        self._finished = []
        decisions = plan(request, FleetSnapshot(devices=self._devices, at_ms=now_ms), self._memory)
        opening = None
        sent: set[int] = set()
        for head, decision in zip(heads, decisions, strict=True):
            if decision.device_id is None or decision.promise is None:
                opening = decision.next_opening
                continue
            sent.add(head.number)
            self.attempts += 1
            attempt = Attempt(
                attempt_id=AttemptId(f"a{self.attempts}"),
                number=head.number,
                picture=head.picture,
                device_id=decision.device_id,
                sent_at_ms=now_ms,
                promise=decision.promise,
            )
            self._in_flight[attempt.attempt_id] = attempt
            self._promises.add(attempt.attempt_id, attempt.device_id, decision.promise, now_ms)
            self._send(attempt)
        if sent:
            self._waiting[: len(heads)] = [head for head in heads if head.number not in sent]
        return len(sent), opening

    def _to_place(self, head: _Waiting) -> TaskToPlace:
        avoid = self._avoid.get(head.number, frozenset()) if self._avoid else frozenset()
        return TaskToPlace(
            task_id=TaskId(f"t{head.number}"), model=MODEL, size_bytes=head.picture.size_bytes, avoid=avoid
        )

    def _as_in_flight(self, attempt: Attempt, now_ms: float) -> InFlight:
        expected = self._promises.outlook(attempt.attempt_id, attempt.device_id, now_ms)
        return InFlight(
            attempt_id=attempt.attempt_id,
            device_id=attempt.device_id,
            model=MODEL,
            size_bytes=attempt.picture.size_bytes,
            elapsed_ms=now_ms - attempt.sent_at_ms,
            slot=expected.slot if expected else None,
            predicted_remaining_ms=expected.remaining_ms if expected else None,
            transfer_remaining_ms=expected.transfer_remaining_ms if expected else None,
        )
