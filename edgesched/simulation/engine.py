"""Simulated time: a heap of events, the production placement code as the master, and the boards that it sends to."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgesched.domain.device import Device, DeviceId
from edgesched.simulation.boards import Attempt, SimulatedBoard
from edgesched.simulation.faults import FAULTS, Fault
from edgesched.simulation.fleets import Fleet
from edgesched.simulation.master import Master
from edgesched.simulation.workload import Picture

HEARTBEAT_MS = 2_000.0
NOTICE_MS = 100.0
"""How soon the master sees that a connection broke."""

STILL_MS = 600_000.0  # all boards are dead, or as good as that
GRACE_MS = 2_000.0
"""How long the tasks of a broken connection wait for it (the task manager's reconnect_grace_ms)."""


@dataclass(slots=True)
class Outcome:
    """latencies_ms: of every picture in the order of arrival; None: it was lost (a dead letter)."""

    latencies_ms: list[float | None]
    ended_at_ms: float = 0.0
    devices: list[int | None] = field(default_factory=list)  # number of the board that answered
    busy_fractions: list[float] = field(default_factory=list)  # per board, of all its slots' time
    sends: dict[DeviceId, list[float]] = field(default_factory=dict)  # when something was sent to it
    attempts: int = 0


Event = tuple[float, int, Callable[[Any], None], Any]


class Simulation:
    """One run. The same arguments give the same outcome."""

    def __init__(
        self,
        fleet: Fleet,
        pictures: Sequence[Picture],
        strategy: str,
        *,
        seed: int = 0,
        faults: Sequence[Fault] = (),
        joins_at_ms: Mapping[int, float] | None = None,
        says: Callable[[Device], Device] = lambda device: device,
        clients: int | None = None,
    ) -> None:
        """joins_at_ms: number of a board -> when it appears. says: what a device tells of itself, if not the truth.
        clients: a closed loop; so many send their next picture when their last one has ended, whatever its instant.
        """
        self.now_ms = 0.0
        self._heap: list[Event] = []
        self._order = itertools.count()
        self._says = says
        self._boards = [
            SimulatedBoard(board, now=self._now, after=self.after, accepted=self._accepted, answered=self._answered)
            for board in fleet.boards
        ]
        self._numbers = {board.device_id: i for i, board in enumerate(fleet.boards)}
        self._present = {i for i in range(len(self._boards)) if i not in (joins_at_ms or {})}
        self._master = Master(strategy, seed=seed, send=self._send)
        self._is_awake = False
        self._open = len(pictures)
        self._moved_ms = max([picture.at_ms for picture in pictures], default=0.0)  # the last arrival or answer
        self.outcome = Outcome([None] * len(pictures), devices=[None] * len(pictures))
        self._following = iter(enumerate(pictures[clients:], clients) if clients else ())
        for number, picture in enumerate(pictures[:clients]):
            self._at(picture.at_ms, self._arrives, (number, picture))
        for number, at_ms in (joins_at_ms or {}).items():
            self._at(at_ms, self._joins, number)
        for fault in faults:
            self._at(fault.at_ms, self._fault_begins, fault)
        self._heartbeat(None)

    def run(self) -> Outcome:
        """Until every picture has an answer or is lost, or nothing has happened for STILL_MS."""
        heap = self._heap
        while self._open and heap and heap[0][0] <= self._moved_ms + STILL_MS:
            self.now_ms, _, call, argument = heapq.heappop(heap)
            call(argument)
        outcome = self.outcome
        outcome.ended_at_ms = self.now_ms
        for board in self._boards:
            slots_ms = max(1e-9, self.now_ms) * board.board.profile.slots
            outcome.busy_fractions.append(board.busy_ms / slots_ms)
        return outcome

    def after(self, delay_ms: float, call: Callable[[Any], None], argument: Any) -> None:
        self._at(self.now_ms + delay_ms, call, argument)

    def _at(self, at_ms: float, call: Callable[[Any], None], argument: Any) -> None:
        heapq.heappush(self._heap, (at_ms, next(self._order), call, argument))

    def _now(self) -> float:
        return self.now_ms

    # --- the master's side ---

    def _arrives(self, numbered: tuple[int, Picture]) -> None:
        self._master.offer(*numbered)
        self._wake()

    def _is_settled(self) -> None:
        """One picture has its answer, or is lost: in a closed loop its client sends the next one."""
        self._open -= 1
        self._moved_ms = max(self._moved_ms, self.now_ms)
        for number, picture in itertools.islice(self._following, 1):
            self._arrives((number, replace(picture, at_ms=self.now_ms)))

    def _wake(self) -> None:
        """The dispatcher decides once for everything that happened at one instant."""
        if not self._is_awake:
            self._is_awake = True
            self.after(0.0, self._decide, None)

    def _decide(self, _: object) -> None:
        self._is_awake = False
        self._master.place(self.now_ms)

    def _send(self, attempt: Attempt) -> None:
        self.outcome.sends.setdefault(attempt.device_id, []).append(self.now_ms)
        self._boards[self._numbers[attempt.device_id]].send(attempt)

    def _accepted(self, attempt: Attempt) -> None:
        self._master.accepted(attempt, self.now_ms)

    def _answered(self, attempt: Attempt) -> None:
        if not self._master.ended(attempt, self.now_ms):
            return  # nobody waits for it any more
        if attempt.ok:
            self.outcome.latencies_ms[attempt.number] = self.now_ms - attempt.picture.at_ms
            self.outcome.devices[attempt.number] = self._numbers[attempt.device_id]
            self._is_settled()
        else:
            self._tries_again(attempt)
        self._wake()

    def _tries_again(self, attempt: Attempt) -> None:
        delay_ms = self._master.retry_after_failure(attempt)
        if delay_ms is None:
            self._is_settled()
        else:
            self.after(delay_ms, self._requeue, attempt)

    def _requeue(self, attempt: Attempt) -> None:
        self._master.offer(attempt.number, attempt.picture)
        self._wake()

    # --- the fleet's side ---

    def _heartbeat(self, _: object) -> None:
        for number in self._present:
            self._boards[number].report()
        self._tell_fleet()
        self.after(HEARTBEAT_MS, self._heartbeat, None)

    def _tell_fleet(self) -> None:
        devices = tuple(self._says(self._boards[number].device()) for number in sorted(self._present))
        self._master.meet(devices)
        self._wake()

    def _joins(self, number: int) -> None:
        self._present.add(number)
        self._tell_fleet()

    def _fault_begins(self, fault: Fault) -> None:
        board = self._boards[fault.board]
        FAULTS[fault.kind].begin(board, fault.amount)
        if fault.kind == "freezes":
            self.after(fault.amount * 1000.0, lambda _: board.thaw(), None)
        if fault.kind == "dies":
            self.after(NOTICE_MS, self._connection_breaks, board)
            self.after(NOTICE_MS + GRACE_MS, self._gives_up_on, board)
        if fault.until_ms is not None:
            self._at(fault.until_ms, self._fault_ends, fault)

    def _fault_ends(self, fault: Fault) -> None:
        board = self._boards[fault.board]
        FAULTS[fault.kind].mend(board)
        self._gives_up_on(board)
        self._master.unreachable.discard(board.board.device_id)
        self._tell_fleet()

    def _connection_breaks(self, board: SimulatedBoard) -> None:
        if not board.is_alive:
            self._master.unreachable.add(board.board.device_id)

    def _gives_up_on(self, board: SimulatedBoard) -> None:
        """Its tasks go back to the queue: those that it does not know (any more)."""
        for attempt in self._master.lost(board.board.device_id, board.boots, self.now_ms):
            self._requeue(attempt)
        self._tell_fleet()
