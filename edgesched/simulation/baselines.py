"""What placement is measured against: well-known rules, and oracles that know every true time.

All of them bind a picture the moment it arrives, to a device with an endless buffer; so a run is one pass over the
pictures, with nothing but arithmetic. The devices are those of `boards.py` (a test compares the two).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from random import Random

from edgesched.simulation.fleets import Fleet
from edgesched.simulation.workload import Picture

REPORT_EVERY_MS = 1_000.0


class TrueBoard:
    """A device of which everything is known."""

    def __init__(self, number: int, bytes_per_ms: float, service_ms: float, slots: int, half_trip_ms: float) -> None:
        self.number = number
        self.bytes_per_ms = bytes_per_ms
        self.service_ms = service_ms
        self.slots = slots
        self.half_trip_ms = half_trip_ms
        self.link_free_at_ms = 0.0
        self.slot_free_at_ms = [0.0] * slots
        self.in_flight: list[float] = []  # when each answer comes: a heap
        self.last_report_in_flight = 0
        self.reported_at_ms = -REPORT_EVERY_MS

    def end_at_ms(self, picture: Picture) -> float:
        """When its work on this picture would end."""
        arrival_ms = max(picture.at_ms + self.half_trip_ms, self.link_free_at_ms)
        arrival_ms += picture.size_bytes / self.bytes_per_ms
        return max(arrival_ms, min(self.slot_free_at_ms)) + self.service_ms * picture.effort

    def work_left_ms(self, picture: Picture) -> float:
        """Of its bottleneck, with this picture."""
        now_ms = picture.at_ms
        slots_ms = sum(max(0.0, free_ms - now_ms) for free_ms in self.slot_free_at_ms) / self.slots
        link_ms = max(0.0, self.link_free_at_ms - now_ms)
        own_ms = max(picture.size_bytes / self.bytes_per_ms, self.service_ms * picture.effort / self.slots)
        return max(link_ms, slots_ms) + own_ms

    def take(self, picture: Picture) -> float:
        """Returns: when the answer comes."""
        end_ms = self.end_at_ms(picture)
        begins_ms = max(picture.at_ms + self.half_trip_ms, self.link_free_at_ms)
        self.link_free_at_ms = begins_ms + picture.size_bytes / self.bytes_per_ms
        self.slot_free_at_ms[self.slot_free_at_ms.index(min(self.slot_free_at_ms))] = end_ms
        heapq.heappush(self.in_flight, end_ms + self.half_trip_ms)
        return end_ms + self.half_trip_ms

    def count(self, now_ms: float) -> int:
        """In flight now."""
        while self.in_flight and self.in_flight[0] <= now_ms:
            heapq.heappop(self.in_flight)
        return len(self.in_flight)


Rule = Callable[[Picture, Sequence[TrueBoard], int, Random], TrueBoard]
"""(picture, boards, its number, generator) -> who gets it."""


def greedy(picture: Picture, boards: Sequence[TrueBoard], number: int, random: Random) -> TrueBoard:
    """Oracle: the true earliest finish."""
    return min(boards, key=lambda b: b.end_at_ms(picture) + b.half_trip_ms)


def unselfish(picture: Picture, boards: Sequence[TrueBoard], number: int, random: Random) -> TrueBoard:
    """Oracle: the true earliest finish plus the true work left behind."""
    now_ms = picture.at_ms
    return min(boards, key=lambda b: b.end_at_ms(picture) + b.half_trip_ms - now_ms + b.work_left_ms(picture))


def least_work(picture: Picture, boards: Sequence[TrueBoard], number: int, random: Random) -> TrueBoard:
    """Oracle: the true least work left."""
    return min(boards, key=lambda b: b.work_left_ms(picture))


def round_robin(picture: Picture, boards: Sequence[TrueBoard], number: int, random: Random) -> TrueBoard:
    return boards[number % len(boards)]


def shortest_queue(picture: Picture, boards: Sequence[TrueBoard], number: int, random: Random) -> TrueBoard:
    """JSQ: fewest in flight."""
    return min(boards, key=lambda b: b.count(picture.at_ms))


def two_choices(picture: Picture, boards: Sequence[TrueBoard], number: int, random: Random) -> TrueBoard:
    """The power of two random choices (Mitzenmacher)."""
    pair = random.sample(boards, 2) if len(boards) > 1 else boards
    return min(pair, key=lambda b: b.count(picture.at_ms))


def shortest_delay(picture: Picture, boards: Sequence[TrueBoard], number: int, random: Random) -> TrueBoard:
    """SED: (in flight + 1) / rate, without the link."""
    return min(boards, key=lambda b: (b.count(picture.at_ms) + 1) * b.service_ms / b.slots)


def predecessor(picture: Picture, boards: Sequence[TrueBoard], number: int, random: Random) -> TrueBoard:
    """The formula of the system that people come from, as it is, on reports that are up to a second old.

    0.3 cpu + 0.1 memory + 0.4 accelerator + 1 bandwidth + 1 latency, the lowest wins; CPU and accelerator use are
    taken as the busy part of the slots, memory is the same everywhere.
    """

    def score(board: TrueBoard) -> float:
        if picture.at_ms - board.reported_at_ms >= REPORT_EVERY_MS:
            board.reported_at_ms, board.last_report_in_flight = picture.at_ms, board.count(picture.at_ms)
        busy = min(1.0, board.last_report_in_flight / board.slots)
        mbps = board.bytes_per_ms / 125.0
        return 0.3 * busy + 0.1 * 0.4 + 0.4 * busy + mbps + 2 * board.half_trip_ms

    return min(boards, key=score)


ORACLES: Mapping[str, Rule] = {"greedy": greedy, "unselfish": unselfish, "least-work": least_work}
BASELINES: Mapping[str, Rule] = {
    "blind-round-robin": round_robin,
    "predecessor": predecessor,
    "shortest-queue": shortest_queue,
    "two-choices": two_choices,
    "shortest-delay": shortest_delay,
}


def latencies_ms(fleet: Fleet, pictures: Sequence[Picture], rule: Rule, *, seed: int = 0) -> Sequence[float]:
    """Of every picture, in the order of arrival."""
    random = Random(seed)
    boards = [
        TrueBoard(
            i,
            board.profile.link_mbps * 125.0,
            board.profile.service_ms,
            board.profile.slots,
            board.profile.round_trip_ms / 2,
        )
        for i, board in enumerate(fleet.boards)
    ]
    return [rule(p, boards, number, random).take(p) - p.at_ms for number, p in enumerate(pictures)]
