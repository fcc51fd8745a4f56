"""How long the task manager leaves a receiver alone that did not answer."""

from __future__ import annotations

from edgesched.task_manager.delivery import POST_TIMEOUT_S, longer_pause_ms


def test_pauses_grow_while_a_receiver_is_away() -> None:
    first = longer_pause_ms(None)

    assert 0 < first < longer_pause_ms(first)


def test_a_receiver_that_was_away_for_hours_is_served_within_seconds_of_its_return() -> None:
    pause_ms = longer_pause_ms(None)
    for _ in range(1_000):
        pause_ms = longer_pause_ms(pause_ms)

    assert pause_ms <= 5_000


def test_labels_wait_only_some_seconds_for_an_answer_that_will_never_come() -> None:
    assert POST_TIMEOUT_S <= 5.0
