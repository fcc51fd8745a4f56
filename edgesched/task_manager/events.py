"""The one way by which the task manager's parts change the ledger: events, in order, many per commit."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable

from edgesched.clock import Clock
from edgesched.domain.fact import replace
from edgesched.domain.lifecycle import Event, State
from edgesched.domain.task import Result, TaskId
from edgesched.ledger.base import Applied, Ledger, LedgerEvent
from edgesched.task_manager.backlog import Backlog
from edgesched.task_manager.changes import Changes
from edgesched.task_manager.endings import Endings
from edgesched.task_manager.traces import TaskTraces
from edgesched.wake import Wake

MAX_EVENTS_PER_COMMIT = 512
UNHURRIED_S = 0.05
"""An event that nobody waits for is held so long, for a commit that others need."""
MORE_FOLLOWS = frozenset({Event.SENT_OUT, Event.ACCEPTED})
MORE_FOLLOWS_S = 0.1
"""These are held for what the task does next: most tasks are done by then, and one row has it all. Lost with this
process they cost nothing: the board says what it holds, and the attempt is adopted."""

Then = Callable[[Applied], None]
_Waiting = tuple[LedgerEvent, Then | None, int]
"""The last one: when it was added, in nanoseconds, if it is traced."""


class EventLog:
    """Whoever needs the verdict passes `then`, which runs after the commit; nobody else waits."""

    def __init__(
        self, ledger: Ledger, changes: Changes, backlog: Backlog, *, clock: Clock, traces: TaskTraces | None = None
    ) -> None:
        """traces: None if tracing is off."""
        self._ledger = ledger
        self._clock = clock
        self._changes = changes
        self._backlog = backlog
        self._traces = traces
        self.commits = 0
        self.commit_ms = 0.0
        """That all commits together took."""
        self.endings = Endings()
        self._waiting: deque[_Waiting] = deque()
        self._held: dict[TaskId, tuple[float, list[_Waiting]]] = {}  # oldest first; until when, by the loop's clock
        self._wake = Wake()
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, event: LedgerEvent, then: Then | None = None, *, is_urgent: bool | None = None) -> None:
        """Events of one task are applied in the order in which they were added.

        is_urgent: None: if somebody waits for the verdict.
        """
        event = replace(event, at_ms=self._clock.wall_ms())  # not the commit's time: people look at these
        entry = (event, then, 0 if self._traces is None else self._traces.now_ns())
        self._idle.clear()
        if then is None and event.event in MORE_FOLLOWS and not is_urgent:
            self._hold(entry)
            return
        if (held := self._held.pop(event.task_id, None)) is not None:
            self._waiting += held[1] if self._traces is not None else _without_overtaken(held[1], event)
        self._waiting.append(entry)
        if is_urgent or (is_urgent is None and then is not None):
            self._wake.now()
        else:
            self._wake.within(UNHURRIED_S)

    @property
    def is_idle(self) -> bool:
        """Whether everything that was added is committed."""
        return self._idle.is_set()

    async def drained(self) -> None:
        """Return when everything that was added is committed."""
        self._release(math.inf)
        self._wake.now()
        await self._idle.wait()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._release(asyncio.get_running_loop().time())
            count = min(len(self._waiting), MAX_EVENTS_PER_COMMIT)
            batch = [self._waiting.popleft() for _ in range(count)]
            if self._waiting:
                self._wake.now()
            elif self._held:
                self._wake_for_held()
            if not batch:
                continue  # what woke us went with an earlier commit
            started_s = time.monotonic()
            applied = await self._ledger.apply_many([event for event, _, _ in batch])
            self.commit_ms += (time.monotonic() - started_s) * 1000
            self.commits += 1
            for (event, then, added_ns), outcome in zip(batch, applied, strict=True):
                if self._traces is not None:
                    self._traces.committed(event, outcome, added_ns)
                self.announce(outcome, event.result)
                if then is not None:
                    then(outcome)
            if not self._waiting and not self._held:
                self._idle.set()

    def _hold(self, entry: _Waiting) -> None:
        task_id = entry[0].task_id
        if (held := self._held.get(task_id)) is not None:
            held[1].append(entry)
        else:
            self._held[task_id] = (asyncio.get_running_loop().time() + MORE_FOLLOWS_S, [entry])
            self._wake_for_held()

    def _wake_for_held(self) -> None:
        until_s, _ = next(iter(self._held.values()))
        self._wake.within(max(0.0, until_s - asyncio.get_running_loop().time()))

    def _release(self, now_s: float) -> None:
        """What was held for long enough has to go."""
        while self._held:
            task_id = next(iter(self._held))
            until_s, entries = self._held[task_id]
            if until_s > now_s:
                return
            del self._held[task_id]
            self._waiting += entries

    def announce(self, outcome: Applied, result: Result | None = None) -> None:
        """Tell this process's counters and watchers about a committed change.

        result: that came with the event; a task that had labels already keeps those.
        """
        if outcome.task is not None and outcome.before is not None and not outcome.is_stale:
            self._backlog.observe(outcome.before, outcome.task)
            self.endings.observe(outcome)
            is_labelled = outcome.task.state is State.DONE and outcome.before is not State.DONE
            self._changes.publish(outcome.task, result if is_labelled else None)
            if self._traces is not None:
                self._traces.announced(outcome.task)


def _without_overtaken(held: list[_Waiting], event: LedgerEvent) -> list[_Waiting]:
    """That the board has the picture is no news any more once it has its labels: a step less for every task."""
    if event.event is not Event.FINISHED:
        return held
    return [entry for entry in held if entry[0].event is not Event.ACCEPTED or entry[0].attempt_id != event.attempt_id]
