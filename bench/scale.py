"""Tasks per second, and what a task costs the master, against the number of devices. Flat is the goal."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from bench.closed_loop import ClosedLoop, rate_of
from bench.cluster import US, cluster
from bench.figures import Figure, spread
from bench.noop_devices import MODEL, noop_devices
from bench.setup import Setup, cpu_ms_per_task, no_work
from edgesched.catalogue import builtin_models_dir

DEVICES = (1, 10, 50, 200)
CLIENTS = 64
PICTURE_BYTES = 4_000  # small: it is the scheduler that is measured, not the copying
ROUNDS = 3
RECEIVER_URL = "http://127.0.0.1:9"  # nobody posts anything: the devices are in this process


async def many_devices(setup: Setup) -> list[Figure]:
    figures: list[Figure] = []
    costs: dict[int, float] = {}
    for devices in DEVICES:
        rates, cpu_ms, ours_ms = await _measure(setup, devices)
        costs[devices] = median(cpu_ms)
        setting = f"'power', no-op devices, {CLIENTS} clients, {PICTURE_BYTES / 1000:g} KB, heartbeats every 2 s"
        figures += [
            Figure(what=f"tasks/s, devices: {devices}", value=median(rates), unit="/s", setting=setting,
                   note=f"{spread(rates)}; clients and devices take {median(ours_ms):.2f} ms of CPU per task"),
            Figure(what=f"CPU per task, master, devices: {devices}", value=costs[devices], unit="ms",
                   setting=setting, note=spread(cpu_ms)),
        ]  # fmt: skip
        setup.say(f"{devices} devices: {median(rates):.0f} tasks/s, master {costs[devices]:.2f} ms of CPU per task")
    few, many = 10, max(DEVICES)
    what = f"CPU per task, master, devices: {many} against {few}"
    figures.append(Figure(what=what, value=costs[many] / costs[few], unit="ratio", setting=setting, note="1 is flat"))
    return figures


async def _measure(setup: Setup, devices: int) -> tuple[Sequence[float], Sequence[float], Sequence[float]]:
    """Per round: tasks per second, and CPU milliseconds per task of the master and of this process."""
    pictures = no_work(setup.empty, PICTURE_BYTES)
    workspace = setup.directory / f"scale-{devices}"
    rates, cpu_ms, ours_ms = [], [], []
    async with (
        cluster(workspace, models_dir=builtin_models_dir(), agents=0) as running,
        ClosedLoop.opened(running.grpc, model=MODEL, receiver_url=RECEIVER_URL) as loop,
        noop_devices(running.http, devices, loop.arrived),
    ):
        await loop.run(pictures, clients=CLIENTS)  # warm; most streams are open then
        for _ in range(ROUNDS):
            before = running.costs()
            laps = await loop.run(pictures, clients=CLIENTS)
            per_task = cpu_ms_per_task(before, running.costs(), len(laps))
            rates.append(rate_of(laps))
            cpu_ms.append(per_task["master"])
            ours_ms.append(per_task[US])
    return rates, cpu_ms, ours_ms
