"""How long nothing was delivered although something waited."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds of one clock."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin

    def overlaps(self, other: Span) -> bool:
        return self.begin < other.end and other.begin < self.end


def gaps(deliveries: Iterable[tuple[float, float]]) -> Sequence[Span]:
    """The times between two deliveries, as far as a task was waiting, in their order.

    deliveries: (accepted at, delivered at) of every task.
    """
    by_delivery = sorted(deliveries, key=lambda item: item[1])
    waiting_since: list[float] = []  # of whatever is delivered at this place in the order, or later
    for accepted, _ in reversed(by_delivery):
        waiting_since.append(min([accepted, *waiting_since[-1:]]))
    waiting_since.reverse()
    found: list[Span] = []
    before = float("-inf")
    for since, (_, delivered) in zip(waiting_since, by_delivery, strict=True):
        begin = max(before, since)
        if delivered > begin:
            found.append(Span(begin, delivered))
        before = delivered
    return found


def common(groups: Sequence[Sequence[Span]]) -> Sequence[Span]:
    """The spans in which every group has one; none if there is no group."""
    found = list(groups[0]) if groups else []
    for group in groups[1:]:
        found = [
            Span(max(one.begin, other.begin), min(one.end, other.end))
            for one in found
            for other in group
            if one.overlaps(other)
        ]
    return found


def uncovered_s(gap: Span, excuses: Iterable[Span]) -> float:
    """The seconds of a gap that lie in none of the other spans."""
    left, at = 0.0, gap.begin
    for excuse in sorted(excuses, key=lambda span: span.begin):
        if excuse.begin > at:
            left += min(excuse.begin, gap.end) - at
        at = min(gap.end, max(at, excuse.end))
    return left + (gap.end - at)
