"""A choice as people see it: the terms of the score, the next best device, and who was left out why."""

from __future__ import annotations

from collections.abc import Mapping

from edgesched.domain.device import DeviceId
from edgesched.placement.choice import Scores
from edgesched.placement.filters import FAILED_THERE, on_trial
from edgesched.placement.strategies import Strategy
from edgesched.placement.view import Lane
from edgesched.ports import Candidate, TaskToPlace

NO_TERMS: Mapping[str, float] = {}


def candidate(
    task: TaskToPlace, strategy: Strategy, lane: Lane, scores: Scores, i: int | None, *, explain: bool
) -> Candidate | None:
    """Device number i as it stands now, before anything is reserved for the task."""
    if i is None:
        return None
    standing = lane.standings[i]
    terms = strategy.terms(task, standing) if explain else NO_TERMS
    return Candidate(device_id=standing.device.device_id, score=float(scores[i]), terms=terms)


def excluded(task: TaskToPlace, strategy: Strategy, lane: Lane) -> Mapping[DeviceId, str]:
    """Devices that cannot have the task now. With a strategy that ranks full ones as well they are no exception."""
    told: dict[DeviceId, str] = {}
    if strategy.excludes_full:
        for standing in lane.full(task.size_bytes):
            told[standing.device.device_id] = standing.full_reason(task.size_bytes)
    for i in lane.on_trial():
        told[lane.standings[i].device.device_id] = on_trial(task.model)
    if task.avoid:
        for i in lane.numbers(task.avoid):
            told[lane.standings[i].device.device_id] = FAILED_THERE
    return {**lane.unable, **told} if told else lane.unable
