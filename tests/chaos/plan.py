"""What one chaos run is to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Layout(StrEnum):
    TOGETHER = "together"  # task manager and gateway in one process, `up`
    APART = "apart"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The seed decides the faults and the pictures."""

    seed: int
    pictures: int
    boards: str
    layout: Layout
    directory: Path  # absolute; empty, or not there yet; everything is kept below it
    models_dir: Path = Path("models")
    pictures_per_s: float = 15.0  # what the sender's link carries, so that it lives long enough to be hit many times
    fault_every_s: float = 1.5  # on average
    fault_length: float = 1.0  # of each fault, as a part of what `schedule.LASTS_S` says
    rounds: int | None = None  # of faults, each possible one once per round; None: until the work is nearly done
    only: frozenset[str] = frozenset()  # kinds of target, as in `schedule.Kind`; empty: all
    workers_per_board: int | None = None  # None: as many as the board's profile says
    settle_s: float = 90.0  # after the last fault: longest wait until everything is delivered
    goal_s: float = 10.0  # longest acceptable time without a delivery, beyond the time that faults prevent any

    @property
    def label_dir(self) -> Path:
        return self.directory / "labels"

    @property
    def picture_dir(self) -> Path:
        return self.directory / "pictures"

    @property
    def acknowledged_path(self) -> Path:
        return self.directory / "acknowledged.jsonl"

    @property
    def ledger_path(self) -> Path:
        return self.directory / "master" / "ledger.sqlite3"

    @property
    def upload_dir(self) -> Path:
        return self.directory / "master" / "upload"
