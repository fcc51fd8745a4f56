"""Pictures per second beside the plain loop, and empty tasks per second: what a task costs, and whom."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import grpc.aio

from bench import plain_loop
from bench.closed_loop import ClosedLoop, delivered_loop, rate_of
from bench.cluster import Cluster, Cost, cluster
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """Rates per second; CPU milliseconds per picture of the closed loop, by process."""

    bare: float
    closed: float
    opened: float
    cpu_ms: dict[str, float]
    took_ms: list[float]
    digests: dict[str, str]  # file name -> of the labels that the plain loop found


async def pictures_per_s(setup: Setup) -> list[Figure]:
    """The plain loop, the closed loop and the open loop take turns, so that all see the same machine."""
    model = read_model(setup.model_dir).name
    workspace = setup.directory / "pictures-per-s"
    rounds: list[_Round] = []
    async with (
        cluster(workspace, models_dir=setup.model_dir.parent, with_receiver=True) as running,
        delivered_loop(running.grpc, model=model, label_dir=workspace / "closed-labels") as loop,
    ):
        await loop.run(setup.batch(WARM_UP), clients=CLIENTS)
        await send(running, setup.batch(WARM_UP), model)
        for _ in range(setup.repeat):
            rounds.append(found := await _round(setup, running, loop, model))
            setup.say(
                f"plain {found.bare:.0f}/s, edgesched {found.closed:.0f}/s, ratio {found.closed / found.bare:.3f}; "
                f"open loop {found.opened:.0f}/s, ratio {found.opened / found.bare:.3f}"
            )
        after = running.costs()
    assert running.label_dir is not None
    for label_dir in (workspace / "closed-labels", running.label_dir):
        check_labels(label_dir / model / "rst", rounds[-1].digests)
    return _figures(rounds, after)


async def _round(setup: Setup, running: Cluster, loop: ClosedLoop, model: str) -> _Round:
    batch = setup.batch(setup.count)
    bare = await asyncio.to_thread(
        plain_loop.measure, setup.model_dir, setup.picture_dir, count=setup.count, processes=2
    )
    before = running.costs()
    laps = await loop.run(batch, clients=CLIENTS)
    cpu_ms = cpu_ms_per_task(before, running.costs(), len(laps))
    del cpu_ms["receiver"]  # that one is for the open loop
    return _Round(
        bare=bare["pictures_per_s"],
        closed=rate_of(laps),
        opened=len(batch) / await send(running, batch, model),
        cpu_ms=cpu_ms,
        took_ms=[lap.ms for lap in laps],
        digests=bare["digests"],
    )


def _figures(rounds: Sequence[_Round], after: Mapping[str, Cost]) -> list[Figure]:
    closed = f"'power', 2 workers, {CLIENTS} clients, delivered"
    opened = f"'power', 2 workers, all sent at once with {CLIENTS} unacknowledged, delivered"
    ratios = [one.closed / one.bare for one in rounds]
    open_ratios = [one.opened / one.bare for one in rounds]
    took_ms = [ms for one in rounds for ms in one.took_ms]
    costs = [one.cpu_ms for one in rounds]
    return [
        Figure(what="pictures/s against the plain loop", value=median(ratios), unit="ratio", setting=closed,
               gate=0.87, goal=0.95, is_least=True, note=spread(ratios)),
        *cpu_figures(costs, after, of="picture", setting=closed, limits={"master": (0.6, 0.4), "agent-0": (0.5, 0.3)}),
        *latency_figures(took_ms, of="one picture, until its labels are there", setting=closed),
        Figure(what="pictures/s against the plain loop, open loop", value=median(open_ratios), unit="ratio",
               setting=opened, note=spread(open_ratios)),
    ]  # fmt: skip


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
