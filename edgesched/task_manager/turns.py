"""Whose turn it is: start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996), one flow per priority.

A turn of a priority takes 1/SHARE on a virtual clock, and the turn that begins first is next; of two that begin
together, that of the higher priority. The clock shows the begin of the newest turn, and no turn begins before it:
whoever had no tasks for a while is next as soon as it has one, and saves up nothing for later. So an urgent picture
waits for the next device that is free and for no backlog, while a backlog of urgent ones leaves every seventeenth turn
to those of low priority: they slow down, and none of them starves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgesched.domain.task import Priority

if TYPE_CHECKING:
    from edgesched.task_manager.queue import QueuedTask

SHARE: Mapping[Priority, int] = {Priority.HIGH: 16, Priority.NORMAL: 4, Priority.LOW: 1}
"""Turns of each, while all of them have tasks that a device could take. The higher ones stand first."""


class Turns:
    def __init__(self) -> None:
        self._now = 0.0
        self._ended_at = dict.fromkeys(SHARE, 0.0)

    def in_turn(self, waiting: Mapping[Priority, Sequence[QueuedTask]]) -> Sequence[QueuedTask]:
        """Those who would be next, one after the other, if all of them found a device."""
        if len(waiting) == 1:
            return next(iter(waiting.values()))
        order: list[tuple[float, int, int, QueuedTask]] = []
        for rank, (priority, share) in enumerate(SHARE.items()):
            begin = max(self._now, self._ended_at[priority])
            order += [(begin + k / share, rank, k, entry) for k, entry in enumerate(waiting.get(priority, ()))]
        order.sort(key=lambda item: item[:3])
        return [entry for *_, entry in order]

    def take(self, priority: Priority) -> None:
        """A task of that priority got a device."""
        self._now = max(self._now, self._ended_at[priority])
        self._ended_at[priority] = self._now + 1 / SHARE[priority]
