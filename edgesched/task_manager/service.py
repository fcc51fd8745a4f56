"""The gRPC door: read the wire, call the core, write the wire."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import grpc.aio

from edgesched import wire
from edgesched.domain.lifecycle import LABELLED_STATES, OPEN_STATES
from edgesched.domain.task import FailureKind, Result, Submission, Task, TaskId
from edgesched.errors import EdgeSchedError, InvalidInput, NotKnown, Overloaded, StorageFailed, TaskEnded, row_for
from edgesched.ledger.base import Ledger
from edgesched.task_manager.changes import Changes
from edgesched.task_manager.intake import Intake
from edgesched.task_manager.local_tasks import LocalTasks
from edgesched.task_manager.status import STATUS
from edgesched.v1 import task_manager_pb2 as pb
from edgesched.v1 import task_manager_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]

STREAM_PICTURES_IN_FLIGHT = 64  # per stream, read but not yet answered
STREAM_BYTES_IN_FLIGHT = 64 * 1024 * 1024
DEFAULT_PAGE, LARGEST_PAGE = 100, 1_000
MAX_WATCHED_IDS = 10_000
WATCH_PAGE = 500


class TaskManagerService(pb_grpc.TaskManagerServicer):
    def __init__(self, intake: Intake, ledger: Ledger, desk: LocalTasks, changes: Changes) -> None:
        self._intake = intake
        self._ledger = ledger
        self._desk = desk
        self._changes = changes

    async def Submit(self, request: pb.SubmitRequest, context: Context) -> pb.SubmitReply:
        task = await self._intake.accept(wire.submission(request))
        return pb.SubmitReply(tag=request.tag, task_id=task.task_id)

    async def SubmitStream(
        self, requests: AsyncIterator[pb.SubmitRequests], context: Context
    ) -> AsyncIterator[pb.SubmitReplies]:
        room = _Room(STREAM_PICTURES_IN_FLIGHT, STREAM_BYTES_IN_FLIGHT)
        replies = _Replies()
        feeder = asyncio.create_task(self._feed(requests, replies, room), name="SubmitStream.feed")
        try:
            while (ready := await replies.next()) is not None:
                yield pb.SubmitReplies(replies=[reply for reply, _ in ready])
                for _, size_bytes in ready:
                    room.leave(size_bytes)  # only now: a client that reads no replies is not read from either
            await feeder
        finally:
            feeder.cancel()

    async def Infer(self, request: pb.SubmitRequest, context: Context) -> pb.InferReply:
        task = await self._intake.accept(wire.submission(request))
        result: Result | None = None
        if task.state in OPEN_STATES:
            task, result = await self._until_labelled(task.task_id)
        result = result or await self._ledger.result(task.task_id)
        if task.state not in LABELLED_STATES or result is None:
            raise await self._why_no_labels(task)
        return pb.InferReply(
            task_id=task.task_id,
            attempt_id=task.attempt_id or "",
            device_id=task.device_id or "",
            result=wire.result_to_pb(result),
        )

    async def GetTask(self, request: pb.GetTaskRequest, context: Context) -> pb.GetTaskReply:
        return wire.task_details_to_pb(await self._desk.get(TaskId(request.task_id)))

    async def ListTasks(self, request: pb.ListTasksRequest, context: Context) -> pb.ListTasksReply:
        limit = request.page_size or DEFAULT_PAGE
        if limit > LARGEST_PAGE:
            raise InvalidInput(f"page_size must be at most {LARGEST_PAGE}, got {limit}")
        cursor = request.cursor if request.HasField("cursor") else None
        page = await self._ledger.list(wire.list_filter(request), limit=limit, cursor=cursor)
        return wire.task_page_to_pb(page)

    async def CountTasks(self, request: pb.CountTasksRequest, context: Context) -> pb.CountTasksReply:
        return wire.task_counts_to_pb(await self._ledger.counts())

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchEvents]:
        if len(request.task_ids) > MAX_WATCHED_IDS:
            raise InvalidInput(f"at most {MAX_WATCHED_IDS} task_ids on one call, got {len(request.task_ids)}")
        if request.task_ids:
            changes = self._watch_some(request)
        else:
            changes = self._changes.follow(request.cursor if request.HasField("cursor") else None)
        async with contextlib.aclosing(changes):
            async for changed in changes:
                told = [wire.task_to_pb(task) for task in changed]
                for at in range(0, len(told), WATCH_PAGE):
                    yield pb.WatchEvents(tasks=told[at : at + WATCH_PAGE])

    async def _watch_some(self, request: pb.WatchRequest) -> AsyncGenerator[Sequence[Task], None]:
        """Until all of them have settled."""
        start = await self._changes.start()
        cursor = request.cursor if request.HasField("cursor") else start.revision
        known = sorted(await self._known(request), key=lambda task: task.revision)
        yield [task for task in known if task.revision > cursor]
        told = {task.task_id: task.revision for task in known if not task.is_settled}
        if not told:
            return
        async with contextlib.aclosing(self._changes.follow_from(start)) as changes:
            async for changed in changes:
                news = [task for task in changed if task.revision > told.get(task.task_id, task.revision)]
                yield news
                for task in news:
                    told[task.task_id] = task.revision
                    if task.is_settled:
                        del told[task.task_id]
                if not told:
                    return

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsReply:
        return wire.models_to_pb(await self._desk.models())

    async def GetPicture(self, request: pb.GetPictureRequest, context: Context) -> AsyncIterator[pb.PictureChunk]:
        for chunk in wire.chunks(await self._desk.picture(TaskId(request.task_id))):
            yield pb.PictureChunk(data=chunk)

    async def GetStats(self, request: pb.GetStatsRequest, context: Context) -> pb.GetStatsReply:
        return wire.task_stats_to_pb(await self._desk.stats())

    async def CancelTask(self, request: pb.CancelTaskRequest, context: Context) -> pb.Task:
        return wire.task_to_pb(await self._desk.cancel(TaskId(request.task_id)))

    async def RetryTask(self, request: pb.RetryTaskRequest, context: Context) -> pb.Task:
        return wire.task_to_pb(await self._desk.retry(TaskId(request.task_id)))

    async def AbandonDelivery(self, request: pb.AbandonDeliveryRequest, context: Context) -> pb.Task:
        return wire.task_to_pb(await self._desk.abandon(TaskId(request.task_id)))

    async def _feed(self, requests: AsyncIterator[pb.SubmitRequests], replies: _Replies, room: _Room) -> None:
        """Read ahead of the disk, but not without bound: gRPC's flow control stops the client then."""
        try:
            async for message in requests:
                for request in message.requests:
                    try:
                        submission = wire.submission(request)  # which copies the picture out of the message, once
                    except InvalidInput as error:
                        await room.enter(0)
                        replies.expect()
                        replies.put(pb.SubmitReply(tag=request.tag, refusal=_refusal(error)), 0)
                        continue
                    await room.enter(len(submission.image))
                    replies.expect()
                    self._accept_one(submission, request.tag, replies)
        except grpc.aio.BaseError:
            pass  # the server stops: whatever is not answered yet was not acknowledged
        finally:
            replies.end()

    def _accept_one(self, submission: Submission, tag: int, replies: _Replies) -> None:
        """No task of its own for each picture: it would cost more than what there is to do."""
        size_bytes = len(submission.image)

        def refuse(error: EdgeSchedError) -> None:
            replies.put(pb.SubmitReply(tag=tag, refusal=_refusal(error)), size_bytes)

        def answer(done: asyncio.Future[Task]) -> None:
            error = done.exception()
            if error is None:
                replies.put(pb.SubmitReply(tag=tag, task_id=done.result().task_id), size_bytes)
            elif isinstance(error, EdgeSchedError) and not isinstance(error, StorageFailed):
                refuse(error)
            else:
                replies.end(error)  # the process is ending: no answer is the honest one

        try:
            self._intake.offer(submission).add_done_callback(answer)
        except EdgeSchedError as error:
            refuse(error)

    async def _why_no_labels(self, task: Task) -> EdgeSchedError:
        attempts = (await self._ledger.details(task.task_id)).attempts
        failure = attempts[-1].failure if attempts else None
        if failure is not None and failure.kind is FailureKind.INVALID_INPUT:
            return InvalidInput(f"task {task.task_id}: {failure.message}")
        return TaskEnded(f"task {task.task_id} is {task.state}: {task.last_error or 'no cause was recorded'}")

    async def _until_labelled(self, task_id: TaskId) -> tuple[Task, Result | None]:
        """Returns: the task at its end, and its labels if they were heard of and need not be read."""
        ended: asyncio.Future[tuple[Task, Result | None]] = asyncio.get_running_loop().create_future()

        def listen(task: Task, result: Result | None) -> None:
            if task.state not in OPEN_STATES and not ended.done():
                ended.set_result((task, result))

        with self._changes.listening(task_id, listen):
            for task in await self._ledger.get_many([task_id]):
                listen(task, None)  # it may have ended before we listened
            return await ended

    async def _known(self, request: pb.WatchRequest) -> list[Task]:
        wanted = {TaskId(task_id) for task_id in request.task_ids}
        known = list(await self._ledger.get_many(wanted))
        missing = wanted - {task.task_id for task in known}
        if missing:
            raise NotKnown(f"task {min(missing)!r} is not known ({len(missing)} of {len(wanted)} are not)")
        return known


