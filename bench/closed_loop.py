"""A closed loop of clients: each sends its next picture when the labels of the last one are with the receiver.

Clients and receiver are one process here, as they are one machine with most users.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio

from bench.telling_receiver import receiving
from client.pictures import Picture
from edgesched import wire
from edgesched.v1 import task_manager_pb2 as pb
from edgesched.v1 import task_manager_pb2_grpc as pb_grpc

GIVE_UP_S = 120.0


class ClosedLoop:
    """All clients share one stream, as the workers of `send_pic` do."""

    def __init__(self, stub: Any, model: str, receiver_url: str) -> None:
        self._header = pb.SubmitRequest(model=model, client_id="bench", receiver_url=receiver_url)
        self._submissions = stub.SubmitStream()
        self._ready: asyncio.Queue[pb.SubmitRequest] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[pb.SubmitReply]] = {}
        self._arrivals: dict[str, asyncio.Future[None]] = {}

    @classmethod
    @asynccontextmanager
    async def opened(cls, address: str, *, model: str, label_dir: Path) -> AsyncIterator[ClosedLoop]:
        def arrived(task_ids: list[str]) -> None:
            for task_id in task_ids:
                loop._arrival(task_id).set_result(None)

        async with (
            grpc.aio.insecure_channel(address, options=wire.CHANNEL_OPTIONS) as channel,
            receiving(label_dir, arrived) as receiver_url,
        ):
            loop = cls(pb_grpc.TaskManagerStub(channel), model, receiver_url)
            parts = [asyncio.create_task(part) for part in (loop._write(), loop._read())]
            try:
                yield loop
            finally:
                for part in parts:
                    part.cancel()
                await asyncio.wait(parts)

    async def run(self, pictures: Sequence[Picture], *, clients: int) -> list[float]:
        """Seconds that each picture took, from the moment in which its client took it up."""
        left = iter(enumerate(pictures))

        async def client() -> list[float]:
            return [await self._one(tag, picture) for tag, picture in left]

        async with asyncio.timeout(GIVE_UP_S):
            took = await asyncio.gather(*(client() for _ in range(clients)))
        return [seconds for of_client in took for seconds in of_client]

    async def _one(self, tag: int, picture: Picture) -> float:
        started_s = time.perf_counter()
        request = pb.SubmitRequest(
            file_name=picture.file_name, image=picture.load(), submission_key=uuid.uuid4().hex, tag=tag
        )
        request.MergeFrom(self._header)
        answer: asyncio.Future[pb.SubmitReply] = asyncio.get_running_loop().create_future()
        self._answers[tag] = answer
        self._ready.put_nowait(request)
        reply = await answer
        if not reply.task_id:
            raise SystemExit(f"the task manager refused a picture: {reply.refusal.message}")
        await self._arrival(reply.task_id)
        del self._arrivals[reply.task_id]
        return time.perf_counter() - started_s

    def _arrival(self, task_id: str) -> asyncio.Future[None]:
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
