"""What goes wrong, and when. One table of kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgesched.errors import InvalidInput
from edgesched.simulation.boards import SimulatedBoard


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


def _slows(board: SimulatedBoard, factor: float) -> None:
    board.slowdown = factor


def _link_drops(board: SimulatedBoard, factor: float) -> None:
    board.mbps = board.board.profile.link_mbps / factor


def _fails_fast(board: SimulatedBoard, amount: float) -> None:
    board.fails_fast = True


def _freezes(board: SimulatedBoard, seconds: float) -> None:
    board.freeze(seconds * 1000.0)


def _dies(board: SimulatedBoard, amount: float) -> None:
    board.die()


def _reports_freeze(board: SimulatedBoard, amount: float) -> None:
    board.reports_frozen = True


FAULTS: Mapping[str, Callable[[SimulatedBoard, float], None]] = {
    "slows": _slows,  # amount: how many times slower
    "link-drops": _link_drops,  # amount: how many times slower
    "fails-fast": _fails_fast,
    "freezes": _freezes,  # amount: seconds
    "dies": _dies,
    "reports-freeze": _reports_freeze,
}


def begin(fault: Fault, board: SimulatedBoard) -> None:
    FAULTS[fault.kind](board, fault.amount)


def mend(board: SimulatedBoard) -> None:
    board.slowdown, board.mbps = 1.0, board.board.profile.link_mbps
    board.fails_fast = board.reports_frozen = False
    board.is_alive = True
