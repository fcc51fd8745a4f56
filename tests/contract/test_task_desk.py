"""What a gateway asks and tells the task manager: the same answers by a function call and over gRPC."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgesched.domain.lifecycle import State
from edgesched.domain.task import Line, Priority, Submission, Task, TaskFilter, TaskId
from edgesched.errors import Conflict, IllegalTransition, InvalidInput, NotKnown, Overloaded
from edgesched.ports import TaskDesk
from edgesched.settings import TaskManagerSettings
from edgesched.task_manager.app import opened
from edgesched.v1 import agent_pb2
from edgesched.v1 import types_pb2 as types
from gateway.remote_tasks import RemoteTasks
from tests.support.fake_boards import FakeBoard, ListedBoards, fails, keeps_silent, serving
from tests.support.gateways import closed_port
from tests.support.task_managers import small_jpeg

BOUND_S = 10.0


@dataclass
class Bench:
    """One task manager, asked through one of the two implementations."""

    desk: TaskDesk
    boards: ListedBoards


Start = Callable[..., Any]


@pytest.fixture(params=["local", "remote"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    @asynccontextmanager
    async def started(*boards: FakeBoard, **settings: Any) -> AsyncIterator[Bench]:
        async with AsyncExitStack() as stack:
            for board in boards:
                await stack.enter_async_context(serving(board))
            listed = ListedBoards(list(boards))
            files = {"ledger_path": tmp_path / "ledger.sqlite3", "upload_path": tmp_path / "upload"}
            defaults: dict[str, Any] = {"grpc_port": 0, "durability": "process", "drain_timeout_ms": 200}
            manager = await stack.enter_async_context(
                opened(TaskManagerSettings(**(defaults | files | settings)), listed)
            )
            desk: TaskDesk = manager.tasks
            if request.param == "remote":
                desk = await stack.enter_async_context(RemoteTasks.connected(manager.address))
            async with asyncio.timeout(BOUND_S):
                yield Bench(desk, listed)

    return started


def submission(key: str = "k", **changes: Any) -> Submission:
    fields: dict[str, Any] = {
        "model": "shapes",
        "file_name": "a.jpg",
        "image": small_jpeg(),
        "client_id": "tests",
        "submission_key": key,
        "receiver_url": None,
        "remaining_ms": None,
    }
    return Submission(**(fields | changes))


async def until(desk: TaskDesk, task_id: TaskId, state: State) -> Task:
    """The task once it is in `state`; the caller bounds the wait."""
    changes = desk.changes()
    try:
        waiting = asyncio.ensure_future(anext(changes))
        while (task := (await desk.get(task_id)).task).state is not state:
            await asyncio.wait({waiting}, timeout=0.1)  # a change between two questions may come before we listen
            if waiting.done():
                waiting.result()
                waiting = asyncio.ensure_future(anext(changes))
        waiting.cancel()
        await asyncio.wait({waiting})
        return task
    finally:
        await changes.aclose()


async def test_a_submitted_picture_can_be_read_back_listed_and_counted(start: Start) -> None:
    image = small_jpeg(3, 1200, 900)  # more than one chunk
    async with start() as bench:
        task_id = await bench.desk.submit(submission(image=image))
        details = await bench.desk.get(task_id)
        page = await bench.desk.list(TaskFilter(state=State.QUEUED, model="shapes"), limit=10, cursor=None)
        counts, stats = await bench.desk.counts(), await bench.desk.stats()

        assert len(image) > 300_000
        assert await bench.desk.picture(task_id) == image
    assert (details.task.state, details.task.size_bytes, details.result) == (State.QUEUED, len(image), None)
    assert page.tasks == (details.task,)
    assert counts[State.QUEUED] == stats.counts[State.QUEUED] == 1
    assert (stats.queued, stats.open_bytes) == ({Line("shapes", Priority.NORMAL): 1}, len(image))
    assert (stats.undelivered, stats.oldest_undelivered_ms) == (0, None)


async def test_labels_come_back_with_the_task(start: Start) -> None:
    async with start(FakeBoard("b1")) as bench:
        task_id = await bench.desk.submit(submission())
        task = await until(bench.desk, task_id, State.DONE)
        details = await bench.desk.get(task_id)
        stats = await bench.desk.stats()

    assert details.task == task
    assert details.result is not None
    assert [d.label for d in details.result.detections] == ["circle"]
    assert stats.ended == {(State.DONE, "shapes", "b1"): 1}
    assert stats.commits > 0
    assert stats.commit_ms > 0


async def test_the_same_key_is_the_same_task_and_another_picture_a_conflict(start: Start) -> None:
    async with start() as bench:
        first = await bench.desk.submit(submission())
        assert await bench.desk.submit(submission()) == first
        with pytest.raises(Conflict, match="fresh key"):
            await bench.desk.submit(submission(image=small_jpeg(1)))


async def test_refusals_keep_their_meaning(start: Start) -> None:
    async with start(max_queued_tasks=1) as bench:
        with pytest.raises(NotKnown, match="there are: shapes"):
            await bench.desk.submit(submission(model="nope"))
        with pytest.raises(InvalidInput, match="not a JPEG"):
            await bench.desk.submit(submission(image=b"nonsense"))
        await bench.desk.submit(submission())
        with pytest.raises(Overloaded, match="queue is full") as caught:
            await bench.desk.submit(submission("other"))
        assert caught.value.retry_after_ms > 0


async def test_what_is_not_known_is_not_known_to_any_question(start: Start) -> None:
    unknown = TaskId("nobody")
    async with start() as bench:
        desk = bench.desk
        for ask in (desk.get, desk.picture, desk.cancel, desk.retry, desk.abandon):
            with pytest.raises(NotKnown, match="nobody"):
                await ask(unknown)


async def test_a_mistyped_id_is_told_which_one_is_meant(start: Start) -> None:
    async with start() as bench:
        desk = bench.desk
        ids = [await desk.submit(submission(f"k{number}")) for number in range(12)]
        mistyped = TaskId(ids[4][:-2] + "zz")
        for ask in (desk.get, desk.picture, desk.cancel, desk.retry, desk.abandon):
            with pytest.raises(NotKnown, match=f"did you mean '{ids[4]}'"):
                await ask(mistyped)


async def test_a_cursor_from_nowhere_is_refused(start: Start) -> None:
    async with start() as bench:
        with pytest.raises(InvalidInput, match="cursor"):
            await bench.desk.list(TaskFilter(), limit=1, cursor=2**63)


async def test_a_queued_task_is_cancelled_once_and_for_all(start: Start) -> None:
    async with start() as bench:
        task_id = await bench.desk.submit(submission())
        task = await bench.desk.cancel(task_id)
        again = await bench.desk.cancel(task_id)
        with pytest.raises(IllegalTransition, match="cancelled"):
            await bench.desk.retry(task_id)
        stats = await bench.desk.stats()

    assert task.state is State.CANCELLED
    assert again == task
    assert stats.ended == {(State.CANCELLED, "shapes", None): 1}
    assert (stats.queued, stats.open_bytes) == ({}, 0)


async def test_cancelling_stops_the_board_that_works_on_it(start: Start) -> None:
    board = FakeBoard("b1", keeps_silent)
    async with start(board) as bench:
        task_id = await bench.desk.submit(submission())
        await board.until(lambda: bool(board.dispatches))
        assert (await bench.desk.cancel(task_id)).state is State.CANCELLED
        await board.until(lambda: bool(board.cancelled))

    assert board.cancelled == [board.dispatches[0].attempt_id]


async def test_a_dead_letter_is_tried_again_with_all_its_tries(start: Start) -> None:
    board = FakeBoard("b1", fails(types.FAILURE_KIND_INVALID_INPUT, "not decodable"))
    async with start(board) as bench:
        task_id = await bench.desk.submit(submission())
        await until(bench.desk, task_id, State.FAILED)
        with pytest.raises(IllegalTransition, match="failed"):
            await bench.desk.cancel(task_id)
        bench.boards.boards = []
        task = await bench.desk.retry(task_id)

    assert (task.state, task.failed_attempts) == (State.QUEUED, 0)


async def test_labels_that_no_receiver_takes_can_be_given_up(start: Start) -> None:
    receiver = f"http://127.0.0.1:{await closed_port()}"
    async with start(FakeBoard("b1")) as bench:
        task_id = await bench.desk.submit(submission(receiver_url=receiver))
        await until(bench.desk, task_id, State.DONE)
        before = await bench.desk.stats()
        task = await bench.desk.abandon(task_id)
        after = await bench.desk.stats()
        with pytest.raises(IllegalTransition, match="deliver"):
            await bench.desk.abandon(task_id)

    assert (task.state, task.receiver_url) == (State.DONE, None)
    assert before.undelivered == 1
    assert before.oldest_undelivered_ms is not None
    assert (after.undelivered, after.oldest_undelivered_ms) == (0, None)


async def test_a_queued_task_says_why_it_waits(start: Start) -> None:
    board = FakeBoard("b1", keeps_silent)
    async with start(board) as bench:
        on_board = await bench.desk.submit(submission("on its way"))
        await board.until(lambda: bool(board.dispatches))
        assert (await bench.desk.get(on_board)).waits_for is None
        bench.boards.boards = []
        first, second = [await bench.desk.submit(submission(key)) for key in "ab"]
        while (waits_for := (await bench.desk.get(first)).waits_for) == "placement decides next":
            pass  # bounded by the bench
        assert waits_for == "no device can take it now (no device is registered)"
        assert (await bench.desk.get(second)).waits_for == (
            "number 2 in the line of its model and priority (normal); number 1: no device can take it now "
            "(no device is registered)"
        )
        await bench.desk.cancel(first)
        assert (await bench.desk.get(first)).waits_for is None


async def test_a_task_that_failed_says_when_its_next_try_is_due(start: Start) -> None:
    board = FakeBoard("b1", fails(types.FAILURE_KIND_WORKER_ERROR, "it broke"))
    async with start(board, retry_backoff_ms=60_000) as bench:
        task_id = await bench.desk.submit(submission())
        while (details := await bench.desk.get(task_id)).task.failed_attempts == 0:
            pass  # bounded by the bench
        assert details.waits_for is not None
        assert re.fullmatch(r"its next try is due in (59\.\d|60\.0) s", details.waits_for), details.waits_for


async def test_how_long_delivery_took_is_counted_by_model(start: Start) -> None:
    board = FakeBoard("b1")
    receiver = f"http://127.0.0.1:{await closed_port()}"
    async with start(board) as bench:
        task_id = await bench.desk.submit(submission(receiver_url=receiver))
        task = await until(bench.desk, task_id, State.DONE)
        assert (await bench.desk.stats()).delivery == {}
        report = agent_pb2.DeliveryReport(attempt_id=task.attempt_id, task_id=task_id, delivered=True)
        for _ in range(2):  # said twice, counted once
            board.say(agent_pb2.FromAgent(delivery_report=report))
        await until(bench.desk, task_id, State.DELIVERED)
        stats = await bench.desk.stats()

    assert stats.ended == {(State.DONE, "shapes", "b1"): 1, (State.DELIVERED, "shapes", "b1"): 1}
    assert set(stats.delivery) == {"shapes"}
    took = stats.delivery["shapes"]
    assert (sum(took.counts), 0 <= took.sum_ms < BOUND_S * 1000) == (1, True)


async def test_changes_show_what_happens_from_now_on(start: Start) -> None:
    async with start() as bench:
        old = await bench.desk.submit(submission("old"))
        changes = bench.desk.changes()
        following = asyncio.ensure_future(anext(changes))
        seen: list[Task] = []
        for number in range(100):  # one of them comes after the listening has begun, whenever that is
            await bench.desk.submit(submission(f"new-{number}"))
            await asyncio.wait({following}, timeout=0.05)
            if following.done():
                seen.append(following.result())
                break
        await changes.aclose()

    assert seen[0].state is State.QUEUED
    assert seen[0].task_id != old


async def test_the_models_are_those_of_the_catalogue(start: Start) -> None:
    async with start() as bench:
        models = await bench.desk.models()

    assert {"shapes"} <= {model.name for model in models}
    assert all(model.labels for model in models)
