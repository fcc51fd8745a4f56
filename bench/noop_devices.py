"""Any number of devices in this process: they are registered, send heartbeats, and label every picture with nothing.

All of them advertise one address, of one gRPC server: a stream's first message says which device is meant. Nothing is
posted; that a task's labels are there is a call in this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import grpc.aio

from edgesched import rest, wire
from edgesched.domain.device import BoardType, DeviceProfile, Telemetry
from edgesched.v1 import agent_pb2 as pb
from edgesched.v1 import agent_pb2_grpc as pb_grpc
from edgesched.v1 import types_pb2 as types

BOOT_ID = "bench"
MODEL = "shapes"
SERVICE_MS = 0.1
WINDOW_TASKS = 64
WINDOW_BYTES = 64 * 1024 * 1024
BEATERS = 8  # heartbeats at the same time
CALL_TIMEOUT = aiohttp.ClientTimeout(total=30.0)

OnLabels = Callable[[Sequence[str]], None]


class _Board:
    """What one stream's messages are answered with."""

    def __init__(self, on_labels: OnLabels) -> None:
        self._on_labels = on_labels
        self._missing_bytes: dict[str, int] = {}  # attempt -> of its picture
        self._tasks: dict[str, str] = {}  # attempt -> task, until it is settled

    def answers(self, message: pb.TaskManagerItems) -> list[pb.FromAgent]:
        told: list[pb.FromAgent] = []
        labelled: list[str] = []
        for item in message.items:
            match item.WhichOneof("message"):
                case "dispatch":
                    self._tasks[item.dispatch.attempt_id] = item.dispatch.task_id
                    self._missing_bytes[item.dispatch.attempt_id] = item.dispatch.size_bytes
                case "chunk":
                    told += self._chunk(item.chunk)
                case "outcome_ack":
                    task_id = self._tasks.pop(item.outcome_ack.attempt_id, None)
                    if task_id is not None and item.outcome_ack.verdict == pb.OutcomeAck.VERDICT_DELIVER:
                        labelled.append(task_id)
                        report = pb.DeliveryReport(
                            attempt_id=item.outcome_ack.attempt_id, task_id=task_id, delivered=True
                        )
                        told.append(pb.FromAgent(delivery_report=report))
        if labelled:
            self._on_labels(labelled)
        return told

    def _chunk(self, chunk: pb.Chunk) -> list[pb.FromAgent]:
        attempt_id = chunk.attempt_id
        self._missing_bytes[attempt_id] -= len(chunk.data)
        if self._missing_bytes[attempt_id] > 0:
            return []
        del self._missing_bytes[attempt_id]
        result = types.Result(timings=types.Timings(service_ms=SERVICE_MS))
        outcome = pb.Outcome(attempt_id=attempt_id, task_id=self._tasks[attempt_id], result=result)
        return [pb.FromAgent(accepted=pb.Accepted(attempt_id=attempt_id)), pb.FromAgent(outcome=outcome)]


class NoopDevices(pb_grpc.AgentServicer):
    """on_labels: told of tasks whose labels a device would post now."""

    def __init__(self, on_labels: OnLabels) -> None:
        self._on_labels = on_labels

    async def Work(self, requests: AsyncIterator[pb.TaskManagerItems], context: Any) -> AsyncIterator[pb.AgentItems]:
        first = await anext(requests)
        hello = pb.Hello(device_id=first.items[0].open.device_id, boot_id=BOOT_ID)
        yield pb.AgentItems(items=[pb.FromAgent(hello=hello)])
        board = _Board(self._on_labels)
        async for message in requests:
            if answers := board.answers(message):
                yield pb.AgentItems(items=answers)


@asynccontextmanager
async def noop_devices(gateway: str, count: int, on_labels: OnLabels) -> AsyncIterator[None]:
    """So many devices of the gateway at HOST:PORT, registered and alive while the context lasts."""
    server = grpc.aio.server(options=wire.SERVER_OPTIONS)
    pb_grpc.add_AgentServicer_to_server(NoopDevices(on_labels), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    url = f"http://{gateway}{rest.API_PREFIX}/devices"
    connector = aiohttp.TCPConnector(limit=BEATERS)
    async with aiohttp.ClientSession(connector=connector, timeout=CALL_TIMEOUT) as session:
        try:
            names = [f"noop-{i}" for i in range(count)]
            interval_s = min([await _register(session, url, name, port) for name in names])
            async with asyncio.TaskGroup() as tasks:
                beaters = [
                    tasks.create_task(_beat(session, url, names[i::BEATERS], interval_s)) for i in range(BEATERS)
                ]
                try:
                    yield
                finally:
                    for beater in beaters:
                        beater.cancel()
        finally:
            await server.stop(None)


async def _register(session: aiohttp.ClientSession, url: str, name: str, port: int) -> float:
    """Seconds between two heartbeats, as the gateway wants them."""
    registration = rest.DeviceRegistration(
        device_id=name,
        board_type=BoardType.GENERIC,
        emulated=True,
        boot_id=BOOT_ID,
        agent_port=port,
        advertise=f"127.0.0.1:{port}",
        profile=DeviceProfile(slots=1, service_ms=SERVICE_MS, link_mbps=10_000.0, round_trip_ms=0.1),
        models=frozenset({MODEL}),
        window_tasks=WINDOW_TASKS,
        window_bytes=WINDOW_BYTES,
    )
    body = await _post(session, url, rest.DEVICE_REGISTRATION.dump(registration))
    return rest.REGISTRATION_REPLY.parse(body).heartbeat_interval_ms / 1000.0


async def _beat(session: aiohttp.ClientSession, url: str, names: Sequence[str], interval_s: float) -> None:
    """Heartbeats of these devices, spread over the interval. Until cancelled."""
    loop = asyncio.get_running_loop()
    body = rest.HEARTBEAT.dump(rest.Heartbeat(boot_id=BOOT_ID, telemetry=Telemetry(cpu_used_fraction=0.1)))
    due_s = loop.time()
    while names:
        for name in names:
            await _post(session, f"{url}/{name}/heartbeat", body)
            due_s += interval_s / len(names)
            await asyncio.sleep(due_s - loop.time())
    await asyncio.Event().wait()


async def _post(session: aiohttp.ClientSession, url: str, body: bytes) -> bytes:
    async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
        answer = await response.read()
        if response.status >= 300:
            raise SystemExit(f"{url} answered {response.status}: {answer.decode(errors='replace')}")
        return answer
