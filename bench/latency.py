"""What `Infer` adds to the device's own time when nothing else is going on."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import Any

import grpc.aio

from bench.cluster import cluster
from bench.figures import Figure
from bench.setup import Setup
from edgesched import wire
from edgesched.catalogue import read_model
from edgesched.demo.known_pictures import percentile
from edgesched.v1 import task_manager_pb2 as pb
from edgesched.v1 import task_manager_pb2_grpc as pb_grpc

INFER_TIMEOUT_S = 30


async def idle_latency(setup: Setup) -> list[Figure]:
    image = setup.pictures()[0].load()
    model = read_model(setup.model_dir)
    added: list[float] = []
    async with (
        cluster(setup.directory / "latency", models_dir=setup.model_dir.parent) as running,
        grpc.aio.insecure_channel(running.grpc, options=wire.CHANNEL_OPTIONS) as channel,
    ):
        stub: Any = pb_grpc.TaskManagerStub(channel)
        for _ in range(setup.latency):
            request = pb.SubmitRequest(
                model=model.name, file_name="a.jpg", image=image, client_id="bench", submission_key=uuid.uuid4().hex
            )
            started = time.perf_counter()
            reply = await stub.Infer(request, timeout=INFER_TIMEOUT_S)
            added.append((time.perf_counter() - started) * 1000 - reply.result.timings.service_ms)
    fsync_ms = fsync_p99_ms(setup.directory)
    added = added[len(added) // 10 :]  # the first ones open the stream
    p99 = percentile(added, 0.99)
    setting = "'power', 2 workers, one client, not delivered"
    return [
        Figure(what="added latency of Infer, idle, p50", value=percentile(added, 0.5), unit="ms", setting=setting,
               gate=4, goal=3),
        Figure(what="added latency of Infer, idle, p99", value=p99, unit="ms", setting=setting, goal=8,
               note=f"{p99 / fsync_ms:.1f} times the disk's fsync p99 of {fsync_ms:.1f} ms"),
    ]  # fmt: skip


def fsync_p99_ms(directory: Path) -> float:
    times = []
    with (directory / "fsync").open("wb", buffering=0) as file:
        for _ in range(200):
            file.write(b"x" * 4096)
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - started) * 1000)
    return percentile(times, 0.99)
