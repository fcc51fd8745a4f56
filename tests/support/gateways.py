"""A real gateway on a port of its own, with a clock that the test moves, and stand-ins for what it talks to."""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from edgesched.domain.device import DeviceId
from edgesched.domain.durations import Durations
from edgesched.domain.lifecycle import State
from edgesched.domain.task import (
    Line,
    ModelFacts,
    Priority,
    Submission,
    Task,
    TaskCounts,
    TaskDetails,
    TaskFilter,
    TaskId,
    TaskPage,
    TaskStats,
)
from edgesched.errors import EdgeSchedError, NotKnown, PeerUnavailable
from edgesched.settings import GatewaySettings
from gateway.app import Gateway, build_app, listening, opened
from gateway.registry import Registry

LOCALHOST = "127.0.0.1"
HEARTBEAT_TIMEOUT_MS = 6_000
WALL_MS = 1_700_000_000_000


class ManualClock:
    def __init__(self) -> None:
        self.now_ms = 1_000.0

    def monotonic_ms(self) -> float:
        return self.now_ms

    def wall_ms(self) -> int:
        return WALL_MS + int(self.now_ms)


class CannedTasks:
    """The `TaskDesk` port with fixed answers; remembers what it was asked and told."""

    def __init__(self, *details: TaskDetails) -> None:
        self.details = {d.task.task_id: d for d in details}
        self.is_reachable = True
        self.asked: list[tuple[TaskFilter, int, int | None]] = []
        self.told: list[tuple[str, TaskId]] = []
        self.submitted: list[Submission] = []
        self.pictures: dict[TaskId, bytes] = {}
        self.refusal: EdgeSchedError | None = None  # of the next command or submission
        self.news: asyncio.Queue[Task] = asyncio.Queue()
        self.queued = 2  # shapes, normal
        self.also_queued: dict[Line, int] = {}
        self.model_names: Sequence[str] = ("shapes",)
        self.undelivered = 0
        self.oldest_undelivered_ms = 1_500.0
        self.ended: Counter[tuple[State, str, DeviceId | None]] = Counter()
        self.delivery: dict[str, Durations] = {}

    def _check(self) -> None:
        if not self.is_reachable:
            raise PeerUnavailable("the task manager does not answer; start it")

    async def get(self, task_id: TaskId) -> TaskDetails:
        self._check()
        if task_id not in self.details:
            raise NotKnown(f"no task {task_id}")
        return self.details[task_id]

    async def list(self, filter_: TaskFilter, *, limit: int, cursor: int | None) -> TaskPage:
        self._check()
        self.asked.append((filter_, limit, cursor))
        return TaskPage(tasks=tuple(d.task for d in self.details.values()), next_cursor=7)

    async def counts(self) -> TaskCounts:
        self._check()
        failed = sum(details.task.state is State.FAILED for details in self.details.values())
        queued = self.queued + sum(self.also_queued.values())
        return {State.QUEUED: queued, State.DONE: 5} | ({State.FAILED: failed} if failed else {})

    async def stats(self) -> TaskStats:
        return TaskStats(
            counts=await self.counts(),
            queued=({Line("shapes", Priority.NORMAL): self.queued} if self.queued else {}) | self.also_queued,
            open_bytes=20,
            undelivered=self.undelivered,
            oldest_undelivered_ms=self.oldest_undelivered_ms if self.undelivered else None,
            commits=4,
            commit_ms=8.0,
            ended=self.ended,
            delivery=self.delivery,
        )

    async def models(self) -> Sequence[ModelFacts]:
        self._check()
        return tuple(
            ModelFacts(name=name, version="1", description=f"drawn {name}", labels=("circle",))
            for name in self.model_names
        )

    async def picture(self, task_id: TaskId) -> bytes:
        await self.get(task_id)
        if task_id not in self.pictures:
            raise NotKnown(f"the picture of task {task_id} was let go")
        return self.pictures[task_id]

    async def changes(self) -> AsyncGenerator[Task, None]:
        self._check()
        while True:
            yield await self.news.get()

    async def submit(self, submission: Submission) -> TaskId:
        self._check()
        if self.refusal is not None:
            raise self.refusal
        self.submitted.append(submission)
        return TaskId(f"new-{len(self.submitted)}")

    async def cancel(self, task_id: TaskId) -> Task:
        return await self._tell("cancel", task_id)

    async def retry(self, task_id: TaskId) -> Task:
        return await self._tell("retry", task_id)

    async def abandon(self, task_id: TaskId) -> Task:
        return await self._tell("abandon", task_id)

    async def _tell(self, command: str, task_id: TaskId) -> Task:
        details = await self.get(task_id)
        if self.refusal is not None:
            raise self.refusal
        self.told.append((command, task_id))
        return details.task


