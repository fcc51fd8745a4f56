"""What every ledger promises of what ends: deadlines, pictures that are gone, and retention."""

from __future__ import annotations

import pytest

from edgesched.domain.lifecycle import Event, State
from edgesched.domain.task import FailureKind, ImageRef
from edgesched.errors import NotKnown
from edgesched.ledger.base import Ledger
from tests.support.ledgers import (
    RECEIVER,
    SetClock,
    about,
    accepted,
    applied,
    done,
    failed,
    finished,
    new_task,
    picture_lost,
    sent_out,
)

E, S = Event, State


# --- deadlines -----------------------------------------------------------------------------------------------------


async def test_open_tasks_expire_when_their_deadline_has_passed(ledger: Ledger, clock: SetClock) -> None:
    soon, later, never = [await accepted(ledger, new_task(deadline_ms=ms)) for ms in (100, 101, None)]
    settled = await done(ledger, new_task(deadline_ms=1))
    await applied(ledger, sent_out(soon.task_id, "a"))
    clock.wall_ms += 99
    assert list(await ledger.expire_due()) == []
    clock.wall_ms += 1
    (answer,) = await ledger.expire_due()
    assert answer.task is not None
    assert (answer.task.task_id, answer.before, answer.task.state) == (soon.task_id, S.DISPATCHED, S.EXPIRED)
    assert answer.task.attempt_id == "a"
    states = {t.task_id: t.state for t in await ledger.get_many([later.task_id, never.task_id, settled.task_id])}
    assert states == {later.task_id: S.QUEUED, never.task_id: S.QUEUED, settled.task_id: S.DONE}


async def test_labels_that_come_after_the_deadline_are_not_taken(ledger: Ledger, clock: SetClock) -> None:
    """Also before anybody has looked for tasks whose time is over."""
    late, in_time, again = [await accepted(ledger, new_task(deadline_ms=100)) for _ in range(3)]
    for task in (late, in_time, again):
        await applied(ledger, sent_out(task.task_id, f"{task.task_id}-a"))
    clock.wall_ms += 99
    answer = await applied(ledger, finished(in_time.task_id, f"{in_time.task_id}-a"))
    assert answer.task is not None
    assert answer.task.state is S.DONE
    clock.wall_ms += 1
    answer = await applied(ledger, finished(late.task_id, f"{late.task_id}-a"))
    assert answer.task is not None
    assert (answer.before, answer.task.state, answer.is_stale) == (S.DISPATCHED, S.EXPIRED, False)
    details = await ledger.details(late.task_id)
    assert details.result is None
    assert [(a.failure.kind if a.failure else None) for a in details.attempts] == [FailureKind.TIMED_OUT]
    answer = await applied(ledger, finished(again.task_id, "another"))
    assert answer.task is not None
    assert answer.task.state is S.EXPIRED
    assert [a.attempt_id for a in (await ledger.details(again.task_id)).attempts] == [f"{again.task_id}-a"]
    answer = await applied(ledger, finished(in_time.task_id, f"{in_time.task_id}-a"))
    assert answer.task is not None
    assert answer.task.state is S.DONE, "labels that came in time stay"


async def test_a_task_is_not_sent_out_after_its_deadline(ledger: Ledger, clock: SetClock) -> None:
    task = await accepted(ledger, new_task(deadline_ms=0))
    answer = await applied(ledger, sent_out(task.task_id, "a"))
    assert answer.task is not None
    assert answer.task.state is S.EXPIRED
    assert list((await ledger.details(task.task_id)).attempts) == []


async def test_late_labels_of_a_dead_letter_are_taken_whatever_its_deadline_was(
    ledger: Ledger, clock: SetClock
) -> None:
    task = await failed(ledger, new_task(deadline_ms=1))
    clock.wall_ms += 5
    answer = await applied(ledger, finished(task.task_id, "late"))
    assert answer.task is not None
    assert answer.task.state is S.DONE


# --- retention -----------------------------------------------------------------------------------------------------


async def test_pictures_go_when_their_task_settled_long_ago(ledger: Ledger, clock: SetClock) -> None:
    old = await done(ledger)
    clock.wall_ms += 1_000
    young = await done(ledger)
    retired = await ledger.retire_images(settled_before_ms=clock.wall_ms, keep_bytes=10**9, limit=9)
    assert (retired.images, retired.tasks) == ((old.image,), 0)
    assert await ledger.live_images() == {young.image}
    (changed,) = await ledger.changes_since(young.revision, limit=9)
    assert (changed.task_id, changed.image, changed.updated_at_ms) == (old.task_id, None, old.updated_at_ms)
    again = await ledger.retire_images(settled_before_ms=clock.wall_ms, keep_bytes=10**9, limit=9)
    assert again.images == ()


async def test_the_oldest_pictures_go_when_they_are_too_many(ledger: Ledger) -> None:
    tasks = [await done(ledger, new_task(size_bytes=100)) for _ in range(4)]
    retired = await ledger.retire_images(settled_before_ms=0, keep_bytes=250, limit=9)
    assert retired.images == (tasks[0].image, tasks[1].image)
    limited = await ledger.retire_images(settled_before_ms=0, keep_bytes=0, limit=1)
    assert limited.images == (tasks[2].image,)


