"""Do N workers do N times as much, and does one that crashes cost its neighbours anything?

The work is sleep, so that the answer does not depend on how many CPUs this machine has.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from statistics import median

import psutil

from bench.closed_loop import delivered_loop
from bench.cluster import Cluster, cluster
from bench.figures import Figure, spread
from bench.setup import Setup, no_work
from edgesched.catalogue import builtin_models_dir
from edgesched.domain.device import BoardType
from edgesched.domain.profiles import USUAL_PROFILES

BOARD = BoardType.RK3588  # emulated: nothing is computed, and a picture takes its usual time
SLEEP_S = USUAL_PROFILES[BOARD].service_ms / 1000
COUNTS = (1, 2, 4)
ROUND_S = 5.0
ROUNDS = 3  # one after the other, without a pause
WARM_S = 1.0
CLIENTS_EACH = 8  # per worker, so that no worker waits for the way to the receiver
CRASH_EVERY_S = 1.0
PICTURE_BYTES = 20_000


async def many_workers(setup: Setup) -> list[Figure]:
    """The same board with more and more workers; in the last rounds one of them gets SIGKILL every second."""
    rates = {count: await _rates(setup, count) for count in COUNTS}
    most = COUNTS[-1]
    disturbed = await _rates(setup, most, crashing=True)
    alone = median(rates[1])
    work = f"every picture sleeps {SLEEP_S * 1000:.0f} ms, {CLIENTS_EACH} clients per worker, delivered"
    figures = [
        Figure(what=f"{count} workers against one, sleep-bound", value=median(found) / alone, unit="ratio",
               setting=work, goal=0.95 * count, is_least=True, note=f"{spread(found)}, pictures/s")
        for count, found in rates.items() if count > 1
    ]  # fmt: skip
    return [
        *figures,
        Figure(what=f"{most} workers, one of which is killed again and again", value=median(disturbed) / alone,
               unit="ratio", setting=f"{work}; one worker gets SIGKILL every {CRASH_EVERY_S:g} s, against one worker",
               goal=0.95 * (most - 1), is_least=True, note=f"{spread(disturbed)}, pictures/s"),
    ]  # fmt: skip


async def _rates(setup: Setup, workers: int, *, crashing: bool = False) -> list[float]:
    """Pictures per second, of each round."""
    workspace = setup.directory / f"{workers}-workers{'-crashing' * crashing}"
    (picture,) = no_work(1, PICTURE_BYTES)
    board = ("--emulate", BOARD.value)
    async with (
        cluster(
            workspace,
            models_dir=builtin_models_dir(),
            workers=workers,
            board=board,
            agent_options=("--backend", "echo"),
        ) as running,
        delivered_loop(running.grpc, model="shapes", label_dir=workspace / "labels") as loop,
    ):
        killer = asyncio.create_task(_crash_one(running)) if crashing else None
        ends_s = time.perf_counter() + WARM_S + ROUNDS * ROUND_S
        endless = itertools.takewhile(lambda _: time.perf_counter() < ends_s, itertools.repeat(picture))
        laps = await loop.run(endless, clients=CLIENTS_EACH * workers)
        if killer is not None:
            killer.cancel()
            await asyncio.wait({killer})
            if not killer.cancelled():
                killer.result()
    found = [sum(0 <= ends_s - i * ROUND_S - lap.arrived_s < ROUND_S for lap in laps) / ROUND_S for i in range(ROUNDS)]
    setup.say(f"{workers} workers{', one of them crashes' * crashing}: {spread(found)}")
    return found


async def _crash_one(running: Cluster) -> None:
    """Whichever worker was started last: that is the one that was killed before."""
    agent = psutil.Process(running.processes["agent-0"].process.pid)
    while True:
        await asyncio.sleep(CRASH_EVERY_S)
        if workers := agent.children():
            max(workers, key=psutil.Process.create_time).kill()
