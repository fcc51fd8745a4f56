"""Boards made of a few lines: a real gRPC server that says what a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from edgesched import wire
from edgesched.domain.device import DeviceId
from edgesched.ports import Candidate, Decision, DeviceRoute, PlacementPlan, PlacementRequest
from edgesched.v1 import agent_pb2 as pb
from edgesched.v1 import agent_pb2_grpc as pb_grpc
from edgesched.v1 import types_pb2 as types

Answer = Callable[[pb.Dispatch, bytes], pb.Outcome | None]


def circle(dispatch: pb.Dispatch, image: bytes) -> pb.Outcome:
    """Labels every picture with one detection."""
    detection = types.Detection(class_id=0, label="circle", confidence=0.5, x1=1, y1=2, x2=3, y2=4)
    result = types.Result(detections=[detection], width=10, height=10, timings=types.Timings(service_ms=1.0))
    return pb.Outcome(attempt_id=dispatch.attempt_id, task_id=dispatch.task_id, result=result)


def fails(kind: types.FailureKind, message: str = "no luck") -> Answer:
    def answer(dispatch: pb.Dispatch, image: bytes) -> pb.Outcome:
        failure = types.Failure(kind=kind, message=message)
        return pb.Outcome(attempt_id=dispatch.attempt_id, task_id=dispatch.task_id, failure=failure)

    return answer


def keeps_silent(dispatch: pb.Dispatch, image: bytes) -> None:
    """Takes the picture and never answers."""


class FakeBoard(pb_grpc.AgentServicer):
    """answer: what it does with a whole picture. Everything that arrives is kept for the test to look at."""

    def __init__(self, device_id: str, answer: Answer = circle) -> None:
        self.device_id = DeviceId(device_id)
        self.answer = answer
        self.held: list[pb.HeldAttempt] = []
        self.outbox: list[pb.Outcome] = []
        self.opens: list[pb.Open] = []
        self.dispatches: list[pb.Dispatch] = []
        self.acks: list[pb.OutcomeAck] = []
        self.delivery_acks: list[str] = []
        self.cancelled: list[str] = []
        self.messages = 0  # after Open
        self.says_hello = True
        self.says_all_at_once = False  # what waits in its outbox comes in one message with its Hello
        self.address = ""
        self._to_say: asyncio.Queue[pb.FromAgent | None] = asyncio.Queue()
        self._changed = asyncio.Event()

    async def Work(self, requests: AsyncIterator[pb.TaskManagerItems], context: Any) -> AsyncIterator[pb.AgentItems]:
        first = (await anext(requests)).items[0]
        self._to_say = asyncio.Queue()  # before anybody can see that there is a new stream
        self.opens.append(first.open)
        self._notify()
        if not self.says_hello:
            await asyncio.Event().wait()
        outbox = [pb.HeldAttempt(attempt_id=o.attempt_id, task_id=o.task_id) for o in self.outbox]
        hello = pb.Hello(device_id=self.device_id, boot_id="b", held=self.held, outbox=outbox)
        outcomes = [pb.FromAgent(outcome=outcome) for outcome in self.outbox]
        if self.says_all_at_once:
            yield pb.AgentItems(items=[pb.FromAgent(hello=hello), *outcomes])
        else:
            yield pb.AgentItems(items=[pb.FromAgent(hello=hello)])
            for item in outcomes:
                self.say(item)
        reader = asyncio.create_task(self._read(requests))
        try:
            while (message := await self._to_say.get()) is not None:
                yield pb.AgentItems(items=[message])
        finally:
            reader.cancel()

    def say(self, message: pb.FromAgent) -> None:
        self._to_say.put_nowait(message)

    def hang_up(self) -> None:
        self._to_say.put_nowait(None)

    async def until(self, holds: Callable[[], bool], within_s: float = 10.0) -> None:
        async with asyncio.timeout(within_s):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    async def _read(self, requests: AsyncIterator[pb.TaskManagerItems]) -> None:
        pictures: dict[str, tuple[pb.Dispatch, bytearray]] = {}
        async for message in requests:
            self.messages += 1
            for item in message.items:
                self._on_item(item, pictures)
            self._notify()

    def _on_item(self, item: pb.FromTaskManager, pictures: dict[str, tuple[pb.Dispatch, bytearray]]) -> None:
        match item.WhichOneof("message"):
            case "dispatch":
                self.dispatches.append(item.dispatch)
                pictures[item.dispatch.attempt_id] = (item.dispatch, bytearray())
            case "chunk":
                dispatch, image = pictures[item.chunk.attempt_id]
                image += item.chunk.data
                if len(image) == dispatch.size_bytes:
                    self._work(dispatch, bytes(image))
            case "outcome_ack":
                self.acks.append(item.outcome_ack)
            case "delivery_ack":
                self.delivery_acks.append(item.delivery_ack.attempt_id)
            case "cancel":
                self.cancelled.append(item.cancel.attempt_id)

    def _work(self, dispatch: pb.Dispatch, image: bytes) -> None:
        self.say(pb.FromAgent(accepted=pb.Accepted(attempt_id=dispatch.attempt_id)))
        outcome = self.answer(dispatch, image)
        if outcome is not None:
            self.say(pb.FromAgent(outcome=outcome))

    def _notify(self) -> None:
        self._changed.set()


@asynccontextmanager
async def serving(board: FakeBoard, address: str = "127.0.0.1:0") -> AsyncIterator[FakeBoard]:
    server = grpc.aio.server(options=wire.SERVER_OPTIONS)
    pb_grpc.add_AgentServicer_to_server(board, server)
    port = server.add_insecure_port(address)
    board.address = f"127.0.0.1:{port}"
    await server.start()
    try:
        yield board
    finally:
        await server.stop(None)


class ListedBoards:
    """The Placement port over a plain list: the first board that is not to be avoided, `window` tasks on each."""

    def __init__(self, boards: Sequence[FakeBoard], window: int = 4) -> None:
        self.boards = list(boards)
        self.window = window
        self.requests: list[PlacementRequest] = []

    async def place(self, request: PlacementRequest) -> PlacementPlan:
        self.requests.append(request)
        busy = [attempt.device_id for attempt in request.in_flight]
        decisions = []
        for task in request.tasks:
            able = [b.device_id for b in self.boards if b.device_id not in request.unreachable]
            wanted = [d for d in able if d not in task.avoid] or able
            free = [d for d in wanted if busy.count(d) < self.window]
            chosen = Candidate(device_id=free[0], score=0.0) if free else None
            if chosen:
                busy.append(chosen.device_id)
            decisions.append(
                Decision(
                    task_id=task.task_id,
                    device_id=chosen.device_id if chosen else None,
                    strategy="listed",
                    chosen=chosen,
                    runner_up=None,
                    excluded={},
                )
            )
        routes = [
            DeviceRoute(
                device_id=b.device_id, address=b.address, boot_id="b", is_ready=True, outbox_count=len(b.outbox)
            )
            for b in self.boards
        ]
        return PlacementPlan(decisions=decisions, routes=routes)

    async def wait_for_change(self) -> None:
        await asyncio.Event().wait()
