"""A real task manager on a port of its own, over a real ledger, in the test's own event loop."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import grpc.aio
import numpy as np

from edgesched import wire
from edgesched.domain.task import Task
from edgesched.ports import Placement
from edgesched.settings import TaskManagerSettings
from edgesched.task_manager.app import opened
from edgesched.v1 import task_manager_pb2 as pb
from edgesched.v1 import task_manager_pb2_grpc as pb_grpc

if TYPE_CHECKING:
    from edgesched.spans import Tracing


def small_jpeg(seed: int = 0, width: int = 64, height: int = 48) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    _, data = cv2.imencode(".jpg", noise)
    return data.tobytes()


def submission(**changes: Any) -> pb.SubmitRequest:
    fields: dict[str, Any] = {
        "model": "shapes",
        "file_name": "a.jpg",
        "image": small_jpeg(),
        "client_id": "tests",
        "submission_key": uuid.uuid4().hex,
    }
    return pb.SubmitRequest(**(fields | changes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    stub: Any  # TaskManagerStub; grpcio-tools writes no stubs for it
    channel: grpc.aio.Channel
    address: str

    async def submit(self, **changes: Any) -> str:
        reply: pb.SubmitReply = await self.stub.Submit(submission(**changes), timeout=10)
        return reply.task_id

    async def details(self, task_id: str) -> pb.GetTaskReply:
        reply: pb.GetTaskReply = await self.stub.GetTask(pb.GetTaskRequest(task_id=task_id), timeout=10)
        return reply

    async def until(self, task_id: str, holds: Callable[[Task], bool], within_s: float = 10.0) -> Task:
        """Watch one task until it is as wanted. Raises: AssertionError naming its last state."""
        last: Task | None = None
        call = self.stub.Watch(pb.WatchRequest(task_ids=[task_id], cursor=0), timeout=within_s)
        try:
            async for event in call:
                for last in map(wire.task, event.tasks):
                    if holds(last):
                        return last
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
        raise AssertionError(f"the task was last seen as {last}")


@asynccontextmanager
async def task_manager(
    workspace: Path, placement: Placement, *, spans: Tracing | None = None, **settings: Any
) -> AsyncIterator[Client]:
    defaults: dict[str, Any] = {
        "grpc_port": 0,
        "ledger_path": workspace / "ledger.sqlite3",
        "upload_path": workspace / "upload",
        "durability": "process",
        "reconnect_grace_ms": 300,
        "retry_backoff_ms": 10,
        "drain_timeout_ms": 500,
    }
    async with (
        opened(TaskManagerSettings(**(defaults | settings)), placement, spans) as running,
        grpc.aio.insecure_channel(running.address, options=wire.CHANNEL_OPTIONS) as channel,
    ):
        yield Client(stub=pb_grpc.TaskManagerStub(channel), channel=channel, address=running.address)


def requests(*fields: dict[str, Any]) -> Iterator[pb.SubmitRequest]:
    return (submission(tag=tag, **changes) for tag, changes in enumerate(fields))
