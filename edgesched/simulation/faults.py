"""What goes wrong, and when. One table of kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgesched.errors import InvalidInput
from edgesched.simulation.boards import SimulatedBoard

LATEST_MS = 366 * 24 * 3_600_000.0
LARGEST_AMOUNT = 1e6
MOST_SHARED = 0.9
"""Of a board that somebody else uses as well, so much at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """kind: a row of `FAULTS`. board: its number in the fleet. until_ms: when it is mended; None: never."""

    kind: str
    board: int
    at_ms: float
    until_ms: float | None = None
    amount: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in FAULTS:
            raise InvalidInput(f"there is no fault {self.kind!r}; use {', '.join(FAULTS)}")
        if not (0 <= self.at_ms <= LATEST_MS and (self.until_ms is None or self.at_ms <= self.until_ms <= LATEST_MS)):
            raise InvalidInput(f"{self.kind}: it begins at 0 s or later, and ends after that, within a year")
        if not 0 < self.amount <= LARGEST_AMOUNT:
            raise InvalidInput(f"{self.kind}: its amount must be above 0, and at most {LARGEST_AMOUNT:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a fault does to a board when it begins, given its amount, and what undoes it."""

    begin: Callable[[SimulatedBoard, float], None]
    mend: Callable[[SimulatedBoard], None]


def _set(name: str, value: object) -> Callable[[SimulatedBoard], None]:
    return lambda board: setattr(board, name, value)


def _slows(board: SimulatedBoard, factor: float) -> None:
    board.slowdown = factor


def _is_shared(board: SimulatedBoard, fraction: float) -> None:
    board.others = min(MOST_SHARED, fraction)


def _link_drops(board: SimulatedBoard, factor: float) -> None:
    board.mbps = board.board.profile.link_mbps / factor


def _link_recovers(board: SimulatedBoard) -> None:
    board.mbps = board.board.profile.link_mbps


def _fails_fast(board: SimulatedBoard, amount: float) -> None:
    board.fails_fast = True


def _freezes(board: SimulatedBoard, seconds: float) -> None:
    board.freeze(seconds * 1000.0)


def _thaws(board: SimulatedBoard) -> None:
    """By itself, when its time is over."""


def _dies(board: SimulatedBoard, amount: float) -> None:
    board.die()


def _reports_freeze(board: SimulatedBoard, amount: float) -> None:
    board.reports_frozen = True


FAULTS: Mapping[str, Kind] = {
    "slows": Kind(begin=_slows, mend=_set("slowdown", 1.0)),  # amount: how many times slower
    "is-shared": Kind(begin=_is_shared, mend=_set("others", 0.0)),  # amount: part that somebody else uses, 0..0.9
    "link-drops": Kind(begin=_link_drops, mend=_link_recovers),  # amount: how many times slower
    "fails-fast": Kind(begin=_fails_fast, mend=_set("fails_fast", False)),
    "freezes": Kind(begin=_freezes, mend=_thaws),  # amount: seconds
    "dies": Kind(begin=_dies, mend=_set("is_alive", True)),
    "reports-freeze": Kind(begin=_reports_freeze, mend=_set("reports_frozen", False)),
}
