"""An agent in the test's own event loop, with fake workers, and stand-ins for everybody it talks to."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
from aiohttp import web

from agents.app import Agent
from agents.boards.base import Board
from agents.boards.generic import GenericBoard
from agents.desk import Uplink
from agents.identity import identify
from agents.outbox import Outbox
from agents.worker_plan import WorkerPlan
from agents.worker_process import Pace
from edgesched import wire
from edgesched.settings import AgentSettings
from edgesched.v1 import agent_pb2 as pb
from edgesched.v1 import agent_pb2_grpc as pb_grpc

WITHIN_S = 20.0
FAKE_WORKER = Path(__file__).parent / "fake_worker.py"
DEVICE_ID = "board-1"
LEDGER = "ledger-1"


def fake_plan(mode: str = "ready", **pace: float) -> WorkerPlan:
    """Workers that do what a picture says (`fake_worker.py`) and are soon back after a crash. pace: fields of Pace."""
    command = (sys.executable, "-I", "-S", str(FAKE_WORKER), "--mode", mode)
    return WorkerPlan(command=command, models=({"name": "shapes"},), pace=Pace(**{"first_pause_s": 0.01, **pace}))


class FakeGateway:
    """Takes registrations and heartbeats, and keeps them for the test to look at."""

    def __init__(self) -> None:
        self.url = ""
        self.registrations: list[dict[str, Any]] = []
        self.left: list[str] = []
        self.interval_ms = 100
        self.refusals: list[tuple[int, str]] = []  # answers to the next registrations
        self.has_forgotten = False
        self.beats: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.registered = asyncio.Event()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/api/v1/devices", self._register)
        app.router.add_post("/api/v1/devices/{device_id}/heartbeat", self._heartbeat)
        app.router.add_delete("/api/v1/devices/{device_id}", self._leave)
        return app

    async def address(self) -> str:
        """Where the agent is, once it has registered."""
        async with asyncio.timeout(WITHIN_S):
            await self.registered.wait()
        return f"127.0.0.1:{self.registrations[-1]['agent_port']}"

    async def beat(self) -> dict[str, Any]:
        """The next heartbeat."""
        async with asyncio.timeout(WITHIN_S):
            return await self.beats.get()

    async def _register(self, request: web.Request) -> web.Response:
        self.registrations.append(await request.json())
        if self.refusals:
            status, sentence = self.refusals.pop(0)
            return web.json_response({"title": "no", "status": status, "detail": sentence}, status=status)
        self.has_forgotten = False
        self.registered.set()
        return web.json_response({"address": "127.0.0.1:1", "heartbeat_interval_ms": self.interval_ms})

    async def _heartbeat(self, request: web.Request) -> web.Response:
        if self.has_forgotten:
            return web.json_response({"title": "no", "status": 404, "detail": "who?"}, status=404)
        self.beats.put_nowait(await request.json())
        return web.json_response({"heartbeat_interval_ms": self.interval_ms})

    async def _leave(self, request: web.Request) -> web.Response:
        self.left.append(f"{request.match_info['device_id']} {request.query['boot_id']}")
        return web.Response(status=204)


class FakeReceiver:
    """Takes labels. `reject`: task ids that it refuses for good; `status`: what it answers as a whole."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.reject: set[str] = set()
        self.leave_out: set[str] = set()
        self.batches: list[int] = []
        self.targets: list[str] = []
        self.posts: asyncio.Queue[list[dict[str, Any]]] = asyncio.Queue()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/{anything:.*}", self._take)
        return app

    async def next_post(self) -> list[dict[str, Any]]:
        async with asyncio.timeout(WITHIN_S):
            return await self.posts.get()

    async def _take(self, request: web.Request) -> web.Response:
        results = json.loads(await request.read())["results"]
        self.targets.append(request.raw_path)
        self.batches.append(len(results))
        self.posts.put_nowait(results)
        if self.status != 200:
            return web.Response(status=self.status, text="not now")
        ids = [item["task_id"] for item in results if item["task_id"] not in self.leave_out]
        reply = {
            "accepted": [i for i in ids if i not in self.reject],
            "rejected": [{"task_id": i, "reason": "no such client"} for i in ids if i in self.reject],
        }
        return web.json_response(reply)


