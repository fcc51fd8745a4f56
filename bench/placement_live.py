"""Real processes against the simulator: the same arrivals, sizes, links and profiles in both.

One emulated board of each kind, the `echo` backend padded to the profile's time (so that two cores are enough), and
pictures that arrive whether or not the last ones were answered. A picture's time is from sending it to its labels.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc.aio

from edgesched import wire
from edgesched.catalogue import builtin_models_dir
from edgesched.demo.pictures import draw_pictures
from edgesched.local.children import ChildSpec, running
from edgesched.simulation.engine import Simulation
from edgesched.simulation.figures import percentile
from edgesched.simulation.fleets import Fleet, load
from edgesched.simulation.workload import Picture, stream
from edgesched.v1 import task_manager_pb2 as pb
from edgesched.v1 import task_manager_pb2_grpc as pb_grpc

IDLE_PICTURES, IDLE_EVERY_MS = 24, 125.0
"""One at a time, at first: what the real cluster adds to a picture when nothing else is going on."""

WARM_UP_S = 3.0
ANSWER_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Milliseconds, of the measured pictures. parts: of the median picture, as the boards timed them."""

    rate_per_s: float
    pictures: int
    real_ms: Sequence[float]
    simulated_ms: Sequence[float]
    idle_extra_ms: float  # what one picture alone takes longer than in the simulation
    service_extra_ms: float  # of it: on the worker, beyond the profile
    transfer_extra_ms: float  # on the link, beyond the profile

    def deviation(self, percent: float, *, less_ms: float = 0.0) -> float:
        """Of the real cluster from the simulation, as a part of the latter."""
        simulated = percentile(self.simulated_ms, percent)
        return (percentile(self.real_ms, percent) - less_ms) / simulated - 1


def compare(*, rate_per_s: float = 40.0, seconds: float = 12.0, strategy: str = "load", seed: int = 1) -> Comparison:
    """Raises: StartupError if the cluster does not start, grpc.RpcError if a picture is not answered."""
    fleet = load("small")
    pictures = arrivals(fleet, rate_per_s=rate_per_s, seconds=seconds, seed=seed)
    answers = asyncio.run(_real(fleet, pictures, strategy))
    simulated = Simulation(fleet, pictures, strategy, seed=seed).run().latencies_ms
    measured_from_ms = pictures[IDLE_PICTURES].at_ms + WARM_UP_S * 1000
    chosen = [i for i, picture in enumerate(pictures) if picture.at_ms >= measured_from_ms]
    idle = range(IDLE_PICTURES // 2, IDLE_PICTURES)  # the first ones also open connections
    profiles = {str(board.device_id): board.profile for board in fleet.boards}

    def beyond(i: int) -> tuple[float, float]:
        profile, timings = profiles[answers[i].device_id], answers[i].result.timings
        transfer_ms = pictures[i].size_bytes * 8 / (1000 * profile.link_mbps)
        return timings.service_ms - profile.service_ms, timings.transfer_ms - transfer_ms

    return Comparison(
        rate_per_s=rate_per_s,
        pictures=len(chosen),
        real_ms=[answers[i].total_ms for i in chosen],
        simulated_ms=[simulated[i] or float("inf") for i in chosen],
        idle_extra_ms=percentile([answers[i].total_ms - (simulated[i] or 0.0) for i in idle], 50),
        service_extra_ms=percentile([beyond(i)[0] for i in chosen], 50),
        transfer_extra_ms=percentile([beyond(i)[1] for i in chosen], 50),
    )


def arrivals(fleet: Fleet, *, rate_per_s: float, seconds: float, seed: int) -> Sequence[Picture]:
    """Some one by one, then a stream; every picture takes exactly the profile's time."""
    generator = random.Random(seed)
    idle = [
        Picture(at_ms=i * IDLE_EVERY_MS, size_bytes=fleet.sizes.at(generator.random()), effort=1.0)
        for i in range(IDLE_PICTURES)
    ]
    begins_ms = IDLE_PICTURES * IDLE_EVERY_MS
    then = stream(
        "poisson",
        fleet.sizes,
        rate_per_s=rate_per_s,
        duration_s=WARM_UP_S + seconds,
        service_cv=0.0,
        random=generator,
    )
    return [*idle, *(replace(picture, at_ms=begins_ms + picture.at_ms) for picture in then)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    total_ms: float
    device_id: str
    result: Any  # pb.Result


async def _real(fleet: Fleet, pictures: Sequence[Picture], strategy: str) -> Sequence[_Answer]:
    models_dir = builtin_models_dir()
    quiet = ("--models", str(models_dir), "--log-level", "warning")
    with tempfile.TemporaryDirectory(prefix="edgesched-live-") as scratch:
        root = Path(scratch)
        ports = ("--grpc-port", "0", "--http-port", "0", "--browser-port", "0")
        files = ("--ledger", str(root / "ledger.sqlite3"), "--upload_path", str(root / "upload"))
        more = ("--durability", "process", "--strategy", strategy)
        up = ChildSpec(name="master", arguments=["up", *ports, *files, *more, *quiet], log_path=root / "up.log")
        async with running(up) as (master,):
            agents = [
                ChildSpec(
                    name=f"agent {board.device_id}",
                    arguments=[
                        *("agent", "--emulate", board.board_type.value, "--device-id", board.device_id),
                        *("--port", "0", "--master-url", f"http://{master.ready['http']}", "--backend", "echo"),
                        *("--workspace", str(root / board.device_id), *quiet),
                    ],
                    log_path=root / board.device_id / "agent.log",
                )
                for board in fleet.boards
            ]
            async with (
                running(*agents),
                grpc.aio.insecure_channel(master.ready["grpc"], options=wire.CHANNEL_OPTIONS) as channel,
            ):
                return await _played(pb_grpc.TaskManagerStub(channel), pictures)


async def _played(stub: Any, pictures: Sequence[Picture]) -> Sequence[_Answer]:
    drawn = next(iter(draw_pictures(1, 1))).jpeg
    began = time.perf_counter()

    async def one(picture: Picture) -> _Answer:
        await asyncio.sleep(began + picture.at_ms / 1000 - time.perf_counter())
        image = drawn[:-2] + bytes(max(0, picture.size_bytes - len(drawn))) + drawn[-2:]
        request = pb.SubmitRequest(
            model="shapes", file_name="a.jpg", image=image, client_id="bench", submission_key=uuid.uuid4().hex
        )
        started = time.perf_counter()
        reply = await stub.Infer(request, timeout=ANSWER_TIMEOUT_S)
        total_ms = (time.perf_counter() - started) * 1000
        return _Answer(total_ms=total_ms, device_id=reply.device_id, result=reply.result)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(picture)) for picture in pictures]
    return [task.result() for task in tasks]
