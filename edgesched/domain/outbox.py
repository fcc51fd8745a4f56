"""What a board's outbox holds, as the board tells of it to whoever audits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgesched.domain.device import DeviceId
from edgesched.domain.task import AttemptId, TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutcome:
    """One outcome that no ledger has settled, as far as its board knows."""

    ledger_id: str
    task_id: TaskId
    attempt_id: AttemptId
    labels_digest: str | None  # None: the attempt failed
    is_winner: bool  # the ledger has told the board to deliver it
    is_delivered: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """All of one board's outbox at one moment."""

    device_id: DeviceId
    outcomes: Sequence[HeldOutcome]
