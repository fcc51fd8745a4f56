"""The `TaskQueries` port over gRPC, against a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from edgesched.domain.lifecycle import State
from edgesched.domain.task import TaskFilter, TaskId
from edgesched.errors import InvalidInput, NotKnown, PeerUnavailable
from edgesched.v1 import task_manager_pb2 as pb
from edgesched.v1.task_manager_pb2_grpc import TaskManagerServicer, add_TaskManagerServicer_to_server
from gateway.remote_tasks import RemoteTasks
from tests.support.gateways import closed_port

TASK = pb.Task(
    task_id="t-1", seq=1, revision=9, state=pb.TASK_STATE_DONE, client_id="c", model="shapes", file_name="a.jpg"
)


class SmallTaskManager(TaskManagerServicer):
    def __init__(self) -> None:
        self.listed: list[pb.ListTasksRequest] = []

    async def GetTask(self, request: pb.GetTaskRequest, context: Any) -> pb.GetTaskReply:
        if request.task_id != TASK.task_id:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no task {request.task_id}")
        return pb.GetTaskReply(task=TASK)

    async def ListTasks(self, request: pb.ListTasksRequest, context: Any) -> pb.ListTasksReply:
        self.listed.append(request)
        if request.cursor == 13:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "cursor is not from here")
        return pb.ListTasksReply(tasks=[TASK], next_cursor=4)

    async def CountTasks(self, request: pb.CountTasksRequest, context: Any) -> pb.CountTasksReply:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too busy")
        raise AssertionError


@asynccontextmanager
async def served(servicer: SmallTaskManager, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    server = grpc.aio.server()
    add_TaskManagerServicer_to_server(servicer, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=None)


@pytest.fixture
def servicer() -> SmallTaskManager:
    return SmallTaskManager()


@pytest.fixture
async def tasks(servicer: SmallTaskManager) -> AsyncIterator[RemoteTasks]:
    async with served(servicer) as address, RemoteTasks.connected(address) as tasks:
        yield tasks


async def test_one_task_is_read(tasks: RemoteTasks) -> None:
    details = await tasks.get(TaskId("t-1"))
    assert (details.task.file_name, details.task.state, details.result) == ("a.jpg", State.DONE, None)


async def test_a_list_passes_filter_limit_and_cursor_on(tasks: RemoteTasks, servicer: SmallTaskManager) -> None:
    page = await tasks.list(TaskFilter(state=State.DONE, model="shapes"), limit=5, cursor=70)
    assert [t.task_id for t in page.tasks] == ["t-1"]
    assert page.next_cursor == 4
    (asked,) = servicer.listed
    assert (asked.state, asked.model, asked.page_size, asked.cursor) == (pb.TASK_STATE_DONE, "shapes", 5, 70)
    assert not asked.HasField("client_id")


async def test_errors_keep_their_meaning(tasks: RemoteTasks) -> None:
    with pytest.raises(NotKnown, match="there is no task t-2"):
        await tasks.get(TaskId("t-2"))
    with pytest.raises(InvalidInput, match="cursor is not from here"):
        await tasks.list(TaskFilter(), limit=1, cursor=13)
    with pytest.raises(PeerUnavailable, match="too busy"):
        await tasks.counts()


async def test_nobody_there_is_unavailable_and_says_where_it_looked() -> None:
    port = await closed_port()
    async with RemoteTasks.connected(f"127.0.0.1:{port}") as tasks:
        with pytest.raises(PeerUnavailable, match=f"127.0.0.1:{port}.*--task-manager"):
            await tasks.counts()
