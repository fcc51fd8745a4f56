"""Workers that do their work, crash, hang, grow and talk nonsense, under the real supervisor."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from agents.work import Job
from agents.worker_process import ending_of
from edgesched.domain.task import AttemptId, Failure, FailureKind
from tests.support.agent_parts import WITHIN_S, fake_plan, logged
from tests.support.boards import Board, job, running


async def test_a_picture_gets_its_labels_and_the_times_that_it_took() -> None:
    async with running() as board:
        board.supervisor.submit(job("a"))
        result = await board.labels("a")
        assert [d.label for d in result.detections] == ["label"]
        assert (result.width, result.height) == (10, 20)
        assert result.timings.transfer_ms == 1.5
        assert result.timings.service_ms == 1.0
        assert result.timings.queued_ms is not None
        assert result.timings.queued_ms >= 0.0
        assert board.supervisor.held_count == 0


async def test_a_large_picture_arrives_whole() -> None:
    async with running() as board:
        board.supervisor.submit(job("a", "measure " + "x" * 3_000_000))
        result = await board.labels("a")
        assert result.detections[0].label == "3000008"


async def test_pictures_go_to_idle_workers_before_any_worker_gets_its_next_one(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running(workers=2) as board:
        for i in range(6):
            board.supervisor.submit(job(f"a{i}", f"wait {gate}"))
        await board.until(lambda: all(r.state == "busy" for r in board.supervisor.reports()))
        assert [r.current_task for r in board.supervisor.reports()] == ["task-a0", "task-a1"]
        gate.touch()
        for i in range(6):
            await board.labels(f"a{i}")


async def test_a_picture_does_not_wait_behind_a_hung_one_while_another_worker_is_idle(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running(fake_plan(late_after_s=600.0), workers=3) as board:
        board.supervisor.submit(job("hung", "hang"))
        for name in ("b", "c"):
            board.supervisor.submit(job(name, f"wait {gate}"))
        for i in range(3):  # each worker gets its next one early, the hung one too
            board.supervisor.submit(job(f"next{i}", f"wait {gate}"))
        await board.until(lambda: all(r.state == "busy" for r in board.supervisor.reports()))
        gate.touch()
        for name in ("b", "c", "next0", "next1", "next2"):
            await board.labels(name)
        assert [a.attempt_id for a in board.supervisor.held()] == ["hung"]
        assert [report.restarts for report in board.supervisor.reports()] == [0, 0, 0]


async def test_a_picture_that_waits_behind_a_slow_one_is_not_overtaken_for_ever() -> None:
    """The other worker never gets idle: what waits is taken back because the worker is late."""
    async with running(fake_plan(late_after_s=0.1), workers=2) as board:
        board.supervisor.submit(job("hung", "hang"))
        board.supervisor.submit(job("busy", "slow 0.02"))
        board.supervisor.submit(job("waits", "slow 0.02"))
        board.supervisor.submit(job("more", "slow 0.02"))
        sent = 0
        async with asyncio.timeout(WITHIN_S):
            while not {"waits", "more"} <= board.outcomes.keys():
                while board.supervisor.held_count < 6:
                    board.supervisor.submit(job(f"stream{sent}", "slow 0.02"))
                    sent += 1
                await board.changed()
        for name in ("waits", "more"):
            await board.labels(name)


async def test_what_is_cancelled_while_it_waits_in_a_worker_is_not_done_there() -> None:
    async with running() as board:
        board.supervisor.submit(job("running", "before last"))
        board.supervisor.submit(job("prefetched", "exit 9"))
        await board.until(lambda: board.supervisor.reports()[0].state == "busy")
        assert board.supervisor.cancel(AttemptId("prefetched"))
        board.supervisor.submit(job("last"))  # there is room for it once the worker has given the other one back
        await board.labels("running")
        await board.labels("last")
        assert board.supervisor.reports()[0].restarts == 0


async def test_a_model_that_no_worker_can_load_is_left_out_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    models = ({"name": "shapes"}, {"name": "broken-1"})
    async with running(replace(fake_plan(), models=models), workers=2) as board:
        await board.until(lambda: all(r.state == "ready" for r in board.supervisor.reports()))
        assert board.supervisor.unhealthy_reason is None
        assert board.supervisor.left_out == {"broken-1": "broken-1 is out of order"}
        (told,) = [record for record in caplog.records if record.message == "model.left_out"]
        assert told.levelno == logging.ERROR
        assert vars(told)["reason"] == "broken-1 is out of order"
        board.supervisor.submit(job("bad", model="broken-1"))
        failure = await board.failure("bad")
        assert failure.kind is FailureKind.REFUSED
        assert "broken-1 is out of order" in failure.message
        board.supervisor.submit(job("good"))
        await board.labels("good")


async def test_a_crash_costs_one_attempt_and_the_prefetched_one_survives() -> None:
    async with running() as board:
        board.supervisor.submit(job("bad", "crash"))
        board.supervisor.submit(job("good"))
        failure = await board.failure("bad")
        assert failure.kind is FailureKind.WORKER_CRASHED
        assert "SIGSEGV" in failure.message
        await board.labels("good")
        (report,) = board.supervisor.reports()
        assert (report.restarts, report.last_exit_code) == (1, -signal.SIGSEGV)


async def begun_together(board: Board, *jobs: Job) -> None:
    """Have a worker begin these at once, after another one."""
    board.supervisor.submit(job("first", f"crowd {len(jobs)}"))
    await board.until(lambda: board.supervisor.reports()[0].state == "busy")
    for each in jobs:
        board.supervisor.submit(each)
    await board.labels("first")


async def test_a_worker_that_runs_batches_has_the_next_one_already() -> None:
    async with running(fake_plan("batches")) as board:
        await begun_together(board, *(job(f"a{i}", "together") for i in range(7)))
        labels = [(await board.labels(f"a{i}")).detections[0].label for i in range(7)]
        assert labels == ["4"] * 4 + ["2"] * 2 + ["1"]


async def test_of_a_batch_that_kills_its_worker_the_guilty_picture_alone_pays() -> None:
    async with running(fake_plan("batches")) as board:
        jobs = [job("a", "together"), job("bad", "crash"), job("b", "together"), job("c", "together")]
        await begun_together(board, *jobs)
        failure = await board.failure("bad")
        assert failure.kind is FailureKind.WORKER_CRASHED
        for name in ("a", "b", "c"):
            assert (await board.labels(name)).detections[0].label == "1"
        assert board.supervisor.reports()[0].restarts == 2


async def test_of_a_batch_that_hangs_the_guilty_picture_alone_pays() -> None:
    async with running(fake_plan("batches", late_after_s=0.05)) as board:
        await begun_together(board, job("a"), job("bad", "hang", remaining_s=4.0))
        await board.labels("a")
        failure = await board.failure("bad")
        assert failure.kind is FailureKind.TIMED_OUT
        board.supervisor.submit(job("next"))
        await board.labels("next")
        assert board.supervisor.reports()[0].restarts == 2


async def test_a_batch_whose_first_deadline_passes_is_given_up_and_the_others_go_on() -> None:
    async with running(fake_plan("batches", late_after_s=600.0)) as board:
        await begun_together(board, job("a"), job("bad", "hang", remaining_s=2.0))
        assert (await board.failure("bad")).kind is FailureKind.TIMED_OUT
        await board.labels("a")
        assert board.supervisor.reports()[0].restarts == 1


async def test_a_batch_that_takes_too_much_memory_is_tried_one_by_one() -> None:
    async with running(fake_plan("batches", check_s=0.05), memory_bytes=100 << 20) as board:
        await begun_together(board, job("a"), job("greedy", "eat"))
        await board.labels("a")
        assert (await board.failure("greedy")).kind is FailureKind.WORKER_CRASHED


async def test_an_operator_s_kill_gives_a_whole_batch_to_other_boards() -> None:
    async with running(fake_plan("batches", late_after_s=600.0)) as board:
        await begun_together(board, job("a", "hang"), job("b"))
        await board.until(lambda: board.supervisor.reports()[0].current_task == "task-a")
        await board.supervisor.control("kill")
        for name in ("a", "b"):
            assert (await board.failure(name)).kind is FailureKind.REFUSED


async def test_time_in_a_batch_counts_once() -> None:
    async with running(fake_plan("batches")) as board:
        await begun_together(board, *(job(f"a{i}", "slow 0.1") for i in range(4)))
        began = asyncio.get_running_loop().time()
        before = board.supervisor.busy_seconds()
        for i in range(4):
            await board.labels(f"a{i}")
        assert board.supervisor.busy_seconds() - before <= asyncio.get_running_loop().time() - began


async def test_a_crashing_worker_does_not_disturb_its_neighbour(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running(workers=2) as board:
        board.supervisor.submit(job("long", f"wait {gate}"))
        board.supervisor.submit(job("bad", "exit 4"))
        assert "exit code 4" in (await board.failure("bad")).message
        gate.touch()
        await board.labels("long")
        assert board.supervisor.reports()[0].restarts == 0


@pytest.mark.parametrize(
    ("text", "kind"), [("invalid", FailureKind.INVALID_INPUT), ("raise", FailureKind.WORKER_ERROR)]
)
async def test_a_failed_picture_leaves_the_worker_alive(text: str, kind: FailureKind) -> None:
    async with running() as board:
        board.supervisor.submit(job("bad", text))
        board.supervisor.submit(job("good"))
        assert (await board.failure("bad")).kind is kind
        await board.labels("good")
        assert board.supervisor.reports()[0].restarts == 0


async def test_a_hung_worker_is_replaced_when_the_attempts_time_is_over() -> None:
    async with running() as board:
        board.supervisor.submit(job("hung", "hang", remaining_s=0.1))
        board.supervisor.submit(job("good"))
        failure = await board.failure("hung")
        assert failure.kind is FailureKind.TIMED_OUT
        await board.labels("good")
        assert board.supervisor.reports()[0].restarts == 1


async def test_an_attempt_that_waits_too_long_is_given_back_without_blame_for_anybody(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running() as board:
        board.supervisor.submit(job("long", f"wait {gate}"))
        for name in ("prefetched", "queued"):
            board.supervisor.submit(job(name, remaining_s=0.1))
        assert (await board.failure("queued")).kind is FailureKind.REFUSED
        assert (await board.failure("prefetched")).kind is FailureKind.REFUSED
        gate.touch()
        await board.labels("long")
        board.supervisor.submit(job("next"))
        await board.labels("next")
        assert board.supervisor.reports()[0].restarts == 0
        assert isinstance(board.outcomes["prefetched"], Failure)  # its late answer changed nothing


@pytest.mark.parametrize("text", ["nonsense", "stranger"])
async def test_a_worker_that_breaks_the_protocol_is_replaced(text: str) -> None:
    async with running() as board:
        board.supervisor.submit(job("bad", text))
        failure = await board.failure("bad")
        assert failure.kind is FailureKind.WORKER_CRASHED
        assert "protocol" in failure.message
        board.supervisor.submit(job("good"))
        await board.labels("good")


async def test_a_worker_that_begins_more_at_once_than_it_said_is_replaced() -> None:
    async with running() as board:
        board.supervisor.submit(job("bad", "overlap"))
        board.supervisor.submit(job("good"))
        assert "protocol" in (await board.failure("bad")).message
        await board.labels("good")


@pytest.mark.parametrize("text", ["eat", "feed"])
async def test_a_worker_that_takes_too_much_memory_itself_or_by_its_programs_is_replaced(text: str) -> None:
    async with running(fake_plan(check_s=0.05), memory_bytes=100 << 20) as board:
        board.supervisor.submit(job("greedy", text))
        failure = await board.failure("greedy")
        assert failure.kind is FailureKind.WORKER_CRASHED
        assert "worker_memory_bytes" in failure.message
        board.supervisor.submit(job("good"))
        await board.labels("good")


async def test_only_an_attempt_that_no_worker_has_begun_can_be_cancelled(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running() as board:
        for name in ("running", "prefetched", "queued"):
            board.supervisor.submit(job(name, f"wait {gate}"))
        await board.until(lambda: board.supervisor.reports()[0].state == "busy")
        assert not board.supervisor.cancel(AttemptId("running"))
        assert board.supervisor.cancel(AttemptId("prefetched"))
        assert board.supervisor.cancel(AttemptId("queued"))
        assert [a.attempt_id for a in board.supervisor.held()] == ["running"]
        gate.touch()
        await board.labels("running")
        board.supervisor.submit(job("last"))
        await board.labels("last")
        assert set(board.outcomes) == {"running", "last"}


async def test_a_board_whose_backend_is_missing_says_why_and_refuses_what_waits() -> None:
    async with running(fake_plan("unavailable"), workers=2) as board:
        await board.until(lambda: board.supervisor.unhealthy_reason == "the driver is missing: install it")
        assert {report.state for report in board.supervisor.reports()} == {"down"}


async def test_an_interpreter_that_is_not_there_makes_the_board_unhealthy() -> None:
    async with running(replace(fake_plan(), command=("/no/such/python",))) as board:
        reason = board.supervisor.unhealthy_reason
        assert reason is not None
        assert "/no/such/python" in reason


async def test_what_a_worker_printed_at_last_is_told_if_it_dies_before_it_is_ready() -> None:
    async with running(fake_plan("crash"), max_restarts=0) as board:
        assert str(board.supervisor.unhealthy_reason).endswith("ended with exit code 7: a line for the log")


async def test_a_board_without_a_model_is_unhealthy_and_starts_no_worker() -> None:
    async with running(replace(fake_plan(), models=())) as board:
        assert board.supervisor.unhealthy_reason is not None
        (report,) = board.supervisor.reports()
        assert (report.pid, report.state, report.reason) == (None, "stopped", board.supervisor.unhealthy_reason)


async def test_more_crashes_in_a_row_than_restarts_are_allowed_make_the_worker_down_and_hand_back_what_waits() -> None:
    async with running() as board:
        for i in range(6):
            board.supervisor.submit(job(f"bad{i}", "exit 9"))
        board.supervisor.submit(job("waiting"))
        for i in range(6):
            assert (await board.failure(f"bad{i}")).kind is FailureKind.WORKER_CRASHED
        assert (await board.failure("waiting")).kind is FailureKind.REFUSED
        reason = board.supervisor.unhealthy_reason
        assert reason is not None
        assert "exit code 9" in reason


async def test_a_worker_that_is_down_is_tried_again_later() -> None:
    async with running(fake_plan(down_pause_s=0.01)) as board:
        for i in range(6):
            board.supervisor.submit(job(f"bad{i}", "exit 9"))
        await board.until(lambda: board.supervisor.unhealthy_reason is not None)
        await board.until(lambda: board.supervisor.unhealthy_reason is None)
        board.supervisor.submit(job("good"))
        await board.labels("good")


async def test_a_worker_that_never_gets_ready_is_given_up() -> None:
    async with running(fake_plan("mute", start_timeout_s=0.1)) as board:
        assert board.supervisor.reports()[0].restarts >= 0
        assert board.supervisor.unhealthy_reason is not None


async def test_a_finished_task_in_between_forgives_earlier_crashes() -> None:
    async with running() as board:
        for i in range(4):
            board.supervisor.submit(job(f"bad{i}", "exit 9"))
            await board.failure(f"bad{i}")
        board.supervisor.submit(job("good"))
        await board.labels("good")
        board.supervisor.submit(job("bad again", "exit 9"))
        await board.failure("bad again")
        assert board.supervisor.unhealthy_reason is None


async def test_a_worker_killed_from_outside_loses_only_what_it_had_begun(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running() as board:
        board.supervisor.submit(job("begun", f"wait {gate}"))
        board.supervisor.submit(job("next"))
        await board.until(lambda: board.supervisor.reports()[0].state == "busy")
        pid = board.supervisor.reports()[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert "SIGKILL" in (await board.failure("begun")).message
        await board.labels("next")


async def test_stopping_leaves_no_process_even_if_a_worker_is_deaf() -> None:
    async with running(fake_plan("deaf", stop_wait_s=0.1, terminate_wait_s=0.1)) as board:
        pid = board.supervisor.reports()[0].pid
        assert pid is not None
    assert not psutil.pid_exists(pid)


async def test_stopping_does_not_wait_for_models_to_load(tmp_path: Path) -> None:
    board = Board(fake_plan("mute", stop_wait_s=600.0), 1, tmp_path)
    task = asyncio.create_task(board.supervisor.run())
    with logged("worker.printed") as printed:  # it has started, and will never be ready
        await asyncio.wait_for(printed.wait(), WITHIN_S)
    pid = board.supervisor.reports()[0].pid
    assert pid is not None
    task.cancel()
    assert not (await asyncio.wait({task}, timeout=WITHIN_S))[1]
    assert not psutil.pid_exists(pid)


async def test_busy_time_counts_while_workers_work() -> None:
    async with running() as board:
        assert board.supervisor.busy_seconds() == 0.0
        board.supervisor.submit(job("a", "slow 0.05"))
        await board.labels("a")
        total = board.supervisor.busy_seconds()
        assert 0.0 < total <= WITHIN_S  # how long exactly is up to how busy this machine is
        assert board.supervisor.busy_seconds() == total


def test_an_ending_is_named_in_words() -> None:
    assert ending_of(3) == "ended with exit code 3"
    assert ending_of(-signal.SIGABRT) == "was killed by SIGABRT"
    assert ending_of(-63) == "was killed by signal 63"


def test_the_fake_worker_runs_under_this_interpreter() -> None:
    assert fake_plan().command[0] == sys.executable
