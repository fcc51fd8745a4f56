"""The questions of the target table, each for one seed: pure functions, so that they run in any process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from random import Random

from edgesched.domain.device import Device, DeviceProfile
from edgesched.simulation import runs
from edgesched.simulation.baselines import BASELINES, ORACLES, latencies_ms
from edgesched.simulation.bounds import capacity_per_s
from edgesched.simulation.engine import Outcome, Simulation
from edgesched.simulation.faults import Fault
from edgesched.simulation.figures import percentile
from edgesched.simulation.fleets import Fleet, load
from edgesched.simulation.workload import Picture, burst, stream

SERVICE_CV = 0.15
WARM_UP_S = 1.5
"""Nothing is counted before: windows open one answer at a time, and estimates settle."""

BURST = 5_000
NO_PROFILE = DeviceProfile(slots=2, service_ms=50.0, link_mbps=100.0, round_trip_ms=5.0)
"""What an agent says of a board of which it knows nothing but its slots."""

FREEZE_S = 4.5
"""Two reports have told of what goes on by then."""

Figures = Mapping[str, float]


@cache
def fleet_and_capacity(name: str) -> tuple[Fleet, float]:
    fleet = load(name)
    return fleet, runs.capacity_per_s(fleet)


def arrivals(name: str, load_fraction: float, duration_s: float, seed: int) -> Sequence[Picture]:
    fleet, capacity = fleet_and_capacity(name)
    return stream(
        "poisson",
        fleet.sizes,
        rate_per_s=load_fraction * capacity,
        duration_s=duration_s,
        service_cv=SERVICE_CV,
        random=Random(seed),
    )


def p99(pictures: Sequence[Picture], latencies: Sequence[float | None], from_s: float = WARM_UP_S) -> float:
    """Lost pictures count as infinitely late."""
    counted = [
        float("inf") if latency is None else latency
        for picture, latency in zip(pictures, latencies, strict=True)
        if picture.at_ms >= from_s * 1000
    ]
    return percentile(counted, 99)


def tail_against_oracles(name: str, load_fraction: float, duration_s: float, seed: int) -> Figures:
    """p99 of our strategies, of every oracle, and of round robin and the predecessor's formula."""
    fleet, _ = fleet_and_capacity(name)
    pictures = arrivals(name, load_fraction, duration_s, seed)
    found = {s: p99(pictures, Simulation(fleet, pictures, s, seed=seed).run().latencies_ms) for s in OURS}
    for rule_name in (*ORACLES, "blind-round-robin", "predecessor"):
        rule = ORACLES.get(rule_name) or BASELINES[rule_name]
        found[rule_name] = p99(pictures, latencies_ms(fleet, pictures, rule, seed=seed))
    found["best oracle"] = min(found[oracle] for oracle in ORACLES)
    return found


OURS = ("fastest", "load")


def burst_against_bound(name: str, seed: int) -> Figures:
    """Makespan of a burst, divided by the fluid bound of its very pictures. Before it the fleet works at half load."""
    fleet, _ = fleet_and_capacity(name)
    random = Random(seed)
    before = arrivals(name, 0.5, WARM_UP_S, seed + 1_000)
    at_ms = (WARM_UP_S + 1.0) * 1000
    crowd = burst(BURST, fleet.sizes, at_ms=at_ms, service_cv=SERVICE_CV, random=random)
    bound_ms = 1000 * BURST / capacity_per_s(fleet, [picture.size_bytes for picture in crowd])
    pictures = [*before, *crowd]
    return {s: (Simulation(fleet, pictures, s, seed=seed).run().ended_at_ms - at_ms) / bound_ms for s in OURS}


