"""What a run of the sender has come to, and how it is told at the end."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from client.pictures import Picture
from client.submitter import Acknowledged, Refused
from edgesched.domain.lifecycle import LABELLED_STATES, State
from edgesched.domain.task import Task, TaskId

MOST_LINES = 20


class Tally:
    """Counts steps as they happen, so that an interrupted run can be told as well."""

    def __init__(self, planned: Sequence[Picture], unreadable: Iterable[tuple[str, str]] = ()) -> None:
        """planned: each has a `source` of its own. unreadable: what could not even be planned, and why."""
        self.planned = planned
        self.acknowledged: dict[TaskId, Picture] = {}
        self.refused = list(unreadable)
        self.known_before = 0  # acknowledged to an earlier run
        self.sent_bytes = 0
        self.tasks: dict[TaskId, Task] = {}
        self.states: Counter[State] = Counter()
        self.settled = 0
        self._started: float | None = None
        self._ended: float | None = None
        self._answered: set[str] = set()

    def begin(self) -> None:
        self._started = time.monotonic()

    def take(self, step: Acknowledged | Refused) -> None:
        self._answered.add(step.picture.source)
        if isinstance(step, Acknowledged):
            self.acknowledged[step.task_id] = step.picture
            self.sent_bytes += step.size_bytes
        else:
            self.refused.append((step.picture.source, step.reason))

    def take_earlier(self, picture: Picture, task_id: TaskId) -> None:
        """A picture that an interrupted run had sent already."""
        self._answered.add(picture.source)
        self.acknowledged[task_id] = picture
        self.known_before += 1

    def end_sending(self) -> None:
        self._ended = time.monotonic()

    def learn(self, task: Task) -> None:
        """Take a task's newest state."""
        old = self.tasks.get(task.task_id)
        if old is not None:
            self.states[old.state] -= 1
            self.settled -= old.is_settled
        self.tasks[task.task_id] = task
        self.states[task.state] += 1
        self.settled += task.is_settled

    @property
    def answered(self) -> int:
        return len(self._answered)

    @property
    def pictures_per_s(self) -> float:
        return self.sent / max(self._seconds, 1e-3)

    @property
    def sent(self) -> int:
        return len(self.acknowledged) - self.known_before

    @property
    def all_settled(self) -> bool:
        return self.settled == len(self.acknowledged)

    @property
    def all_labelled(self) -> bool:
        return all(
            task_id in self.tasks and self.tasks[task_id].is_settled and self.tasks[task_id].state in LABELLED_STATES
            for task_id in self.acknowledged
        )

    def by_state(self) -> str:
        return ", ".join(f"{count} {state}" for state, count in self.states.items() if count)

    def summary(self, *, waited: bool) -> Iterator[str]:
        """For people: nothing if sending never began."""
        if self._started is None:
            return
        before = f"{self.known_before} were acknowledged before, " if self.known_before else ""
        yield (
            f"sent {self.sent} of {len(self.planned)} pictures, {before}refused {len(self.refused)}, "
            f"{self.sent_bytes / 1e6:.1f} MB in {self._seconds:.1f} s ({self.pictures_per_s:.1f} pictures/s)"
        )
        for source, reason in self.refused:
            yield f"refused: {source}: {reason}"
        unanswered = [picture.source for picture in self.planned if picture.source not in self._answered]
        yield from _shortened([f"not acknowledged: {source}" for source in unanswered])
        if waited and self.acknowledged:
            yield from self._labels()

    def _labels(self) -> Iterator[str]:
        took_ms = sorted(task.updated_at_ms - task.created_at_ms for task in self.tasks.values() if task.is_settled)
        line = f"labels: {self.settled} of {len(self.acknowledged)} settled ({self.by_state() or 'nothing is known'})"
        if took_ms:
            line += f"; from submission p50 {_percentile(took_ms, 50)} ms, p99 {_percentile(took_ms, 99)} ms"
        yield line
        for task_id, task in self.tasks.items():
            if task.is_settled and task.state not in LABELLED_STATES:
                source = self.acknowledged[task_id].source
                yield f"{task.state}: {source} (task {task_id}): {task.last_error or 'no cause is known'}"
        yield from _shortened(
            [
                f"not settled, still with the task manager: {picture.source} (task {task_id})"
                for task_id, picture in self.acknowledged.items()
                if task_id not in self.tasks or not self.tasks[task_id].is_settled
            ]
        )

    @property
    def _seconds(self) -> float:
        now = time.monotonic()
        return (self._ended or now) - (self._started or now)


def _percentile(ordered: Sequence[int], percent: int) -> int:
    """Nearest rank: a value that occurred."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _shortened(lines: Sequence[str]) -> Iterator[str]:
    yield from itertools.islice(lines, MOST_LINES)
    if len(lines) > MOST_LINES:
        yield f"... and {len(lines) - MOST_LINES} more"
