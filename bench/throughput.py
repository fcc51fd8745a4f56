"""Pictures per second beside the plain loop, and empty tasks per second: what a task costs, and whom."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import grpc.aio

from bench import plain_loop
from bench.closed_loop import delivered_loop, rate_of
from bench.cluster import Cluster, cluster
from bench.figures import Figure, spread
from bench.setup import Setup, cpu_figures, cpu_ms_per_task, latency_figures, no_work
from client.pictures import Picture
from client.submitter import submit_all
from client.waiter import wait_settled
from edgesched import wire
from edgesched.catalogue import builtin_models_dir, read_model
from edgesched.domain.detection import digest
from edgesched.domain.lifecycle import State
from edgesched.rest import LabelledPicture, Wire

CLIENTS = 8
WARM_UP = 100  # pictures
EMPTY_CLIENTS = 64
WARM_UP_EMPTY = 500
LABEL_FILE: Wire[LabelledPicture] = Wire(LabelledPicture)


async def pictures_per_s(setup: Setup) -> list[Figure]:
    """The plain loop, the closed loop and the open loop take turns, so that all see the same machine."""
    model = read_model(setup.model_dir)
    batch = setup.batch(setup.count)
    workspace = setup.directory / "pictures-per-s"
    ratios, open_ratios, took_ms, costs = [], [], [], []
    async with (
        cluster(workspace, models_dir=setup.model_dir.parent, with_receiver=True) as running,
        delivered_loop(running.grpc, model=model.name, label_dir=workspace / "closed-labels") as loop,
    ):
        await loop.run(setup.batch(WARM_UP), clients=CLIENTS)  # warm
        await send(running, batch, model.name)
        for number in range(setup.repeat):
            bare = await bare_loop(setup)
            before = running.costs()
            laps = await loop.run(batch, clients=CLIENTS)
            costs.append(cpu_ms_per_task(before, running.costs(), len(laps)))
            took_ms += [lap.ms for lap in laps]
            open_rate = len(batch) / await send(running, batch, model.name)
            ratios.append(rate_of(laps) / bare["pictures_per_s"])
            open_ratios.append(open_rate / bare["pictures_per_s"])
            setup.say(
                f"round {number + 1}: plain loop {bare['pictures_per_s']:.0f}/s, edgesched {rate_of(laps):.0f}/s, "
                f"ratio {ratios[-1]:.3f}; open loop {open_rate:.0f}/s, ratio {open_ratios[-1]:.3f}"
            )
        after = running.costs()
    assert running.label_dir is not None
    for label_dir in (workspace / "closed-labels", running.label_dir):
        check_labels(label_dir / model.name / "rst", bare["digests"])
    setting = f"'power', 2 workers, {CLIENTS} clients, delivered"
    others = "'power', 2 workers, all sent at once, 8 unacknowledged, delivered"
    return [
        Figure(what="pictures/s against the plain loop", value=median(ratios), unit="ratio", setting=setting,
               gate=0.87, goal=0.95, is_least=True, note=spread(ratios)),
        *cpu_figures(costs, after, of="picture", setting=setting, limits={"master": (0.6, 0.4), "agent-0": (0.5, 0.3)}),
        *latency_figures(took_ms, of="one picture, until its labels are there", setting=setting),
        Figure(what="pictures/s against the plain loop, open loop", value=median(open_ratios), unit="ratio",
               setting=others, note=spread(open_ratios)),
    ]  # fmt: skip


async def bare_loop(setup: Setup) -> dict[str, Any]:
    return await asyncio.to_thread(
        plain_loop.measure, setup.model_dir, setup.picture_dir, count=setup.count, processes=2
    )


async def send(running: Cluster, pictures: Sequence[Picture], model: str) -> float:
    """As `send_pic` does. Seconds from the first picture until the receiver has answered for the last one."""
    async with grpc.aio.insecure_channel(running.grpc, options=wire.CHANNEL_OPTIONS) as channel:
        started = time.perf_counter()
        report = await submit_all(
            channel,
            pictures,
            model=model,
            receiver_url=running.receiver_url,
            client_id="bench",
            in_flight=CLIENTS,
        )
        tasks = await wait_settled(channel, [item.task_id for item in report.acknowledged], timeout_s=60)
        seconds = time.perf_counter() - started
    missing = [task for task in tasks.values() if task.state is not State.DELIVERED]
    if report.refused or missing or len(tasks) != len(pictures):
        raise SystemExit(f"the run lost pictures: {report.refused[:3]} {missing[:3]}")
    return seconds


def check_labels(directory: Path, expected: dict[str, str]) -> None:
    """expected: file name -> digest of the labels that the plain loop found."""
    found: dict[str, str] = {}
    for path in directory.glob("*.json"):
        item = LABEL_FILE.parse(path.read_bytes())
        if found.setdefault(item.file_name, digest(item.detections)) != digest(item.detections):
            raise SystemExit(f"two labels of {item.file_name} differ")
    if found != expected:
        raise SystemExit(f"the labels in {directory} differ from those of the plain loop")


async def empty_tasks(setup: Setup) -> list[Figure]:
    """Tasks per second when the boards do nothing."""
    return await _empty_tasks(setup, "power", 1_000, 1_500) + await _empty_tasks(setup, "process", 1_500, 2_000)


async def _empty_tasks(setup: Setup, durability: str, gate: float, goal: float) -> list[Figure]:
    pictures = no_work(setup.empty)
    workspace = setup.directory / f"empty-{durability}"
    rates, took_ms, costs = [], [], []
    async with (
        cluster(
            workspace, models_dir=builtin_models_dir(), durability=durability, agent_options=("--backend", "echo")
        ) as running,
        delivered_loop(running.grpc, model="shapes", label_dir=workspace / "labels") as loop,
    ):
        await loop.run(pictures[:WARM_UP_EMPTY], clients=EMPTY_CLIENTS)
        for _ in range(setup.repeat):
            before = running.costs()
            laps = await loop.run(pictures, clients=EMPTY_CLIENTS)
            costs.append(cpu_ms_per_task(before, running.costs(), len(laps)))
            rates.append(rate_of(laps))
            took_ms += [lap.ms for lap in laps]
        after = running.costs()
    setup.say(f"empty tasks, {durability!r}: {spread(rates)}")
    setting = f"{durability!r}, 2 workers that do nothing, {EMPTY_CLIENTS} clients, 100 KB, delivered"
    task = f"empty task, {durability!r}"
    return [
        Figure(what=f"empty tasks/s, {durability!r}", value=median(rates), unit="/s", setting=setting, gate=gate,
               goal=goal, is_least=True, note=spread(rates)),
        *cpu_figures(costs, after, of=task, setting=setting, limits={}),
        *latency_figures(took_ms, of=task, setting=setting),
    ]  # fmt: skip
