"""From the queue to a board and back, with everything that can go wrong on the way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from edgesched import wire
from edgesched.domain.lifecycle import State
from edgesched.domain.task import Line, Priority
from edgesched.ports import PlacementPlan, PlacementRequest
from edgesched.task_manager import dispatcher
from edgesched.task_manager.dispatcher import FLEET_PAUSE_S, FULL_MS
from edgesched.v1 import agent_pb2 as pb
from edgesched.v1 import types_pb2 as types
from edgesched.v1.task_manager_pb2 import (
    PRIORITY_HIGH,
    PRIORITY_LOW,
    PRIORITY_NORMAL,
    TASK_STATE_DONE,
    TASK_STATE_QUEUED,
    GetStatsRequest,
)
from tests.support.fake_boards import FakeBoard, ListedBoards, circle, fails, keeps_silent, serving
from tests.support.task_managers import Client, small_jpeg, task_manager

DELIVER = pb.OutcomeAck.VERDICT_DELIVER
DISCARD = pb.OutcomeAck.VERDICT_DISCARD


async def kinds(client: Client, task_id: str) -> list[int]:
    return [attempt.failure.kind for attempt in (await client.details(task_id)).attempts]


async def test_a_large_picture_arrives_whole_and_in_chunks(tmp_path: Path) -> None:
    image = small_jpeg(width=1200, height=900)
    assert len(image) > 600_000
    got: list[bytes] = []

    def keep(dispatch: pb.Dispatch, picture: bytes) -> pb.Outcome:
        got.append(picture)
        return circle(dispatch, picture)

    async with serving(FakeBoard("b1", keep)) as board, task_manager(tmp_path, ListedBoards([board])) as client:
        task_id = await client.submit(image=image)
        await client.until(task_id, lambda task: task.state is State.DONE)

    assert got == [image]


async def test_without_a_receiver_the_board_is_told_to_forget_the_labels(tmp_path: Path) -> None:
    async with serving(FakeBoard("b1")) as board, task_manager(tmp_path, ListedBoards([board])) as client:
        await client.submit()
        await board.until(lambda: bool(board.acks))

    assert [ack.verdict for ack in board.acks] == [DISCARD]


async def test_with_a_receiver_the_board_delivers_and_its_report_ends_the_task(tmp_path: Path) -> None:
    async with serving(FakeBoard("b1")) as board, task_manager(tmp_path, ListedBoards([board])) as client:
        task_id = await client.submit(receiver_url="http://127.0.0.1:1")
        await board.until(lambda: bool(board.acks))
        assert board.acks[0].verdict == DELIVER
        attempt_id = board.acks[0].attempt_id
        report = pb.DeliveryReport(attempt_id=attempt_id, task_id=task_id, delivered=True)
        for _ in range(2):  # said twice, because the first acknowledgement may be lost
            board.say(pb.FromAgent(delivery_report=report))
        await client.until(task_id, lambda task: task.state is State.DELIVERED)
        await board.until(lambda: len(board.delivery_acks) == 2)

    assert board.delivery_acks == [attempt_id, attempt_id]


async def test_a_failure_is_tried_elsewhere_and_the_cause_is_kept(tmp_path: Path) -> None:
    bad = FakeBoard("bad", fails(types.FAILURE_KIND_WORKER_ERROR, "boom"))
    async with serving(bad), serving(FakeBoard("good")) as good:
        async with task_manager(tmp_path, ListedBoards([bad, good])) as client:
            task_id = await client.submit()
            task = await client.until(task_id, lambda task: task.state is State.DONE)
            details = await client.details(task_id)

    assert (task.device_id, task.failed_attempts) == ("good", 1)
    assert [attempt.device_id for attempt in details.attempts] == ["bad", "good"]
    assert details.attempts[0].failure.message == "boom"


async def test_a_single_board_is_tried_again_until_the_tries_are_used_up(tmp_path: Path) -> None:
    board = FakeBoard("b1", fails(types.FAILURE_KIND_WORKER_CRASHED, "signal 11"))
    async with serving(board), task_manager(tmp_path, ListedBoards([board]), max_attempts=3) as client:
        task_id = await client.submit()
        task = await client.until(task_id, lambda task: task.state is State.FAILED)
        attempts = await kinds(client, task_id)

    assert task.failed_attempts == 3
    assert "signal 11" in (task.last_error or "")
    assert attempts == [types.FAILURE_KIND_WORKER_CRASHED] * 3


async def test_a_picture_that_cannot_be_decoded_is_not_tried_again(tmp_path: Path) -> None:
    board = FakeBoard("b1", fails(types.FAILURE_KIND_INVALID_INPUT))
    async with serving(board), task_manager(tmp_path, ListedBoards([board])) as client:
        task_id = await client.submit()
        await client.until(task_id, lambda task: task.state is State.FAILED)

    assert len(board.dispatches) == 1


async def test_a_refusal_is_nobodys_fault(tmp_path: Path) -> None:
    refusals = 5

    def refuse_some(dispatch: pb.Dispatch, image: bytes) -> pb.Outcome | None:
        refuse = fails(types.FAILURE_KIND_REFUSED, "draining")
        return refuse(dispatch, image) if len(board.dispatches) <= refusals else circle(dispatch, image)

    board = FakeBoard("b1", refuse_some)
    async with serving(board), task_manager(tmp_path, ListedBoards([board]), max_attempts=1) as client:
        task_id = await client.submit()
        task = await client.until(task_id, lambda task: task.state is State.DONE)

    assert task.failed_attempts == 0


async def test_labels_that_break_the_contract_count_as_a_failure_of_the_attempt(tmp_path: Path) -> None:
    def nonsense(dispatch: pb.Dispatch, image: bytes) -> pb.Outcome:
        outcome = circle(dispatch, image)
        outcome.result.detections[0].confidence = 17.0
        return outcome

    async with serving(FakeBoard("b1", nonsense)) as board:
        async with task_manager(tmp_path, ListedBoards([board]), max_attempts=1) as client:
            task_id = await client.submit()
            task = await client.until(task_id, lambda task: task.state is State.FAILED)

    assert "unusable labels" in (task.last_error or "")


async def test_the_window_is_respected_and_everything_gets_done(tmp_path: Path) -> None:
    most_at_once = 0

    class Counting(ListedBoards):
        async def place(self, request: PlacementRequest) -> PlacementPlan:
            nonlocal most_at_once
            plan = await super().place(request)
            sent = sum(decision.device_id is not None for decision in plan.decisions)
            most_at_once = max(most_at_once, len(request.in_flight) + sent)
            return plan

    async with serving(FakeBoard("b1")) as board, task_manager(tmp_path, Counting([board], window=3)) as client:
        ids = await asyncio.gather(*(client.submit() for _ in range(40)))
        for task_id in ids:
            await client.until(task_id, lambda task: task.state is State.DONE)

    assert len(board.dispatches) == 40
    assert 1 < most_at_once <= 3


async def test_a_full_fleet_is_not_asked_again_for_each_task_that_joins_the_line(tmp_path: Path) -> None:
    placement = ListedBoards([], window=1)
    async with serving(FakeBoard("b1", keeps_silent)) as board, task_manager(tmp_path, placement) as client:
        placement.boards.append(board)
        ids = [await client.submit()]
        await client.until(ids[0], lambda task: task.state is State.RUNNING)
        started_at = asyncio.get_running_loop().time()
        placement.requests.clear()
        ids += [await client.submit() for _ in range(50)]
        asked = [request for request in placement.requests if request.tasks]
        passed_s = asyncio.get_running_loop().time() - started_at
        board.answer = circle
        board.say(pb.FromAgent(outcome=circle(board.dispatches[0], b"")))
        for task_id in ids:
            await client.until(task_id, lambda task: task.state is State.DONE)

    assert len(asked) <= passed_s * 1000 / FULL_MS + 2
    assert len(board.dispatches) == 51


async def test_an_urgent_picture_overtakes_a_backlog(tmp_path: Path) -> None:
    placement = ListedBoards([], window=1)
    async with serving(FakeBoard("b1")) as board, task_manager(tmp_path, placement) as client:
        low = [await client.submit(priority=PRIORITY_LOW) for _ in range(20)]
        high = await client.submit(priority=PRIORITY_HIGH)
        placement.boards.append(board)
        for task_id in (*low, high):
            await client.until(task_id, lambda task: task.state is State.DONE)

    assert [dispatch.task_id for dispatch in board.dispatches] == [high, *low]


async def test_a_backlog_of_one_line_beyond_the_memory_holds_up_no_other_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "LONGEST_LINE", 4)
    monkeypatch.setattr(dispatcher, "SHORTEST_LINE", 2)
    placement = ListedBoards([], window=1)
    async with serving(FakeBoard("b1")) as board, task_manager(tmp_path, placement) as client:
        low = [await client.submit(priority=PRIORITY_LOW) for _ in range(12)]
        high = [await client.submit(priority=PRIORITY_HIGH) for _ in range(2)]
        stats = wire.task_stats(await client.stub.GetStats(GetStatsRequest(), timeout=10))
        placement.boards.append(board)
        for task_id in (*low, *high):
            await client.until(task_id, lambda task: task.state is State.DONE)

    assert stats.queued == {Line("shapes", Priority.LOW): 12, Line("shapes", Priority.HIGH): 2}
    assert [dispatch.task_id for dispatch in board.dispatches] == [high[0], low[0], high[1], *low[1:]]


async def test_many_lines_share_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "QUEUE_CAPACITY", 12)
    monkeypatch.setattr(dispatcher, "SHORTEST_LINE", 2)
    placement = ListedBoards([])
    async with serving(FakeBoard("b1")) as board, task_manager(tmp_path, placement) as client:
        priorities = (PRIORITY_LOW, PRIORITY_NORMAL, PRIORITY_HIGH)
        firsts = [await client.submit(priority=priority) for priority in priorities]
        for task_id in firsts:  # until the dispatcher knows all three lines
            while "no device" not in (await client.details(task_id)).waits_for:
                pass
        ids = [await client.submit(priority=priority) for priority in priorities for _ in range(5)]
        waits = [(await client.details(task_id)).waits_for for task_id in (ids[4], ids[9], ids[14])]
        placement.boards.append(board)
        for task_id in ids:
            await client.until(task_id, lambda task: task.state is State.DONE)

    assert waits == ["at least 4 tasks are in line before it"] * 3


# --- links that break ---


async def test_after_a_broken_stream_a_held_attempt_goes_on_and_is_not_sent_again(tmp_path: Path) -> None:
    async with serving(FakeBoard("b1", keeps_silent)) as board:
        async with task_manager(tmp_path, ListedBoards([board])) as client:
            task_id = await client.submit()
            await client.until(task_id, lambda task: task.state is State.RUNNING)
            dispatch = board.dispatches[0]
            board.held = [pb.HeldAttempt(attempt_id=dispatch.attempt_id, task_id=task_id)]
            board.hang_up()
            await board.until(lambda: len(board.opens) == 2)
            board.say(pb.FromAgent(outcome=circle(dispatch, b"")))
            task = await client.until(task_id, lambda task: task.state is State.DONE)

    assert task.attempt_id == dispatch.attempt_id
    assert len(board.dispatches) == 1
    assert board.opens[1].stream_number > board.opens[0].stream_number


async def test_an_attempt_that_the_board_has_forgotten_is_queued_again_at_once(tmp_path: Path) -> None:
    async with serving(FakeBoard("b1", keeps_silent)) as board:
        async with task_manager(tmp_path, ListedBoards([board]), reconnect_grace_ms=60_000) as client:
            task_id = await client.submit()
            await client.until(task_id, lambda task: task.state is State.RUNNING)
            board.answer = circle
            board.hang_up()
            task = await client.until(task_id, lambda task: task.state is State.DONE)
            attempts = await kinds(client, task_id)

    assert task.failed_attempts == 0
    assert attempts[0] == types.FAILURE_KIND_DEVICE_LOST
    assert len(board.dispatches) == 2


async def test_a_dead_boards_work_goes_to_another_one_after_the_grace(tmp_path: Path) -> None:
    async with serving(FakeBoard("good")) as good:
        boards = ListedBoards([])
        async with task_manager(tmp_path, boards) as client:
            async with serving(FakeBoard("doomed", keeps_silent)) as doomed:
                boards.boards = [doomed, good]
                boards.window = 1
                task_id = await client.submit()
                await client.until(task_id, lambda task: task.state is State.RUNNING)
            task = await client.until(task_id, lambda task: task.state is State.DONE)

    assert (task.device_id, task.failed_attempts) == ("good", 0)


async def test_an_answer_from_a_board_that_was_given_up_still_counts(tmp_path: Path) -> None:
    async with serving(FakeBoard("b1", keeps_silent)) as board:
        boards = ListedBoards([board])
        async with task_manager(tmp_path, boards) as client:
            task_id = await client.submit()
            await client.until(task_id, lambda task: task.state is State.RUNNING)
            dispatch = board.dispatches[0]
            board.says_hello = False
            boards.window = 0  # nobody else may take it
            board.hang_up()
            await client.until(task_id, lambda task: task.state is State.QUEUED)
            board.says_hello = True
            board.outbox = [circle(dispatch, b"")]
            task = await client.until(task_id, lambda task: task.state is State.DONE)

    assert task.attempt_id == dispatch.attempt_id


async def test_a_hung_board_costs_the_attempt_its_time_and_not_the_task(tmp_path: Path) -> None:
    hung = FakeBoard("hung", keeps_silent)
    async with serving(hung), serving(FakeBoard("good")) as good:
        async with task_manager(tmp_path, ListedBoards([hung, good]), attempt_timeout_ms=1) as client:
            task_id = await client.submit()
            task = await client.until(task_id, lambda task: task.state is State.DONE, within_s=30)
            attempts = await kinds(client, task_id)

    assert task.device_id == "good"
    assert attempts[0] == types.FAILURE_KIND_TIMED_OUT
    assert hung.cancelled == [hung.dispatches[0].attempt_id]


# --- a task manager that starts again ---


async def test_small_pictures_travel_together(tmp_path: Path) -> None:
    boards = ListedBoards([], window=20)
    async with serving(FakeBoard("b1", keeps_silent)) as board, task_manager(tmp_path, boards) as client:
        ids = {await client.submit() for _ in range(20)}
        boards.boards = [board]
        await board.until(lambda: len(board.dispatches) == 20)

    assert {dispatch.task_id for dispatch in board.dispatches} == ids
    assert board.messages < 10


async def test_work_that_was_queued_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with task_manager(tmp_path, ListedBoards([])) as client:
        ids = [await client.submit() for _ in range(5)]
    async with serving(FakeBoard("b1")) as board, task_manager(tmp_path, ListedBoards([board])) as client:
        for task_id in ids:
            await client.until(task_id, lambda task: task.state is State.DONE)

    assert board.opens[0].epoch == 2


@pytest.mark.parametrize("all_at_once", [False, True])
async def test_a_board_that_finished_while_the_master_was_away_is_believed(tmp_path: Path, all_at_once: bool) -> None:
    async with serving(FakeBoard("b1", keeps_silent)) as board:
        board.says_all_at_once = all_at_once
        async with task_manager(tmp_path, ListedBoards([board])) as client:
            task_id = await client.submit()
            await client.until(task_id, lambda task: task.state is State.RUNNING)
        board.outbox = [circle(board.dispatches[0], b"")]
        async with task_manager(tmp_path, ListedBoards([board])) as client:
            task = await client.until(task_id, lambda task: task.state is State.DONE)

    assert task.attempt_id == board.dispatches[0].attempt_id
    assert len(board.dispatches) == 1


async def test_an_attempt_that_only_the_board_knows_is_adopted(tmp_path: Path) -> None:
    async with task_manager(tmp_path, ListedBoards([])) as client:
        task_id = await client.submit()
    board = FakeBoard("b1")
    board.held = [pb.HeldAttempt(attempt_id="from-before", task_id=task_id)]
    board.outbox = [pb.Outcome(attempt_id="unrelated", task_id="unrelated")]  # makes the task manager dial
    async with serving(board), task_manager(tmp_path, ListedBoards([board], window=0)) as client:
        task = await client.until(task_id, lambda task: task.state is State.RUNNING)

    assert task.attempt_id == "from-before"


async def test_an_attempt_of_a_task_that_is_over_is_cancelled_on_the_board(tmp_path: Path) -> None:
    async with serving(FakeBoard("b1")) as board, task_manager(tmp_path, ListedBoards([board])) as client:
        task_id = await client.submit()
        await client.until(task_id, lambda task: task.state is State.DONE)
        board.held = [pb.HeldAttempt(attempt_id="late", task_id=task_id)]
        board.outbox = [pb.Outcome(attempt_id="unrelated", task_id="unrelated")]
        board.hang_up()
        await board.until(lambda: "late" in board.cancelled)


# --- delivery without the board ---


async def test_labels_that_no_board_delivers_are_delivered_after_the_grace(tmp_path: Path) -> None:
    posted: list[dict[str, object]] = []
    answers = [500, 200]  # the first try finds a receiver in trouble

    async def receive(request: web.Request) -> web.Response:
        if (status := answers.pop(0)) != 200:
            return web.Response(status=status)
        body = await request.json()
        posted.extend(body["results"])
        return web.json_response({"accepted": [item["task_id"] for item in body["results"]], "rejected": []})

    app = web.Application()
    app.router.add_post("/labels", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/labels"
    try:
        async with serving(FakeBoard("b1")) as board:
            async with task_manager(tmp_path, ListedBoards([board]), delivery_grace_ms=1) as client:
                task_id = await client.submit(receiver_url=url, file_name="p.jpg")
                await client.until(task_id, lambda task: task.state is State.DELIVERED, within_s=20)
                await board.until(lambda: [ack.verdict for ack in board.acks] == [DELIVER, DISCARD])
    finally:
        await runner.cleanup()

    assert [(item["task_id"], item["file_name"]) for item in posted] == [(task_id, "p.jpg")]
    assert [d["label"] for d in posted[0]["detections"]] == ["circle"]  # type: ignore[attr-defined]


async def test_a_task_expires_when_its_time_is_over_and_a_late_answer_changes_nothing(tmp_path: Path) -> None:
    async with serving(FakeBoard("b1", keeps_silent)) as board:
        async with task_manager(tmp_path, ListedBoards([board])) as client:
            task_id = await client.submit(remaining_ms=300)
            await client.until(task_id, lambda task: task.state is State.EXPIRED)
            board.say(pb.FromAgent(outcome=circle(board.dispatches[0], b"")))
            await board.until(lambda: bool(board.acks))
            details = await client.details(task_id)

    assert board.acks[0].verdict == DISCARD
    assert not details.HasField("result")


async def test_a_task_whose_time_is_over_reaches_no_board(tmp_path: Path) -> None:
    class Slow(ListedBoards):
        async def place(self, request: PlacementRequest) -> PlacementPlan:
            await asyncio.sleep(0.005)  # longer than the task may take
            return await super().place(request)

    async with serving(FakeBoard("b1")) as board, task_manager(tmp_path, Slow([board])) as client:
        late = await client.submit(remaining_ms=1)
        in_time = await client.submit()
        await client.until(in_time, lambda task: task.state is State.DONE)
        await client.until(late, lambda task: task.state is State.EXPIRED)

    assert [dispatch.task_id for dispatch in board.dispatches] == [in_time]


# --- stopping in good order ---


async def test_a_stop_lets_what_is_on_the_boards_come_home_and_dispatches_nothing_more(tmp_path: Path) -> None:
    finish = asyncio.Event()

    async def answer_later(board: FakeBoard) -> None:
        await finish.wait()
        for dispatch in board.dispatches:
            board.say(pb.FromAgent(outcome=circle(dispatch, b"")))

    async with serving(FakeBoard("b1", keeps_silent)) as board:
        async with task_manager(tmp_path, ListedBoards([board], window=1)) as client:
            task_id = await client.submit()
            waits = await client.submit()
            await client.until(task_id, lambda task: task.state is State.RUNNING)
            answering = asyncio.create_task(answer_later(board))
            finish.set()  # the answer comes while the task manager is draining
        await answering
        async with task_manager(tmp_path, ListedBoards([])) as client:
            assert (await client.details(task_id)).task.state == TASK_STATE_DONE
            assert (await client.details(waits)).task.state == TASK_STATE_QUEUED

    assert len(board.dispatches) == 1


async def test_a_stop_does_not_wait_for_ever(tmp_path: Path) -> None:
    async with serving(FakeBoard("b1", keeps_silent)) as board:
        async with asyncio.timeout(20):
            async with task_manager(tmp_path, ListedBoards([board]), drain_timeout_ms=50) as client:
                task_id = await client.submit()
                await client.until(task_id, lambda task: task.state is State.RUNNING)


async def test_boards_that_register_all_at_once_are_looked_at_together(tmp_path: Path) -> None:
    class Growing(ListedBoards):
        """A fleet that has changed 500 times before anybody asks."""

        changes = 500

        async def wait_for_change(self) -> None:
            if self.changes == 0:
                await asyncio.Event().wait()
            self.changes -= 1

        async def place(self, request: PlacementRequest) -> PlacementPlan:
            if len(self.requests) == 3:
                looked_three_times.set()
            return await super().place(request)

    looked_three_times = asyncio.Event()
    placement = Growing([])
    async with task_manager(tmp_path, placement), asyncio.timeout(10):
        started_at = asyncio.get_running_loop().time()
        await looked_three_times.wait()
        passed_s = asyncio.get_running_loop().time() - started_at

    assert Growing.changes - placement.changes <= passed_s / FLEET_PAUSE_S + 3
