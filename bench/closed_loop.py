"""A closed loop of clients: each sends its next picture when the labels of the last one are with the receiver.

Clients and receiver are one process here, as they are one machine with most users.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
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
"""On one picture."""

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


class ClosedLoop:
    """All clients share one stream, as the workers of `send_pic` do."""

    def __init__(self, stub: Any, model: str, receiver_url: str) -> None:
        self._header = pb.SubmitRequest(model=model, client_id=CLIENT_ID, receiver_url=receiver_url)
        self._submissions = stub.SubmitStream()
        self._ready: asyncio.Queue[pb.SubmitRequest] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[pb.SubmitReply]] = {}
        self._arrivals: dict[str, asyncio.Future[float]] = {}

    @classmethod
    @asynccontextmanager
    async def opened(cls, address: str, *, model: str, receiver_url: str) -> AsyncIterator[ClosedLoop]:
        """Whoever takes the labels for `receiver_url` has to call `arrived`."""
        async with grpc.aio.insecure_channel(address, options=wire.CHANNEL_OPTIONS) as channel:
            loop = cls(pb_grpc.TaskManagerStub(channel), model, receiver_url)
            parts = [asyncio.create_task(part) for part in (loop._write(), loop._read())]
            try:
                yield loop
            finally:
                for part in parts:
                    part.cancel()
                await asyncio.wait(parts)

    def arrived(self, task_ids: Sequence[str]) -> None:
        """The labels of these tasks are with the receiver."""
        now_s = time.perf_counter()
        for task_id in task_ids:
            arrival = self._arrival(task_id)
            if not arrival.done():
                arrival.set_result(now_s)

    async def run(self, pictures: Iterable[Picture], *, clients: int) -> list[Lap]:
        """In the order in which the labels came. pictures: taken one by one, as clients have time for them."""
        left = iter(enumerate(pictures))

        async def client() -> list[Lap]:
            return [await self._one(tag, picture) for tag, picture in left]

        laps = await asyncio.gather(*(client() for _ in range(clients)))
        return sorted((lap for of_client in laps for lap in of_client), key=lambda lap: lap.arrived_s)

    async def _one(self, tag: int, picture: Picture) -> Lap:
        started_s = time.perf_counter()
        request = pb.SubmitRequest(
            file_name=picture.file_name, image=picture.load(), submission_key=uuid.uuid4().hex, tag=tag
        )
        request.MergeFrom(self._header)
        answer: asyncio.Future[pb.SubmitReply] = asyncio.get_running_loop().create_future()
        self._answers[tag] = answer
        self._ready.put_nowait(request)
        async with asyncio.timeout(GIVE_UP_S):
            reply = await answer
            acknowledged_s = time.perf_counter()
            if not reply.task_id:
                raise SystemExit(f"the task manager refused a picture: {reply.refusal.message}")
            arrived_s = await self._arrival(reply.task_id)
        del self._arrivals[reply.task_id]
        return Lap(task_id=reply.task_id, started_s=started_s, acknowledged_s=acknowledged_s, arrived_s=arrived_s)

    def _arrival(self, task_id: str) -> asyncio.Future[float]:
        """Labels may come before the answer to the submission."""
        if task_id not in self._arrivals:
            self._arrivals[task_id] = asyncio.get_running_loop().create_future()
        return self._arrivals[task_id]

    async def _write(self) -> None:
        while True:
            requests = [await self._ready.get()]
            while not self._ready.empty():
                requests.append(self._ready.get_nowait())
            await self._submissions.write(pb.SubmitRequests(requests=requests))

    async def _read(self) -> None:
        while True:
            for reply in (await self._submissions.read()).replies:
                self._answers.pop(reply.tag).set_result(reply)


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