def stable_load(name: str, duration_s: float, seed: int) -> Figures:
    """Answers per second while more arrives than the fleet can do, as a part of its capacity."""
    fleet, capacity = fleet_and_capacity(name)
    pictures = arrivals(name, 1.05, duration_s, seed)
    found: dict[str, float] = {}
    for strategy in OURS:
        outcome = Simulation(fleet, pictures, strategy, seed=seed).run()
        ends_ms = [p.at_ms + ms for p, ms in zip(pictures, outcome.latencies_ms, strict=True) if ms is not None]
        from_ms, to_ms = duration_s * 250, duration_s * 1000
        found[strategy] = sum(from_ms <= end < to_ms for end in ends_ms) / ((to_ms - from_ms) / 1000) / capacity
    return found


def fail_fast(name: str, seed: int) -> Figures:
    """The first board fails everything at once from the third second on."""
    fleet, _ = fleet_and_capacity(name)
    pictures = arrivals(name, 0.6, 6.0, seed)
    fault = Fault(kind="fails-fast", board=0, at_ms=3_000.0)
    found: dict[str, float] = {}
    for strategy in OURS:
        outcome = Simulation(fleet, pictures, strategy, seed=seed, faults=[fault]).run()
        sends = outcome.sends.get(fleet.boards[0].device_id, [])
        found[f"{strategy} lost"] = float(sum(ms is None for ms in outcome.latencies_ms))
        found[f"{strategy} sent"] = float(sum(3_000.0 <= at_ms < 3_900.0 for at_ms in sends))
    return found


def frozen_reports(name: str, seed: int) -> Figures:
    """p99 of a minute in which no report says anything new, divided by p99 of the same minute with fresh reports.

    The reports freeze at a bad moment: the last ones say that somebody else uses half of the first board and most of
    its link, and soon after that is over. Later somebody comes to the second board, and no report tells. Whoever goes
    on believing the reports does without the first board for a minute.
    """
    fleet, _ = fleet_and_capacity(name)
    pictures = arrivals(name, 0.7, FREEZE_S + 60.0, seed)
    freeze_ms = 1000 * FREEZE_S
    others = [
        Fault(kind="is-shared", board=0, at_ms=1_000.0, until_ms=freeze_ms + 2_000, amount=0.5),
        Fault(kind="link-drops", board=0, at_ms=1_000.0, until_ms=freeze_ms + 2_000, amount=4.0),
        Fault(kind="is-shared", board=1, at_ms=freeze_ms + 10_000, until_ms=freeze_ms + 40_000, amount=0.5),
    ]
    frozen = [Fault(kind="reports-freeze", board=i, at_ms=freeze_ms) for i in range(len(fleet.boards))]

    def tail(faults: Sequence[Fault]) -> float:
        outcome = Simulation(fleet, pictures, "fastest", seed=seed, faults=faults).run()
        return p99(pictures, outcome.latencies_ms, from_s=FREEZE_S + 4.0)  # what it cost while it lasted is over

    return {"fastest": tail([*others, *frozen]) / tail(others)}


def cold_board(name: str, seed: int) -> Figures:
    """A board of which nothing is known joins. What it answers in the seconds 3 to 5 after that, divided by what it
    answers in the same seconds when it was there and known from the start."""
    fleet, _ = fleet_and_capacity(name)
    pictures = arrivals(name, 0.7, 7.5, seed)
    joins_ms = 2_000.0
    stranger = fleet.boards[0].device_id

    def says(device: Device) -> Device:
        if device.device_id != stranger:
            return device
        return replace(device, profile=replace(NO_PROFILE, slots=device.profile.slots))

    def answers(outcome: Outcome) -> int:
        from_ms, to_ms = joins_ms + 3_000, joins_ms + 5_000
        done = zip(pictures, outcome.latencies_ms, outcome.devices, strict=True)
        return sum(n == 0 and ms is not None and from_ms <= p.at_ms + ms < to_ms for p, ms, n in done)

    found: dict[str, float] = {}
    for strategy in OURS:
        known = Simulation(fleet, pictures, strategy, seed=seed).run()
        cold = Simulation(fleet, pictures, strategy, seed=seed, joins_at_ms={0: joins_ms}, says=says).run()
        found[strategy] = answers(cold) / max(1, answers(known))
    return found
