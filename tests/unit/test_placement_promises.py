"""Promises of attempts in flight: each reply says when the next one began."""

from __future__ import annotations

import pytest

from edgesched.domain.device import DeviceId
from edgesched.domain.task import AttemptId
from edgesched.placement.promises import Promises
from edgesched.ports import Promise

BOARD = DeviceId("d")
A, B, C = AttemptId("a"), AttemptId("b"), AttemptId("c")


def promise(*, slot: int = 0, slots: int = 1, arrival_ms: float, answer_ms: float) -> Promise:
    return Promise(slot=slot, slots=slots, arrival_ms=arrival_ms, answer_ms=answer_ms, service_ms=10.0, way_back_ms=1.0)


def remaining(promises: Promises, attempt_id: AttemptId, now_ms: float) -> float:
    expected = promises.outlook(attempt_id, BOARD, now_ms)
    assert expected is not None
    return expected.remaining_ms


@pytest.fixture
def three_on_one_slot() -> Promises:
    promises = Promises()
    promises.add(A, BOARD, promise(arrival_ms=2.0, answer_ms=13.0), 0.0)
    promises.add(B, BOARD, promise(arrival_ms=4.0, answer_ms=23.0), 0.0)
    promises.add(C, BOARD, promise(arrival_ms=6.0, answer_ms=33.0), 0.0)
    return promises


def test_a_promise_comes_nearer_with_time(three_on_one_slot: Promises) -> None:
    assert remaining(three_on_one_slot, A, 5.0) == 8.0
    assert remaining(three_on_one_slot, A, 15.0) == -2.0  # overdue
    expected = three_on_one_slot.outlook(B, BOARD, 1.0)
    assert expected is not None
    assert expected.transfer_remaining_ms == 3.0


def test_a_late_answer_puts_off_those_behind_it(three_on_one_slot: Promises) -> None:
    three_on_one_slot.ended(A, BOARD, 18.0)  # five late
    assert remaining(three_on_one_slot, B, 18.0) == pytest.approx(10.0)
    assert remaining(three_on_one_slot, C, 18.0) == pytest.approx(20.0)


def test_an_early_answer_brings_them_forward_but_not_before_they_arrive() -> None:
    promises = Promises()
    promises.add(A, BOARD, promise(arrival_ms=2.0, answer_ms=13.0), 0.0)
    promises.add(B, BOARD, promise(arrival_ms=11.0, answer_ms=23.0), 0.0)
    promises.ended(A, BOARD, 8.0)
    assert remaining(promises, B, 8.0) == pytest.approx(11.0 + 10.0 + 1.0 - 8.0)


def test_one_that_is_overdue_still_holds_its_slot() -> None:
    promises = Promises()
    for attempt_id, slot in ((A, 0), (B, 1), (C, 0)):
        promises.add(
            attempt_id,
            BOARD,
            promise(slot=slot, slots=2, arrival_ms=1.0, answer_ms=12.0 + 10.0 * (attempt_id == C)),
            0.0,
        )
    promises.arrived(A, BOARD, 2.0)
    promises.arrived(B, BOARD, 2.0)
    promises.arrived(C, BOARD, 2.0)
    promises.ended(B, BOARD, 15.0)  # A was expected at 12 and is still there: C begins on the slot that B left
    assert remaining(promises, C, 15.0) == pytest.approx(10.0)


def test_a_device_that_comes_back_with_fewer_slots_is_followed_on() -> None:
    promises = Promises()
    promises.add(A, BOARD, promise(slots=2, arrival_ms=1.0, answer_ms=12.0), 0.0)
    promises.add(B, BOARD, promise(slots=1, arrival_ms=2.0, answer_ms=13.0), 0.0)
    promises.add(C, BOARD, promise(slots=1, arrival_ms=3.0, answer_ms=23.0), 0.0)
    promises.ended(A, BOARD, 12.0)  # B began beside it, on the second slot that was promised then
    assert remaining(promises, B, 12.0) == pytest.approx(1.0)
    promises.ended(B, BOARD, 13.0)
    assert remaining(promises, C, 13.0) == pytest.approx(9.0)


def test_a_slow_link_puts_off_the_pictures_behind(three_on_one_slot: Promises) -> None:
    three_on_one_slot.arrived(A, BOARD, 8.0)  # at 7 on the board instead of 2
    expected = three_on_one_slot.outlook(C, BOARD, 8.0)
    assert expected is not None
    assert expected.transfer_remaining_ms == pytest.approx(3.0)


def test_what_ended_or_was_never_promised_has_no_outlook(three_on_one_slot: Promises) -> None:
    three_on_one_slot.ended(A, BOARD, 13.0)
    three_on_one_slot.ended(A, BOARD, 14.0)
    three_on_one_slot.arrived(A, BOARD, 14.0)
    assert three_on_one_slot.outlook(A, BOARD, 14.0) is None
    assert three_on_one_slot.outlook(AttemptId("x"), BOARD, 14.0) is None