@dataclass(kw_only=True)
class Answer:
    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


class GatewayUnderTest:
    def __init__(self, session: aiohttp.ClientSession, url: str, parts: Gateway) -> None:
        self.session = session
        self.url = url
        self.parts = parts
        self.registry: Registry = parts.registry
        self.clock = ManualClock()
        self.tasks = CannedTasks()

    async def call(self, method: str, path: str, body: object = None, **params: str | int) -> Answer:
        """body: bytes and files are sent as they are, anything else as JSON."""
        content: dict[str, Any] = (
            {"data": body} if isinstance(body, bytes | io.BytesIO) else {"json": body} if body else {}
        )
        async with self.session.request(method, self.url + path, params=params, **content) as response:
            is_json = response.content_type.endswith("json")
            parsed = await response.json(content_type=None) if is_json else await response.text()
            return Answer(status=response.status, body=parsed, headers=dict(response.headers))

    async def register(self, device_id: str, port: int, **changes: Any) -> Answer:
        return await self.call("POST", "/api/v1/devices", registration(device_id, port, **changes))

    async def heartbeat(self, device_id: str, boot_id: str = "boot-1", **changes: Any) -> Answer:
        body = {"boot_id": boot_id, "telemetry": {}, **changes}
        return await self.call("POST", f"/api/v1/devices/{device_id}/heartbeat", body)


def registration(device_id: str, port: int, **changes: Any) -> dict[str, Any]:
    return {
        "device_id": device_id,
        "board_type": "rk3588",
        "emulated": True,
        "boot_id": "boot-1",
        "agent_port": port,
        "profile": {"slots": 3, "service_ms": 27.0, "link_mbps": 100.0, "round_trip_ms": 2.0},
        "models": ["shapes"],
        "window_tasks": 8,
        "window_bytes": 64_000_000,
        **changes,
    }


@asynccontextmanager
async def gateway_parts(clock: ManualClock, **settings: Any) -> AsyncIterator[Gateway]:
    """Its state is in a file of its own, unless `gateway_state_path` says where."""
    with tempfile.TemporaryDirectory() as directory:
        defaults: dict[str, Any] = {
            "gateway_state_path": Path(directory) / "gateway.sqlite3",
            "heartbeat_timeout_ms": HEARTBEAT_TIMEOUT_MS,
        }
        async with opened(GatewaySettings(**(defaults | settings)), clock) as gateway:
            yield gateway


@asynccontextmanager
async def gateway_under_test(default_strategy: str | None = None, **settings: Any) -> AsyncIterator[GatewayUnderTest]:
    clock, tasks = ManualClock(), CannedTasks()
    async with (
        gateway_parts(clock, strategy=default_strategy, **settings) as parts,
        listening(build_app(parts, tasks), host=LOCALHOST, http_port=0, browser_port=None) as ports,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
    ):
        gateway = GatewayUnderTest(session, f"http://{LOCALHOST}:{ports.http}", parts)
        gateway.clock, gateway.tasks = clock, tasks
        yield gateway


@asynccontextmanager
async def agent_port() -> AsyncIterator[int]:
    """A port that accepts connections, as an agent's would."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, LOCALHOST, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def closed_port() -> int:
    """A port on which nobody listens (any more)."""
    async with agent_port() as port:
        return port
