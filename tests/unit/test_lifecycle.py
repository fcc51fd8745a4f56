"""The table of states, row by row where a row is a promise."""

from __future__ import annotations

import pytest

from edgesched.domain.lifecycle import (
    LABELLED_STATES,
    OPEN_STATES,
    TRANSITIONS,
    Event,
    State,
    advance,
    is_settled,
)
from edgesched.errors import IllegalTransition

E, S = Event, State


def test_the_straight_way_ends_delivered() -> None:
    state = S.QUEUED
    for event in (E.SENT_OUT, E.ACCEPTED, E.FINISHED, E.DELIVERED):
        state = advance(state, event)
    assert state is S.DELIVERED


def test_a_missing_row_is_an_error_that_names_both() -> None:
    with pytest.raises(IllegalTransition, match="retry is not allowed in done"):
        advance(S.DONE, E.RETRY)


@pytest.mark.parametrize("state", [S.QUEUED, S.DISPATCHED, S.RUNNING, S.FAILED])
def test_labels_are_taken_as_long_as_somebody_wants_them(state: State) -> None:
    assert advance(state, E.FINISHED) is S.DONE


@pytest.mark.parametrize("state", [S.DONE, S.DELIVERED, S.EXPIRED, S.CANCELLED])
def test_labels_that_come_too_late_change_nothing(state: State) -> None:
    assert advance(state, E.FINISHED) is state


@pytest.mark.parametrize("state", [S.DISPATCHED, S.RUNNING])
@pytest.mark.parametrize("event", [E.DEVICE_LOST, E.ATTEMPT_FAILED])
def test_an_attempt_that_ends_without_labels_puts_the_task_back(state: State, event: Event) -> None:
    assert advance(state, event) is S.QUEUED


@pytest.mark.parametrize("state", sorted(OPEN_STATES))
@pytest.mark.parametrize(("event", "end"), [(E.EXPIRED, S.EXPIRED), (E.CANCELLED, S.CANCELLED)])
def test_an_open_task_can_expire_and_be_cancelled(state: State, event: Event, end: State) -> None:
    assert advance(state, event) is end


@pytest.mark.parametrize("state", sorted(State))
def test_a_lost_picture_ends_only_what_still_needs_it(state: State) -> None:
    assert advance(state, E.PICTURE_LOST) is (S.FAILED if state in OPEN_STATES else state)


def test_a_delivery_can_be_abandoned_only_once_there_are_labels() -> None:
    assert {state for state, event in TRANSITIONS if event is E.ABANDONED} == {S.DONE}


def test_states_that_nothing_leaves() -> None:
    left = {before for (before, _), after in TRANSITIONS.items() if before is not after}
    assert set(State) - left == {S.DELIVERED, S.EXPIRED, S.CANCELLED}


def test_a_dead_letter_is_left_by_retry_and_by_late_labels_only() -> None:
    leaving = {event for (state, event), after in TRANSITIONS.items() if state is S.FAILED and after is not S.FAILED}
    assert leaving == {E.RETRY, E.FINISHED}


def test_every_state_can_be_reached() -> None:
    assert set(TRANSITIONS.values()) == set(State)


def test_every_event_is_of_use_somewhere() -> None:
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_what_has_labels_needs_no_device() -> None:
    assert not OPEN_STATES & LABELLED_STATES


@pytest.mark.parametrize(
    ("state", "wants_delivery", "settled"),
    [
        (S.DONE, True, False),
        (S.DONE, False, True),
        (S.DELIVERED, True, True),
        (S.FAILED, True, True),
        (S.EXPIRED, False, True),
        (S.CANCELLED, True, True),
        (S.QUEUED, False, False),
        (S.DISPATCHED, True, False),
        (S.RUNNING, False, False),
    ],
)
def test_done_is_the_end_only_when_nobody_is_to_be_told(state: State, wants_delivery: bool, settled: bool) -> None:
    assert is_settled(state, wants_delivery=wants_delivery) is settled
