"""How much memory waiting tasks and idle devices cost the master."""

from __future__ import annotations

import asyncio
import time

import cv2
import grpc.aio
import numpy as np

from bench.cluster import Cluster, Cost, cluster
from bench.figures import Figure
from bench.noop_devices import noop_devices
from bench.setup import Setup
from client.pictures import Picture
from client.submitter import submit_all
from edgesched import wire
from edgesched.catalogue import builtin_models_dir

SUBMITTED_AT_ONCE = 256
MOST_QUEUED = 100_000  # that a task manager takes by default
QUEUE_LIMIT_MB = 300
DEVICES = 1_000
DEVICES_LIMIT_MB = 200
HEARTBEAT_MS = 10_000
IDLE_S = 5.0
BEATS = 2.5  # heartbeats per device that are waited for


async def queued_tasks(setup: Setup) -> list[Figure]:
    """No device is there to run them. What waits in the ledger must not wait in memory too."""
    count = min(setup.queued, MOST_QUEUED)
    image = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    pictures = (Picture(source=f"{i}", file_name=f"{i}.jpg", load=lambda: image) for i in range(count))
    async with cluster(setup.directory / "queue", models_dir=builtin_models_dir(), agents=0) as running:
        before = _master(running)
        started = time.perf_counter()
        async with grpc.aio.insecure_channel(running.grpc, options=wire.CHANNEL_OPTIONS) as channel:
            report = await submit_all(
                channel,
                pictures,
                model="shapes",
                receiver_url=None,
                client_id="bench",
                in_flight=SUBMITTED_AT_ONCE,
            )
        seconds = time.perf_counter() - started
        if len(report.acknowledged) != count:
            raise SystemExit(f"the task manager refused pictures: {report.refused[:3]}")
        filled = _master(running)
        idle = await _idle_share(running, IDLE_S)
    setting = f"'power', {count:,} tasks, no device, pictures of {len(image)} bytes"
    scaled = "" if count == MOST_QUEUED else f"; SCALED DOWN from {MOST_QUEUED:,} tasks"
    return [
        Figure(what=f"master's memory, {count:,} queued tasks", value=filled.rss_bytes / 1e6, unit="MB",
               setting=setting, gate=QUEUE_LIMIT_MB,
               note=f"{before.rss_bytes / 1e6:.0f} MB before, peak {filled.peak_rss_bytes / 1e6:.0f} MB{scaled}"),
        Figure(what="accepted/s", value=count / seconds, unit="/s", setting=setting),
        Figure(what=f"master's CPU while {count:,} tasks wait", value=idle, unit="cores", setting=setting),
    ]  # fmt: skip


async def idle_devices(setup: Setup) -> list[Figure]:
    """They only send heartbeats; nobody opens a stream."""
    workspace = setup.directory / "devices"
    async with cluster(workspace, models_dir=builtin_models_dir(), agents=0, heartbeat_ms=HEARTBEAT_MS) as running:
        before = _master(running)
        started = time.perf_counter()
        async with noop_devices(running.http, DEVICES, lambda task_ids: None):
            registered_s = time.perf_counter() - started
            share = await _idle_share(running, HEARTBEAT_MS / 1000 * BEATS)
            after = _master(running)
    setting = f"{DEVICES:,} devices, heartbeats every {HEARTBEAT_MS / 1000:g} s, no stream"
    return [
        Figure(what=f"master's memory, {DEVICES:,} idle devices", value=after.rss_bytes / 1e6, unit="MB",
               setting=setting, gate=DEVICES_LIMIT_MB,
               note=f"{before.rss_bytes / 1e6:.0f} MB before, peak {after.peak_rss_bytes / 1e6:.0f} MB; "
               f"registered in {registered_s:.1f} s"),
        Figure(what=f"master's CPU with {DEVICES:,} idle devices", value=share, unit="cores", setting=setting),
    ]  # fmt: skip


def _master(running: Cluster) -> Cost:
    return running.costs()["master"]


async def _idle_share(running: Cluster, seconds: float) -> float:
    """How many cores the master keeps busy meanwhile."""
    before, started = _master(running).cpu_s, time.perf_counter()
    await asyncio.sleep(seconds)
    return (_master(running).cpu_s - before) / (time.perf_counter() - started)
