"""Any order of events, applied to one task by the rules that all ledgers share."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from edgesched.domain.device import DeviceId
from edgesched.domain.lifecycle import LABELLED_STATES, OPEN_STATES, TRANSITIONS, Event, State, advance
from edgesched.domain.task import Attempt, AttemptId, FailureKind, Result, Task
from edgesched.errors import IllegalTransition
from edgesched.ledger.base import LedgerEvent
from edgesched.ledger.transition import check_event, new_row, transition
from tests.support.ledgers import RECEIVER, failure, labels, new_task

events = st.lists(st.tuples(st.sampled_from(Event), st.integers(0, 4), st.sampled_from(FailureKind)), max_size=40)


@given(st.sampled_from(State), st.lists(st.sampled_from(Event), max_size=30))
def test_no_events_leave_a_final_state_and_only_two_leave_a_dead_letter(state: State, following: list[Event]) -> None:
    for event in following:
        try:
            after = advance(state, event)
        except IllegalTransition:
            assert (state, event) not in TRANSITIONS
            continue
        if state in (State.DELIVERED, State.EXPIRED, State.CANCELLED):
            assert after is state
        if state is State.FAILED and after is not state:
            assert event in (Event.RETRY, Event.FINISHED)
        state = after


@given(events, st.sampled_from([None, RECEIVER]))
def test_a_task_has_at_most_one_open_attempt_and_one_winner(
    wanted: list[tuple[Event, int, FailureKind]], receiver_url: str | None
) -> None:
    task = new_row(new_task(receiver_url=receiver_url), seq=1, revision=1, now_ms=0)
    attempts: dict[AttemptId, Attempt] = {}
    results: list[Result] = []
    for now_ms, (event, number, kind) in enumerate(wanted, start=1):
        attempt_id = task.attempt_id if number == 0 else AttemptId(str(number))
        step = LedgerEvent(
            task_id=task.task_id,
            event=event,
            attempt_id=attempt_id or AttemptId("0"),
            device_id=DeviceId(f"board-{number}"),
            reason="why",
            failure=failure(kind),
            result=labels(),
        )
        check_event(step)
        named = attempts.get(step.attempt_id) if step.attempt_id is not None else None
        current = attempts[task.attempt_id] if task.attempt_id is not None and task.state in OPEN_STATES else None
        change = transition(task, step, current=current, named=named, revision=task.revision + 1, now_ms=now_ms)
        check_change(task, step, change.task, change.is_stale)
        attempts |= {attempt.attempt_id: attempt for attempt in change.attempts}
        results += [change.result] if change.result is not None else []
        task = change.task
        check_attempts(task, attempts, results)


def check_change(before: Task, event: LedgerEvent, after: Task, is_stale: bool) -> None:
    if is_stale or after is before:
        assert after is before, "what is stale or said again changes nothing"
        return
    assert after.revision == before.revision + 1
    constant = ("task_id", "seq", "client_id", "model", "file_name", "size_bytes", "created_at_ms")
    assert all(getattr(after, name) == getattr(before, name) for name in constant)
    assert (after.image == before.image) is (event.event is not Event.PICTURE_LOST)
    assert (after.receiver_url == before.receiver_url) is (event.event is not Event.ABANDONED)
    if event.event is Event.DEVICE_LOST:
        assert after.failed_attempts == before.failed_attempts
    assert (after.state is State.QUEUED) <= (after.attempt_id is None and after.device_id is None)


def check_attempts(task: Task, attempts: dict[AttemptId, Attempt], results: list[Result]) -> None:
    still_open = [a.attempt_id for a in attempts.values() if a.ended_at_ms is None]
    assert still_open == ([task.attempt_id] if task.state in OPEN_STATES - {State.QUEUED} else [])
    winners = [a.attempt_id for a in attempts.values() if a.ended_at_ms is not None and a.failure is None]
    assert winners == ([task.attempt_id] if task.state in LABELLED_STATES else [])
    assert len(results) == len(winners), "labels are written once, and never without a winner"
    if task.attempt_id is not None:
        assert attempts[task.attempt_id].device_id == task.device_id


@given(st.sampled_from(Event))
def test_an_attempt_that_is_not_the_current_one_moves_a_task_only_by_its_labels(event: Event) -> None:
    task = replace(
        new_row(new_task(), seq=1, revision=1, now_ms=0),
        state=State.RUNNING,
        attempt_id=AttemptId("current"),
        device_id=DeviceId("board"),
    )
    step = LedgerEvent(
        task_id=task.task_id,
        event=event,
        attempt_id=AttemptId("other"),
        device_id=DeviceId("other-board"),
        reason="why",
        failure=failure(),
        result=labels(),
    )
    change = transition(task, step, current=None, named=None, revision=2, now_ms=1)
    assert change.is_stale is (event is not Event.FINISHED)
