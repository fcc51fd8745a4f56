"""A long run: does any process grow?"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from bench.closed_loop import delivered_loop
from bench.cluster import Cluster, cluster
from bench.figures import Figure
from bench.setup import Setup
from bench.throughput import CLIENTS
from edgesched.catalogue import read_model

SAMPLES = 10  # at least; one per minute of a longer run
WARM_UP = 0.3  # of the run: caches fill, estimators learn
MAX_GROWTH = 0.05  # of what a process had when it was warm

Sample = Mapping[str, int]
"""Process -> resident bytes."""


async def soak(setup: Setup) -> list[Figure]:
    """Pictures in a closed loop, for so long. One figure per process: how much larger it is than when it was warm."""
    model = read_model(setup.model_dir)
    workspace = setup.directory / "soak"
    batch = setup.batch(setup.count)
    interval_s = min(60.0, setup.soak_s / SAMPLES)
    samples: list[Sample] = []
    done = 0
    async with (
        cluster(workspace, models_dir=setup.model_dir.parent) as running,
        delivered_loop(running.grpc, model=model.name, label_dir=workspace / "labels") as loop,
    ):
        started_s = time.perf_counter()
        while (passed_s := time.perf_counter() - started_s) < setup.soak_s:
            done += len(await loop.run(batch, clients=CLIENTS))
            if passed_s >= interval_s * len(samples):
                samples.append(_resident(running))
                sizes = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in samples[-1].items())
                setup.say(f"{passed_s:.0f} s, {done:,} pictures, resident MB: {sizes}")
        samples.append(_resident(running))
    return growth(samples, f"'power', 2 workers, {CLIENTS} clients, {setup.soak_s} s, {done:,} pictures")


def _resident(running: Cluster) -> Sample:
    return {name: cost.rss_bytes for name, cost in running.costs().items()}


def growth(samples: Sequence[Sample], setting: str) -> list[Figure]:
    """The last sample against the first one after the warm-up."""
    warm, last = samples[int(len(samples) * WARM_UP)], samples[-1]
    return [
        Figure(what=f"growth of {name} after the warm-up", value=(last[name] / size - 1) * 100, unit="%",
               setting=setting, gate=MAX_GROWTH * 100, note=f"{size / 1e6:.1f} to {last[name] / 1e6:.1f} MB")
        for name, size in warm.items() if name in last
    ]  # fmt: skip
