"""What an operator tells the workers of a board, and the one table that says what may become of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from edgesched.domain.device import DeviceId
from edgesched.errors import IllegalTransition

CommandId = NewType("CommandId", str)


class Verb(StrEnum):
    """All that can be told. A board knows nothing else, whoever asks."""

    START = "start"
    STOP = "stop"  # after the task in hand; it stays stopped until it is started
    RESTART = "restart"
    KILL = "kill"  # at once; it stays ended until it is started


class CommandState(StrEnum):
    PENDING = "pending"  # the board has not said that it has it
    DELIVERED = "delivered"  # the board is at it
    DONE = "done"
    FAILED = "failed"  # the board says why
    EXPIRED = "expired"  # nobody took it in time, or nobody said what became of it
    SUPERSEDED = "superseded"  # a kill came before the board took it


class CommandEvent(StrEnum):
    TAKEN = "taken"
    SUCCEEDED = "succeeded"
    BROKE = "broke"
    TIMED_OUT = "timed_out"
    REPLACED = "replaced"


S, E = CommandState, CommandEvent

TRANSITIONS: Mapping[tuple[CommandState, CommandEvent], CommandState] = {
    (S.PENDING, E.TAKEN): S.DELIVERED,
    (S.PENDING, E.SUCCEEDED): S.DONE,  # it was quicker than the word that it has it
    (S.PENDING, E.BROKE): S.FAILED,
    (S.PENDING, E.TIMED_OUT): S.EXPIRED,
    (S.PENDING, E.REPLACED): S.SUPERSEDED,
    (S.DELIVERED, E.TAKEN): S.DELIVERED,
    (S.DELIVERED, E.SUCCEEDED): S.DONE,
    (S.DELIVERED, E.BROKE): S.FAILED,
    (S.DELIVERED, E.TIMED_OUT): S.EXPIRED,
    # The board had it after all, and what it did is the truth.
    (S.EXPIRED, E.TAKEN): S.EXPIRED,
    (S.EXPIRED, E.SUCCEEDED): S.DONE,
    (S.EXPIRED, E.BROKE): S.FAILED,
    (S.SUPERSEDED, E.TAKEN): S.SUPERSEDED,
    (S.SUPERSEDED, E.SUCCEEDED): S.DONE,
    (S.SUPERSEDED, E.BROKE): S.FAILED,
    # Said twice: the first word counts.
    (S.DONE, E.TAKEN): S.DONE,
    (S.DONE, E.SUCCEEDED): S.DONE,
    (S.DONE, E.BROKE): S.DONE,
    (S.FAILED, E.TAKEN): S.FAILED,
    (S.FAILED, E.SUCCEEDED): S.FAILED,
    (S.FAILED, E.BROKE): S.FAILED,
}
OPEN_STATES = frozenset({S.PENDING, S.DELIVERED})


def advance(state: CommandState, event: CommandEvent) -> CommandState:
    """Raises: IllegalTransition."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"{event} is not allowed for a command that is {state}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One row: a verb for one worker of one device, or for all of them."""

    command_id: CommandId
    device_id: DeviceId
    worker: str | None  # None: all workers of the device
    verb: Verb
    state: CommandState
    created_at_ms: int  # the gateway's wall clock, as are the others
    updated_at_ms: int
    expires_at_ms: int
    detail: str | None = None  # what the board, or the gateway, says about its end
    key: str | None = None  # given by the client: the same request again is the same command

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES

    def overlaps(self, worker: str | None) -> bool:
        """Whether both are about one worker at least, of the same device."""
        return self.worker is None or worker is None or self.worker == worker
