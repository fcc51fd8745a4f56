"""What operators may do to a board's workers, and what these say about themselves."""

from __future__ import annotations

import asyncio
import json
import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from agents.worker_orders import STOPPED_BY_OPERATOR
from edgesched.domain.task import FailureKind
from edgesched.errors import Conflict, InvalidInput, NotKnown
from tests.support.agent_parts import WITHIN_S, fake_plan
from tests.support.boards import Board, job, running


def states(board: Board) -> list[str]:
    return [report.state for report in board.supervisor.reports()]


def pids(board: Board) -> list[int | None]:
    return [report.pid for report in board.supervisor.reports()]


async def ready(board: Board, *wanted: str) -> None:
    await board.until(lambda: states(board) == list(wanted))


async def control(board: Board, action: str, worker: str | None = None) -> None:
    async with asyncio.timeout(WITHIN_S):
        await board.supervisor.control(action, worker)


async def test_a_stopped_worker_stays_stopped_and_visible_and_the_others_do_its_work() -> None:
    async with running(workers=2) as board:
        await ready(board, "ready", "ready")
        pid = pids(board)[0]
        await control(board, "stop", "board-0")
        assert states(board) == ["stopped", "ready"]
        assert pid is not None
        assert not psutil.pid_exists(pid)
        assert board.supervisor.unhealthy_reason is None
        for i in range(5):
            board.supervisor.submit(job(f"a{i}"))
        for i in range(5):
            await board.labels(f"a{i}")
        assert states(board)[0] == "stopped"
        assert board.supervisor.reports()[0].exit_codes == (0,)


