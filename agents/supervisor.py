"""All workers of a board: which of them gets which picture, how long it may take, and whether the board can work."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from agents.work import Assignment, Job, Outcome
from agents.worker_logs import WorkerLogs
from agents.worker_orders import STOPPED_BY_OPERATOR, Action, SlotState
from agents.worker_plan import WorkerPlan
from agents.worker_slot import WorkerSlot
from agents.worker_state import WorkerStates
from agents.worker_watch import watch
from edgesched.domain.task import AttemptId, Failure, FailureKind
from edgesched.errors import Conflict, InvalidInput, NotKnown, PeerUnavailable
from edgesched.rest import WorkerReport

ORDER_SLACK_S = 10.0
"""How much longer than it may take an order may take, before whoever gave it hears that it is late."""

log = logging.getLogger(__name__)


class Supervisor:
    """Attempts in, outcomes out. Its queue is bounded by whoever submits."""

    def __init__(
        self,
        plan: WorkerPlan,
        *,
        names: Sequence[str],
        states: WorkerStates,
        logs: WorkerLogs,
        on_finished: Callable[[Assignment, Outcome], None],
        on_change: Callable[[], None],
    ) -> None:
        """names: of the workers. on_change: called when the board's health may be another one."""
        self._plan = plan
        self._states = states
        self.logs = logs
        self._on_finished = on_finished
        self._on_change = on_change
        self._slots = [WorkerSlot(i, name, plan, states.of(name), logs, self) for i, name in enumerate(names)]
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
            for slot in self._slots:
                slot.hold(self.unhealthy_reason or "")
        try:
            async with asyncio.TaskGroup() as tasks:
                for slot in self._slots:
                    tasks.create_task(slot.run(), name=f"worker {slot.name}")
                tasks.create_task(watch(self._slots, self._plan.rules, self._plan.pace.check_s), name="worker watch")
                tasks.create_task(self._states.run(), name="worker states")
        finally:
            self._states.write()

    async def control(self, action: str, worker: str | None = None) -> None:
        """Start, stop, restart or kill one worker, or all. Asked for twice, it is done once.

        Stop and restart let the picture that is in hand end, within its own time; kill does not, and its picture goes
        elsewhere. A worker that was stopped or killed stays so until it is started, also over a restart of the daemon.
        Returns when the worker of now has ended, or at once for a start: the reports say how that goes on.
        Raises: InvalidInput for another action; NotKnown; Conflict if it contradicts what is being carried out, or if
            there is nothing that a worker could run; PeerUnavailable if a worker does not end.
        """
        verb, slots = _action(action), self._chosen(worker)
        if not self._plan.models:
            raise Conflict(f"no worker can run on this board: {self.unhealthy_reason}")
        for slot in slots:
            slot.check(verb)
        now = asyncio.get_running_loop().time()
        pace = self._plan.pace
        latest = max((job.deadline_at for slot in slots for job in slot.hand.jobs), default=now)
        bound_s = max(0.0, latest - now) + pace.stop_wait_s + pace.terminate_wait_s + ORDER_SLACK_S
        waits = [slot.obey(verb) for slot in slots]
        try:
            async with asyncio.timeout(bound_s):
                for done in waits:
                    await done.wait()
        except TimeoutError:
            raise PeerUnavailable(
                f"{worker or 'a worker of this board'} has not ended within {bound_s:.0f} s: look at its state and log"
            ) from None

    @property
    def unhealthy_reason(self) -> str | None:
        """Why this board can do no work, for people; None if it can."""
        if not self._plan.models:
            reasons = "; ".join(self._plan.left_out.values())
            return "no model in models_dir has a build that this board can run" + (f": {reasons}" if reasons else "")
        troubles = [slot.trouble for slot in self._slots]
        if None in troubles:
            return None
        return next((trouble for trouble in troubles if trouble != STOPPED_BY_OPERATOR), STOPPED_BY_OPERATOR)

    def refusal(self, model: str) -> str | None:
        """Why no worker can run this model, for people; None if one can."""
        reason = self.left_out.get(model) or self._plan.left_out.get(model)
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
        return sum(slot.hand.busy_until(now) for slot in self._slots)

    # --- what the slots tell ---

    def finished(self, job: Job, outcome: Outcome) -> None:
        self._finish(job, outcome)

    def came_back(self, jobs: Sequence[Job]) -> None:
        self._queue.extendleft(job for job in reversed(jobs) if job.attempt_id in self._jobs)

    def moved(self) -> None:
        self._hand_out()

    def changed(self) -> None:
        if all(slot.state is not SlotState.STARTING for slot in self._slots):
            self.settled.set()
        self._note_left_out()
        reason = self.unhealthy_reason
        if reason is not None and self._queue:
            self.hand_back(f"the board cannot work: {reason}")
        self._hand_out()
        self._on_change()

    def recorded(self) -> None:
        self._states.changed()

    def failed(self, worker: str, reason: str) -> None:
        if not self._plan.rules.stops_all:
            return
        for slot in self._slots:
            if slot.name != worker and slot.state is not SlotState.STOPPED:
                slot.hold(f"all workers were stopped because one failed (stop_all_on_failure): {reason}")

    # --- inside ---

    def _chosen(self, worker: str | None) -> list[WorkerSlot]:
        chosen = [slot for slot in self._slots if worker in (None, slot.name)]
        if not chosen:
            there_are = ", ".join(slot.name for slot in self._slots)
            raise NotKnown(f"worker {worker!r} is not on this board; there are: {there_are}")
        return chosen

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
                min(free, key=lambda slot: (len(slot.hand.jobs), -slot.hand.begun_at)).hand.give(job)
        self._ask_back_for_idle()

    def _ask_back_for_idle(self) -> None:
        hands = [slot.hand for slot in self._slots]
        if not any(len(hand.jobs) > 1 for hand in hands):  # as a rule: this is asked thrice per picture
            return
        idle = [slot for slot in self._slots if slot.is_idle]
        wanted = len(idle) - sum(hand.asked_count for hand in hands)
        if wanted <= 0:
            return
        for hand in sorted(hands, key=lambda hand: hand.begun_at):
            waiting = hand.waiting
            if wanted <= 0 or not waiting:
                continue
            if any(waiting[-1].assignment.model not in other.left_out for other in idle):
                hand.ask_back(waiting[-1])
                wanted -= 1

    def _ask_back(self, job: Job) -> None:
        """Nobody waits for it any more: if it waits in a worker, it need not be done there."""
        for slot in self._slots:
            slot.hand.ask_back(job)

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
            if job in slot.hand.begun:
                slot.kill(FailureKind.TIMED_OUT, why)


def _action(name: str) -> Action:
    try:
        return Action(name)
    except ValueError:
        raise InvalidInput(f"{name!r} cannot be done to a worker: use {', '.join(Action)}") from None
