"""The `TaskDesk` port over gRPC: what a gateway in its own process asks and tells the task manager."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import grpc
import grpc.aio

from edgesched import wire
from edgesched.domain.task import (
    ModelFacts,
    Submission,
    Task,
    TaskCounts,
    TaskDetails,
    TaskFilter,
    TaskId,
    TaskPage,
    TaskStats,
)
from edgesched.errors import (
    Conflict,
    EdgeSchedError,
    IllegalTransition,
    InvalidInput,
    NotKnown,
    Overloaded,
    PeerUnavailable,
)
from edgesched.v1 import task_manager_pb2 as pb
from edgesched.v1.task_manager_pb2_grpc import TaskManagerStub

TIMEOUT_S = 3.0
TRANSFER_TIMEOUT_S = 15.0
"""For calls that carry a picture or wait for the disk."""

LARGEST_CURSOR = 2**63 - 1
RETRY_AFTER_METADATA = "retry-after-ms"

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
        async with grpc.aio.insecure_channel(address, options=wire.CHANNEL_OPTIONS) as channel:
            yield cls(TaskManagerStub(channel), address)

    async def get(self, task_id: TaskId) -> TaskDetails:
        request = pb.GetTaskRequest(task_id=task_id)
        return wire.task_details(await self._answer(self._stub.GetTask(request, timeout=TIMEOUT_S)))

    async def list(self, filter_: TaskFilter, *, limit: int, cursor: int | None) -> TaskPage:
        if cursor is not None and cursor > LARGEST_CURSOR:
            raise InvalidInput(f"the cursor {cursor} was never given out")
        request = wire.list_request(filter_, limit=limit, cursor=cursor)
        return wire.task_page(await self._answer(self._stub.ListTasks(request, timeout=TIMEOUT_S)))

    async def counts(self) -> TaskCounts:
        request = pb.CountTasksRequest()
        return wire.task_counts(await self._answer(self._stub.CountTasks(request, timeout=TIMEOUT_S)))

    async def stats(self) -> TaskStats:
        return wire.task_stats(await self._answer(self._stub.GetStats(pb.GetStatsRequest(), timeout=TIMEOUT_S)))

    async def models(self) -> Sequence[ModelFacts]:
        return wire.models(await self._answer(self._stub.ListModels(pb.ListModelsRequest(), timeout=TIMEOUT_S)))

    async def picture(self, task_id: TaskId) -> bytes:
        chunks: list[bytes] = []
        try:
            async for chunk in self._stub.GetPicture(pb.GetPictureRequest(task_id=task_id), timeout=TRANSFER_TIMEOUT_S):
                chunks.append(chunk.data)
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from error
        return b"".join(chunks)

    async def changes(self) -> AsyncGenerator[Task, None]:
        call = self._stub.Watch(pb.WatchRequest())  # a peer that vanished is noticed by the channel's keepalive
        try:
            async for event in call:
                for task in event.tasks:
                    yield wire.task(task)
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from error
        finally:
            call.cancel()
        raise PeerUnavailable(f"the task manager at {self._address} ended the watch; it is stopping")

    async def submit(self, submission: Submission) -> TaskId:
        request = wire.submission_to_pb(submission)
        reply = await self._answer(self._stub.Submit(request, timeout=TRANSFER_TIMEOUT_S))
        return TaskId(reply.task_id)

    async def cancel(self, task_id: TaskId) -> Task:
        request = pb.CancelTaskRequest(task_id=task_id)
        return wire.task(await self._answer(self._stub.CancelTask(request, timeout=TRANSFER_TIMEOUT_S)))

    async def retry(self, task_id: TaskId) -> Task:
        request = pb.RetryTaskRequest(task_id=task_id)
        return wire.task(await self._answer(self._stub.RetryTask(request, timeout=TRANSFER_TIMEOUT_S)))

    async def abandon(self, task_id: TaskId) -> Task:
        request = pb.AbandonDeliveryRequest(task_id=task_id)
        return wire.task(await self._answer(self._stub.AbandonDelivery(request, timeout=TRANSFER_TIMEOUT_S)))

    async def _answer(self, call: Awaitable[Reply]) -> Reply:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from error

    def _translated(self, error: grpc.aio.AioRpcError) -> EdgeSchedError:
        details = error.details() or error.code().name
        retry_after_ms = dict(error.trailing_metadata() or ()).get(RETRY_AFTER_METADATA)
        match error.code():
            case grpc.StatusCode.NOT_FOUND:
                return NotKnown(details)
            case grpc.StatusCode.INVALID_ARGUMENT:
                return InvalidInput(details)
            case grpc.StatusCode.ALREADY_EXISTS:
                return Conflict(details)
            case grpc.StatusCode.FAILED_PRECONDITION:
                return IllegalTransition(details)
            case grpc.StatusCode.RESOURCE_EXHAUSTED if retry_after_ms is not None:
                return Overloaded(details, retry_after_ms=int(retry_after_ms))
            case _:
                return PeerUnavailable(
                    f"the task manager at {self._address} does not answer ({details}); is it running there? "
                    "(--task-manager HOST:PORT says where it is)"
                )
