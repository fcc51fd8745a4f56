"""A long run: does any process grow?"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.closed_loop import delivered_loop
from bench.cluster import Cluster, cluster
from bench.figures import Figure
from bench.setup import Setup
from bench.throughput import CLIENTS
from edgesched.catalogue import read_model

SAMPLES = 10  # at least; one per minute of a longer run
WARM_UP = 0.3  # of the run: caches fill, estimators learn
WARM_UP_PICTURES = 50_000  # at least; then the ledger has filled the page cache that SQLite keeps (64 MiB)
MAX_GROWTH = 0.05  # of what a process had when it was warm


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """resident_bytes: by process."""

    done: int
    resident_bytes: Mapping[str, int]


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
                samples.append(_sample(running, done))
                sizes = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in samples[-1].resident_bytes.items())
                setup.say(f"{passed_s:.0f} s, {done:,} pictures, resident MB: {sizes}")
        samples.append(_sample(running, done))
    return growth(samples, f"'power', 2 workers, {CLIENTS} clients, {setup.soak_s} s, {done:,} pictures")


def _sample(running: Cluster, done: int) -> Sample:
    return Sample(done=done, resident_bytes={name: cost.rss_bytes for name, cost in running.costs().items()})


def growth(samples: Sequence[Sample], setting: str) -> list[Figure]:
    """The last sample against the first one after the warm-up. A run that never got warm has no verdict."""
    late = samples[int(len(samples) * WARM_UP) :]
    warm = next((sample for sample in late[:-1] if sample.done >= WARM_UP_PICTURES), None)
    gate, note = (MAX_GROWTH * 100, "") if warm else (None, f"; NOT JUDGED: fewer than {WARM_UP_PICTURES:,} pictures")
    first, last = (warm or late[0]).resident_bytes, samples[-1].resident_bytes
    return [
        Figure(what=f"growth of {name} after the warm-up", value=(last[name] / size - 1) * 100, unit="%",
               setting=setting, gate=gate, note=f"{size / 1e6:.1f} to {last[name] / 1e6:.1f} MB{note}")
        for name, size in first.items() if name in last
    ]  # fmt: skip
