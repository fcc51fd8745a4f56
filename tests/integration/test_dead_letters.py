"""What a person may do to a task that cannot go on by itself."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from edgesched.domain.lifecycle import State
from edgesched.v1 import agent_pb2 as pb
from edgesched.v1 import task_manager_pb2 as tm
from edgesched.v1 import types_pb2 as types
from tests.support.fake_boards import FakeBoard, ListedBoards, circle, fails, serving
from tests.support.task_managers import Client, task_manager

NOBODY = ListedBoards([])
RECEIVER = "http://127.0.0.1:1"


def retry(client: Client, task_id: str) -> Any:
    return client.stub.RetryTask(tm.RetryTaskRequest(task_id=task_id), timeout=10)


def abandon(client: Client, task_id: str) -> Any:
    return client.stub.AbandonDelivery(tm.AbandonDeliveryRequest(task_id=task_id), timeout=10)


async def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value.code()


async def test_a_replayed_dead_letter_is_done_with_all_its_tries_and_keeps_its_history(tmp_path: Path) -> None:
    board = FakeBoard("b1", fails(types.FAILURE_KIND_WORKER_ERROR, "boom"))
    async with serving(board), task_manager(tmp_path, ListedBoards([board]), max_attempts=2) as client:
        task_id = await client.submit()
        await client.until(task_id, lambda task: task.state is State.FAILED)
        tries = iter([fails(types.FAILURE_KIND_WORKER_ERROR, "again")])

        def fail_once_more(dispatch: pb.Dispatch, image: bytes) -> pb.Outcome | None:
            return next(tries, circle)(dispatch, image)

        board.answer = fail_once_more
        queued = await retry(client, task_id)
        task = await client.until(task_id, lambda task: task.state is State.DONE)
        attempts = (await client.details(task_id)).attempts

    assert (queued.state, queued.failed_attempts) == (tm.TASK_STATE_QUEUED, 0)
    assert task.failed_attempts == 1
    assert [attempt.failure.message for attempt in attempts] == ["boom", "boom", "again", ""]


async def test_only_a_dead_letter_can_be_replayed(tmp_path: Path) -> None:
    async with task_manager(tmp_path, NOBODY) as client:
        task_id = await client.submit()
        assert await code_of(retry(client, task_id)) is grpc.StatusCode.FAILED_PRECONDITION
        assert await code_of(retry(client, "nobody")) is grpc.StatusCode.NOT_FOUND


async def test_an_abandoned_delivery_ends_the_wait_and_keeps_the_labels(tmp_path: Path) -> None:
    async with serving(FakeBoard("b1")) as board, task_manager(tmp_path, ListedBoards([board])) as client:
        task_id = await client.submit(receiver_url=RECEIVER)
        await client.until(task_id, lambda task: task.state is State.DONE)
        watch = client.stub.Watch(tm.WatchRequest(task_ids=[task_id], cursor=0), timeout=10)
        seen = [await anext(aiter(watch))]
        given_up = await abandon(client, task_id)
        seen += [event async for event in watch]  # it ends, because nothing more will happen
        details = await client.details(task_id)

    assert given_up.state == seen[-1].tasks[-1].state == tm.TASK_STATE_DONE
    assert not given_up.HasField("receiver_url")
    assert [detection.label for detection in details.result.detections] == ["circle"]


async def test_only_labels_that_wait_for_a_receiver_can_be_abandoned(tmp_path: Path) -> None:
    async with serving(FakeBoard("b1")) as board, task_manager(tmp_path, ListedBoards([board])) as client:
        to_nobody, to_somebody = await client.submit(), await client.submit(receiver_url=RECEIVER)
        for task_id in (to_nobody, to_somebody):
            await client.until(task_id, lambda task: task.state is State.DONE)
        assert await code_of(abandon(client, to_nobody)) is grpc.StatusCode.FAILED_PRECONDITION
        await abandon(client, to_somebody)
        assert await code_of(abandon(client, to_somebody)) is grpc.StatusCode.FAILED_PRECONDITION
        assert await code_of(abandon(client, "nobody")) is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(("command", "says"), [("retry", "queued again"), ("abandon", "will not be delivered")])
async def test_the_command_line_does_it_too(tmp_path: Path, command: str, says: str) -> None:
    board = FakeBoard("b1", fails(types.FAILURE_KIND_INVALID_INPUT) if command == "retry" else circle)
    ended = State.FAILED if command == "retry" else State.DONE
    async with serving(board), task_manager(tmp_path, ListedBoards([board])) as client:
        task_id = await client.submit(receiver_url=RECEIVER)
        await client.until(task_id, lambda task: task.state is ended)
        port = client.address.rpartition(":")[2]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "edgesched", "tasks", command, task_id, "--port", port),
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(30):
            output, _ = await process.communicate()
    assert (process.returncode, says in output.decode()) == (0, True)
