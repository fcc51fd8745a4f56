"""What becomes of workers that fail: restarts and their limits, zombies, deadly models; and that the others go on."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from edgesched.domain.task import FailureKind, Result
from tests.support.agent_parts import WITHIN_S, fake_plan
from tests.support.boards import Board, job, running


def states(board: Board) -> list[str]:
    return [report.state for report in board.supervisor.reports()]


async def reached(board: Board, *wanted: str) -> None:
    await board.until(lambda: states(board) == list(wanted))


@pytest.mark.parametrize("count", [1, 3])
async def test_so_many_workers_do_so_many_sleep_bound_pictures_at_once(count: int, tmp_path: Path) -> None:
    """Each picture waits until all of a round have been begun: fewer workers would never end the round."""
    async with running(workers=count) as board:
        await reached(board, *["ready"] * count)
        for round_ in range(3):
            for i in range(count):
                board.supervisor.submit(job(f"r{round_}-{i}", f"meet {tmp_path / f'round{round_}'} {count}"))
            for i in range(count):
                await board.labels(f"r{round_}-{i}")


async def test_a_worker_that_crashes_again_and_again_costs_its_neighbours_no_attempt() -> None:
    async with running(workers=3) as board:
        await reached(board, "ready", "ready", "ready")
        for i in range(60):
            board.supervisor.submit(job(f"good{i}", "slow 0.002"))
            if i % 6 == 0:
                board.supervisor.submit(job(f"bad{i}", "crash"))
        for i in range(60):
            await board.labels(f"good{i}")  # in its first attempt, the only one that there is
        for i in range(0, 60, 6):
            assert (await board.failure(f"bad{i}")).kind is FailureKind.WORKER_CRASHED
        assert sum(report.restarts for report in board.supervisor.reports()) <= 10
        assert sum(isinstance(outcome, Result) for outcome in board.outcomes.values()) == 60


async def test_without_auto_recovery_a_crashed_worker_stays_down_and_visible_until_it_is_started() -> None:
    async with running(workers=2, is_automatic=False) as board:
        await reached(board, "ready", "ready")
        board.supervisor.submit(job("bad", "exit 9"))
        await board.failure("bad")
        await board.until(lambda: "down" in states(board))
        (down,) = (report for report in board.supervisor.reports() if report.state == "down")
        assert down.reason is not None
        assert "exit code 9" in down.reason
        assert "enable_auto_recovery" in down.reason
        assert (down.pid, down.exit_codes) == (None, (9,))
        assert board.supervisor.unhealthy_reason is None, "the other worker works"
        for i in range(3):
            board.supervisor.submit(job(f"good{i}"))
            await board.labels(f"good{i}")
        await asyncio.wait_for(board.supervisor.control("start", down.name), WITHIN_S)
        await reached(board, "ready", "ready")


async def test_stop_all_on_failure_stops_the_board_when_one_worker_is_down() -> None:
    async with running(workers=2, stops_all=True, max_restarts=0) as board:
        await reached(board, "ready", "ready")
        board.supervisor.submit(job("bad", "exit 9"))
        await board.failure("bad")
        await board.until(lambda: sorted(states(board)) == ["down", "stopped"])
        reason = board.supervisor.unhealthy_reason
        assert reason is not None
        assert "exit code 9" in reason
        assert [report.pid for report in board.supervisor.reports()] == [None, None]
        await asyncio.wait_for(board.supervisor.control("start"), WITHIN_S)
        await reached(board, "ready", "ready")
        assert board.supervisor.unhealthy_reason is None


async def test_a_worker_with_work_that_shows_neither_progress_nor_cpu_time_is_replaced() -> None:
    async with running(fake_plan(check_s=0.02), workers=1, zombie_after_s=0.2) as board:
        board.supervisor.submit(job("stuck", "hang"))
        failure = await board.failure("stuck")
        assert failure.kind is FailureKind.TIMED_OUT
        assert "zombie_after_s" in failure.message
        board.supervisor.submit(job("good"))
        await board.labels("good")


async def test_a_frozen_worker_with_work_is_replaced_too() -> None:
    async with running(fake_plan(check_s=0.02), workers=1, zombie_after_s=0.2) as board:
        await reached(board, "ready")
        pid = board.supervisor.reports()[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        board.supervisor.submit(job("waits"))
        await board.labels("waits")  # it was never begun, so it costs no attempt
        assert board.supervisor.reports()[0].exit_codes == (-signal.SIGKILL,)


async def test_neither_an_idle_worker_nor_a_busy_one_is_taken_for_a_zombie(tmp_path: Path) -> None:
    """The worker that is proved to be replaced is the clock of this test."""
    gate = tmp_path / "gate"
    async with running(fake_plan(check_s=0.05), workers=3, zombie_after_s=1.0) as board:
        await reached(board, "ready", "ready", "ready")
        board.supervisor.submit(job("computes", f"spin {gate}"))
        for i in range(2):
            board.supervisor.submit(job(f"stuck{i}", "hang"))
            await board.failure(f"stuck{i}")
        gate.touch()
        await board.labels("computes")
        ended = [report.exit_codes for report in board.supervisor.reports()]
        assert ended[0] == ()
        assert sum(ended, ()) == (-signal.SIGKILL, -signal.SIGKILL)


async def test_a_worker_whose_program_computes_is_no_zombie(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running(fake_plan(check_s=0.05), workers=2, zombie_after_s=1.0) as board:
        await reached(board, "ready", "ready")
        board.supervisor.submit(job("program", f"program {gate}"))
        board.supervisor.submit(job("stuck", "hang"))
        await board.failure("stuck")
        gate.touch()
        await board.labels("program")
        assert board.supervisor.reports()[0].exit_codes == ()


async def test_a_model_that_kills_the_worker_that_loads_it_costs_only_that_model() -> None:
    models = ({"name": "deadly"}, {"name": "shapes"})
    async with running(replace(fake_plan(), models=models), workers=2) as board:
        await board.until(lambda: states(board) == ["ready", "ready"])
        (reason,) = board.supervisor.left_out.values()
        assert "SIGSEGV" in reason
        assert board.supervisor.unhealthy_reason is None
        assert [report.restarts for report in board.supervisor.reports()] == [2, 2]
        board.supervisor.submit(job("good"))
        await board.labels("good")
        board.supervisor.submit(job("bad", model="deadly"))
        assert (await board.failure("bad")).kind is FailureKind.REFUSED


async def test_several_deadly_models_do_not_add_up_to_a_worker_that_is_down() -> None:
    models = tuple({"name": name} for name in ("deadly-1", "deadly-2", "deadly-3", "deadly-4", "shapes"))
    async with running(replace(fake_plan(), models=models), max_restarts=2) as board:
        await reached(board, "ready")
        assert len(board.supervisor.left_out) == 4


async def test_a_model_that_is_never_loaded_is_blamed_as_well() -> None:
    models = ({"name": "shapes"}, {"name": "endless"})
    async with running(replace(fake_plan(start_timeout_s=0.3), models=models)) as board:
        await reached(board, "ready")
        assert "recovery_timeout_s" in board.supervisor.left_out["endless"]


async def test_a_board_whose_only_model_is_deadly_says_so_and_tries_again_later() -> None:
    async with running(replace(fake_plan(down_pause_s=600.0), models=({"name": "deadly"},))) as board:
        await reached(board, "down")
        reason = board.supervisor.unhealthy_reason
        assert reason is not None
        assert "SIGSEGV" in reason
        await asyncio.wait_for(board.supervisor.control("start"), WITHIN_S)
        await board.until(lambda: board.supervisor.reports()[0].restarts == 2)


async def test_reports_show_what_a_worker_takes(tmp_path: Path) -> None:
    async with running(fake_plan(check_s=0.02)) as board:
        await reached(board, "ready")
        gate = tmp_path / "gate"
        board.supervisor.submit(job("a", f"spin {gate}"))
        async with asyncio.timeout(WITHIN_S):
            while (report := board.supervisor.reports()[0]).cpu_used is None:
                await asyncio.to_thread(psutil.cpu_percent, 0.02)
        gate.touch()
        await board.labels("a")
        assert report.memory_bytes is not None
        assert report.memory_bytes > 1_000_000
        assert report.silent_s is not None