@contextmanager
def logged(event: str) -> Iterator[asyncio.Event]:
    """An event that is set when the agent logs this."""
    seen = asyncio.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == event:
                seen.set()

    handler, logger = Handler(), logging.getLogger("agents")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield seen
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@asynccontextmanager
async def listening(app: web.Application, port: int = 0) -> AsyncIterator[str]:
    """Serve an aiohttp application; yields its URL."""
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Master:
    """The task manager's end of one stream, by hand."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._writing = asyncio.Lock()
        self._unread: deque[pb.FromAgent] = deque()

    @classmethod
    @asynccontextmanager
    async def connected(
        cls, address: str, *, epoch: int = 1, number: int = 1, ledger: str = LEDGER, device_id: str = DEVICE_ID
    ) -> AsyncIterator[Master]:
        """Open a stream and say Open; the Hello is still to be read. When the block is left the stream breaks."""
        async with grpc.aio.insecure_channel(address, options=wire.CHANNEL_OPTIONS) as channel:
            master = cls(pb_grpc.AgentStub(channel).Work())
            opened = pb.Open(ledger_id=ledger, owner_id="owner", epoch=epoch, stream_number=number, device_id=device_id)
            await master.send(open=opened)
            try:
                yield master
            finally:
                master._call.cancel()

    async def send(self, **message: Any) -> None:
        await self.send_message(pb.FromTaskManager(**message))

    async def send_message(self, message: pb.FromTaskManager) -> None:
        async with asyncio.timeout(WITHIN_S), self._writing:
            await self._call.write(pb.TaskManagerItems(items=[message]))

    async def receive(self) -> pb.FromAgent:
        while not self._unread:
            async with asyncio.timeout(WITHIN_S):
                message = await self._call.read()
            if not isinstance(message, pb.AgentItems):
                await self._call.initial_metadata()
                code, details = await self._call.code(), await self._call.details()
                raise AssertionError(f"the stream ended: {code} {details}")
            self._unread.extend(message.items)
        return self._unread.popleft()

    async def next(self, kind: str) -> Any:
        """The next message, which must be of this kind."""
        message = await self.receive()
        assert message.WhichOneof("message") == kind, message
        return getattr(message, kind)

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        """Wait for the end of the stream, whatever is said before."""
        async with asyncio.timeout(WITHIN_S):
            try:
                while isinstance(await self._call.read(), pb.AgentItems):
                    pass
            except grpc.aio.AioRpcError:
                pass
            return await self._call.code(), await self._call.details()

    async def trailing_metadata(self) -> dict[str, str]:
        return {key: str(value) for key, value in await self._call.trailing_metadata()}

    async def dispatch(
        self,
        attempt: str,
        picture: str | bytes = "label",
        *,
        model: str = "shapes",
        receiver_url: str | None = None,
        remaining_ms: int = 60_000,
        size: int | None = None,
    ) -> None:
        """Send a picture as attempt `<attempt>` of task `task-<attempt>`. size: what is announced, if it is a lie."""
        data = picture.encode() if isinstance(picture, str) else picture
        await self.send(
            dispatch=pb.Dispatch(
                attempt_id=attempt,
                task_id=f"task-{attempt}",
                model=model,
                file_name=f"{attempt}.jpg",
                size_bytes=len(data) if size is None else size,
                receiver_url=receiver_url,
                remaining_ms=remaining_ms,
            )
        )
        for chunk in wire.chunks(data):
            await self.send(chunk=pb.Chunk(attempt_id=attempt, data=bytes(chunk)))

    async def judge(self, attempt: str, *, deliver: bool) -> None:
        verdict = pb.OutcomeAck.VERDICT_DELIVER if deliver else pb.OutcomeAck.VERDICT_DISCARD
        await self.send(outcome_ack=pb.OutcomeAck(attempt_id=attempt, verdict=verdict))

    async def fence(self) -> None:
        """Return once the agent has read everything that was sent before. Nothing else may come meanwhile."""
        await self.send(probe=pb.Probe(number=1))
        await self.next("probe_reply")


class RunningAgent:
    """What a test may touch of the agent besides its doors."""

    def __init__(self, outbox: Outbox, gateway: FakeGateway, address: str, stop: asyncio.Event) -> None:
        self.outbox = outbox
        self.gateway = gateway
        self.address = address
        self.stop = stop

    def connected(self, **options: Any) -> Any:
        return Master.connected(self.address, **options)


@asynccontextmanager
async def running_agent(
    workspace: Path, *, plan: WorkerPlan | None = None, board: Board | None = None, workers: int = 1, **settings: Any
) -> AsyncIterator[RunningAgent]:
    """A registered agent with fake workers and a gateway of its own; stopped in order when the block is left."""
    gateway, stop, uplink = FakeGateway(), asyncio.Event(), Uplink()
    workspace.mkdir(parents=True, exist_ok=True)
    async with listening(gateway.app()) as url, aiohttp.ClientSession() as session:
        checked = AgentSettings.model_validate(
            {"agent_port": 0, "master_url": url, "workers": workers, "workspace_dir": workspace, **settings}
        )
        outbox_dir = workspace / "outbox"
        async with Outbox.opened(outbox_dir, max_bytes=checked.outbox_bytes, on_due=uplink.news) as outbox:
            identity = identify(workspace, DEVICE_ID)
            agent = Agent(checked, identity, board or GenericBoard(), plan or fake_plan(), uplink, outbox, session)
            running = asyncio.create_task(agent.run(stop))
            try:
                yield RunningAgent(outbox, gateway, await gateway.address(), stop)
            finally:
                stop.set()
                async with asyncio.timeout(WITHIN_S):
                    await running


def attempts(held: Sequence[pb.HeldAttempt]) -> set[str]:
    return {attempt.attempt_id for attempt in held}
