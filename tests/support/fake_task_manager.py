"""A task manager that does no work: tests say how it answers. It listens on a real port of its own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc

from edgesched import wire
from edgesched.v1 import task_manager_pb2 as pb
from edgesched.v1 import task_manager_pb2_grpc as rpc

Answer = Callable[[pb.SubmitRequest], pb.Refusal | None]
Context = grpc.aio.ServicerContext[pb.SubmitRequests, pb.SubmitReplies]


class FakeTaskManager(rpc.TaskManagerServicer):
    """Accepts everything, at once and in order, unless told otherwise."""

    def __init__(self) -> None:
        self.received: list[pb.SubmitRequest] = []  # every request, in the order of arrival
        self.tasks: dict[str, pb.Task] = {}
        self.task_of: dict[tuple[str, str], str] = {}  # (client, submission key)
        self.streams = 0
        self.refusal_for: Answer = lambda request: None
        self.break_after: list[int] = []  # for each of the first streams: after how many requests it breaks
        self.replies_are_lost = False  # what it leaves without an answer it accepts all the same
        self.reply_in_groups_of = 1  # each group is answered in the reverse order
        self.answers_at_most: int | None = None  # later requests are never answered
        self.got_one = asyncio.Event()
        self.fell_silent = asyncio.Event()  # it has left a request without an answer
        self.is_watched = asyncio.Event()
        self.watched: list[pb.WatchRequest] = []
        self.end_watch_after: list[int] = []  # for each of the first watches: after how many events it breaks
        self._changed = asyncio.Condition()
        self._revisions = itertools.count(1)

    # --- submissions ---

    async def SubmitStream(
        self, requests: AsyncIterator[pb.SubmitRequests], context: Context
    ) -> AsyncIterator[pb.SubmitReplies]:
        self.streams += 1
        breaks_after = self.break_after.pop(0) if self.break_after else None
        group: list[pb.SubmitReply] = []
        count = 0
        async for request in _each(requests):
            count += 1
            self.received.append(request)
            self.got_one.set()
            if self.answers_at_most is not None and len(self.received) > self.answers_at_most:
                if self.replies_are_lost:
                    self._reply(request)
                self.fell_silent.set()
                continue
            if count == breaks_after:
                if self.replies_are_lost:
                    self._reply(request)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the task manager is stopping")
            group.append(self._reply(request))
            if len(group) == self.reply_in_groups_of:
                yield pb.SubmitReplies(replies=reversed(group))
                group.clear()
        yield pb.SubmitReplies(replies=group)

    def _reply(self, request: pb.SubmitRequest) -> pb.SubmitReply:
        refusal = self.refusal_for(request)
        if refusal is not None:
            return pb.SubmitReply(tag=request.tag, refusal=refusal)
        key = (request.client_id, request.submission_key)
        task_id = self.task_of.setdefault(key, f"task-{len(self.task_of) + 1}")
        if task_id not in self.tasks:
            self._put(
                pb.Task(
                    task_id=task_id,
                    seq=len(self.tasks) + 1,
                    state=pb.TASK_STATE_QUEUED,
                    client_id=request.client_id,
                    model=request.model,
                    file_name=request.file_name,
                    size_bytes=len(request.image),
                    receiver_url=request.receiver_url if request.HasField("receiver_url") else None,
                    created_at_ms=1_000,
                    updated_at_ms=1_000,
                )
            )
        return pb.SubmitReply(tag=request.tag, task_id=task_id)

    # --- what becomes of them ---

    def _put(self, task: pb.Task) -> None:
        task.revision = next(self._revisions)
        self.tasks[task.task_id] = task

    async def move(
        self, task_id: str, state: pb.TaskState, *, after_ms: int = 0, last_error: str | None = None
    ) -> None:
        """Change a task, `after_ms` after it was created."""
        task = pb.Task()
        task.CopyFrom(self.tasks[task_id])
        task.state = state
        task.updated_at_ms = task.created_at_ms + after_ms
        if last_error is not None:
            task.last_error = last_error
        self._put(task)
        async with self._changed:
            self._changed.notify_all()

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchEvents]:
        self.watched.append(request)
        self.is_watched.set()
        unknown = [i for i in request.task_ids if i not in self.tasks]
        if unknown:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no task {unknown[0]}")
        breaks_after = self.end_watch_after.pop(0) if self.end_watch_after else None
        newest = max((task.revision for task in self.tasks.values()), default=0)
        seen = request.cursor if request.HasField("cursor") else newest
        count = 0
        while True:
            news = sorted((t for i in request.task_ids if (t := self.tasks[i]).revision > seen), key=_revision)
            for task in news:
                if count == breaks_after:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the task manager is stopping")
                count += 1
                seen = task.revision
                yield pb.WatchEvents(tasks=[task])
            if all(wire.task(self.tasks[i]).is_settled for i in request.task_ids):
                return
            async with self._changed:
                if all(self.tasks[i].revision <= seen for i in request.task_ids):
                    await self._changed.wait()


async def _each(messages: AsyncIterator[pb.SubmitRequests]) -> AsyncIterator[pb.SubmitRequest]:
    async for message in messages:
        for request in message.requests:
            yield request


def _revision(task: pb.Task) -> int:
    return task.revision


@dataclass(frozen=True)
class RunningFake:
    fake: FakeTaskManager
    port: int

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"


@asynccontextmanager
async def running(fake: FakeTaskManager, *, port: int = 0) -> AsyncIterator[RunningFake]:
    server = grpc.aio.server(options=wire.SERVER_OPTIONS)
    rpc.add_TaskManagerServicer_to_server(fake, server)
    bound_port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield RunningFake(fake, bound_port)
    finally:
        await server.stop(None)
