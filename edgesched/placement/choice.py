"""From scores to a choice: the best device, the next best, and how ties are broken."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np

from edgesched.placement.fleet import Standing
from edgesched.placement.strategies import Strategy
from edgesched.placement.view import Column, Lane
from edgesched.ports import TaskToPlace

TIE = 1e-6
"""Scores that differ by less (a microsecond of work) are equal: sums of floats depend on their order."""

NEVER = float("inf")

MOST_EQUALS = 4
"""Of the equals in a large fleet so many, spread evenly, are compared further."""

Scores = list[float] | Column


def scores_of(task: TaskToPlace, lane: Lane, strategy: Strategy) -> Scores:
    """One score per device of the lane, lower is better. NEVER: not this one, because it has no room or is to be
    avoided."""
    columns = lane.columns
    if columns is not None:
        scores = strategy.many(task.size_bytes, columns)
        if not strategy.waits:
            scores[task.size_bytes > columns.room_bytes] = NEVER
        for i in (*lane.numbers(task.avoid), *lane.on_trial()):
            scores[i] = NEVER
        return scores
    found = strategy.few(task.size_bytes, lane.standings, lane.services_ms)
    if not strategy.waits:
        found = [
            score if task.size_bytes <= standing.room_bytes else NEVER
            for score, standing in zip(found, lane.standings, strict=True)
        ]
    for i in (*lane.numbers(task.avoid), *lane.on_trial()):
        found[i] = NEVER
    return found


def best_two(
    task: TaskToPlace, standings: Sequence[Standing], scores: Scores, first: int, random: Random
) -> tuple[int, int | None]:
    """Numbers of the best and the next best device; None if there is only one. first: what `lowest` said.

    Equal scores go to one that has room, then to fewer in flight, then to the faster answer, then to chance: names and
    order of devices play no part.
    """
    best_score = scores[first]
    scores[first] = NEVER
    second = lowest(scores)
    scores[first] = best_score
    if second is None or scores[second] - best_score > TIE:
        return first, second
    return _among_equals(task, standings, _up_to(scores, best_score + TIE, random), random)


def lowest(scores: Scores) -> int | None:
    """Number of the first device with the lowest score; None if no device can take the task."""
    if not len(scores):
        return None
    i = scores.index(min(scores)) if isinstance(scores, list) else int(np.argmin(scores))
    return i if scores[i] != NEVER else None


def _up_to(scores: Scores, limit: float, random: Random) -> list[int]:
    if isinstance(scores, np.ndarray):
        found = np.flatnonzero(scores <= limit)
        step = -(-len(found) // MOST_EQUALS)
        return [int(i) for i in found[random.randrange(step) :: step]] if step > 1 else found.tolist()
    return [i for i, score in enumerate(scores) if score <= limit]


def _among_equals(
    task: TaskToPlace, standings: Sequence[Standing], equals: list[int], random: Random
) -> tuple[int, int]:
    def rank(i: int) -> tuple[bool, int, float]:
        standing = standings[i]
        has_no_room = task.size_bytes > standing.room_bytes
        return has_no_room, standing.in_flight_tasks, round(standing.unloaded_ms(task.model, task.size_bytes), 6)

    ranks = {i: rank(i) for i in equals}
    first_rank = min(ranks.values())
    best = [i for i in equals if ranks[i] == first_rank]
    chosen = best[0] if len(best) == 1 else random.choice(best)
    return chosen, min((i for i in equals if i != chosen), key=ranks.__getitem__)