async def test_a_stop_lets_the_picture_in_hand_end_and_hands_the_next_one_on(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running(workers=2) as board:
        await ready(board, "ready", "ready")
        for name in ("first", "other"):
            board.supervisor.submit(job(name, f"wait {gate}"))
        board.supervisor.submit(job("behind", "label"))
        await ready(board, "busy", "busy")
        stopping = asyncio.create_task(board.supervisor.control("stop", "board-0"))
        await ready(board, "stopping", "busy")
        assert not stopping.done()
        gate.touch()
        for name in ("first", "other", "behind"):
            await board.labels(name)
        await asyncio.wait_for(stopping, WITHIN_S)
        assert states(board)[0] == "stopped"
        assert board.supervisor.reports()[0].restarts == 0


async def test_a_stop_waits_no_longer_than_the_picture_may_take() -> None:
    async with running() as board:
        board.supervisor.submit(job("hung", "hang", remaining_s=0.2))
        await ready(board, "busy")
        await control(board, "stop")
        assert (await board.failure("hung")).kind is FailureKind.TIMED_OUT
        assert states(board) == ["stopped"]


async def test_a_board_whose_workers_are_all_stopped_is_unhealthy_and_hands_its_queue_back(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running() as board:
        for name in ("begun", "next", "queued"):
            board.supervisor.submit(job(name, f"wait {gate}"))
        await ready(board, "busy")
        stopping = asyncio.create_task(board.supervisor.control("stop"))
        for name in ("next", "queued"):
            assert (await board.failure(name)).kind is FailureKind.REFUSED
        assert board.supervisor.unhealthy_reason == STOPPED_BY_OPERATOR
        gate.touch()
        await board.labels("begun")
        await asyncio.wait_for(stopping, WITHIN_S)
        await control(board, "start")
        await ready(board, "ready")
        assert board.supervisor.unhealthy_reason is None
        board.supervisor.submit(job("again"))
        await board.labels("again")


async def test_a_killed_worker_ends_at_once_its_picture_goes_elsewhere_and_it_stays_stopped() -> None:
    async with running() as board:
        board.supervisor.submit(job("hung", "hang"))
        await ready(board, "busy")
        await control(board, "kill", "board-0")
        failure = await board.failure("hung")
        assert failure.kind is FailureKind.REFUSED, "the picture is not to blame"
        assert states(board) == ["stopped"]
        assert board.supervisor.reports()[0].exit_codes == (-signal.SIGKILL,)


async def test_a_kill_cuts_a_stop_short() -> None:
    async with running() as board:
        board.supervisor.submit(job("hung", "hang"))
        await ready(board, "busy")
        stopping = asyncio.create_task(board.supervisor.control("stop"))
        await ready(board, "stopping")
        await control(board, "kill")
        await asyncio.wait_for(stopping, WITHIN_S)
        assert states(board) == ["stopped"]


async def test_a_restart_gives_a_new_process_after_the_picture_in_hand_and_loses_nothing(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running() as board:
        board.supervisor.submit(job("begun", f"wait {gate}"))
        board.supervisor.submit(job("next"))
        await ready(board, "busy")
        (before,) = pids(board)
        restarting = asyncio.create_task(board.supervisor.control("restart"))
        await ready(board, "stopping")
        assert board.supervisor.unhealthy_reason is None, "it is about to be back"
        gate.touch()
        for name in ("begun", "next"):
            await board.labels(name)
        await asyncio.wait_for(restarting, WITHIN_S)
        await ready(board, "ready")
        assert pids(board) != [before]
        assert board.supervisor.reports()[0].restarts == 1


async def test_what_is_asked_twice_is_done_once(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running() as board:
        await control(board, "start")
        board.supervisor.submit(job("begun", f"wait {gate}"))
        await ready(board, "busy")
        (before,) = pids(board)
        both = [asyncio.create_task(board.supervisor.control("restart")) for _ in range(2)]
        await ready(board, "stopping")
        gate.touch()
        async with asyncio.timeout(WITHIN_S):
            await asyncio.gather(*both)
        await ready(board, "ready")
        assert pids(board) != [before]
        assert board.supervisor.reports()[0].restarts == 1
        for _ in range(2):
            await control(board, "stop")
        await control(board, "kill")
        assert states(board) == ["stopped"]
        assert len(board.supervisor.reports()[0].exit_codes) == 2


async def test_orders_that_contradict_each_other_are_refused_and_change_nothing(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running(workers=2) as board:
        board.supervisor.submit(job("begun", f"wait {gate}"))
        await ready(board, "busy", "ready")
        stopping = asyncio.create_task(board.supervisor.control("stop", "board-0"))
        await ready(board, "stopping", "ready")
        for action in ("start", "restart"):
            with pytest.raises(Conflict, match="board-0 is being stopped"):
                await control(board, action)
        gate.touch()
        await asyncio.wait_for(stopping, WITHIN_S)
        assert states(board) == ["stopped", "ready"]
        assert board.supervisor.reports()[1].restarts == 0


async def test_unknown_workers_and_actions_are_refused_with_those_that_exist() -> None:
    async with running(workers=2) as board:
        with pytest.raises(NotKnown, match="board-0, board-1"):
            await control(board, "stop", "board-9")
        with pytest.raises(InvalidInput, match="start, stop, restart, kill"):
            await control(board, "rm -rf", "board-0")


async def test_a_board_without_a_model_has_nothing_to_start() -> None:
    async with running(replace(fake_plan(), models=())) as board:
        with pytest.raises(Conflict, match="no model"):
            await control(board, "start")


async def test_a_start_forgives_crashes_and_does_not_wait_for_the_pause_after_them() -> None:
    async with running(fake_plan(down_pause_s=600.0), max_restarts=1) as board:
        for i in range(2):
            board.supervisor.submit(job(f"bad{i}", "exit 9"))
            await board.failure(f"bad{i}")
        await ready(board, "down")
        await control(board, "start")
        board.supervisor.settled.clear()
        await ready(board, "ready")
        board.supervisor.submit(job("bad again", "exit 9"))
        await board.failure("bad again")
        await ready(board, "ready")


async def test_a_worker_that_loads_its_models_can_be_stopped(tmp_path: Path) -> None:
    board = Board(fake_plan("mute", stop_wait_s=600.0), 1, tmp_path)
    task = asyncio.create_task(board.supervisor.run())
    await board.until(lambda: pids(board) != [None])
    await control(board, "stop")
    assert states(board) == ["stopped"]
    task.cancel()
    await asyncio.wait({task}, timeout=WITHIN_S)


async def test_what_an_operator_stopped_and_what_was_counted_survive_the_daemon(tmp_path: Path) -> None:
    async with running(workers=2, workspace=tmp_path) as board:
        board.supervisor.submit(job("bad", "exit 9"))
        await board.failure("bad")
        await ready(board, "ready", "ready")
        await control(board, "stop", "board-0")
    kept = json.loads((tmp_path / "workers.json").read_text())
    assert kept["board-0"]["exit_codes"] == [9, 0]
    assert [kept[name]["pid"] for name in kept] == [None, None]
    async with running(workers=2, workspace=tmp_path) as board:
        assert states(board) == ["stopped", "ready"]
        stopped = board.supervisor.reports()[0]
        assert (stopped.restarts, stopped.exit_codes, stopped.reason) == (1, (9, 0), STOPPED_BY_OPERATOR)
        await control(board, "start", "board-0")
        await ready(board, "ready", "ready")
