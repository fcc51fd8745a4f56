"""Snapshot, filter, score, choose: where each task of a request goes, and why.

Pure but for the memory that is handed in: the same request, fleet and memory always give the same plan.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from random import Random

from edgesched.domain.device import DeviceId
from edgesched.domain.task import TaskId
from edgesched.placement.estimate import PlacementMemory
from edgesched.placement.filters import UNABLE, refusal
from edgesched.placement.fleet import FleetSnapshot, Standing
from edgesched.placement.strategies import STRATEGIES, strategy_name
from edgesched.ports import Candidate, Decision, PlacementRequest, TaskToPlace

TIE_DIGITS = 6
"""Scores that differ by less (a microsecond of work) are equal: sums of floats depend on their order."""

Rank = tuple[float, int, float]


def plan(request: PlacementRequest, fleet: FleetSnapshot, memory: PlacementMemory) -> Sequence[Decision]:
    """One decision per task, in the order of the tasks; each one counts the earlier ones as in flight.

    memory: learns from `request.finished`, and remembers whose turn it was.
    Raises: InvalidInput if the strategy is not known; the memory is unchanged then.
    """
    strategy = strategy_name(request.strategy)
    _learn(request, fleet, memory)
    standings = _standings(request, fleet, memory)
    decisions = []
    for task in request.tasks:
        decision = _decide(task, standings.values(), strategy, memory.random)
        if decision.device_id is not None:
            standings[decision.device_id].take(task.model, task.size_bytes)
            memory.take_turn(decision.device_id)
        decisions.append(decision)
    return decisions


def preview(
    *, model: str, size_bytes: int, strategy: str | None, fleet: FleetSnapshot, memory: PlacementMemory
) -> Decision:
    """What `plan` would decide next for such a task if nothing were in flight. Changes nothing.

    model: `filters.ANY_MODEL` asks for devices that can run any model at all.
    Raises: InvalidInput if the strategy is not known.
    """
    name = strategy_name(strategy)
    task = TaskToPlace(task_id=TaskId("dry-run"), model=model, size_bytes=size_bytes)
    standings = _standings(PlacementRequest(tasks=(task,), in_flight=()), fleet, memory)
    same_draws = Random()
    same_draws.setstate(memory.random.getstate())
    return _decide(task, standings.values(), name, same_draws)


def _learn(request: PlacementRequest, fleet: FleetSnapshot, memory: PlacementMemory) -> None:
    devices = {device.device_id: device for device in fleet.devices}
    memory.keep_only(devices)
    for sample in request.finished:
        if sample.device_id in devices:
            memory.learn(sample, devices[sample.device_id])


def _standings(request: PlacementRequest, fleet: FleetSnapshot, memory: PlacementMemory) -> Mapping[DeviceId, Standing]:
    standings = {
        device.device_id: Standing(
            device, memory.of(device.device_id), is_reachable=device.device_id not in request.unreachable
        )
        for device in fleet.devices
    }
    for attempt in request.in_flight:
        standing = standings.get(attempt.device_id)
        if standing is not None:
            standing.take(attempt.model, attempt.size_bytes)
    return standings


def _decide(task: TaskToPlace, standings: Collection[Standing], strategy: str, random: Random) -> Decision:
    task = _without_vain_avoidance(task, standings)
    score = STRATEGIES[strategy]
    excluded: dict[DeviceId, str] = {}
    ranked: list[tuple[Rank, Candidate]] = []
    for standing in standings:
        reason = refusal(task, standing)
        if reason is None:
            candidate = score(task, standing)
            ranked.append((_rank(task, standing, candidate), candidate))
        else:
            excluded[standing.device.device_id] = reason

    chosen, runner_up = _best_two(ranked, random)
    return Decision(
        task_id=task.task_id,
        device_id=chosen.device_id if chosen else None,
        strategy=strategy,
        chosen=chosen,
        runner_up=runner_up,
        excluded=excluded,
    )


def _without_vain_avoidance(task: TaskToPlace, standings: Collection[Standing]) -> TaskToPlace:
    """Where the task failed is avoided only while another device could run it, now or when its window opens."""
    if not task.avoid:
        return task
    for standing in standings:
        if standing.device.device_id not in task.avoid and refusal(task, standing, UNABLE) is None:
            return task
    return replace(task, avoid=frozenset())


def _rank(task: TaskToPlace, standing: Standing, candidate: Candidate) -> Rank:
    """Best score; then fewer in flight; then the faster answer. Names and order of devices play no part."""
    unloaded_ms = standing.unloaded_ms(task.model, task.size_bytes)
    return (round(candidate.score, TIE_DIGITS), standing.in_flight_tasks, round(unloaded_ms, TIE_DIGITS))


def _best_two(
    ranked: Sequence[tuple[Rank, Candidate]], random: Random
) -> tuple[Candidate, Candidate | None] | tuple[None, None]:
    if not ranked:
        return None, None
    best = min(rank for rank, _ in ranked)
    equals = [candidate for rank, candidate in ranked if rank == best]
    chosen = equals[0] if len(equals) == 1 else random.choice(equals)
    others = [entry for entry in ranked if entry[1] is not chosen]
    runner_up = min(others, key=lambda entry: entry[0])[1] if others else None
    return chosen, runner_up
