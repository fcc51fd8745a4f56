"""What a place for a worker is told to do, and whom it tells what happens."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from agents.work import Job, Outcome
from edgesched.domain.task import AttemptId

STILL_LOADING = "its workers are still loading the models"
STOPPED_BY_OPERATOR = "an operator stopped its workers: start them to let it work again"


class Action(StrEnum):
    """What operators may ask for."""

    START = "start"
    STOP = "stop"  # after the picture that is in hand
    RESTART = "restart"  # after it, too
    KILL = "kill"  # at once; it is not started again


class Order(StrEnum):
    """What is wanted of a slot."""

    RUN = "run"
    RESTART = "restart"  # end the present worker, then run
    STOP = "stop"


CONTRADICTIONS = frozenset(
    {(Order.STOP, Action.START), (Order.STOP, Action.RESTART), (Order.RESTART, Action.STOP)},
)
"""An order that is being carried out, and what cannot be asked for meanwhile. To kill is always possible."""


class SlotState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    STOPPING = "stopping"  # it does what it has begun, and ends then
    RESTARTING = "restarting"
    STOPPED = "stopped"  # by an operator, or because another one failed; until somebody starts it
    DOWN = "down"  # it cannot work here, or crashes again and again; tried again now and then, if that is allowed


UP = frozenset({SlotState.READY, SlotState.BUSY})


class SlotOwner(Protocol):
    """Who is told what happens in a slot. None of these may wait."""

    def holds(self, attempt_id: AttemptId) -> bool:
        """Whether somebody still waits for its outcome."""
        ...

    def finished(self, job: Job, outcome: Outcome) -> None: ...

    def came_back(self, jobs: Sequence[Job]) -> None:
        """The worker ended before it began these, or gave them back."""
        ...

    def moved(self) -> None:
        """A job was begun, or there is room for one."""
        ...

    def changed(self) -> None:
        """The slot's state is another one, beyond that."""
        ...

    def recorded(self) -> None:
        """The slot's record is another one."""
        ...

    def failed(self, worker: str, reason: str) -> None:
        """It is down, and stays so until somebody starts it."""
        ...
