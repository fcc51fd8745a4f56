"""Follows tasks until nothing more will happen to them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence

import grpc

from edgesched import wire
from edgesched.domain.task import Task, TaskId
from edgesched.errors import NotKnown, PeerUnavailable
from edgesched.v1 import task_manager_pb2 as pb
from edgesched.v1 import task_manager_pb2_grpc as rpc

MAX_WATCHED_IDS = 10_000
"""What one Watch call may name."""

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0

ASKING_S = 10.0

TRY_AGAIN = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
    }
)


async def wait_settled(
    channel: grpc.aio.Channel,
    task_ids: Iterable[TaskId],
    *,
    on_change: Callable[[Task], None] | None = None,
    timeout_s: float = 300.0,
) -> dict[TaskId, Task]:
    """Watch tasks until all have settled, over as many connections as it takes.

    on_change: told of each task's newest state, first of all of the present one.
    timeout_s: the longest time without any news.
    Returns: what is known of each task; after `timeout_s` some may not be settled or may be missing.
    Raises: NotKnown if the task manager does not know one of them, PeerUnavailable if it refuses to be asked.
    """
    ids = list(dict.fromkeys(task_ids))
    chunks = [ids[at : at + MAX_WATCHED_IDS] for at in range(0, len(ids), MAX_WATCHED_IDS)]
    waiter = _Waiter(channel, on_change, timeout_s)
    try:
        async with waiter.limit, asyncio.TaskGroup() as tasks:
            for chunk in chunks:
                tasks.create_task(waiter.follow(chunk))
    except TimeoutError:
        pass  # what is known is the answer
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return waiter.known


async def are_known(channel: grpc.aio.Channel, task_ids: Iterable[TaskId], *, timeout_s: float = ASKING_S) -> bool:
    """Whether the task manager knows every one of these tasks. No as well, if it does not say so in time."""
    ids = list(task_ids)
    try:
        async with asyncio.timeout(timeout_s):
            for at in range(0, len(ids), MAX_WATCHED_IDS):
                request = pb.WatchRequest(task_ids=ids[at : at + MAX_WATCHED_IDS], cursor=0)
                call = rpc.TaskManagerStub(channel).Watch(request, wait_for_ready=True)
                # An unknown id is an error, and comes before any event.
                if not isinstance(await call.read(), pb.WatchEvents):
                    return False
                call.cancel()
    except (grpc.aio.AioRpcError, TimeoutError):
        return False
    return True


class _Waiter:
    def __init__(self, channel: grpc.aio.Channel, on_change: Callable[[Task], None] | None, timeout_s: float) -> None:
        self._watch = rpc.TaskManagerStub(channel).Watch
        self._on_change = on_change or (lambda task: None)
        self._timeout_s = timeout_s
        self.limit = asyncio.timeout(timeout_s)
        self.known: dict[TaskId, Task] = {}

    async def follow(self, task_ids: Sequence[TaskId]) -> None:
        pause_s = FIRST_PAUSE_S
        left = await self._watch_once(task_ids)
        while left:
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            before, left = left, await self._watch_once(left)
            pause_s = FIRST_PAUSE_S if len(left) < len(before) else min(2 * pause_s, LONGEST_PAUSE_S)

    async def _watch_once(self, task_ids: Sequence[TaskId]) -> list[TaskId]:
        """Watch until the stream ends. Returns: those that have not settled yet."""
        # Cursor 0: the present state of each comes first, so that nothing between two connections is missed.
        call = self._watch(pb.WatchRequest(task_ids=task_ids, cursor=0))
        try:
            async for event in call:
                for task in map(wire.task, event.tasks):
                    if self.known.get(task.task_id) != task:
                        self._learn(task)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise NotKnown(error.details() or "the task manager does not know one of the tasks") from error
            if error.code() not in TRY_AGAIN:
                raise PeerUnavailable(f"the task manager refused to be asked: {error.details()}") from error
        finally:
            call.cancel()
        return [i for i in task_ids if i not in self.known or not self.known[i].is_settled]

    def _learn(self, task: Task) -> None:
        self.known[task.task_id] = task
        if not self.limit.expired():
            self.limit.reschedule(asyncio.get_running_loop().time() + self._timeout_s)
        self._on_change(task)
