"""What clients may ask of the task manager, and what they are told when they ask for nonsense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from edgesched.domain.lifecycle import State
from edgesched.errors import StartupError
from edgesched.settings import TaskManagerSettings
from edgesched.task_manager.app import opened
from edgesched.v1 import task_manager_pb2 as pb
from edgesched.v1 import types_pb2 as types
from tests.support.fake_boards import FakeBoard, ListedBoards, fails, serving
from tests.support.task_managers import small_jpeg, submission, task_manager

NOBODY = ListedBoards([])


async def refused_with(call: Any, code: grpc.StatusCode, words: str) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code, caught.value
    assert words in (caught.value.details() or "")
    return caught.value


async def test_a_picture_comes_back_labelled_and_the_task_says_who_did_it_and_why(tmp_path: Path) -> None:
    async with serving(FakeBoard("b1")) as board, task_manager(tmp_path, ListedBoards([board])) as client:
        task_id = await client.submit(file_name="first.jpg")
        task = await client.until(task_id, lambda task: task.state is State.DONE)
        details = await client.details(task_id)

    assert (task.file_name, task.device_id, task.failed_attempts) == ("first.jpg", "b1", 0)
    assert [detection.label for detection in details.result.detections] == ["circle"]
    assert len(details.attempts) == 1
    assert details.attempts[0].attempt_id == task.attempt_id == board.dispatches[0].attempt_id
    assert "listed: b1" in details.attempts[0].reason
    assert details.attempts[0].timings.service_ms == 1.0


async def test_infer_waits_for_the_labels_on_the_same_call(tmp_path: Path) -> None:
    async with serving(FakeBoard("b1")) as board, task_manager(tmp_path, ListedBoards([board])) as client:
        request = submission()
        reply = await client.stub.Infer(request, timeout=10)
        stored = (await client.details(reply.task_id)).result
        again = await client.stub.Infer(request, timeout=10)  # the same key: the labels come from the ledger

    assert reply.result == stored == again.result
    assert (reply.device_id, reply.result.detections[0].x2) == ("b1", 3.0)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (types.FAILURE_KIND_INVALID_INPUT, grpc.StatusCode.INVALID_ARGUMENT),
        (types.FAILURE_KIND_WORKER_ERROR, grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
async def test_infer_of_a_task_that_fails_says_why(
    tmp_path: Path, kind: types.FailureKind, code: grpc.StatusCode
) -> None:
    board = FakeBoard("b1", fails(kind, "no luck today"))
    async with serving(board), task_manager(tmp_path, ListedBoards([board]), max_attempts=1) as client:
        await refused_with(client.stub.Infer(submission(), timeout=10), code, "no luck today")


async def test_a_refused_picture_gets_its_own_reply_and_the_stream_goes_on(tmp_path: Path) -> None:
    async with task_manager(tmp_path, NOBODY) as client:
        wanted = [submission(tag=7), submission(tag=8, image=b"no picture"), submission(tag=9)]
        wanted.insert(1, submission(tag=6, priority=17))
        messages = [pb.SubmitRequests(requests=wanted[:2]), pb.SubmitRequests(requests=wanted[2:])]
        answers = client.stub.SubmitStream(iter(messages), timeout=10)
        replies = {reply.tag: reply async for message in answers for reply in message.replies}

    assert sorted(replies) == [6, 7, 8, 9]
    assert "priority 17 is not known" in replies[6].refusal.message
    assert replies[7].task_id
    assert replies[9].task_id not in ("", replies[7].task_id)
    assert replies[8].refusal.status_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "JPEG" in replies[8].refusal.message
    assert not replies[8].refusal.HasField("retry_after_ms")


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"image": b""}, grpc.StatusCode.INVALID_ARGUMENT, "0 bytes"),
        ({"image": small_jpeg()[:-100]}, grpc.StatusCode.INVALID_ARGUMENT, "truncated"),
        ({"image": b"x" * (17 * 1024 * 1024)}, grpc.StatusCode.INVALID_ARGUMENT, "max_picture_bytes"),
        ({"file_name": "../a.jpg"}, grpc.StatusCode.INVALID_ARGUMENT, "plain name"),
        ({"file_name": "a\x00.jpg"}, grpc.StatusCode.INVALID_ARGUMENT, "control characters"),
        ({"model": "nope"}, grpc.StatusCode.NOT_FOUND, "there are: shapes"),
        ({"client_id": ""}, grpc.StatusCode.INVALID_ARGUMENT, "client_id"),
        ({"submission_key": "x" * 200}, grpc.StatusCode.INVALID_ARGUMENT, "submission_key"),
        ({"receiver_url": "ftp://host"}, grpc.StatusCode.INVALID_ARGUMENT, "http://"),
        ({"receiver_url": "http://"}, grpc.StatusCode.INVALID_ARGUMENT, "http://"),
        ({"receiver_url": "http://a b/"}, grpc.StatusCode.INVALID_ARGUMENT, "http://"),
        ({"priority": 4}, grpc.StatusCode.INVALID_ARGUMENT, "it is low, normal or high"),
        ({"remaining_ms": 0}, grpc.StatusCode.INVALID_ARGUMENT, "remaining_ms"),
        ({"remaining_ms": 2**64 - 1}, grpc.StatusCode.INVALID_ARGUMENT, "remaining_ms"),
    ],
)
async def test_nonsense_is_refused_and_leaves_nothing_behind(
    tmp_path: Path, changes: dict[str, Any], code: grpc.StatusCode, words: str
) -> None:
    async with task_manager(tmp_path, NOBODY) as client:
        await refused_with(client.stub.Submit(submission(**changes), timeout=10), code, words)
        listed = await client.stub.ListTasks(pb.ListTasksRequest(), timeout=10)
        counts = await client.stub.CountTasks(pb.CountTasksRequest(), timeout=10)

    assert list(listed.tasks) == []
    assert sum(count.tasks for count in counts.counts) == 0


async def test_a_known_model_without_a_device_is_queued(tmp_path: Path) -> None:
    async with task_manager(tmp_path, NOBODY) as client:
        task_id = await client.submit()
        details = await client.details(task_id)

    assert details.task.state == pb.TASK_STATE_QUEUED


async def test_the_same_key_again_is_the_same_task(tmp_path: Path) -> None:
    async with task_manager(tmp_path, NOBODY) as client:
        first = await client.submit(submission_key="k")
        again = await client.submit(submission_key="k")
        other_client = await client.submit(submission_key="k", client_id="somebody else")
        await refused_with(
            client.stub.Submit(submission(submission_key="k", image=small_jpeg(seed=1)), timeout=10),
            grpc.StatusCode.ALREADY_EXISTS,
            "fresh key",
        )
        listed = await client.stub.ListTasks(pb.ListTasksRequest(), timeout=10)

    assert again == first
    assert {task.task_id for task in listed.tasks} == {first, other_client}


async def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    async with task_manager(tmp_path, NOBODY, max_queued_tasks=2) as client:
        await client.submit()
        await client.submit()
        error = await refused_with(
            client.stub.Submit(submission(), timeout=10), grpc.StatusCode.RESOURCE_EXHAUSTED, "queue is full"
        )
        requests = pb.SubmitRequests(requests=[submission()])
        (reply,) = (await anext(aiter(client.stub.SubmitStream(iter([requests]), timeout=10)))).replies

    trailing = dict(error.trailing_metadata() or ())
    assert int(str(trailing["retry-after-ms"])) > 0
    assert reply.refusal.retry_after_ms > 0


async def test_a_task_that_is_not_known_is_not_found(tmp_path: Path) -> None:
    async with task_manager(tmp_path, NOBODY) as client:
        await refused_with(
            client.stub.GetTask(pb.GetTaskRequest(task_id="x"), timeout=10), grpc.StatusCode.NOT_FOUND, "x"
        )
        watch = client.stub.Watch(pb.WatchRequest(task_ids=["x"]), timeout=10)
        await refused_with(anext(aiter(watch)), grpc.StatusCode.NOT_FOUND, "x")


async def test_pages_run_from_the_newest_to_the_oldest(tmp_path: Path) -> None:
    async with task_manager(tmp_path, NOBODY) as client:
        sent = [await client.submit(file_name=f"{i}.jpg") for i in range(5)]
        seen: list[str] = []
        cursor: int | None = None
        while True:
            page = await client.stub.ListTasks(pb.ListTasksRequest(page_size=2, cursor=cursor), timeout=10)
            seen += [task.task_id for task in page.tasks]
            if not page.HasField("next_cursor"):
                break
            cursor = page.next_cursor
        await refused_with(
            client.stub.ListTasks(pb.ListTasksRequest(page_size=5000), timeout=10),
            grpc.StatusCode.INVALID_ARGUMENT,
            "page_size",
        )

    assert seen == sent[::-1]


async def test_watch_shows_what_was_there_what_changes_and_ends_when_all_have_settled(tmp_path: Path) -> None:
    async with serving(FakeBoard("b1")) as board:
        boards = ListedBoards([])
        async with task_manager(tmp_path, boards) as client:
            task_ids = [await client.submit(), await client.submit()]
            seen: dict[str, list[int]] = {task_id: [] for task_id in task_ids}
            async for event in client.stub.Watch(pb.WatchRequest(task_ids=task_ids, cursor=0), timeout=10):
                for task in event.tasks:
                    seen[task.task_id].append(task.state)
                boards.boards = [board]  # from now on somebody does the work

    for states in seen.values():
        assert states[0] == pb.TASK_STATE_QUEUED
        assert states[-1] == pb.TASK_STATE_DONE


async def test_health_and_reflection_are_on(tmp_path: Path) -> None:
    async with task_manager(tmp_path, NOBODY) as client:
        check = health_pb2_grpc.HealthStub(client.channel).Check
        healthy = await check(health_pb2.HealthCheckRequest(service="edgesched.v1.TaskManager"), timeout=10)
        reflect = reflection_pb2_grpc.ServerReflectionStub(client.channel).ServerReflectionInfo
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        listed = await anext(aiter(reflect(asked, timeout=10)))

    assert healthy.status == health_pb2.HealthCheckResponse.SERVING
    assert "edgesched.v1.TaskManager" in {s.name for s in listed.list_services_response.service}


async def test_the_models_are_listed(tmp_path: Path) -> None:
    async with task_manager(tmp_path, NOBODY) as client:
        reply = await client.stub.ListModels(pb.ListModelsRequest(), timeout=10)

    assert "shapes" in {model.name for model in reply.models}


async def test_a_ledger_has_one_user_and_a_port_too(tmp_path: Path) -> None:
    async with task_manager(tmp_path, NOBODY) as client:
        same = TaskManagerSettings(grpc_port=0, ledger_path=tmp_path / "ledger.sqlite3", upload_path=tmp_path / "u")
        with pytest.raises(StartupError, match="in use by another process"):
            async with opened(same, NOBODY):
                pass
        taken = TaskManagerSettings(
            grpc_port=int(client.address.rpartition(":")[2]),
            ledger_path=tmp_path / "other.sqlite3",
            upload_path=tmp_path / "other",
        )
        with pytest.raises(StartupError, match="the port is taken"):
            async with opened(taken, NOBODY):
                pass


@pytest.mark.parametrize("strategy", ["fastes", ""])
async def test_an_unknown_strategy_is_named_before_anything_is_opened(tmp_path: Path, strategy: str) -> None:
    settings = TaskManagerSettings(strategy=strategy, ledger_path=tmp_path / "l", upload_path=tmp_path / "u")
    with pytest.raises(StartupError, match="roundrobin"):
        async with opened(settings, NOBODY):
            pass
    assert list(tmp_path.iterdir()) == []
