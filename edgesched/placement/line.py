"""How long the line before a device with room is, when tasks wait for better devices without room.

Those that wait will fill the busy devices one after the other; each task behind them would finish there a little later,
until the idle device is the better choice for one of them. That one is found by counting, not by deciding every task.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgesched.placement.choice import NEVER
from edgesched.placement.fleet import Standing
from edgesched.placement.strategies import Strategy
from edgesched.placement.view import Lane
from edgesched.ports import TaskToPlace


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueAhead:
    """How many more tasks, like the one that was asked about, each busy device is better for."""

    shares: Sequence[tuple[Standing, int]]

    @property
    def tasks(self) -> int:
        return sum(count for _, count in self.shares)

    def stand_in_line(self, task: TaskToPlace) -> Iterator[Standing]:
        """Reserve for them, all at once. Yields the devices that are put off by them."""
        for standing, count in self.shares:
            standing.put_off(count, standing.bottleneck_ms(task.model, task.size_bytes))
            yield standing


def queue_ahead(task: TaskToPlace, lane: Lane, strategy: Strategy) -> QueueAhead | None:
    """None: no device has room.

    A busy device that scores f for the next task, and worse by `step` times b with each one that it takes, takes
    floor((e - f) / (step b)) + 1 tasks before it is worse than an idle one that scores e: communicating vessels.
    """
    standings = lane.standings
    if not any(task.size_bytes <= standing.room_bytes for standing in standings):
        return None  # what is asked most: a busy small fleet has no use for arrays
    has_room = np.array([task.size_bytes <= standing.room_bytes for standing in standings])
    on_trial = lane.on_trial()
    has_room[on_trial] = False
    if not has_room.any():
        return None
    if lane.columns is not None:
        scores = strategy.many(task.size_bytes, lane.columns)
    else:
        scores = np.array(strategy.few(task.size_bytes, standings, lane.services_ms))
    scores[on_trial] = NEVER
    idle = scores[has_room].min()
    shares: list[tuple[Standing, int]] = []
    for i in np.flatnonzero(~has_room & (scores < idle)):
        standing = standings[i]
        growth = strategy.step * max(standing.bottleneck_ms(task.model, task.size_bytes), 1e-3) / 1000
        shares.append((standing, int((idle - scores[i]) / growth) + 1))
    return QueueAhead(shares=shares)