async def test_pictures_that_are_still_needed_stay(ledger: Ledger, clock: SetClock) -> None:
    needed = [
        await accepted(ledger),
        await failed(ledger),
        await done(ledger, new_task(receiver_url=RECEIVER)),
    ]
    delivered = await done(ledger, new_task(receiver_url=RECEIVER))
    await applied(ledger, about(delivered.task_id, E.DELIVERED))
    clock.wall_ms += 1_000
    retired = await ledger.retire_images(settled_before_ms=clock.wall_ms, keep_bytes=0, limit=9)
    assert retired.images == (delivered.image,)
    assert await ledger.live_images() == {task.image for task in needed}


async def test_old_rows_go_and_are_still_counted(ledger: Ledger, clock: SetClock) -> None:
    settled = [await done(ledger), await failed(ledger)]
    kept = [await accepted(ledger), await done(ledger, new_task(receiver_url=RECEIVER))]
    clock.wall_ms += 1_000
    kept.append(await done(ledger))
    retired = await ledger.retire_tasks(settled_before_ms=clock.wall_ms, keys_before_ms=0, limit=9)
    assert retired.tasks == 2
    assert set(retired.images) == {task.image for task in settled}
    assert list(await ledger.get_many([task.task_id for task in settled])) == []
    with pytest.raises(NotKnown):
        await ledger.details(settled[0].task_id)
    assert {t.task_id for t in await ledger.get_many([t.task_id for t in kept])} == {t.task_id for t in kept}
    totals = await ledger.totals()
    assert totals.accepted == 5 == sum(totals.live.values()) + sum(totals.retired.values())
    assert {s: n for s, n in totals.retired.items() if n} == {S.DONE: 1, S.FAILED: 1}
    assert dict(totals.live) == dict(await ledger.counts())


async def test_rows_go_at_most_so_many_at_a_time_the_oldest_first(ledger: Ledger, clock: SetClock) -> None:
    tasks = [await done(ledger) for _ in range(3)]
    clock.wall_ms += 1
    assert (await ledger.retire_tasks(settled_before_ms=clock.wall_ms, keys_before_ms=0, limit=2)).tasks == 2
    assert [t.task_id for t in await ledger.get_many([t.task_id for t in tasks])] == [tasks[2].task_id]


async def test_a_retired_submission_is_still_the_same_submission(ledger: Ledger, clock: SetClock) -> None:
    task = await done(ledger, new_task(key="k"))
    clock.wall_ms += 1_000
    await ledger.retire_tasks(settled_before_ms=clock.wall_ms - 1, keys_before_ms=clock.wall_ms, limit=9)
    same, other = await ledger.accept_many([new_task(key="k"), new_task(key="k", image_digest="e" * 64)])
    assert (same.created, same.conflict) == (False, False)
    assert (same.task.task_id, same.task.state, same.task.image) == (task.task_id, S.DONE, None)
    assert (other.created, other.conflict) == (False, True)
    assert (await ledger.totals()).accepted == 1


async def test_a_key_is_remembered_for_its_time_after_its_row_went_however_late_that_was(
    ledger: Ledger, clock: SetClock
) -> None:
    await done(ledger, new_task(key="k"))
    clock.wall_ms += 1_000_000  # nobody retired anything for long
    for moved_ms, is_new in ((0, False), (1_000, False), (1, True)):
        clock.wall_ms += moved_ms
        before_ms = clock.wall_ms - 1_000
        await ledger.retire_tasks(settled_before_ms=before_ms, keys_before_ms=before_ms, limit=9)
        (answer,) = await ledger.accept_many([new_task(key="k")])
        assert answer.created is is_new


async def test_a_seq_is_never_used_again(ledger: Ledger, clock: SetClock) -> None:
    task = await done(ledger)
    clock.wall_ms += 1
    await ledger.retire_tasks(settled_before_ms=clock.wall_ms, keys_before_ms=0, limit=9)
    assert (await accepted(ledger)).seq > task.seq
    assert await ledger.live_images() != {ImageRef("")}


# --- pictures that are gone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [S.QUEUED, S.DISPATCHED, S.RUNNING])
async def test_a_task_whose_picture_is_gone_fails_with_that_cause(ledger: Ledger, state: State) -> None:
    task = await accepted(ledger)
    if state is not S.QUEUED:
        await applied(ledger, sent_out(task.task_id, "a"))
    if state is S.RUNNING:
        await applied(ledger, about(task.task_id, E.ACCEPTED, "a"))
    answer = await applied(ledger, picture_lost(task.task_id))
    assert answer.task is not None
    assert (answer.before, answer.task.state, answer.task.image) == (state, S.FAILED, None)
    assert answer.task.last_error == "picture_lost: its file is gone"
    attempts = (await ledger.details(task.task_id)).attempts
    assert [(a.ended_at_ms is None, a.failure is None) for a in attempts] == [(False, False)] * (state is not S.QUEUED)
    assert await ledger.live_images() == frozenset()
    if state is not S.QUEUED:  # the board had it all the same
        late = await applied(ledger, finished(task.task_id, "a"))
        assert late.task is not None
        assert late.task.state is S.DONE


async def test_a_settled_task_loses_its_picture_and_nothing_else(ledger: Ledger, clock: SetClock) -> None:
    task = await done(ledger)
    clock.wall_ms += 1_000
    answer = await applied(ledger, picture_lost(task.task_id))
    assert answer.task is not None
    assert (answer.task.image, answer.task.state, answer.task.last_error) == (None, S.DONE, None)
    assert answer.task.updated_at_ms == task.updated_at_ms, "retention counts from when it settled"
    assert answer.task.revision > task.revision
    again = await applied(ledger, picture_lost(task.task_id))
    assert (again.task, again.is_stale) == (answer.task, True)
