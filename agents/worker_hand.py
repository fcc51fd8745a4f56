"""What one worker has in hand."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence

from agents.work import Job
from edgesched.domain.task import AttemptId
from edgesched.errors import InvalidInput

TASKS_PER_WORKER = 2
"""One in hand and the next one already there, so that a worker never waits for a picture. Where it runs several at
once, as many times so many."""

LATE_FACTOR = 5.0
USUAL_WEIGHT = 0.2
"""Of the newest picture in a worker's usual time."""


class Hand:
    """Jobs in the order in which they were given. Those in `begun` are worked on now, together; the others wait. An
    attempt id in `outgoing` is asked back."""

    def __init__(self, late_after_s: float, on_late: Callable[[], None]) -> None:
        """on_late: the present jobs take much longer than usual."""
        self.jobs: deque[Job] = deque()
        self.begun: list[Job] = []
        self.begun_together = 0
        """How many the present jobs were when they were begun."""
        self.largest_batch = 1
        self.busy_s = 0.0
        self.is_late = False
        self.outgoing: asyncio.Queue[Job | AttemptId] = asyncio.Queue()
        self._late_after_s = late_after_s
        self._on_late = on_late
        self._late_timer: asyncio.TimerHandle | None = None
        self._asked_back: set[AttemptId] = set()
        self._usual_s = 0.0  # per picture; 0 before the first one

    @property
    def has_room(self) -> bool:
        return not self.is_late and len(self.jobs) < TASKS_PER_WORKER * self.largest_batch

    @property
    def waiting(self) -> Sequence[Job]:
        """The jobs that wait here behind others, unless they were asked back."""
        behind = itertools.islice(self.jobs, 1, None)
        return [job for job in behind if job.started_at is None and job.attempt_id not in self._asked_back]

    @property
    def asked_count(self) -> int:
        """How many jobs are about to come back from here. A late worker may be too stuck to answer."""
        return 0 if self.is_late else len(self._asked_back)

    @property
    def begun_at(self) -> float:
        """When the present jobs were begun; infinity if there are none."""
        return math.inf if not self.begun or self.begun[0].started_at is None else self.begun[0].started_at

    def busy_until(self, now: float) -> float:
        """Seconds worked since the agent started."""
        return self.busy_s + max(0.0, now - self.begun_at)

    def give(self, job: Job) -> None:
        self.jobs.append(job)
        self.outgoing.put_nowait(job)

    def ask_back(self, *jobs: Job) -> None:
        """Have the worker give back jobs that it has not begun; what it has begun meanwhile it keeps."""
        for job in reversed(jobs):  # what comes back goes to the front of the queue, the oldest one last
            if job in self.jobs and job.started_at is None and job.attempt_id not in self._asked_back:
                self._asked_back.add(job.attempt_id)
                self.outgoing.put_nowait(job.attempt_id)

    def begin(self, attempt_id: str) -> None:
        """A worker says so of all jobs of a batch before it begins them.

        Raises: InvalidInput if the job does not wait here, or the worker never spoke of so large a batch.
        """
        job = self._job(attempt_id)
        if job.started_at is not None:
            raise InvalidInput(f"attempt {attempt_id!r} was begun twice")
        if len(self.begun) == self.largest_batch:
            raise InvalidInput(f"attempt {attempt_id!r} was begun before {self.begun[0].attempt_id!r} had ended")
        loop = asyncio.get_running_loop()
        job.started_at = loop.time()
        self._asked_back.discard(job.attempt_id)
        self.begun.append(job)
        self.begun_together = len(self.begun)
        usual_s = self._usual_s * self.begun_together
        self._not_late()
        self._late_timer = loop.call_later(max(self._late_after_s, LATE_FACTOR * usual_s), self._be_late)

    def end(self, attempt_id: str, *, is_usual: bool) -> tuple[Job, float]:
        """The job that has an outcome now, and when it was begun. is_usual: its time says how long one takes.

        Raises: InvalidInput if it was not begun.
        """
        job = self._job(attempt_id)
        if job.started_at is None:
            raise InvalidInput(f"attempt {attempt_id!r} has ended without a start")
        took_s = asyncio.get_running_loop().time() - self.begun_at
        if is_usual:
            each_s = took_s / self.begun_together
            self._usual_s += (each_s - self._usual_s) * (USUAL_WEIGHT if self._usual_s else 1.0)
        self.jobs.remove(job)
        self.begun.remove(job)
        if not self.begun:
            self._not_late()
            self.busy_s += took_s
        return job, job.started_at

    def drop(self, attempt_id: str) -> Job:
        """The job that came back because it was asked back."""
        job = self._job(attempt_id)
        if job.attempt_id not in self._asked_back:
            raise InvalidInput(f"attempt {attempt_id!r} was not asked back")
        self.jobs.remove(job)
        self._asked_back.discard(job.attempt_id)
        return job

    def empty(self) -> tuple[Sequence[Job], Sequence[Job]]:
        """The worker is dead. Returns the jobs that it had begun, and those that it had not."""
        begun, others = self.begun, [job for job in self.jobs if job.started_at is None]
        self.busy_s = self.busy_until(asyncio.get_running_loop().time())
        self.jobs.clear()
        self.begun = []
        self._asked_back.clear()
        self._not_late()
        self.outgoing = asyncio.Queue()
        return begun, others

    def _be_late(self) -> None:
        self.is_late = True
        self._on_late()

    def _not_late(self) -> None:
        self.is_late = False
        if self._late_timer is not None:
            self._late_timer.cancel()

    def _job(self, attempt_id: str) -> Job:
        for job in self.jobs:
            if job.attempt_id == attempt_id:
                return job
        raise InvalidInput(f"attempt {attempt_id!r} is not here")