class _Replies:
    """What one stream is still to be told; the room bounds it."""

    def __init__(self) -> None:
        self._expected = 0
        self._ready: list[tuple[pb.SubmitReply, int]] = []  # with the size of the picture that it answers
        self._is_over = False
        self._error: BaseException | None = None
        self._wake = asyncio.Event()

    def expect(self) -> None:
        """One more picture will be answered."""
        self._expected += 1

    def put(self, reply: pb.SubmitReply, size_bytes: int) -> None:
        """An answer that was expected."""
        self._expected -= 1
        self._ready.append((reply, size_bytes))
        self._wake.set()

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more will be expected."""
        self._is_over, self._error = True, error or self._error
        self._wake.set()

    async def next(self) -> list[tuple[pb.SubmitReply, int]] | None:
        """All that are ready, at least one; None after the last one. Raises: what `end` was given."""
        while not self._ready:
            if self._error is not None:
                raise self._error
            if self._is_over and not self._expected:
                return None
            self._wake.clear()
            await self._wake.wait()
        ready, self._ready = self._ready, []
        return ready


class _Room:
    """Bounds what one stream has read but not answered, by count and by bytes. One picture always fits."""

    def __init__(self, pictures: int, size_bytes: int) -> None:
        self._pictures = pictures
        self._bytes = size_bytes
        self._inside = 0
        self._inside_bytes = 0
        self._left = asyncio.Event()

    async def enter(self, size_bytes: int) -> None:
        while self._inside and (self._inside >= self._pictures or self._inside_bytes + size_bytes > self._bytes):
            self._left.clear()
            await self._left.wait()
        self._inside += 1
        self._inside_bytes += size_bytes

    def leave(self, size_bytes: int) -> None:
        self._inside -= 1
        self._inside_bytes -= size_bytes
        self._left.set()


def _refusal(error: EdgeSchedError) -> pb.Refusal:
    return pb.Refusal(
        status_code=row_for(STATUS, type(error)).value[0],
        message=str(error),
        retry_after_ms=error.retry_after_ms if isinstance(error, Overloaded) else None,
    )
