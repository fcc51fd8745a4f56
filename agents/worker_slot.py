"""One place for a worker: it is filled again, with a growing pause, whenever the worker in it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from agents.frames import Done, Dropped, Failed, Loading, LogLine, Pulse, Ready, Started, Unavailable, WorkerMessage
from agents.recovery import Recovery
from agents.work import Job
from agents.worker_hand import Hand
from agents.worker_logs import MAX_LINE_CHARS, WorkerLogs
from agents.worker_orders import (
    CONTRADICTIONS,
    STILL_LOADING,
    STOPPED_BY_OPERATOR,
    UP,
    Action,
    Order,
    SlotOwner,
    SlotState,
)
from agents.worker_plan import MAX_REASON_CHARS, WorkerPlan
from agents.worker_process import WorkerProcess, ending_of
from agents.worker_state import WorkerRecord
from agents.worker_watch import Usage
from edgesched.domain.task import Failure, FailureKind
from edgesched.errors import Conflict, InvalidInput
from edgesched.rest import WorkerReport

log = logging.getLogger(__name__)


class WorkerSlot:
    """Keeps one worker alive, or stopped, and speaks with it."""

    def __init__(
        self, index: int, name: str, plan: WorkerPlan, record: WorkerRecord, logs: WorkerLogs, owner: SlotOwner
    ) -> None:
        self.name = name
        self.trouble: str | None = STILL_LOADING
        """Why no work can be done here; None also while a crashed worker is about to be back."""
        self.left_out: dict[str, str] = {}
        """Models that the worker could not load, each with the reason; of the last worker while there is none."""
        self.progress = 0
        """Counts whatever shows that the worker gets on with its work; a heartbeat does not."""
        self.usage: Usage | None = None
        self._batches: dict[str, int] = {}
        self.hand = Hand(plan.pace.late_after_s, self._be_late)
        self._index = index
        self._plan = plan
        self._record = record
        self._logs = logs
        self._owner = owner
        self._state = SlotState.STARTING
        self._order = Order.RUN
        self._obeyed = asyncio.Event()  # the present order, if it is not to run
        self._woken = asyncio.Event()  # ends a pause
        self._listening: asyncio.Timeout | None = None  # to the present worker; it expires when the worker has to leave
        self._worker: WorkerProcess | None = None
        self._cause: Failure | None = None  # why this daemon killed the present worker
        self._blamed: Sequence[Job] = ()  # the jobs that the worker had begun then
        self._has_excuse = False  # the present worker said why it cannot work
        self._has_run = False
        self._last_line = ""  # that the present worker has printed
        self._heard_at = 0.0  # the present worker, whatever it said
        self._recovery = Recovery(plan.rules, plan.pace)
        self._blame = self._recovery.blame
        if record.is_stopped:
            self._order, self._state, self.trouble = Order.STOP, SlotState.STOPPED, STOPPED_BY_OPERATOR

    @property
    def state(self) -> SlotState:
        return SlotState.STOPPING if self._order is not Order.RUN and self._worker else self._state

    @property
    def has_room(self) -> bool:
        return self.state in UP and self._cause is None and self.hand.has_room

    @property
    def is_idle(self) -> bool:
        return self.has_room and not self.hand.jobs

    @property
    def pid(self) -> int | None:
        return self._worker.pid if self._worker is not None and self._worker.exit_code is None else None

    def kill(self, kind: FailureKind, why: str) -> None:
        """End the worker; the job that it had begun fails with this."""
        if self._worker is not None and self._cause is None:
            self._cause, self._blamed = Failure(kind=kind, message=why), tuple(self.hand.begun)
            log.warning("worker.killed", extra={"worker": self.name, "pid": self._worker.pid, "why": why})
            self._worker.kill()

    def report(self) -> WorkerReport:
        begun = self.hand.begun
        codes = self._record.exit_codes
        return WorkerReport(
            name=self.name,
            pid=self.pid,
            state=self.state,
            reason=self.trouble,
            current_task=begun[0].assignment.task_id if begun else None,
            restarts=self._record.restarts,
            last_exit_code=codes[-1] if codes else None,
            exit_codes=tuple(codes),
            batches=self._batches,
            memory_bytes=self.usage.memory_bytes if self.usage else None,
            cpu_used=self.usage.cpu_used if self.usage else None,
            silent_s=asyncio.get_running_loop().time() - self._heard_at if self._worker is not None else None,
        )

    # --- orders ---

    def check(self, action: Action) -> None:
        """Raises: Conflict if this contradicts an order that is being carried out."""
        if not self._obeyed.is_set() and (self._order, action) in CONTRADICTIONS and self._worker is not None:
            verb = "stopped" if self._order is Order.STOP else "restarted"
            raise Conflict(f"worker {self.name} is being {verb}: wait until that is done, or kill it")

    def obey(self, action: Action) -> asyncio.Event:
        """Returns what is set when it is done: at once for a start, else when the worker of now has ended."""
        self._record.is_stopped = action in (Action.STOP, Action.KILL)
        if action is Action.KILL:
            self.kill(FailureKind.REFUSED, "an operator killed the worker that had it")
        if self._record.is_stopped:
            return self.hold(STOPPED_BY_OPERATOR)
        self._recovery.begin_anew()
        if action is Action.RESTART and self._worker is not None:
            self._leave(Order.RESTART)
            return self._obeyed
        return self._start()

    def hold(self, reason: str) -> asyncio.Event:
        """Let no worker run from here on, until somebody starts it. Returns what is set when none does."""
        self.trouble = reason
        self._leave(Order.STOP)
        self._woken.set()
        return self._obeyed

    def _start(self) -> asyncio.Event:
        if self._worker is None:
            self._order, self._state = Order.RUN, SlotState.STARTING
            self.trouble = self.trouble and STILL_LOADING  # one that had crashed was about to be back anyway
            self._woken.set()
            self._tell()
        if self._order is Order.RUN:
            self._obeyed.set()
        return self._obeyed

    def _leave(self, order: Order) -> None:
        """End the worker when it has done what it has in hand. Saying it twice changes nothing."""
        if order is not self._order:
            if self._order is Order.RUN:
                self._obeyed = asyncio.Event()
            self._order = order
            self._say(f"told to {order}")
            log.info("worker.told", extra={"worker": self.name, "order": order, "why": self.trouble})
            self.hand.ask_back(*self.hand.waiting)
            if self.hand.jobs:  # a worker that answers nothing is not waited for any longer than these may take
                latest = max(job.deadline_at for job in self.hand.jobs)
                asyncio.get_running_loop().call_at(latest, self._hang_up, self._worker)
            self._hang_up_if_done()
        self._tell()

    def _hang_up_if_done(self) -> None:
        if self._order is not Order.RUN and not self.hand.jobs and self._cause is None:
            self._hang_up(self._worker)

    def _hang_up(self, worker: WorkerProcess | None) -> None:
        """Listen no more to this worker; then it is ended."""
        if self._listening is not None and worker is self._worker:
            self._listening.reschedule(asyncio.get_running_loop().time())
            self._listening = None

    def _tell(self) -> None:
        self._record.pid, self._record.state = self.pid, self.state
        self._owner.recorded()
        self._owner.changed()

    def _say(self, text: str) -> None:
        self._logs.append(self.name, "agent", text)

    # --- the worker's life ---

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                while self._order is Order.STOP:
                    self._rest()
                    await self._woken.wait()
                pause_s = await self._lifetime()
                self._tell()
                await self._pause(pause_s)
        finally:
            self._obeyed.set()
            self._record.pid, self._record.state = self.pid, SlotState.STOPPED

    def _rest(self) -> None:
        self._woken.clear()
        if self._state is not SlotState.DOWN or self._record.is_stopped:
            self._state = SlotState.STOPPED
        self._obeyed.set()
        self._tell()

    async def _pause(self, pause_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._woken.wait()

    async def _lifetime(self) -> float:
        """One worker from its start to its end. Returns the pause, in seconds, before the next one is started."""
        self._woken.clear()
        plan = self._plan
        if all(str(spec["name"]) in self._blame.reasons for spec in plan.models):
            reason = "; ".join(self._blame.reasons.values())[:MAX_REASON_CHARS]
            self._blame.forget()
            return self._down(reason, plan.pace.down_pause_s)
        self._record.restarts += self._has_run
        self._has_run = True
        self._last_line = ""
        try:
            async with WorkerProcess.started(plan.command, self.name, plan.pace, self._printed) as worker:
                await self._live(worker)
                if self._order is not Order.RUN and self._cause is None:
                    await worker.end()
                exit_code = await worker.wait()
        except OSError as error:
            reason = f"{plan.command[0]} cannot be started as a worker: {error.strerror}"
            return self._down(reason, plan.pace.longest_pause_s)
        return self._buried(exit_code)

    def _printed(self, text: str) -> None:
        self._logs.printed(self.name, text)
        self._last_line = next(filter(None, map(str.strip, reversed(text.splitlines()))), self._last_line)

    async def _live(self, worker: WorkerProcess) -> None:
        self._worker, self._heard_at = worker, asyncio.get_running_loop().time()
        self._cause, self._blamed, self._has_excuse = None, (), False
        self._say(f"started as process {worker.pid}")
        self._tell()
        feeder = asyncio.create_task(self._feed(worker), name=f"feeder of {self.name}")
        too_slow = asyncio.get_running_loop().call_later(self._plan.pace.start_timeout_s, self._give_up_start)
        try:
            async with asyncio.timeout(None) as self._listening:
                self._hang_up_if_done()
                await worker.listen(self._on_message)
        except InvalidInput as error:
            log.error("worker.frame_refused", extra={"worker": self.name, "reason": str(error)})
            self.kill(FailureKind.WORKER_CRASHED, f"the worker broke the protocol: {error}")
        except (TimeoutError, asyncio.CancelledError) as told:
            if self._state not in UP:
                worker.terminate()  # it still loads its models and would not hear "stop"
            if not isinstance(told, TimeoutError):
                raise
        finally:
            self._listening = None
            too_slow.cancel()
            feeder.cancel()
            await asyncio.wait({feeder})

    async def _feed(self, worker: WorkerProcess) -> None:
        outgoing = self.hand.outgoing
        try:
            await worker.send(self._plan.configure(self._index, without=self._blame.reasons))
            while True:
                item = await outgoing.get()
                if isinstance(item, Job):
                    await worker.send(self._plan.task(item), item.picture)
                else:
                    await worker.send({"type": "drop", "attempt_id": item})
        except OSError:
            return  # it is dying; the reader sees the end of its frames

    def _give_up_start(self) -> None:
        if self._state in UP:
            return
        reason = f"its models were not loaded within {self._plan.pace.start_timeout_s:.0f} s (recovery_timeout_s)"
        if self._order is Order.RUN:
            self.trouble = reason
        self.kill(FailureKind.TIMED_OUT, reason)

    def _be_late(self) -> None:
        """The present jobs may hang: what waits behind them may go to another worker, and nothing new comes here.

        A batch gets half of the time that is left for it, so that its pictures can still be tried one by one.
        """
        begun = self.hand.begun
        if not any(self._owner.holds(job.attempt_id) for job in begun):  # asked back when they were just begun
            self.kill(FailureKind.TIMED_OUT, "it worked for too long on an attempt that nobody waits for any more")
            return
        self.hand.ask_back(*self.hand.waiting)
        if self.hand.begun_together > 1:
            latest = (self.hand.begun_at + min(job.deadline_at for job in begun)) / 2
            asyncio.get_running_loop().call_at(latest, self._give_up_batch, begun[0])

    def _give_up_batch(self, job: Job) -> None:
        if job in self.hand.begun:
            self.kill(FailureKind.TIMED_OUT, "it did not finish a batch, so it was replaced")

    # --- what the worker says ---

    def _on_message(self, message: WorkerMessage) -> None:
        """Raises: InvalidInput if the worker speaks of a job that it does not have."""
        self._heard_at = asyncio.get_running_loop().time()
        self.progress += not isinstance(message, Pulse)
        match message:
            case Loading():
                self._blame.begins(message.model)
                self._say(f"loads model {message.model}")
            case Ready():
                self._be_ready(message)
            case Unavailable():
                log.error("worker.unavailable", extra={"worker": self.name, "reason": message.reason})
                self._blame.is_over()
                self._has_excuse = True
                self._state = SlotState.DOWN
                self.trouble = self.trouble if self._order is Order.STOP else message.reason
            case Started():
                self.hand.begin(message.attempt_id)
                self._state = SlotState.BUSY
                self._owner.moved()
            case Dropped():
                self._owner.came_back([self.hand.drop(message.attempt_id)])
                self._owner.changed()  # it may be that nobody can do the job any more
                self._hang_up_if_done()
            case Done():
                job, begun_at = self.hand.end(message.attempt_id, is_usual=True)
                queued_ms = (begun_at - job.arrived_at) * 1000.0
                self._prove_able()
                self._owner.finished(job, message.result(queued_ms=queued_ms, transfer_ms=job.transfer_ms))
                self._freed()
            case Failed():
                job, _ = self.hand.end(message.attempt_id, is_usual=False)
                self._prove_able()
                self._owner.finished(job, message.failure())
                self._freed()
            case LogLine():
                self._logs.logged(self.name, message.level, message.event, message.fields)

    def _be_ready(self, message: Ready) -> None:
        self._blame.is_over()
        self._state = SlotState.READY
        if self._order is not Order.STOP:
            self.trouble = None
        self.hand.largest_batch = message.largest_batch
        self._batches = {model: batches.largest for model, batches in message.batches.items()}
        self.left_out = self._plan.missing(message.models, message.unavailable_models | self._blame.reasons)
        versions = " ".join(
            f"{name} {version}" for name, version in {"python": message.python, **message.versions}.items()
        )
        batches = {model: str(batches) for model, batches in message.batches.items()}
        extra = {"worker": self.name, "pid": message.pid, "versions": versions}
        log.info("worker.ready", extra={**extra, "batches": batches} if batches else extra)
        self._say("; ".join([f"ready: {versions}", *(f"{model}: {told}" for model, told in batches.items())]))
        self._tell()

    def _prove_able(self) -> None:
        self._state = SlotState.READY
        self._recovery.worked()

    def _freed(self) -> None:
        self._owner.moved()
        self._hang_up_if_done()

    # --- its end ---

    def _buried(self, exit_code: int) -> float:
        """Settle what the dead worker had in hand. Returns the pause, in seconds, before the next one is started."""
        self._worker = None
        self._record.ended(exit_code)
        how = f"the worker {ending_of(exit_code)}"
        if exit_code > 0 and self._state not in UP and self._last_line:  # it knew why; a signal comes from without
            how += f": {self._last_line[:MAX_LINE_CHARS]}"
        self._say(f"{self._cause.message}: {how}" if self._cause else how)
        crash = self._cause or Failure(kind=FailureKind.WORKER_CRASHED, message=how)
        self._owner.came_back(self._innocent(crash))
        if self._order is not Order.RUN:
            return self._obey()
        if self._has_excuse:
            return self._down(self.trouble or how, self._plan.pace.longest_pause_s)
        return self._pause_after_crash(exit_code, crash.message)

    def _innocent(self, crash: Failure) -> Sequence[Job]:
        """Tell the outcome of the jobs that are to blame for the worker's death. Returns the others, to be done again.

        Of those that were begun together one is to blame, and nobody knows which: each is tried again alone, and only
        then one that kills its worker pays for it.
        """
        together = self.hand.begun_together
        begun, others = self.hand.empty()
        innocent = []
        for job in begun:
            if self._cause is not None and job not in self._blamed:
                innocent.append(job)  # begun while the kill for another job's sake was on its way
            elif together > 1 and not job.is_alone and crash.kind is not FailureKind.REFUSED:
                job.is_alone = True
                innocent.append(job)
            else:
                self._owner.finished(job, crash)
        for job in innocent:
            job.started_at = None
        return [*innocent, *others]

    def _obey(self) -> float:
        """The worker has left, as it was told."""
        self._blame.is_over()
        self._state = SlotState.STOPPED if self._order is Order.STOP else SlotState.RESTARTING
        if self._order is Order.RESTART:
            self._order, self.trouble = Order.RUN, None
            self._obeyed.set()
        return 0.0

    def _pause_after_crash(self, exit_code: int, how: str) -> float:
        verdict = self._recovery.died(asyncio.get_running_loop().time(), how)
        extra = {"worker": self.name, "exit_code": exit_code, "how": how, "deaths": verdict.deaths}
        if not verdict.is_down:
            log.warning("worker.crashed", extra={**extra, "blamed_model": verdict.blamed_model})
            self._state = SlotState.RESTARTING if self.trouble is None else SlotState.STARTING
            return verdict.pause_s or 0.0
        log.error("worker.down", extra=extra)
        times = f"ended {verdict.deaths} times in a row, at last" if verdict.deaths > 1 else "ended"
        return self._down(f"worker {self.name} {times}: {how}", verdict.pause_s)

    def _down(self, reason: str, pause_s: float | None) -> float:
        """No worker can work here.

        pause_s: before the next try; None: somebody has to start it. Returns the pause for `run`.
        """
        if not self._plan.rules.is_automatic:
            reason, pause_s = f"{reason}; it is not tried again by itself (enable_auto_recovery is off): start it", None
        self._state, self.trouble = SlotState.DOWN, reason
        if pause_s is None:
            if self._order is Order.RUN:
                self.hold(reason)
            self._owner.failed(self.name, reason)
        return pause_s or 0.0
