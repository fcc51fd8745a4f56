"""What every ledger promises of labels, and of their delivery."""

from __future__ import annotations

import asyncio

import pytest

from edgesched.domain.device import DeviceId
from edgesched.domain.lifecycle import Event, State
from edgesched.domain.task import AttemptId
from edgesched.errors import InvalidInput
from edgesched.ledger.base import Ledger, LedgerEvent
from tests.support.ledgers import (
    BOARD,
    RECEIVER,
    SetClock,
    about,
    accepted,
    applied,
    done,
    failed,
    failure,
    finished,
    labels,
    new_task,
    sent_out,
)

E, S = Event, State


# --- labels that no receiver takes ---------------------------------------------------------------------------------


async def test_an_abandoned_delivery_ends_the_life_of_its_task(ledger: Ledger, clock: SetClock) -> None:
    task = await done(ledger, new_task(receiver_url=RECEIVER))
    clock.wall_ms += 1_000
    answer = await applied(ledger, about(task.task_id, E.ABANDONED))
    assert answer.task is not None
    assert (answer.task.state, answer.task.receiver_url, answer.task.is_settled) == (S.DONE, None, True)
    assert answer.task.updated_at_ms == clock.wall_ms
    assert list(await ledger.undelivered(limit=9)) == []
    assert await ledger.result(task.task_id) == labels()
    clock.wall_ms += 1
    retired = await ledger.retire_tasks(settled_before_ms=clock.wall_ms, keys_before_ms=0, limit=9)
    assert retired.tasks == 1


async def test_a_report_that_comes_after_the_abandoning_is_believed(ledger: Ledger) -> None:
    task = await done(ledger, new_task(receiver_url=RECEIVER), attempt="a")
    await ledger.apply_many([about(task.task_id, E.ABANDONED), about(task.task_id, E.DELIVERED, "a")])
    assert [t.state for t in await ledger.get_many([task.task_id])] == [S.DELIVERED]


async def test_only_a_delivery_that_is_due_can_be_abandoned(ledger: Ledger) -> None:
    waits_for_labels = await accepted(ledger, new_task(receiver_url=RECEIVER))
    has_no_receiver = await done(ledger)
    abandoned = await done(ledger, new_task(receiver_url=RECEIVER))
    await applied(ledger, about(abandoned.task_id, E.ABANDONED))
    for task in (waits_for_labels, has_no_receiver, abandoned):
        (before,) = await ledger.get_many([task.task_id])
        answer = await applied(ledger, about(task.task_id, E.ABANDONED))
        assert (answer.task, answer.is_stale) == (before, True)


# --- labels --------------------------------------------------------------------------------------------------------


async def test_labels_of_a_board_that_was_thought_lost_still_win(ledger: Ledger) -> None:
    task = await accepted(ledger)
    await ledger.apply_many([sent_out(task.task_id, "a"), about(task.task_id, E.DEVICE_LOST, "a")])
    answer = await applied(ledger, finished(task.task_id, "a"))
    assert answer.task is not None
    assert (answer.task.state, answer.task.attempt_id, answer.task.last_error) == (S.DONE, "a", None)
    (attempt,) = (await ledger.details(task.task_id)).attempts
    assert (attempt.failure, attempt.timings) == (None, labels().timings)


async def test_labels_of_an_older_attempt_close_the_current_one(ledger: Ledger) -> None:
    task = await accepted(ledger)
    await ledger.apply_many(
        [
            sent_out(task.task_id, "a", DeviceId("atlas-1")),
            about(task.task_id, E.DEVICE_LOST, "a"),
            sent_out(task.task_id, "b", DeviceId("orin-1")),
        ]
    )
    answer = await applied(ledger, finished(task.task_id, "a", device_id=None))
    assert answer.task is not None
    assert (answer.task.state, answer.task.attempt_id, answer.task.device_id) == (S.DONE, "a", "atlas-1")
    first, second = (await ledger.details(task.task_id)).attempts
    assert (first.attempt_id, first.failure) == ("a", None)
    assert second.failure is not None
    assert "superseded" in second.failure.message
    late = await applied(ledger, finished(task.task_id, "b", labels(0.1)))
    assert (late.task, late.is_stale) == (answer.task, False)
    assert await ledger.result(task.task_id) == labels()


