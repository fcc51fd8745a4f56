"""The workers of a board under the real supervisor, without the rest of the daemon."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents.supervisor import Supervisor
from agents.work import Assignment, Job, Outcome
from agents.worker_logs import WorkerLogs
from agents.worker_plan import Rules, WorkerPlan
from agents.worker_state import WorkerStates
from edgesched.domain.task import AttemptId, Failure, Result, TaskId
from tests.support.agent_parts import WITHIN_S, fake_plan


def job(attempt: str, text: str = "label", *, remaining_s: float = 60.0, model: str = "shapes") -> Job:
    now = asyncio.get_running_loop().time()
    assignment = Assignment(
        ledger_id="ledger",
        task_id=TaskId(f"task-{attempt}"),
        attempt_id=AttemptId(attempt),
        model=model,
        file_name=f"{attempt}.jpg",
        receiver_url=None,
    )
    picture = [text.encode()]
    return Job(
        assignment=assignment,
        picture=picture,
        size_bytes=len(text),
        arrived_at=now,
        deadline_at=now + remaining_s,
        transfer_ms=1.5,
    )


class _Telling(Supervisor):
    """Also tells of jobs that were begun or ended."""

    def moved(self) -> None:
        super().moved()
        self._on_change()


class Board:
    """A supervisor, and what it told."""

    def __init__(self, plan: WorkerPlan, count: int, workspace: Path) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self._changed = asyncio.Event()
        self.supervisor = _Telling(
            plan,
            names=[f"board-{i}" for i in range(count)],
            states=WorkerStates.read(workspace / "workers.json"),
            logs=WorkerLogs(workspace / "logs"),
            on_finished=self._note,
            on_change=self._changed.set,
        )

    def _note(self, assignment: Assignment, outcome: Outcome) -> None:
        assert assignment.attempt_id not in self.outcomes, "an attempt has one outcome"
        self.outcomes[assignment.attempt_id] = outcome
        self._changed.set()

    async def changed(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not is_so():
                self._changed.clear()
                await self._changed.wait()

    async def outcome(self, attempt: str) -> Outcome:
        await self.until(lambda: attempt in self.outcomes)
        return self.outcomes[attempt]

    async def failure(self, attempt: str) -> Failure:
        outcome = await self.outcome(attempt)
        assert isinstance(outcome, Failure), outcome
        return outcome

    async def labels(self, attempt: str) -> Result:
        outcome = await self.outcome(attempt)
        assert isinstance(outcome, Result), outcome
        return outcome


@asynccontextmanager
async def running(
    plan: WorkerPlan | None = None, *, workers: int = 1, workspace: Path | None = None, **rules: Any
) -> AsyncIterator[Board]:
    """rules: fields of Rules."""
    with tempfile.TemporaryDirectory() as made:
        board = Board(replace(plan or fake_plan(), rules=Rules(**rules)), workers, workspace or Path(made))
        task = asyncio.create_task(board.supervisor.run())
        try:
            async with asyncio.timeout(WITHIN_S):
                await board.supervisor.settled.wait()
            yield board
        finally:
            task.cancel()
            await asyncio.wait({task}, timeout=WITHIN_S)
    assert task.cancelled()
