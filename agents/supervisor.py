"""All workers of a board: which of them gets which picture, how long it may take, and whether the board can work."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import psutil

from agents.work import Assignment, Job, Outcome
from agents.worker_slot import SlotState, WorkerPlan, WorkerSlot
from edgesched.domain.task import AttemptId, Failure, FailureKind
from edgesched.rest import WorkerReport

MIB = 1024 * 1024

log = logging.getLogger(__name__)


class Supervisor:
    """Attempts in, outcomes out. Its queue is bounded by whoever submits."""

    def __init__(
        self,
        plan: WorkerPlan,
        *,
        device_id: str,
        count: int,
        memory_bytes: int,
        on_finished: Callable[[Assignment, Outcome], None],
        on_change: Callable[[], None],
    ) -> None:
        """on_change: called when the board's health may be another one."""
        self._plan = plan
        self._memory_bytes = memory_bytes
        self._on_finished = on_finished
        self._on_change = on_change
        self._slots = [WorkerSlot(i, f"{device_id}-{i}", plan, self) for i in range(count)]
        self._jobs: dict[AttemptId, Job] = {}
        self._queue: deque[Job] = deque()
        self._idle = asyncio.Event()
        self._idle.set()
        self.settled = asyncio.Event()
        """Set once every worker has been ready, or has said why it cannot be."""
        self.left_out: dict[str, str] = {}
        """The planned models that no worker can run now, each with the reason; while the board can do no work at all,
        as it was before."""

    async def run(self) -> None:
        """Until cancelled; then the workers are stopped."""
        if not self._plan.models:
            self.settled.set()
            await asyncio.Event().wait()
        async with asyncio.TaskGroup() as tasks:
            for slot in self._slots:
                tasks.create_task(slot.run(), name=f"worker {slot.name}")
            tasks.create_task(self._watch_memory(), name="worker memory")

    @property
    def unhealthy_reason(self) -> str | None:
        """Why this board can do no work, for people; None if it can."""
        if not self._plan.models:
            return "no model in models_dir has a build that this board can run"
        troubles = [slot.trouble for slot in self._slots]
        return None if None in troubles else troubles[0]

    def refusal(self, model: str) -> str | None:
        """Why no worker can run this model, for people; None if one can."""
        reason = self.left_out.get(model)
        return None if reason is None else f"this board cannot run model {model!r}: {reason}"

    @property
    def held_count(self) -> int:
        return len(self._jobs)

    @property
    def held_bytes(self) -> int:
        return sum(job.size_bytes for job in self._jobs.values())

    def held(self) -> Iterator[Assignment]:
        """Attempts that are queued or running."""
        return (job.assignment for job in self._jobs.values())

    def holds(self, attempt_id: AttemptId) -> bool:
        return attempt_id in self._jobs

    def submit(self, job: Job) -> None:
        """Queue an attempt; its outcome follows, at the latest when its time has passed."""
        self._jobs[job.attempt_id] = job
        self._idle.clear()
        job.timer = asyncio.get_running_loop().call_at(job.deadline_at, self._expire, job)
        self._queue.append(job)
        self._hand_out()

    def cancel(self, attempt_id: AttemptId) -> bool:
        """Forget an attempt that no worker has started; no outcome follows. Returns whether that was so."""
        job = self._jobs.get(attempt_id)
        if job is None or job.started_at is not None:
            return False
        self._forget(job)
        self._ask_back(job)
        return True

    def hand_back(self, reason: str) -> None:
        """Refuse everything that no worker has begun, so that another device gets it at once."""
        waiting = list(self._queue)
        for job in waiting:
            self._finish(job, Failure(kind=FailureKind.REFUSED, message=reason))

    async def idle(self) -> None:
        """Wait until no attempt is here."""
        await self._idle.wait()

    def reports(self) -> tuple[WorkerReport, ...]:
        return tuple(slot.report() for slot in self._slots)

    def busy_seconds(self) -> float:
        """Working time of all workers together since the start."""
        now = asyncio.get_running_loop().time()
        return sum(slot.busy_until(now) for slot in self._slots)

    # --- what the slots tell ---

    def finished(self, job: Job, outcome: Outcome) -> None:
        self._finish(job, outcome)

    def came_back(self, jobs: Sequence[Job]) -> None:
        self._queue.extendleft(job for job in reversed(jobs) if job.attempt_id in self._jobs)

    def changed(self) -> None:
        if all(slot.state is not SlotState.STARTING for slot in self._slots):
            self.settled.set()
        self._note_left_out()
        reason = self.unhealthy_reason
        if reason is not None and self._queue:
            self.hand_back(f"the board cannot work: {reason}")
        self._hand_out()
        self._on_change()

    # --- inside ---

    def _hand_out(self) -> None:
        """Give queued jobs to workers, idle ones first: only when all are busy does one get its next job early.

        Of busy ones that with the newest job comes first: the other may hang. An idle worker that is left over gets
        what waits behind another's job. A job that no worker can do any more is refused.
        """
        for job in list(self._queue):
            if (why := self.refusal(job.assignment.model)) is not None:
                self._finish(job, Failure(kind=FailureKind.REFUSED, message=why))
                continue
            free = [slot for slot in self._slots if slot.has_room and job.assignment.model not in slot.left_out]
            if free:
                self._queue.remove(job)
                min(free, key=lambda slot: (len(slot.jobs), -slot.begun_at)).give(job)
        self._ask_back_for_idle()

    def _ask_back_for_idle(self) -> None:
        idle = [slot for slot in self._slots if slot.is_idle]
        wanted = len(idle) - sum(slot.is_asked for slot in self._slots)
        for slot in sorted(self._slots, key=lambda slot: slot.begun_at):
            waiting = slot.waiting
            if wanted <= 0 or waiting is None:
                continue
            if any(waiting.assignment.model not in other.left_out for other in idle):
                slot.ask_back(waiting)
                wanted -= 1

    def _ask_back(self, job: Job) -> None:
        """Nobody waits for it any more: if it waits in a worker, it need not be done there."""
        for slot in self._slots:
            slot.ask_back(job)

    def _note_left_out(self) -> None:
        """Log a model once when it is lost, and once when it is back."""
        able = [slot for slot in self._slots if slot.trouble is None]
        if not able:
            return
        left_out = {
            name: reason for name, reason in able[0].left_out.items() if all(name in slot.left_out for slot in able)
        }
        before, self.left_out = self.left_out, left_out
        for name, reason in left_out.items():
            if name not in before:
                log.error("model.left_out", extra={"model": name, "reason": reason})
        for name in before:
            if name not in left_out:
                log.info("model.back", extra={"model": name})

    def _finish(self, job: Job, outcome: Outcome) -> None:
        """Tell the outcome once; a job that was cancelled or has timed out before is not there any more."""
        if job.attempt_id in self._jobs:
            self._forget(job)
            self._on_finished(job.assignment, outcome)

    def _forget(self, job: Job) -> None:
        del self._jobs[job.attempt_id]
        if not self._jobs:
            self._idle.set()
        if job.timer is not None:
            job.timer.cancel()
        if job in self._queue:
            self._queue.remove(job)

    def _expire(self, job: Job) -> None:
        if job.started_at is None:
            # The picture is not to blame, so this must not count against it, and neither is a worker that has it
            # already: it is told to forget it. If it has begun it by then, its answer will be ignored.
            why = "no worker was free in the time that was left"
            self._finish(job, Failure(kind=FailureKind.REFUSED, message=why))
            self._ask_back(job)
            return
        why = "the worker had not finished when the attempt's time was over, so it was replaced"
        self._finish(job, Failure(kind=FailureKind.TIMED_OUT, message=why))
        for slot in self._slots:
            if job in slot.jobs:
                slot.kill(FailureKind.TIMED_OUT, why)

    async def _watch_memory(self) -> None:
        while True:
            await asyncio.sleep(self._plan.pace.memory_check_s)
            for slot in self._slots:
                used = _resident_bytes(slot.pid)
                if used is not None and used > self._memory_bytes:
                    limit = f"{self._memory_bytes // MIB} MiB (worker_memory_bytes)"
                    why = f"the worker used {used // MIB} MiB of memory, more than {limit}, so it was replaced"
                    slot.kill(FailureKind.WORKER_CRASHED, why)


def _resident_bytes(pid: int | None) -> int | None:
    if pid is None:
        return None
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:  # it has just ended
        return None
