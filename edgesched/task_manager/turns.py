"""Whose turn it is: start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996), one flow per priority.

A turn of a priority takes 1/SHARE on a virtual clock, and the turn that begins first is next; of two that begin
together, that of the higher priority. The clock shows the begin of the newest turn, and no turn begins before it:
whoever had no tasks for a while is next as soon as it has one, and saves up nothing for later. So an urgent picture
waits for the next device that is free and for no backlog, while a backlog of urgent ones leaves every seventeenth turn
to those of low priority: they slow down, and none of them starves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgesched.domain.task import Priority

SHARE: Mapping[Priority, int] = {Priority.HIGH: 16, Priority.NORMAL: 4, Priority.LOW: 1}
"""Turns of each, while all of them have tasks that a device could take. The higher ones stand first."""

_RANK = {priority: rank for rank, priority in enumerate(SHARE)}

Turn = tuple[float, int, int]
"""When it begins, then the priority's rank, then the task's order of acceptance: the least is next."""


class Turns:
    def __init__(self) -> None:
        self._now = 0.0
        self._ended_at = dict.fromkeys(SHARE, 0.0)

    def next_ones(self, priority: Priority, seqs: Sequence[int]) -> Sequence[Turn]:
        """The next turns of a priority, one for each of `seqs`, if it had them one after the other.

        Each model's tasks are asked for by themselves: whether those of another one find a device is not known yet, and
        turns that nobody takes must not hold up anybody.
        """
        begin, rank, length = max(self._now, self._ended_at[priority]), _RANK[priority], 1 / SHARE[priority]
        return [(begin + k * length, rank, seq) for k, seq in enumerate(seqs)]

    def take(self, priority: Priority) -> None:
        """A task of that priority got a device."""
        self._now = max(self._now, self._ended_at[priority])
        self._ended_at[priority] = self._now + 1 / SHARE[priority]
