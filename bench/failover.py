"""An agent is killed: how soon do the others work as fast as they can?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import grpc.aio

from bench.closed_loop import CLIENT_ID, delivered_loop
from bench.cluster import cluster
from bench.figures import Figure, spread
from bench.setup import Setup
from bench.throughput import CLIENTS
from client.pictures import Picture
from edgesched import wire
from edgesched.catalogue import read_model
from edgesched.v1 import task_manager_pb2 as pb
from edgesched.v1 import task_manager_pb2_grpc as pb_grpc

ROUNDS = 3
WARM_S = 2.0
BEFORE_S = 4.0
AFTER_S = 8.0
STEADY_S = 4.0  # at the end: what the survivor can do with the machine to itself
WINDOW_S = 1.0  # in which a rate is counted
STEP_S = 0.05
NORMAL = 0.9  # of the rate that counts as normal
LARGEST_PAGE = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """seconds: until the survivor was as fast as normal. longest_s: that one picture took, from then on."""

    seconds: float
    normal_per_s: float
    longest_s: float


async def killed_agent(setup: Setup) -> list[Figure]:
    """Two agents of one worker each; one of them gets SIGKILL."""
    found = [await _once(setup, setup.directory / f"killed-{i}") for i in range(ROUNDS)]
    for one in found:
        setup.say(
            f"normal rate of the survivor {one.normal_per_s:.0f}/s, back after {one.seconds:.2f} s; "
            f"longest wait for one picture {one.longest_s:.2f} s"
        )
    seconds, longest = [one.seconds for one in found], [one.longest_s for one in found]
    setting = f"'power', 2 agents of 1 worker, {CLIENTS} clients, delivered"
    return [
        Figure(what="an agent is killed: survivor's rate back to normal", value=median(seconds), unit="s",
               setting=setting, gate=3, goal=2, note=spread(seconds)),
        Figure(what="an agent is killed: longest that a picture takes", value=median(longest), unit="s",
               setting=setting, note=spread(longest)),
    ]  # fmt: skip


async def _once(setup: Setup, workspace: Path) -> Recovery:
    model = read_model(setup.model_dir)
    async with (
        cluster(workspace, models_dir=setup.model_dir.parent, agents=2, workers=1) as running,
        delivered_loop(running.grpc, model=model.name, label_dir=workspace / "labels") as loop,
    ):
        began_s = time.perf_counter()
        ends_s = began_s + WARM_S + BEFORE_S + AFTER_S
        working = asyncio.create_task(loop.run(_until(ends_s, setup.pictures()), clients=CLIENTS))
        await asyncio.sleep(WARM_S + BEFORE_S)
        killed_s = time.perf_counter()
        running.processes["agent-1"].process.kill()
        laps = await working
        devices = await _devices(running.grpc)
    arrivals = [lap.arrived_s for lap in laps if devices[lap.task_id] == "bench-0"]
    seconds, normal_per_s = recovery(arrivals, killed_s, began_s + WARM_S, ends_s)
    longest_s = max(lap.ms for lap in laps if lap.arrived_s > killed_s) / 1000
    return Recovery(seconds=seconds, normal_per_s=normal_per_s, longest_s=longest_s)


def _until(ends_s: float, pictures: Sequence[Picture]) -> Iterator[Picture]:
    number = 0
    while time.perf_counter() < ends_s:
        yield pictures[number % len(pictures)]
        number += 1


def recovery(arrivals: Sequence[float], killed_s: float, warm_s: float, ends_s: float) -> tuple[float, float]:
    """Seconds until the survivor's rate is normal, and that rate.

    arrivals: of the survivor's labels. Normal is its rate before, or what it settles at afterwards if that is more.
    """

    def rate(start_s: float, end_s: float) -> float:
        return sum(start_s <= at < end_s for at in arrivals) / (end_s - start_s)

    normal = max(rate(warm_s, killed_s), rate(ends_s - STEADY_S, ends_s))
    steps = 0
    while (at := killed_s + steps * STEP_S) + WINDOW_S <= ends_s:
        if rate(at, at + WINDOW_S) >= NORMAL * normal:
            return at - killed_s, normal
        steps += 1
    raise SystemExit(f"the survivor's rate never came back to {normal:.0f}/s")


async def _devices(address: str) -> Mapping[str, str]:
    """Which device labelled which task."""
    found: dict[str, str] = {}
    async with grpc.aio.insecure_channel(address, options=wire.CHANNEL_OPTIONS) as channel:
        stub = pb_grpc.TaskManagerStub(channel)
        request = pb.ListTasksRequest(client_id=CLIENT_ID, page_size=LARGEST_PAGE)
        while True:
            page = await stub.ListTasks(request, timeout=30)
            found |= {task.task_id: task.device_id for task in page.tasks}
            if not page.HasField("next_cursor"):
                return found
            request.cursor = page.next_cursor
