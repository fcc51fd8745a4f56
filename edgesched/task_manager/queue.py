"""Tasks that wait for a device: a cache of claimed ledger rows, oldest first, one line per model.

One line per model, because a model that no device can run now must not hold up the others.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgesched.domain.device import DeviceId
from edgesched.domain.task import Task, TaskId


@dataclass(slots=True)
class QueuedTask:
    task: Task
    not_before_ms: float = 0.0  # monotonic clock: a retry waits for its back-off
    avoid: frozenset[DeviceId] = frozenset()  # where it failed


class TaskQueue:
    """Bounded by its user: what does not fit stays in the ledger and is claimed later."""

    def __init__(self) -> None:
        self._waiting: dict[TaskId, QueuedTask] = {}
        self._lines: dict[str, list[tuple[int, TaskId]]] = {}  # model -> heap by order of acceptance
        self._delayed: list[tuple[float, TaskId]] = []  # heap by not_before_ms

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, task_id: TaskId) -> bool:
        return task_id in self._waiting

    def add(self, entry: QueuedTask, now_ms: float) -> None:
        """Adding a task that waits already replaces what is known of it."""
        task_id = entry.task.task_id
        is_new = task_id not in self._waiting
        self._waiting[task_id] = entry
        if not is_new:
            return
        if entry.not_before_ms > now_ms:
            heapq.heappush(self._delayed, (entry.not_before_ms, task_id))
        else:
            self._line_up(entry)

    def take(self, task_id: TaskId) -> QueuedTask | None:
        """Remove one task. Its place in line is cleared lazily."""
        return self._waiting.pop(task_id, None)

    def heads(self, per_model: int, now_ms: float, *, models: Iterable[str] | None = None) -> Sequence[QueuedTask]:
        """The first `per_model` tasks of each line that may be placed now. They stay in the queue."""
        self._release_delayed(now_ms)
        heads: list[QueuedTask] = []
        for model in list(self._lines if models is None else models):
            line = self._lines.get(model, [])
            first: list[tuple[int, TaskId]] = []
            while line and len(first) < per_model:
                item = heapq.heappop(line)
                entry = self._waiting.get(item[1])
                if entry is not None and (not first or first[-1] != item):
                    first.append(item)
                    heads.append(entry)
            for item in first:
                heapq.heappush(line, item)
            if not line:
                self._lines.pop(model, None)
        return heads

    def per_model(self) -> Mapping[str, int]:
        """How many wait, whether they may be placed now or not."""
        return Counter(entry.task.model for entry in self._waiting.values())

    def ahead_of(self, task: Task) -> int:
        """How many tasks of its model were accepted before it and wait as well."""
        entries = self._waiting.values()
        return sum(entry.task.model == task.model and entry.task.seq < task.seq for entry in entries)

    def delay_ms(self, task_id: TaskId, now_ms: float) -> float:
        """Until a waiting task may be placed."""
        entry = self._waiting.get(task_id)
        return 0.0 if entry is None else max(0.0, entry.not_before_ms - now_ms)

    def next_delay_ms(self, now_ms: float) -> float | None:
        """Time until the next back-off ends; None if nothing is delayed."""
        return max(0.0, self._delayed[0][0] - now_ms) if self._delayed else None

    def _line_up(self, entry: QueuedTask) -> None:
        heapq.heappush(self._lines.setdefault(entry.task.model, []), (entry.task.seq, entry.task.task_id))

    def _release_delayed(self, now_ms: float) -> None:
        while self._delayed and self._delayed[0][0] <= now_ms:
            _, task_id = heapq.heappop(self._delayed)
            entry = self._waiting.get(task_id)
            if entry is not None:
                self._line_up(entry)
