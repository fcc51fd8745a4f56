"""One place for a worker: it is filled again, with a growing pause, whenever the worker in it ends."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from agents.frames import Done, Dropped, Failed, LogLine, Ready, Started, Unavailable, WorkerMessage
from agents.work import Job, Outcome
from agents.worker_process import Pace, WorkerProcess
from edgesched.domain.task import AttemptId, Failure, FailureKind
from edgesched.errors import InvalidInput
from edgesched.rest import WorkerReport

TASKS_PER_WORKER = 2
"""One in hand and the next one already there, so that a worker never waits for a picture."""

LATE_FACTOR = 5.0
USUAL_WEIGHT = 0.2
"""Of the newest picture in a worker's usual time."""

MAX_REASON_CHARS = 2_000

CRASHES_UNTIL_DOWN = 5
CRASH_WINDOW_S = 60.0

LOG_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

log = logging.getLogger(__name__)


class SlotState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    RESTARTING = "restarting"
    STOPPED = "stopped"  # it cannot work here, or crashes again and again; tried again now and then


UP = frozenset({SlotState.READY, SlotState.BUSY})


class SlotOwner(Protocol):
    """Who is told what happens in a slot. None of these may wait."""

    def holds(self, attempt_id: AttemptId) -> bool:
        """Whether somebody still waits for its outcome."""
        ...

    def finished(self, job: Job, outcome: Outcome) -> None: ...

    def came_back(self, jobs: Sequence[Job]) -> None:
        """The worker ended before it began these, or gave them back."""
        ...

    def changed(self) -> None:
        """There is room for work, or the slot's state is another one."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """How every worker of this board is started."""

    command: tuple[str, ...]  # interpreter and script
    models: tuple[Mapping[str, Any], ...]  # catalogue.Model.worker_spec
    threads: int = 1
    python_path: tuple[str, ...] = ()
    cache_dir: str = ""  # where engines that are built on this board are kept; empty: the worker's own choice
    min_service_ms: float | None = None  # emulated boards: no picture takes less
    pace: Pace = Pace()  # noqa: RUF009 - it is frozen

    def configure(self, slot: int) -> dict[str, Any]:
        return {
            "type": "configure",
            "models": list(self.models),
            "threads": self.threads,
            "slot": slot,
            "python_path": list(self.python_path),
            "cache_dir": self.cache_dir,
            "heartbeat_interval_ms": 1000,
        }

    def task(self, job: Job) -> dict[str, Any]:
        header: dict[str, Any] = {"type": "task", "attempt_id": job.attempt_id, "model": job.assignment.model}
        if self.min_service_ms is not None:
            header["min_service_ms"] = self.min_service_ms
        return header


class WorkerSlot:
    """Keeps one worker alive and knows what it has in hand: `jobs[0]` may have been started, the next one waits."""

    def __init__(self, index: int, name: str, plan: WorkerPlan, owner: SlotOwner) -> None:
        self.name = name
        self.state = SlotState.STARTING
        self.trouble: str | None = "its workers are still loading the models"
        """Why no work can be done here; None also while a crashed worker is about to be back."""
        self.jobs: deque[Job] = deque()
        self.busy_s = 0.0
        self.left_out: dict[str, str] = {}
        """Models that the worker could not load, each with the reason; of the last worker while there is none."""
        self._index = index
        self._plan = plan
        self._owner = owner
        self._worker: WorkerProcess | None = None
        self._outgoing: asyncio.Queue[Job | AttemptId] = asyncio.Queue()  # an id is asked back
        self._asked_back: set[AttemptId] = set()
        self._usual_s = 0.0  # per picture; 0 before the first one
        self._is_late = False
        self._late_timer: asyncio.TimerHandle | None = None
        self._cause: Failure | None = None  # why this daemon killed the present worker
        self._blamed: Job | None = None  # the job that the worker had begun then
        self._has_excuse = False  # the present worker said why it cannot work
        self._crashes: deque[float] = deque()
        self._restarts = 0
        self._last_exit_code: int | None = None

    @property
    def has_room(self) -> bool:
        is_able = self.state in UP and self._cause is None and not self._is_late
        return is_able and len(self.jobs) < TASKS_PER_WORKER

    @property
    def is_idle(self) -> bool:
        return self.has_room and not self.jobs

    @property
    def waiting(self) -> Job | None:
        """The job that waits here behind another one, unless it was asked back."""
        job = self.jobs[-1] if len(self.jobs) > 1 else None
        return None if job is None or job.attempt_id in self._asked_back else job

    @property
    def is_asked(self) -> bool:
        """Whether a job is about to come back from here. A late worker may be too stuck to answer."""
        return bool(self._asked_back) and not self._is_late

    @property
    def begun_at(self) -> float:
        """When the present job was begun; infinity if none is."""
        started = self._started_job()
        return math.inf if started is None or started.started_at is None else started.started_at

    @property
    def pid(self) -> int | None:
        return self._worker.pid if self._worker is not None and self._worker.exit_code is None else None

    def give(self, job: Job) -> None:
        self.jobs.append(job)
        self._outgoing.put_nowait(job)

    def ask_back(self, job: Job) -> None:
        """Have the worker give back a job that it has not begun; if it has begun it meanwhile, it keeps it."""
        if job in self.jobs and job.started_at is None and job.attempt_id not in self._asked_back:
            self._asked_back.add(job.attempt_id)
            self._outgoing.put_nowait(job.attempt_id)

    def kill(self, kind: FailureKind, why: str) -> None:
        """End the worker; the job that it had started fails with this."""
        if self._worker is not None and self._cause is None:
            self._cause, self._blamed = Failure(kind=kind, message=why), self._started_job()
            log.warning("worker.killed", extra={"worker": self.name, "pid": self._worker.pid, "why": why})
            self._worker.kill()

    def busy_until(self, now: float) -> float:
        """Seconds that its workers have worked since the agent started."""
        started = self._started_job()
        return self.busy_s + (now - (started.started_at or now) if started else 0.0)

    def report(self) -> WorkerReport:
        started = self._started_job()
        return WorkerReport(
            name=self.name,
            pid=self.pid,
            state=self.state,
            current_task=started.assignment.task_id if started else None,
            restarts=self._restarts,
            last_exit_code=self._last_exit_code,
        )

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                async with WorkerProcess.started(self._plan.command, self.name, self._plan.pace) as worker:
                    await self._live(worker)
                    pause_s = self._buried(await worker.wait())
            except OSError as error:
                self._stop_trying(f"{self._plan.command[0]} cannot be started as a worker: {error.strerror}")
                pause_s = self._plan.pace.longest_pause_s
            self._owner.changed()
            await asyncio.sleep(pause_s)
            self._restarts += 1

    async def _live(self, worker: WorkerProcess) -> None:
        self._worker, self._outgoing = worker, asyncio.Queue()
        self._cause, self._blamed, self._has_excuse = None, None, False
        feeder = asyncio.create_task(self._feed(worker), name=f"feeder of {self.name}")
        too_slow = asyncio.get_running_loop().call_later(self._plan.pace.start_timeout_s, self._give_up_start)
        try:
            async for message in worker.messages():
                self._on_message(message)
        except InvalidInput as error:
            log.error("worker.frame_refused", extra={"worker": self.name, "reason": str(error)})
            self.kill(FailureKind.WORKER_CRASHED, f"the worker broke the protocol: {error}")
        except asyncio.CancelledError:
            if self.state not in UP:
                worker.terminate()  # it still loads its models and would not hear "stop"
            raise
        finally:
            too_slow.cancel()
            feeder.cancel()
            await asyncio.wait({feeder})

    async def _feed(self, worker: WorkerProcess) -> None:
        try:
            await worker.send(self._plan.configure(self._index))
            while True:
                item = await self._outgoing.get()
                if isinstance(item, Job):
                    await worker.send(self._plan.task(item), item.picture)
                else:
                    await worker.send({"type": "drop", "attempt_id": item})
        except OSError:
            return  # it is dying; the reader sees the end of its frames

    def _give_up_start(self) -> None:
        if self.state not in UP:
            self.kill(
                FailureKind.TIMED_OUT, f"its models were not loaded within {self._plan.pace.start_timeout_s:.0f} s"
            )

    def _on_message(self, message: WorkerMessage) -> None:
        """Raises: InvalidInput if the worker speaks of a job that it does not have."""
        match message:
            case Ready():
                self.state, self.trouble = SlotState.READY, None
                self.left_out = self._missing(message)
                versions = " ".join(f"{name} {version}" for name, version in message.versions.items())
                extra = {"worker": self.name, "pid": message.pid, "python": message.python, "versions": versions}
                log.info("worker.ready", extra=extra)
                self._owner.changed()
            case Unavailable():
                log.error("worker.unavailable", extra={"worker": self.name, "reason": message.reason})
                self._has_excuse = True
                self._stop_trying(message.reason)
            case Started():
                self._begin(self._first_job(message.attempt_id))
                self._owner.changed()
            case Dropped():
                self._owner.came_back([self._dropped_job(message.attempt_id)])
                self._owner.changed()
            case Done():
                job = self._ended_job(message.attempt_id)
                queued_ms = ((job.started_at or job.arrived_at) - job.arrived_at) * 1000.0
                took_s = asyncio.get_running_loop().time() - (job.started_at or job.arrived_at)
                self._usual_s += (took_s - self._usual_s) * (USUAL_WEIGHT if self._usual_s else 1.0)
                self._owner.finished(job, message.result(queued_ms=queued_ms, transfer_ms=job.transfer_ms))
                self._owner.changed()
            case Failed():
                self._owner.finished(self._ended_job(message.attempt_id), message.failure())
                self._owner.changed()
            case LogLine():
                level = LOG_LEVELS.get(message.level, logging.INFO)
                log.log(level, "worker.logged", extra={"worker": self.name, "what": message.event, **_safe(message)})

    def _missing(self, ready: Ready) -> dict[str, str]:
        """What of the plan's models this worker does not run, and why."""
        given = (str(spec["name"]) for spec in self._plan.models)
        silent = "its worker did not say why it is not loaded"
        return {
            name: ready.unavailable_models.get(name, silent)[:MAX_REASON_CHARS]
            for name in given
            if name not in ready.models
        }

    def _begin(self, job: Job) -> None:
        loop = asyncio.get_running_loop()
        job.started_at = loop.time()
        self.state = SlotState.BUSY
        self._asked_back.discard(job.attempt_id)
        patience_s = max(self._plan.pace.late_after_s, LATE_FACTOR * self._usual_s)
        self._late_timer = loop.call_later(patience_s, self._be_late)

    def _be_late(self) -> None:
        """The present job may hang: what waits behind it may go to another worker, and nothing new comes here."""
        self._is_late = True
        if not self._owner.holds(self.jobs[0].attempt_id):  # asked back in the moment in which it was begun
            self.kill(FailureKind.TIMED_OUT, "it worked for too long on an attempt that nobody waits for any more")
        elif (job := self.waiting) is not None:
            self.ask_back(job)

    def _not_late(self) -> None:
        self._is_late = False
        if self._late_timer is not None:
            self._late_timer.cancel()

    def _started_job(self) -> Job | None:
        return self.jobs[0] if self.jobs and self.jobs[0].started_at is not None else None

    def _first_job(self, attempt_id: str) -> Job:
        if not self.jobs or self.jobs[0].attempt_id != attempt_id:
            raise InvalidInput(f"attempt {attempt_id!r} is not the one that is due")
        return self.jobs[0]

    def _ended_job(self, attempt_id: str) -> Job:
        job = self._first_job(attempt_id)
        if job.started_at is None:
            raise InvalidInput(f"attempt {attempt_id!r} has ended without a start")
        self.jobs.popleft()
        self._not_late()
        self.busy_s += asyncio.get_running_loop().time() - job.started_at
        self.state = SlotState.READY
        self._crashes.clear()
        return job

    def _dropped_job(self, attempt_id: str) -> Job:
        for job in self.jobs:
            if job.attempt_id == attempt_id and attempt_id in self._asked_back and job.started_at is None:
                self.jobs.remove(job)
                self._asked_back.discard(job.attempt_id)
                return job
        raise InvalidInput(f"attempt {attempt_id!r} was not asked back")

    def _stop_trying(self, reason: str) -> None:
        self.state, self.trouble = SlotState.STOPPED, reason

    def _buried(self, exit_code: int) -> float:
        """Settle what the dead worker had in hand. Returns the pause, in seconds, before the next one is started."""
        self._worker, self._last_exit_code = None, exit_code
        crash = self._cause or Failure(kind=FailureKind.WORKER_CRASHED, message=f"the worker {ending_of(exit_code)}")
        started = self._started_job()
        jobs = list(self.jobs)
        self.jobs.clear()
        self._asked_back.clear()
        self._not_late()
        if started is not None and started.started_at is not None:
            self.busy_s += asyncio.get_running_loop().time() - started.started_at
            if self._cause is None or started is self._blamed:
                jobs.remove(started)
                self._owner.finished(started, crash)
            else:  # begun while the kill for another job's sake was on its way
                started.started_at = None
        self._owner.came_back(jobs)
        if self._has_excuse:
            return self._plan.pace.longest_pause_s
        return self._pause_after_crash(crash.message)

    def _pause_after_crash(self, how: str) -> float:
        now = asyncio.get_running_loop().time()
        self._crashes.append(now)
        while self._crashes[0] < now - CRASH_WINDOW_S:
            self._crashes.popleft()
        count = len(self._crashes)
        extra = {"worker": self.name, "exit_code": self._last_exit_code, "how": how, "crashes": count}
        if count >= CRASHES_UNTIL_DOWN:
            log.error("worker.down", extra=extra)
            self._crashes.clear()
            self._stop_trying(f"worker {self.name} ended {count} times in a row, at last: {how}")
            return self._plan.pace.down_pause_s
        log.warning("worker.crashed", extra=extra)
        self.state = SlotState.RESTARTING
        return min(self._plan.pace.longest_pause_s, self._plan.pace.first_pause_s * 2.0 ** (count - 1))


def ending_of(exit_code: int) -> str:
    """`was killed by SIGSEGV` or `ended with exit code 4`."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was killed by signal {-exit_code}"


def _safe(message: LogLine) -> dict[str, object]:
    """A worker's fields under names that cannot clash with those of a log record."""
    return {f"worker_{name}": value for name, value in message.fields.items()}
