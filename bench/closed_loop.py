"""A closed loop of clients: each sends its next picture when the labels of the last one are with the receiver.

Clients and receiver are one process here, as they are one machine with most users.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio

from bench.telling_receiver import receiving
from client.pictures import Picture
from edgesched import wire
from edgesched.v1 import task_manager_pb2 as pb
from edgesched.v1 import task_manager_pb2_grpc as pb_grpc

GIVE_UP_S = 120.0
"""Without a single picture."""

CLIENT_ID = "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lap:
    """One picture's way, in seconds of `time.perf_counter`."""

    task_id: str
    started_s: float  # its client took it up
    acknowledged_s: float
    arrived_s: float  # its labels are with the receiver

    @property
    def ms(self) -> float:
        return (self.arrived_s - self.started_s) * 1000


@dataclass(slots=True)
class _Open:
    started_s: float
    acknowledged_s: float = 0.0


class ClosedLoop:
    """All clients share one stream, as the workers of `send_pic` do.

    A client is no task but two callbacks, its answer and its labels: what is measured is the product, not this loop.
    """

    def __init__(self, stub: Any, model: str, receiver_url: str) -> None:
        self._header = pb.SubmitRequest(model=model, client_id=CLIENT_ID, receiver_url=receiver_url)
        self._submissions = stub.SubmitStream()
        self._ready: asyncio.Queue[tuple[pb.SubmitRequest, bytes]] = asyncio.Queue()  # all but the picture; the picture
        self._parts: set[asyncio.Task[None]] = set()
        self._pictures: Iterator[tuple[int, Picture]] = iter(())
        self._unanswered: dict[int, _Open] = {}  # by tag
        self._unlabelled: dict[str, _Open] = {}  # by task
        self._early: dict[str, float] = {}  # labels that came before the answer to the submission
        self._laps: list[Lap] = []
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    @asynccontextmanager
    async def opened(cls, address: str, *, model: str, receiver_url: str) -> AsyncIterator[ClosedLoop]:
        """Whoever takes the labels for `receiver_url` has to call `arrived`."""
        async with grpc.aio.insecure_channel(address, options=wire.CHANNEL_OPTIONS) as channel:
            loop = cls(pb_grpc.TaskManagerStub(channel), model, receiver_url)
            loop._parts = {asyncio.create_task(part) for part in (loop._write(), loop._read())}
            try:
                yield loop
            finally:
                for part in loop._parts:
                    part.cancel()
                await asyncio.wait(loop._parts)

    async def run(self, pictures: Iterable[Picture], *, clients: int) -> list[Lap]:
        """In the order in which the labels came. pictures: taken one by one, as clients have time for them."""
        self._pictures = iter(enumerate(pictures))
        self._laps = []
        self._ended = asyncio.get_running_loop().create_future()
        for _ in range(clients):
            self._begin()
        while not self._ended.done():
            before = len(self._laps)
            waited_for = {self._ended, *self._parts}
            await asyncio.wait(waited_for, timeout=GIVE_UP_S, return_when=asyncio.FIRST_COMPLETED)
            for part in self._parts:
                if part.done():
                    part.result()
            if not self._ended.done() and len(self._laps) == before:
                raise TimeoutError(f"no labels for {GIVE_UP_S:g} s, and {before} pictures before that")
        return self._laps

    def arrived(self, task_ids: Sequence[str]) -> None:
        """The labels of these tasks are with the receiver."""
        now_s = time.perf_counter()
        for task_id in task_ids:
            if lap := self._unlabelled.pop(task_id, None):
                self._finish(task_id, lap, now_s)
            else:
                self._early[task_id] = now_s

    def _begin(self) -> None:
        """A client takes up its next picture, if there is one."""
        tag, picture = next(self._pictures, (-1, None))
        if picture is None:
            if not self._unanswered and not self._unlabelled and not self._ended.done():
                self._ended.set_result(None)
            return
        self._unanswered[tag] = _Open(time.perf_counter())
        request = pb.SubmitRequest(file_name=picture.file_name, submission_key=uuid.uuid4().hex, tag=tag)
        request.MergeFrom(self._header)
        self._ready.put_nowait((request, picture.load()))

    def _answered(self, reply: pb.SubmitReply) -> None:
        if not reply.task_id:
            raise SystemExit(f"the task manager refused a picture: {reply.refusal.message}")
        lap = self._unanswered.pop(reply.tag)
        lap.acknowledged_s = time.perf_counter()
        arrived_s = self._early.pop(reply.task_id, None)
        if arrived_s is None:
            self._unlabelled[reply.task_id] = lap
        else:
            self._finish(reply.task_id, lap, arrived_s)

    def _finish(self, task_id: str, lap: _Open, arrived_s: float) -> None:
        self._laps.append(
            Lap(task_id=task_id, started_s=lap.started_s, acknowledged_s=lap.acknowledged_s, arrived_s=arrived_s)
        )
        self._begin()

    async def _write(self) -> None:
        while True:
            ready = [await self._ready.get()]
            while not self._ready.empty():
                ready.append(self._ready.get_nowait())
            message = pb.SubmitRequests()
            for without_image, image in ready:
                request = message.requests.add()
                request.CopyFrom(without_image)
                request.image = image
            await self._submissions.write(message)

    async def _read(self) -> None:
        while True:
            for reply in (await self._submissions.read()).replies:
                self._answered(reply)


@asynccontextmanager
async def delivered_loop(address: str, *, model: str, label_dir: Path) -> AsyncIterator[ClosedLoop]:
    """A closed loop whose labels come to the product's receiver, in this process."""
    loops: list[ClosedLoop] = []
    async with (
        receiving(label_dir, lambda task_ids: loops[0].arrived(task_ids)) as receiver_url,
        ClosedLoop.opened(address, model=model, receiver_url=receiver_url) as loop,
    ):
        loops.append(loop)
        yield loop


def rate_of(laps: Sequence[Lap]) -> float:
    """Pictures per second, from the first one that was taken up to the last one whose labels came."""
    return len(laps) / (max(lap.arrived_s for lap in laps) - min(lap.started_s for lap in laps))
