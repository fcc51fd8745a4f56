"""What every ledger promises."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from edgesched.domain.device import DeviceId
from edgesched.domain.lifecycle import Event, State
from edgesched.domain.task import FailureKind, Line, Priority, TaskFilter, TaskId
from edgesched.errors import Conflict, InvalidInput, NotKnown
from edgesched.ledger.base import Ledger
from tests.support.ledgers import (
    BOARD,
    LINE,
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
    picture_lost,
    sent_out,
)

E, S = Event, State


# --- accepting ---------------------------------------------------------------------------------------------------


async def test_an_accepted_task_is_queued_as_it_was_submitted(ledger: Ledger, clock: SetClock) -> None:
    new = new_task(receiver_url=RECEIVER, deadline_ms=5_000, size_bytes=77, priority=Priority.HIGH)
    (answer,) = await ledger.accept_many([new])
    task = answer.task
    assert (answer.created, answer.conflict) == (True, False)
    assert (task.task_id, task.client_id, task.model, task.file_name) == (
        new.task_id,
        new.client_id,
        new.model,
        new.file_name,
    )
    assert (task.image, task.size_bytes, task.receiver_url) == (new.image, 77, RECEIVER)
    assert task.priority is Priority.HIGH
    assert (task.state, task.attempt_id, task.device_id, task.failed_attempts) == (S.QUEUED, None, None, 0)
    assert task.created_at_ms == task.updated_at_ms == clock.wall_ms
    assert task.expires_at_ms == clock.wall_ms + 5_000
    assert list(await ledger.get_many([new.task_id])) == [task]


async def test_the_order_of_acceptance_is_the_order_of_the_call(ledger: Ledger) -> None:
    answers = await ledger.accept_many([new_task() for _ in range(150)])
    seqs = [answer.task.seq for answer in answers]
    assert seqs == sorted(set(seqs))


async def test_the_same_submission_again_is_the_same_task(ledger: Ledger) -> None:
    first = await accepted(ledger, new_task(key="k"))
    (again,) = await ledger.accept_many([new_task(key="k")])
    assert (again.created, again.conflict, again.task) == (False, False, first)
    assert (await ledger.totals()).accepted == 1


async def test_a_repeat_is_told_how_far_the_task_has_come(ledger: Ledger) -> None:
    task = await done(ledger, new_task(key="k"))
    (again,) = await ledger.accept_many([new_task(key="k")])
    assert again.task == task
    assert again.task.state is S.DONE


@pytest.mark.parametrize("other", [{"image_digest": "e" * 64}, {"model": "faces"}])
async def test_a_key_for_another_picture_or_model_is_a_conflict(ledger: Ledger, other: dict[str, str]) -> None:
    first = await accepted(ledger, new_task(key="k"))
    (again,) = await ledger.accept_many([new_task(key="k", **other)])  # type: ignore[arg-type]
    assert (again.created, again.conflict, again.task) == (False, True, first)


async def test_repeats_within_one_call_are_found(ledger: Ledger) -> None:
    first, same, other = await ledger.accept_many(
        [new_task(key="k"), new_task(key="k"), new_task(key="k", model="faces")]
    )
    assert (first.created, same.created, other.created, other.conflict) == (True, False, False, True)
    assert first.task.task_id == same.task.task_id == other.task.task_id


async def test_the_same_key_of_another_client_is_another_submission(ledger: Ledger) -> None:
    answers = await ledger.accept_many([new_task(key="k", client_id="a"), new_task(key="k", client_id="b")])
    assert [answer.created for answer in answers] == [True, True]


async def test_callers_at_the_same_time_are_answered_as_if_in_turn(ledger: Ledger) -> None:
    answers = await asyncio.gather(*(ledger.accept_many([new_task(key=f"k{i % 10}")]) for i in range(100)))
    assert sum(answer.created for (answer,) in answers) == 10
    assert (await ledger.totals()).accepted == 10


async def test_a_taken_task_id_refuses_the_call_and_nobody_else(ledger: Ledger) -> None:
    taken = await accepted(ledger)
    calls = [
        ledger.accept_many([new_task()]),
        ledger.accept_many([new_task(), new_task(task_id=taken.task_id)]),
        ledger.accept_many([new_task()]),
    ]
    before, refused, after = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(refused, Conflict)
    assert not isinstance(before, BaseException)
    assert not isinstance(after, BaseException)
    assert (await ledger.totals()).accepted == 3


async def test_a_task_that_cannot_be_stored_is_refused_at_once(ledger: Ledger) -> None:
    for bad in (new_task(deadline_ms=2**64 - 1), new_task(client_id="\ud800"), new_task(size_bytes=-1)):
        with pytest.raises(InvalidInput):
            await ledger.accept_many([new_task(), bad])
    assert (await ledger.totals()).accepted == 0


async def test_nothing_asked_is_nothing_answered(ledger: Ledger) -> None:
    assert list(await ledger.accept_many([])) == []
    assert list(await ledger.apply_many([])) == []
    assert list(await ledger.get_many([])) == []
    assert list(await ledger.claim(LINE, limit=0)) == []
    assert await ledger.queued() == {}


# --- claiming ----------------------------------------------------------------------------------------------------


async def test_claim_gives_the_oldest_queued_tasks_after_a_place(ledger: Ledger) -> None:
    tasks = [await accepted(ledger) for _ in range(5)]
    await applied(ledger, sent_out(tasks[0].task_id, "a0"))
    assert list(await ledger.claim(LINE, limit=2)) == tasks[1:3]
    assert list(await ledger.claim(LINE, limit=9, after_seq=tasks[2].seq)) == tasks[3:]


async def test_each_model_and_priority_is_a_line_of_its_own(ledger: Ledger) -> None:
    low = [await accepted(ledger, new_task(priority=Priority.LOW)) for _ in range(2)]
    high = await accepted(ledger, new_task(priority=Priority.HIGH))
    other = await accepted(ledger, new_task(model="faces", priority=Priority.HIGH))
    assert await ledger.queued() == {low[0].line: 2, high.line: 1, other.line: 1}
    assert list(await ledger.claim(low[0].line, limit=9)) == low
    assert list(await ledger.claim(high.line, limit=9)) == [high]
    assert list(await ledger.claim(other.line, limit=9)) == [other]
    assert list(await ledger.claim(Line("nobody's", Priority.LOW), limit=9)) == []


async def test_a_line_is_as_long_as_its_queued_tasks(ledger: Ledger) -> None:
    first, second, third = [await accepted(ledger) for _ in range(3)]
    await applied(ledger, sent_out(first.task_id, "a"))
    await applied(ledger, about(second.task_id, E.CANCELLED))
    assert await ledger.queued() == {LINE: 1}
    await applied(ledger, about(first.task_id, E.ATTEMPT_FAILED, "a"))
    assert await ledger.queued() == {LINE: 2}, "it is tried again"
    await applied(ledger, finished(first.task_id, "a"))
    await applied(ledger, sent_out(third.task_id, "b"))
    assert await ledger.queued() == {}


async def test_tasks_are_listed_by_priority(ledger: Ledger) -> None:
    low, high = [await accepted(ledger, new_task(priority=p)) for p in (Priority.LOW, Priority.HIGH)]
    assert (await ledger.list(TaskFilter(priority=Priority.LOW), limit=9, cursor=None)).tasks == (low,)
    assert (await ledger.list(TaskFilter(priority=Priority.HIGH), limit=9, cursor=None)).tasks == (high,)
    assert (await ledger.list(TaskFilter(priority=Priority.NORMAL), limit=9, cursor=None)).tasks == ()


async def test_a_repeated_submission_keeps_its_priority(ledger: Ledger) -> None:
    first = await accepted(ledger, new_task(key="k", priority=Priority.LOW))
    (again,) = await ledger.accept_many([new_task(key="k", priority=Priority.HIGH)])
    assert (again.created, again.conflict, again.task) == (False, False, first)


# --- a task's way ------------------------------------------------------------------------------------------------


async def test_a_whole_life(ledger: Ledger, clock: SetClock) -> None:
    task = await accepted(ledger, new_task(receiver_url=RECEIVER))
    states = []
    for event in (
        sent_out(task.task_id, "a"),
        about(task.task_id, E.ACCEPTED, "a"),
        finished(task.task_id, "a"),
        about(task.task_id, E.DELIVERED, "a"),
    ):
        clock.wall_ms += 10
        answer = await applied(ledger, event)
        assert answer.task is not None
        assert not answer.is_stale
        assert answer.task.updated_at_ms == clock.wall_ms
        states.append((answer.before, answer.task.state, answer.task.attempt_id, answer.task.device_id))
    assert states == [
        (S.QUEUED, S.DISPATCHED, "a", BOARD),
        (S.DISPATCHED, S.RUNNING, "a", BOARD),
        (S.RUNNING, S.DONE, "a", BOARD),
        (S.DONE, S.DELIVERED, "a", BOARD),
    ]
    details = await ledger.details(task.task_id)
    (attempt,) = details.attempts
    assert (attempt.attempt_id, attempt.device_id, attempt.reason) == ("a", BOARD, "load: it is idle")
    assert attempt.ended_at_ms == (attempt.started_at_ms + 20)
    assert (attempt.failure, attempt.timings) == (None, labels().timings)
    assert details.result == labels()
    assert await ledger.result(task.task_id) == labels()


async def test_an_event_has_the_time_at_which_it_happened_not_that_of_its_commit(
    ledger: Ledger, clock: SetClock
) -> None:
    task = await accepted(ledger)
    sent_at_ms = clock.wall_ms + 10
    clock.wall_ms += 60
    done_at_ms = clock.wall_ms - 5
    await ledger.apply_many(
        [
            replace(sent_out(task.task_id, "a1"), at_ms=sent_at_ms),
            replace(finished(task.task_id, "a1"), at_ms=done_at_ms),
        ]
    )
    details = await ledger.details(task.task_id)
    (attempt,) = details.attempts
    assert (attempt.started_at_ms, attempt.ended_at_ms) == (sent_at_ms, done_at_ms)
    assert details.task.updated_at_ms == done_at_ms


@pytest.mark.parametrize("wrong_by_ms", [-3_600_000, 3_600_000])
async def test_an_event_is_neither_later_than_now_nor_before_the_change_that_it_follows(
    ledger: Ledger, clock: SetClock, wrong_by_ms: int
) -> None:
    task = await accepted(ledger)
    clock.wall_ms += 50
    await ledger.apply_many([replace(sent_out(task.task_id, "a1"), at_ms=clock.wall_ms + wrong_by_ms)])
    (attempt,) = (await ledger.details(task.task_id)).attempts
    assert task.updated_at_ms <= attempt.started_at_ms <= clock.wall_ms


async def test_many_steps_of_one_task_in_one_call_are_applied_in_order(ledger: Ledger) -> None:
    task = await accepted(ledger)
    answers = await ledger.apply_many(
        [
            sent_out(task.task_id, "a"),
            about(task.task_id, E.DEVICE_LOST, "a", failure(FailureKind.DEVICE_LOST)),
            sent_out(task.task_id, "b"),
            finished(task.task_id, "b"),
        ]
    )
    states = [answer.task.state for answer in answers if answer.task is not None]
    assert states == [S.DISPATCHED, S.QUEUED, S.DISPATCHED, S.DONE]
    attempts = (await ledger.details(task.task_id)).attempts
    assert [(a.attempt_id, a.failure is None, a.ended_at_ms is None) for a in attempts] == [
        ("a", False, False),
        ("b", True, False),
    ]


async def test_what_an_event_ended_is_told_with_how_long_it_lasted(ledger: Ledger, clock: SetClock) -> None:
    task = await accepted(ledger)
    lasted = []
    for event in (
        sent_out(task.task_id, "a"),
        finished(task.task_id, "a"),
        finished(task.task_id, "a"),  # said again
        about(task.task_id, E.DELIVERED, "a"),
    ):
        clock.wall_ms += 70
        lasted.append((await applied(ledger, event)).lasted_ms)
    assert lasted == [70, 70, 0, 140]


async def test_an_event_for_an_unknown_task_says_so(ledger: Ledger) -> None:
    answer = await applied(ledger, sent_out(TaskId("nobody"), "a"))
    assert (answer.task, answer.before, answer.is_stale) == (None, None, True)


async def test_an_event_that_the_lifecycle_does_not_know_changes_nothing(ledger: Ledger) -> None:
    task = await accepted(ledger)
    for event in (about(task.task_id, E.DELIVERED), about(task.task_id, E.RETRY), about(task.task_id, E.ACCEPTED, "a")):
        answer = await applied(ledger, event)
        assert (answer.task, answer.before, answer.is_stale) == (task, S.QUEUED, True)


@pytest.mark.parametrize("event", [E.ACCEPTED, E.DEVICE_LOST, E.ATTEMPT_FAILED, E.GAVE_UP, E.EXPIRED, E.CANCELLED])
async def test_an_event_of_an_attempt_that_is_not_the_current_one_is_stale(ledger: Ledger, event: Event) -> None:
    task = await accepted(ledger)
    await ledger.apply_many(
        [sent_out(task.task_id, "old"), about(task.task_id, E.DEVICE_LOST, "old"), sent_out(task.task_id, "new")]
    )
    answer = await applied(ledger, about(task.task_id, event, "old"))
    assert answer.is_stale
    assert answer.task is not None
    assert (answer.task.state, answer.task.attempt_id) == (S.DISPATCHED, "new")


async def test_an_attempt_is_opened_once(ledger: Ledger) -> None:
    task = await accepted(ledger)
    await ledger.apply_many([sent_out(task.task_id, "a"), about(task.task_id, E.DEVICE_LOST, "a")])
    assert (await applied(ledger, sent_out(task.task_id, "a"))).is_stale
    other = await accepted(ledger)
    assert (await applied(ledger, sent_out(other.task_id, "a"))).is_stale


async def test_what_is_said_again_changes_nothing(ledger: Ledger) -> None:
    task = await accepted(ledger, new_task(receiver_url=RECEIVER))
    await ledger.apply_many([sent_out(task.task_id, "a"), about(task.task_id, E.ACCEPTED, "a")])
    for event in (
        about(task.task_id, E.ACCEPTED, "a"),
        finished(task.task_id, "a"),
        about(task.task_id, E.DELIVERED, "a"),
    ):
        first = await applied(ledger, event)
        revision = await ledger.newest_revision()
        second = await applied(ledger, event)
        assert (second.task, second.is_stale) == (first.task, False)
        assert await ledger.newest_revision() == revision


# --- attempts that end without labels ------------------------------------------------------------------------------


async def test_a_lost_device_costs_no_try(ledger: Ledger) -> None:
    task = await accepted(ledger)
    lost = about(task.task_id, E.DEVICE_LOST, "a", failure(FailureKind.TIMED_OUT, "no word"))
    *_, answer = await ledger.apply_many([sent_out(task.task_id, "a"), lost])
    assert answer.task is not None
    assert (answer.task.state, answer.task.attempt_id, answer.task.device_id) == (S.QUEUED, None, None)
    assert (answer.task.failed_attempts, answer.task.last_error) == (0, "timed_out: no word")


@pytest.mark.parametrize(
    ("kind", "counted"),
    [(FailureKind.WORKER_CRASHED, 1), (FailureKind.INVALID_INPUT, 1), (FailureKind.REFUSED, 0)],
)
async def test_only_what_the_task_may_have_caused_costs_a_try(ledger: Ledger, kind: FailureKind, counted: int) -> None:
    for event, state in ((E.ATTEMPT_FAILED, S.QUEUED), (E.GAVE_UP, S.FAILED)):
        task = await accepted(ledger)
        attempt = f"{task.task_id}-a"
        *_, answer = await ledger.apply_many(
            [sent_out(task.task_id, attempt), about(task.task_id, event, attempt, failure(kind))]
        )
        assert answer.task is not None
        assert (answer.task.state, answer.task.failed_attempts) == (state, counted)


async def test_a_dead_letter_keeps_every_cause_and_its_picture(ledger: Ledger) -> None:
    task = await accepted(ledger)
    await ledger.apply_many(
        [
            sent_out(task.task_id, "a", DeviceId("atlas-1")),
            about(task.task_id, E.ATTEMPT_FAILED, "a", failure(FailureKind.WORKER_CRASHED, "signal 11")),
            sent_out(task.task_id, "b", DeviceId("orin-1")),
            about(task.task_id, E.GAVE_UP, "b", failure(FailureKind.TIMED_OUT, "hung")),
        ]
    )
    details = await ledger.details(task.task_id)
    assert (details.task.state, details.task.failed_attempts, details.task.image) == (S.FAILED, 2, task.image)
    assert (details.task.attempt_id, details.task.device_id) == ("b", "orin-1")
    causes = [(a.device_id, a.failure) for a in details.attempts]
    assert causes == [
        ("atlas-1", failure(FailureKind.WORKER_CRASHED, "signal 11")),
        ("orin-1", failure(FailureKind.TIMED_OUT, "hung")),
    ]


async def test_a_replayed_dead_letter_starts_anew(ledger: Ledger) -> None:
    task = await failed(ledger, new_task(deadline_ms=1))
    answer = await applied(ledger, about(task.task_id, E.RETRY))
    assert answer.task is not None
    assert (answer.task.state, answer.task.attempt_id, answer.task.device_id) == (S.QUEUED, None, None)
    assert (answer.task.failed_attempts, answer.task.expires_at_ms) == (0, None)
    assert list(await ledger.claim(LINE, limit=9)) == [answer.task]


@pytest.mark.parametrize("event", [E.CANCELLED, E.EXPIRED])
async def test_an_attempt_whose_task_ends_under_it_is_closed_with_a_cause(ledger: Ledger, event: Event) -> None:
    task = await accepted(ledger)
    *_, answer = await ledger.apply_many([sent_out(task.task_id, "a"), about(task.task_id, event)])
    assert answer.task is not None
    assert (answer.task.attempt_id, answer.task.device_id) == ("a", BOARD), "the board has to be told"
    assert answer.task.last_error
    (attempt,) = (await ledger.details(task.task_id)).attempts
    assert attempt.ended_at_ms is not None
    assert attempt.failure is not None
    assert list(await ledger.open_attempts()) == []


async def test_open_attempts_are_those_of_tasks_on_boards(ledger: Ledger) -> None:
    tasks = [await accepted(ledger) for _ in range(4)]
    await ledger.apply_many([sent_out(task.task_id, f"a{i}") for i, task in enumerate(tasks[:3])])
    await ledger.apply_many([about(tasks[1].task_id, E.ACCEPTED, "a1"), finished(tasks[2].task_id, "a2")])
    attempts = await ledger.open_attempts()
    assert [(a.attempt_id, a.task_id, a.device_id) for a in attempts] == [
        ("a0", tasks[0].task_id, BOARD),
        ("a1", tasks[1].task_id, BOARD),
    ]


async def test_a_dead_letter_without_its_picture_cannot_be_replayed(ledger: Ledger) -> None:
    task = await failed(ledger)
    lost = await applied(ledger, picture_lost(task.task_id))
    assert lost.task is not None
    assert (lost.task.state, lost.task.image, lost.is_stale) == (S.FAILED, None, False)
    assert lost.task.updated_at_ms == task.updated_at_ms, "it settled when it failed"
    assert "it broke" in (lost.task.last_error or ""), "the cause of its failure is kept"
    answer = await applied(ledger, about(task.task_id, E.RETRY))
    assert (answer.task, answer.is_stale) == (lost.task, True)


# --- reading -------------------------------------------------------------------------------------------------------


async def test_changes_are_seen_in_order_and_none_is_missed(ledger: Ledger) -> None:
    start = await ledger.newest_revision()
    first, second = await accepted(ledger), await accepted(ledger)
    await applied(ledger, sent_out(first.task_id, "a"))
    changed = await ledger.changes_since(start, limit=9)
    assert [(t.task_id, t.state) for t in changed] == [(second.task_id, S.QUEUED), (first.task_id, S.DISPATCHED)]
    assert changed[-1].revision == await ledger.newest_revision()
    assert [t.task_id for t in await ledger.changes_since(start, limit=1)] == [second.task_id]
    assert list(await ledger.changes_since(changed[-1].revision, limit=9)) == []
    assert list(await ledger.changes_since(2**64, limit=9)) == []


async def test_the_ids_beside_one_are_told(ledger: Ledger) -> None:
    await ledger.accept_many([new_task(task_id=f"t{number}") for number in (7, 1, 9, 3, 5)])
    assert await ledger.ids_beside(TaskId("t4")) == ["t1", "t3", "t5", "t7", "t9"]
    assert await ledger.ids_beside(TaskId("t3")) == ["t1", "t3", "t5", "t7"]
    assert await ledger.ids_beside(TaskId("x")) == ["t5", "t7", "t9"]


async def test_a_list_goes_from_the_newest_down_page_by_page(ledger: Ledger) -> None:
    tasks = [await accepted(ledger) for _ in range(5)]
    first = await ledger.list(TaskFilter(), limit=2, cursor=None)
    second = await ledger.list(TaskFilter(), limit=2, cursor=first.next_cursor)
    third = await ledger.list(TaskFilter(), limit=2, cursor=second.next_cursor)
    assert [*first.tasks, *second.tasks, *third.tasks] == tasks[::-1]
    assert third.next_cursor is None
    assert (await ledger.list(TaskFilter(), limit=5, cursor=None)).next_cursor is None


async def test_a_list_can_be_narrowed(ledger: Ledger) -> None:
    wanted = await done(ledger, new_task(model="faces", client_id="b"))
    await done(ledger, new_task(model="faces", client_id="a"))
    await done(ledger, new_task(client_id="b"))
    await accepted(ledger, new_task(model="faces", client_id="b"))
    page = await ledger.list(TaskFilter(state=S.DONE, model="faces", client_id="b"), limit=9, cursor=None)
    assert page.tasks == (wanted,)
    assert (await ledger.list(TaskFilter(client_id="\ud800"), limit=9, cursor=None)).tasks == ()
    on_board = await ledger.list(TaskFilter(device_id=page.tasks[0].device_id), limit=9, cursor=None)
    assert [task.state for task in on_board.tasks] == [S.DONE] * 3
    assert (await ledger.list(TaskFilter(device_id=DeviceId("another")), limit=9, cursor=None)).tasks == ()


async def test_counts_and_open_bytes_follow_every_change(ledger: Ledger) -> None:
    assert dict(await ledger.counts()) == dict.fromkeys(State, 0)
    await accepted(ledger, new_task(size_bytes=5))
    await done(ledger, new_task(size_bytes=50))
    task = await failed(ledger, new_task(size_bytes=500))
    assert {s: n for s, n in (await ledger.counts()).items() if n} == {S.QUEUED: 1, S.DONE: 1, S.FAILED: 1}
    assert await ledger.open_bytes() == 5
    await applied(ledger, about(task.task_id, E.RETRY))
    assert {s: n for s, n in (await ledger.counts()).items() if n} == {S.QUEUED: 2, S.DONE: 1}
    assert await ledger.open_bytes() == 505


async def test_only_labels_that_somebody_waits_for_are_undelivered(ledger: Ledger) -> None:
    first, second = [await done(ledger, new_task(receiver_url=RECEIVER)) for _ in range(2)]
    delivered = await done(ledger, new_task(receiver_url=RECEIVER))
    await applied(ledger, about(delivered.task_id, E.DELIVERED))
    await done(ledger)
    assert list(await ledger.undelivered(limit=9)) == [first, second]
    assert list(await ledger.undelivered(limit=1)) == [first]
    assert list(await ledger.undelivered(limit=9, after_seq=first.seq)) == [second]


async def test_what_does_not_exist_is_not_known(ledger: Ledger) -> None:
    for task_id in (TaskId("nobody"), TaskId("\ud800")):
        with pytest.raises(NotKnown):
            await ledger.details(task_id)
        assert await ledger.result(task_id) is None
        assert list(await ledger.get_many([task_id])) == []


async def test_a_higher_epoch_can_be_taken_and_a_lower_one_changes_nothing(ledger: Ledger) -> None:
    before = ledger.ownership
    after = await ledger.outrank(before.epoch + 5)
    assert (after.ledger_id, after.owner_id, after.epoch) == (before.ledger_id, before.owner_id, before.epoch + 6)
    assert ledger.ownership == after
    assert await ledger.outrank(before.epoch) == after
    await accepted(ledger)
