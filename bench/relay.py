"""Stands between the task manager and one agent, and notes when what passes by."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from edgesched import wire
from edgesched.v1 import agent_pb2 as pb
from edgesched.v1 import agent_pb2_grpc as pb_grpc
from edgesched.v1 import types_pb2 as types


class Relay(pb_grpc.AgentServicer):
    """agent_address: to be set before there is work. Times are of `time.perf_counter`."""

    def __init__(self) -> None:
        self.agent_address = ""
        self.seen: defaultdict[str, dict[str, float]] = defaultdict(dict)
        """Task -> what passed by -> when: announced, whole, told, judged, reported, settled."""
        self.timings: dict[str, types.Timings] = {}
        """Task -> what its board measured."""
        self._changed = asyncio.Event()
        self._tasks: dict[str, str] = {}  # attempt -> task
        self._missing_bytes: dict[str, int] = {}  # attempt -> of its picture

    async def until_settled(self, task_ids: Sequence[str]) -> None:
        """Return when the task manager has noted the delivery of all of them."""
        while not all("settled" in self.seen[task_id] for task_id in task_ids):
            self._changed.clear()
            await self._changed.wait()

    async def Work(self, requests: AsyncIterator[pb.TaskManagerItems], context: Any) -> AsyncIterator[pb.AgentItems]:
        async with grpc.aio.insecure_channel(self.agent_address, options=wire.CHANNEL_OPTIONS) as channel:
            stream = pb_grpc.AgentStub(channel).Work()
            forward = asyncio.create_task(self._forward(requests, stream))
            try:
                while isinstance(message := await stream.read(), pb.AgentItems):
                    now_s = time.perf_counter()
                    for item in message.items:
                        self._from_agent(item, now_s)
                    yield message
            finally:
                forward.cancel()
                await asyncio.wait({forward})

    async def _forward(self, requests: AsyncIterator[pb.TaskManagerItems], stream: Any) -> None:
        async for message in requests:
            now_s = time.perf_counter()
            for item in message.items:
                self._from_task_manager(item, now_s)
            await stream.write(message)

    def _from_task_manager(self, item: pb.FromTaskManager, now_s: float) -> None:
        match item.WhichOneof("message"):
            case "dispatch":
                attempt_id = item.dispatch.attempt_id
                self._tasks[attempt_id] = item.dispatch.task_id
                self._missing_bytes[attempt_id] = item.dispatch.size_bytes
                self._note(attempt_id, "announced", now_s)
            case "chunk":
                self._missing_bytes[item.chunk.attempt_id] -= len(item.chunk.data)
                if self._missing_bytes[item.chunk.attempt_id] == 0:
                    self._note(item.chunk.attempt_id, "whole", now_s)
            case "outcome_ack":
                self._note(item.outcome_ack.attempt_id, "judged", now_s)
            case "delivery_ack":
                self._note(item.delivery_ack.attempt_id, "settled", now_s)
                self._changed.set()

    def _from_agent(self, item: pb.FromAgent, now_s: float) -> None:
        match item.WhichOneof("message"):
            case "outcome":
                self.timings[item.outcome.task_id] = item.outcome.result.timings
                self._note(item.outcome.attempt_id, "told", now_s)
            case "delivery_report":
                self._note(item.delivery_report.attempt_id, "reported", now_s)

    def _note(self, attempt_id: str, what: str, now_s: float) -> None:
        self.seen[self._tasks[attempt_id]][what] = now_s


@asynccontextmanager
async def relaying() -> AsyncIterator[tuple[Relay, str]]:
    """Yields: the relay, and HOST:PORT for its agent to advertise."""
    relay = Relay()
    server = grpc.aio.server(options=wire.SERVER_OPTIONS)
    pb_grpc.add_AgentServicer_to_server(relay, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield relay, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
