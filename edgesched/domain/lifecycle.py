"""The life of a task as one table. Nothing else in the project decides a state."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from edgesched.errors import IllegalTransition


class State(StrEnum):
    QUEUED = "queued"
    DISPATCHED = "dispatched"  # sent to a device, not yet confirmed
    RUNNING = "running"  # the device holds the picture
    DONE = "done"  # labels are in the ledger
    DELIVERED = "delivered"  # the client's receiver has them
    FAILED = "failed"  # dead letter: it keeps its picture and every attempt's cause
    EXPIRED = "expired"  # its deadline passed first
    CANCELLED = "cancelled"


class Event(StrEnum):
    SENT_OUT = "sent_out"
    ACCEPTED = "accepted"
    FINISHED = "finished"
    DELIVERED = "delivered"
    DEVICE_LOST = "device_lost"  # not the task's fault: does not count towards max_attempts
    ATTEMPT_FAILED = "attempt_failed"  # the task's fault, tries are left
    GAVE_UP = "gave_up"  # the task's fault, no try is left (or none can help)
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    RETRY = "retry"  # a person replays a dead letter
    ABANDONED = "abandoned"  # a person gives up delivering labels that no receiver takes
    PICTURE_LOST = "picture_lost"  # the picture is not there any more, or not as it was sent: nobody can label it


S, E = State, Event

TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (S.QUEUED, E.SENT_OUT): S.DISPATCHED,
    (S.DISPATCHED, E.ACCEPTED): S.RUNNING,
    (S.RUNNING, E.ACCEPTED): S.RUNNING,  # said again after a reconnect
    (S.QUEUED, E.FINISHED): S.DONE,  # a device that we thought lost came back with the answer
    (S.DISPATCHED, E.FINISHED): S.DONE,  # its "accepted" was lost or overtaken
    (S.RUNNING, E.FINISHED): S.DONE,
    (S.FAILED, E.FINISHED): S.DONE,  # late labels are still labels
    (S.DONE, E.FINISHED): S.DONE,  # a repeated result is harmless, before delivery
    (S.DELIVERED, E.FINISHED): S.DELIVERED,  # and after
    (S.EXPIRED, E.FINISHED): S.EXPIRED,  # nobody waits for it any more
    (S.CANCELLED, E.FINISHED): S.CANCELLED,
    (S.DONE, E.DELIVERED): S.DELIVERED,
    (S.DELIVERED, E.DELIVERED): S.DELIVERED,  # board and task manager may both have delivered
    (S.DISPATCHED, E.DEVICE_LOST): S.QUEUED,  # a new attempt follows
    (S.RUNNING, E.DEVICE_LOST): S.QUEUED,
    (S.DISPATCHED, E.ATTEMPT_FAILED): S.QUEUED,
    (S.RUNNING, E.ATTEMPT_FAILED): S.QUEUED,
    (S.DISPATCHED, E.GAVE_UP): S.FAILED,
    (S.RUNNING, E.GAVE_UP): S.FAILED,
    (S.QUEUED, E.EXPIRED): S.EXPIRED,
    (S.DISPATCHED, E.EXPIRED): S.EXPIRED,
    (S.RUNNING, E.EXPIRED): S.EXPIRED,
    (S.QUEUED, E.CANCELLED): S.CANCELLED,
    (S.DISPATCHED, E.CANCELLED): S.CANCELLED,
    (S.RUNNING, E.CANCELLED): S.CANCELLED,
    (S.FAILED, E.RETRY): S.QUEUED,
    (S.DONE, E.ABANDONED): S.DONE,  # the task forgets its receiver, and so DONE is the end of its life
    (S.QUEUED, E.PICTURE_LOST): S.FAILED,
    (S.DISPATCHED, E.PICTURE_LOST): S.FAILED,  # a board that has it may still answer: late labels are still labels
    (S.RUNNING, E.PICTURE_LOST): S.FAILED,
    (S.FAILED, E.PICTURE_LOST): S.FAILED,  # it cannot be replayed any more
    (S.DONE, E.PICTURE_LOST): S.DONE,  # whoever has labels, or wants none, needs no picture: nobody may look for it
    (S.DELIVERED, E.PICTURE_LOST): S.DELIVERED,
    (S.EXPIRED, E.PICTURE_LOST): S.EXPIRED,
    (S.CANCELLED, E.PICTURE_LOST): S.CANCELLED,
}

OPEN_STATES = frozenset({S.QUEUED, S.DISPATCHED, S.RUNNING})
"""Work that still needs a device."""

LABELLED_STATES = frozenset({S.DONE, S.DELIVERED})
"""Tasks that have exactly one winning attempt and its labels."""


def advance(state: State, event: Event) -> State:
    """The state after `event`.

    Raises: IllegalTransition if the table has no such row.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"{event} is not allowed in {state}") from None


def is_settled(state: State, *, wants_delivery: bool) -> bool:
    """Whether nothing more will happen to the task by itself.

    wants_delivery: the submitter named a receiver; without one, DONE is the end of the task's life.
    """
    if state is State.DONE:
        return not wants_delivery
    return state not in OPEN_STATES
