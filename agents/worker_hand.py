"""What one worker has in hand."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence

from agents.work import Job
from edgesched.domain.task import AttemptId
from edgesched.errors import InvalidInput

TASKS_PER_WORKER = 2
"""One in hand and the next one already there, so that a worker never waits for a picture."""

LATE_FACTOR = 5.0
USUAL_WEIGHT = 0.2
"""Of the newest picture in a worker's usual time."""


class Hand:
    """`jobs[0]` may have been begun, the next one waits. An attempt id in `outgoing` is asked back."""

    def __init__(self, late_after_s: float, on_late: Callable[[], None]) -> None:
        """on_late: the present job takes much longer than usual."""
        self.jobs: deque[Job] = deque()
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
        return not self.is_late and len(self.jobs) < TASKS_PER_WORKER

    @property
    def started(self) -> Job | None:
        return self.jobs[0] if self.jobs and self.jobs[0].started_at is not None else None

    @property
    def waiting(self) -> Job | None:
        """The job that waits here behind another one, unless it was asked back."""
        job = self.jobs[-1] if len(self.jobs) > 1 else None
        return None if job is None or job.attempt_id in self._asked_back else job

    @property
    def is_asked(self) -> bool:
        """Whether a job is about to come back from here. A late worker may be too stuck to answer."""
        return bool(self._asked_back) and not self.is_late

    @property
    def begun_at(self) -> float:
        """When the present job was begun; infinity if none is."""
        started = self.started
        return math.inf if started is None or started.started_at is None else started.started_at

    def busy_until(self, now: float) -> float:
        """Seconds worked since the agent started."""
        return self.busy_s + max(0.0, now - self.begun_at)

    def give(self, job: Job) -> None:
        self.jobs.append(job)
        self.outgoing.put_nowait(job)

    def ask_back(self, job: Job) -> None:
        """Have the worker give back a job that it has not begun; if it has begun it meanwhile, it keeps it."""
        if job in self.jobs and job.started_at is None and job.attempt_id not in self._asked_back:
            self._asked_back.add(job.attempt_id)
            self.outgoing.put_nowait(job.attempt_id)

    def begin(self, attempt_id: str) -> None:
        """Raises: InvalidInput if it is not the job that is due; so do the next two."""
        job = self._first(attempt_id)
        loop = asyncio.get_running_loop()
        job.started_at = loop.time()
        self._asked_back.discard(job.attempt_id)
        self._late_timer = loop.call_later(max(self._late_after_s, LATE_FACTOR * self._usual_s), self._be_late)

    def end(self, attempt_id: str, *, is_usual: bool) -> tuple[Job, float]:
        """The job that has an outcome now, and when it was begun. is_usual: its time says how long one takes."""
        job = self._first(attempt_id)
        if job.started_at is None:
            raise InvalidInput(f"attempt {attempt_id!r} has ended without a start")
        took_s = asyncio.get_running_loop().time() - job.started_at
        if is_usual:
            self._usual_s += (took_s - self._usual_s) * (USUAL_WEIGHT if self._usual_s else 1.0)
        self.jobs.popleft()
        self._not_late()
        self.busy_s += took_s
        return job, job.started_at

    def drop(self, attempt_id: str) -> Job:
        """The job that came back because it was asked back."""
        for job in self.jobs:
            if job.attempt_id == attempt_id and attempt_id in self._asked_back and job.started_at is None:
                self.jobs.remove(job)
                self._asked_back.discard(job.attempt_id)
                return job
        raise InvalidInput(f"attempt {attempt_id!r} was not asked back")

    def empty(self) -> tuple[Job | None, Sequence[Job]]:
        """The worker is dead. Returns the job that it had begun, and those that it had not."""
        started, jobs = self.started, list(self.jobs)
        self.busy_s = self.busy_until(asyncio.get_running_loop().time())
        self.jobs.clear()
        self._asked_back.clear()
        self._not_late()
        self.outgoing = asyncio.Queue()
        return started, [job for job in jobs if job is not started]

    def _be_late(self) -> None:
        self.is_late = True
        self._on_late()

    def _not_late(self) -> None:
        self.is_late = False
        if self._late_timer is not None:
            self._late_timer.cancel()

    def _first(self, attempt_id: str) -> Job:
        if not self.jobs or self.jobs[0].attempt_id != attempt_id:
            raise InvalidInput(f"attempt {attempt_id!r} is not the one that is due")
        return self.jobs[0]