async def test_labels_of_an_attempt_that_the_ledger_never_saw_win(ledger: Ledger) -> None:
    task = await accepted(ledger)
    await applied(ledger, sent_out(task.task_id, "b"))
    answer = await applied(ledger, finished(task.task_id, "unseen", device_id=DeviceId("atlas-1")))
    assert answer.task is not None
    assert (answer.task.state, answer.task.attempt_id, answer.task.device_id) == (S.DONE, "unseen", "atlas-1")
    attempts = (await ledger.details(task.task_id)).attempts
    assert [(a.attempt_id, a.device_id, a.failure is None) for a in attempts] == [
        ("b", BOARD, False),
        ("unseen", "atlas-1", True),
    ]


async def test_late_labels_bring_a_dead_letter_back(ledger: Ledger) -> None:
    task = await failed(ledger, new_task(receiver_url=RECEIVER))
    assert task.attempt_id is not None
    answer = await applied(ledger, finished(task.task_id, task.attempt_id))
    assert answer.task is not None
    assert (answer.task.state, answer.task.is_settled) == (S.DONE, False)
    assert [t.task_id for t in await ledger.undelivered(limit=9)] == [task.task_id]


@pytest.mark.parametrize("end", [E.CANCELLED, E.EXPIRED])
async def test_labels_after_the_end_are_kept_by_nobody(ledger: Ledger, end: Event) -> None:
    task = await accepted(ledger)
    *_, ended = await ledger.apply_many([sent_out(task.task_id, "a"), about(task.task_id, end)])
    answer = await applied(ledger, finished(task.task_id, "a"))
    assert (answer.task, answer.is_stale) == (ended.task, False)
    assert await ledger.result(task.task_id) is None


async def test_an_attempt_of_another_task_cannot_win(ledger: Ledger) -> None:
    task, other = await accepted(ledger), await accepted(ledger)
    await applied(ledger, sent_out(other.task_id, "a"))
    answer = await applied(ledger, finished(task.task_id, "a"))
    assert (answer.task, answer.is_stale) == (task, True)


async def test_labels_that_no_device_is_named_for_refuse_the_call_and_nobody_else(ledger: Ledger) -> None:
    task = await accepted(ledger)
    calls = [
        ledger.apply_many([sent_out(task.task_id, "a"), finished(task.task_id, "unseen", device_id=None)]),
        ledger.accept_many([new_task()]),
    ]
    refused, fine = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(refused, InvalidInput)
    assert not isinstance(fine, BaseException)
    assert list(await ledger.get_many([task.task_id])) == [task]
    assert list(await ledger.open_attempts()) == []


async def test_an_event_that_lacks_what_its_kind_needs_is_refused(ledger: Ledger) -> None:
    task = await accepted(ledger)
    attempt = AttemptId("a")
    incomplete = [
        LedgerEvent(task_id=task.task_id, event=E.SENT_OUT, attempt_id=attempt, device_id=BOARD),
        LedgerEvent(task_id=task.task_id, event=E.SENT_OUT, attempt_id=attempt, reason="why"),
        LedgerEvent(task_id=task.task_id, event=E.ACCEPTED),
        LedgerEvent(task_id=task.task_id, event=E.DEVICE_LOST, attempt_id=attempt),
        LedgerEvent(task_id=task.task_id, event=E.GAVE_UP, failure=failure()),
        LedgerEvent(task_id=task.task_id, event=E.FINISHED, attempt_id=attempt, device_id=BOARD),
        LedgerEvent(task_id=task.task_id, event=E.PICTURE_LOST),
        finished(task.task_id, "a", labels(name="\udcff")),
    ]
    for event in incomplete:
        with pytest.raises(InvalidInput):
            await ledger.apply_many([sent_out(task.task_id, "b"), event])
    assert list(await ledger.get_many([task.task_id])) == [task]


async def test_no_labels_are_labels_too(ledger: Ledger) -> None:
    task = await accepted(ledger)
    nothing = labels().__class__(detections=(), width=None, height=None, timings=labels(service_ms=None).timings)
    await ledger.apply_many([sent_out(task.task_id, "a"), finished(task.task_id, "a", nothing)])
    assert await ledger.result(task.task_id) == nothing
