"""How much work is open, kept beside the ledger so that admission costs no query."""

from __future__ import annotations

from edgesched.clock import Clock
from edgesched.domain.lifecycle import OPEN_STATES, State
from edgesched.domain.task import Task
from edgesched.errors import Overloaded
from edgesched.ledger.base import Ledger

MIN_RETRY_AFTER_MS = 100
MAX_RETRY_AFTER_MS = 30_000
TASKS_WORTH_COMING_BACK_FOR = 100
RATE_WINDOW_MS = 5_000.0


class Backlog:
    """Counts of open tasks and of the bytes of their pictures, and how fast they get done."""

    def __init__(self, clock: Clock, *, max_tasks: int, max_bytes: int) -> None:
        self._clock = clock
        self._max_tasks = max_tasks
        self._max_bytes = max_bytes
        self.tasks = 0
        self.size_bytes = 0
        self._settled = 0
        self._window_started_ms = clock.monotonic_ms()
        self._tasks_per_s: float | None = None

    async def load(self, ledger: Ledger) -> None:
        counts = await ledger.counts()
        self.tasks = sum(counts.get(state, 0) for state in OPEN_STATES)
        self.size_bytes = await ledger.open_bytes()

    def reserve(self, size_bytes: int) -> None:
        """Make room for one more, before it is stored. Raises: Overloaded with an estimated retry-after."""
        if self.tasks >= self._max_tasks or self.size_bytes + size_bytes > self._max_bytes:
            raise Overloaded(
                f"the queue is full ({self.tasks} tasks, {self.size_bytes} bytes are open); send it again later",
                retry_after_ms=self._retry_after_ms(),
            )
        self.tasks += 1
        self.size_bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        """What was reserved was not stored, or is no longer open."""
        self.tasks -= 1
        self.size_bytes -= size_bytes

    def observe(self, before: State, task: Task) -> None:
        """One committed change."""
        was_open, is_open = before in OPEN_STATES, task.state in OPEN_STATES
        if was_open and not is_open:
            self.give_back(task.size_bytes)
            self._settled += 1
        elif is_open and not was_open:  # a dead letter is replayed
            self.tasks += 1
            self.size_bytes += task.size_bytes

    def _retry_after_ms(self) -> int:
        elapsed_ms = self._clock.monotonic_ms() - self._window_started_ms
        if elapsed_ms >= RATE_WINDOW_MS:
            self._tasks_per_s = self._settled * 1000.0 / elapsed_ms
            self._settled, self._window_started_ms = 0, self._clock.monotonic_ms()
        if not self._tasks_per_s:
            return 1_000  # nothing is known yet
        estimate = int(TASKS_WORTH_COMING_BACK_FOR * 1000.0 / self._tasks_per_s)
        return min(MAX_RETRY_AFTER_MS, max(MIN_RETRY_AFTER_MS, estimate))
