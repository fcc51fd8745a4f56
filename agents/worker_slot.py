"""One place for a worker: it is filled again, with a growing pause, whenever the worker in it ends."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from agents.frames import Done, Failed, LogLine, Ready, Started, Unavailable, WorkerMessage
from agents.work import Job, Outcome
from agents.worker_process import Pace, WorkerProcess
from edgesched.domain.task import Failure, FailureKind
from edgesched.errors import InvalidInput
from edgesched.rest import WorkerReport

TASKS_PER_WORKER = 2
"""One in hand and the next one already there, so that a worker never waits for a picture."""

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

    def finished(self, job: Job, outcome: Outcome) -> None: ...

    def came_back(self, jobs: Sequence[Job]) -> None:
        """The worker ended before it began these."""
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
    min_service_ms: float | None = None  # emulated boards: no picture takes less
    pace: Pace = Pace()  # noqa: RUF009 - it is frozen

    def configure(self, slot: int) -> dict[str, Any]:
        return {
            "type": "configure",
            "models": list(self.models),
            "threads": self.threads,
            "slot": slot,
            "python_path": list(self.python_path),
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
        self._index = index
        self._plan = plan
        self._owner = owner
        self._worker: WorkerProcess | None = None
        self._outgoing: asyncio.Queue[Job] = asyncio.Queue()
        self._cause: Failure | None = None  # why this daemon killed the present worker
        self._blamed: Job | None = None  # the job that the worker had begun then
        self._has_excuse = False  # the present worker said why it cannot work
        self._crashes: deque[float] = deque()
        self._restarts = 0
        self._last_exit_code: int | None = None

    @property
    def has_room(self) -> bool:
        return self.state in UP and self._cause is None and len(self.jobs) < TASKS_PER_WORKER

    @property
    def pid(self) -> int | None:
        return self._worker.pid if self._worker is not None and self._worker.exit_code is None else None

    def give(self, job: Job) -> None:
        self.jobs.append(job)
        self._outgoing.put_nowait(job)

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
                job = await self._outgoing.get()
                await worker.send(self._plan.task(job), job.picture)
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
                versions = " ".join(f"{name} {version}" for name, version in message.versions.items())
                extra = {"worker": self.name, "pid": message.pid, "python": message.python, "versions": versions}
                log.info("worker.ready", extra=extra)
                self._owner.changed()
            case Unavailable():
                log.error("worker.unavailable", extra={"worker": self.name, "reason": message.reason})
                self._has_excuse = True
                self._stop_trying(message.reason)
            case Started():
                job = self._first_job(message.attempt_id)
                job.started_at = asyncio.get_running_loop().time()
                self.state = SlotState.BUSY
                self._owner.changed()
            case Done():
                job = self._ended_job(message.attempt_id)
                queued_ms = ((job.started_at or job.arrived_at) - job.arrived_at) * 1000.0
                self._owner.finished(job, message.result(queued_ms=queued_ms, transfer_ms=job.transfer_ms))
                self._owner.changed()
            case Failed():
                self._owner.finished(self._ended_job(message.attempt_id), message.failure())
                self._owner.changed()
            case LogLine():
                level = LOG_LEVELS.get(message.level, logging.INFO)
                log.log(level, "worker.logged", extra={"worker": self.name, "what": message.event, **_safe(message)})

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
        self.busy_s += asyncio.get_running_loop().time() - job.started_at
        self.state = SlotState.READY
        self._crashes.clear()
        return job

    def _stop_trying(self, reason: str) -> None:
        self.state, self.trouble = SlotState.STOPPED, reason

    def _buried(self, exit_code: int) -> float:
        """Settle what the dead worker had in hand. Returns the pause, in seconds, before the next one is started."""
        self._worker, self._last_exit_code = None, exit_code
        crash = self._cause or Failure(kind=FailureKind.WORKER_CRASHED, message=f"the worker {ending_of(exit_code)}")
        started = self._started_job()
        jobs = list(self.jobs)
        self.jobs.clear()
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
