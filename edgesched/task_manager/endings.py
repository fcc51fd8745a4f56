"""How tasks end, counted for /metrics as they do."""

from __future__ import annotations

from collections import Counter, defaultdict

from edgesched.domain.device import DeviceId
from edgesched.domain.durations import Durations
from edgesched.domain.lifecycle import OPEN_STATES, State
from edgesched.ledger.base import Applied


class Endings:
    """Since the task manager started. As many entries as there are devices, models and ways to end."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[State, str, DeviceId | None]] = Counter()
        """By state, model and the device that it was on last."""
        self.delivery: defaultdict[str, Durations] = defaultdict(Durations)
        """By model: from labels in the ledger to labels at their receiver."""

    def observe(self, outcome: Applied) -> None:
        """One committed change."""
        task = outcome.task
        if task is None or task.state in OPEN_STATES or task.state is outcome.before:
            return
        self.counts[task.state, task.model, task.device_id] += 1
        if task.state is State.DELIVERED:
            self.delivery[task.model].add(outcome.lasted_ms)
