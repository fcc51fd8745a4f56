"""The `TaskQueries` port over gRPC: what a gateway in its own process asks the task manager."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

import grpc
import grpc.aio

from edgesched import wire
from edgesched.domain.task import TaskCounts, TaskDetails, TaskFilter, TaskId, TaskPage
from edgesched.errors import EdgeSchedError, InvalidInput, NotKnown, PeerUnavailable
from edgesched.v1 import task_manager_pb2 as pb
from edgesched.v1.task_manager_pb2_grpc import TaskManagerStub

TIMEOUT_S = 3.0

CHANNEL_OPTIONS = (
    ("grpc.max_reconnect_backoff_ms", 2_000),  # a task manager that restarts is found again soon
    ("grpc.enable_http_proxy", 0),  # it is on this network
)

Reply = TypeVar("Reply")


class RemoteTasks:
    """One channel, kept and reused."""

    def __init__(self, stub: TaskManagerStub, address: str) -> None:
        self._stub = stub
        self._address = address

    @classmethod
    @asynccontextmanager
    async def connected(cls, address: str) -> AsyncIterator[RemoteTasks]:
        """address: HOST:PORT of the task manager, which need not be there yet."""
        async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            yield cls(TaskManagerStub(channel), address)

    async def get(self, task_id: TaskId) -> TaskDetails:
        request = pb.GetTaskRequest(task_id=task_id)
        return wire.task_details(await self._answer(self._stub.GetTask(request, timeout=TIMEOUT_S)))

    async def list(self, filter_: TaskFilter, *, limit: int, cursor: int | None) -> TaskPage:
        request = wire.list_request(filter_, limit=limit, cursor=cursor)
        return wire.task_page(await self._answer(self._stub.ListTasks(request, timeout=TIMEOUT_S)))

    async def counts(self) -> TaskCounts:
        request = pb.CountTasksRequest()
        return wire.task_counts(await self._answer(self._stub.CountTasks(request, timeout=TIMEOUT_S)))

    async def _answer(self, call: Awaitable[Reply]) -> Reply:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from error

    def _translated(self, error: grpc.aio.AioRpcError) -> EdgeSchedError:
        details = error.details() or error.code().name
        match error.code():
            case grpc.StatusCode.NOT_FOUND:
                return NotKnown(details)
            case grpc.StatusCode.INVALID_ARGUMENT:
                return InvalidInput(details)
            case _:
                return PeerUnavailable(
                    f"the task manager at {self._address} does not answer ({details}); is it running there? "
                    "(--task-manager HOST:PORT says where it is)"
                )
