"""What the harness asks the cluster at the end: its tasks, its boards, and the audit."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import grpc.aio

from edgesched import wire
from edgesched.domain.task import TaskDetails, TaskFilter, TaskId
from edgesched.v1 import task_manager_pb2 as pb
from edgesched.v1 import task_manager_pb2_grpc as rpc

PAGE = 500
CALLS_AT_ONCE = 16
OUTBOXES_S = 30.0
LOOK_EVERY_S = 0.25
AUDIT_S = 60.0


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address, options=wire.CHANNEL_OPTIONS) as channel:
        yield channel


async def all_tasks(channel: grpc.aio.Channel, client_id: str) -> Sequence[TaskDetails]:
    """Every task of this client, with its attempts."""
    stub = rpc.TaskManagerStub(channel)
    ids: list[TaskId] = []
    cursor: int | None = None
    while True:
        request = wire.list_request(TaskFilter(client_id=client_id), limit=PAGE, cursor=cursor)
        page = wire.task_page(await stub.ListTasks(request))
        ids += [task.task_id for task in page.tasks]
        cursor = page.next_cursor
        if cursor is None:
            break
    at_once = asyncio.Semaphore(CALLS_AT_ONCE)

    async def details(task_id: TaskId) -> TaskDetails:
        async with at_once:
            return wire.task_details(await stub.GetTask(pb.GetTaskRequest(task_id=task_id)))

    return await asyncio.gather(*map(details, ids))


async def full_outboxes(http: str) -> Mapping[str, int]:
    """Boards that still keep outcomes when everything is delivered: none, after some heartbeats.

    Nothing tells of an outbox that is empty, so it is asked for now and then.
    """
    left: Mapping[str, int] = {}
    deadline = asyncio.get_running_loop().time() + OUTBOXES_S
    async with aiohttp.ClientSession() as session:
        while asyncio.get_running_loop().time() < deadline:
            async with session.get(f"http://{http}/devices") as response:
                devices = [entry["device"] for entry in (await response.json())["devices"]]
            left = {device["device_id"]: device["outbox_count"] for device in devices if device["outbox_count"]}
            if not left:
                return {}
            await asyncio.sleep(LOOK_EVERY_S)
    return left


async def audit(ledger_path: Path, upload_dir: Path, gateway: str | None = None) -> tuple[bool, str]:
    """gateway: whose boards are asked too. Returns: whether `edgesched audit` finds all in order, and its words."""
    boards = ["--gateway-url", f"http://{gateway}"] if gateway else []
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edgesched", "audit", "--ledger", ledger_path, "--upload_path", upload_dir, *boards),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(AUDIT_S):
        output, _ = await process.communicate()
    return process.returncode == 0, output.decode(errors="replace").strip()
