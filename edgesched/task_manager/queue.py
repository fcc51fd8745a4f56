"""Tasks that wait for a device: a cache of claimed ledger rows, one line per model and priority, oldest first.

One line per model, because a model that no device can run now must not hold up the others; one per priority, because
they take turns (turns.py).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter

from edgesched.domain.device import DeviceId
from edgesched.domain.task import Line, Priority, Task, TaskId
from edgesched.task_manager.turns import Turn, Turns


@dataclass(slots=True)
class QueuedTask:
    task: Task
    not_before_ms: float = 0.0  # monotonic clock: a retry waits for its back-off
    avoid: frozenset[DeviceId] = frozenset()  # where it failed


_Heap = list[tuple[int, TaskId]]  # by order of acceptance


class TaskQueue:
    """Bounded by its user: what does not fit stays in the ledger and is claimed later."""

    def __init__(self) -> None:
        self._waiting: dict[TaskId, QueuedTask] = {}
        self._lengths: Counter[Line] = Counter()
        self._lines: dict[str, dict[Priority, _Heap]] = {}  # by model
        self._delayed: list[tuple[float, TaskId]] = []  # heap by not_before_ms
        self._turns = Turns()

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, task_id: TaskId) -> bool:
        return task_id in self._waiting

    def length(self, line: Line) -> int:
        """How many wait there, whether they may be placed now or not."""
        return self._lengths[line]

    def add(self, entry: QueuedTask, now_ms: float) -> None:
        """Adding a task that waits already replaces what is known of it."""
        task_id = entry.task.task_id
        is_new = task_id not in self._waiting
        self._waiting[task_id] = entry
        if not is_new:
            return
        self._lengths[entry.task.line] += 1
        if entry.not_before_ms > now_ms:
            heapq.heappush(self._delayed, (entry.not_before_ms, task_id))
        else:
            self._line_up(entry)

    def take(self, task_id: TaskId) -> QueuedTask | None:
        """Remove a task that gets its device: its priority has had a turn. None if it does not wait any more."""
        entry = self.drop(task_id)
        if entry is not None:
            self._turns.take(entry.task.priority)
        return entry

    def drop(self, task_id: TaskId) -> QueuedTask | None:
        """Remove a task that shall not be placed any more. Its place in line is cleared lazily."""
        entry = self._waiting.pop(task_id, None)
        if entry is not None:
            self._lengths[entry.task.line] -= 1
        return entry

    def heads(self, per_model: int, now_ms: float, *, models: Iterable[str] | None = None) -> Sequence[QueuedTask]:
        """The first `per_model` tasks of each model that may be placed now, in the order of their turns.

        They stay in the queue.
        """
        self._release_delayed(now_ms)
        heads: list[tuple[Turn, QueuedTask]] = []
        for model in list(self._lines if models is None else models):
            lines = self._lines.get(model, {})
            of_model: list[tuple[Turn, QueuedTask]] = []
            for priority, heap in list(lines.items()):
                first = self._first(heap, per_model)
                of_model += zip(
                    self._turns.next_ones(priority, [entry.task.seq for entry in first]), first, strict=True
                )
                if not heap:
                    del lines[priority]
            if not lines:
                self._lines.pop(model, None)
            heads += sorted(of_model, key=itemgetter(0))[:per_model]
        heads.sort(key=itemgetter(0))
        return [entry for _, entry in heads]

    def ahead_of(self, task: Task) -> int:
        """How many tasks of its line were accepted before it and wait as well."""
        entries = self._waiting.values()
        return sum(entry.task.line == task.line and entry.task.seq < task.seq for entry in entries)

    def delay_ms(self, task_id: TaskId, now_ms: float) -> float:
        """Until a waiting task may be placed."""
        entry = self._waiting.get(task_id)
        return 0.0 if entry is None else max(0.0, entry.not_before_ms - now_ms)

    def next_delay_ms(self, now_ms: float) -> float | None:
        """Time until the next back-off ends; None if nothing is delayed."""
        return max(0.0, self._delayed[0][0] - now_ms) if self._delayed else None

    def _first(self, heap: _Heap, count: int) -> list[QueuedTask]:
        """The first ones that still wait. Those that do not any more leave the heap."""
        items: _Heap = []
        entries: list[QueuedTask] = []
        while heap and len(items) < count:
            item = heapq.heappop(heap)
            entry = self._waiting.get(item[1])
            if entry is not None and (not items or items[-1] != item):
                items.append(item)
                entries.append(entry)
        for item in items:
            heapq.heappush(heap, item)
        return entries

    def _line_up(self, entry: QueuedTask) -> None:
        task = entry.task
        heap = self._lines.setdefault(task.model, {}).setdefault(task.priority, [])
        heapq.heappush(heap, (task.seq, task.task_id))

    def _release_delayed(self, now_ms: float) -> None:
        while self._delayed and self._delayed[0][0] <= now_ms:
            _, task_id = heapq.heappop(self._delayed)
            entry = self._waiting.get(task_id)
            if entry is not None:
                self._line_up(entry)
