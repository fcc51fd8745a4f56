"""What only the SQLite ledger can get wrong: groups, owners, a disk that refuses, a process that dies."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgesched.domain.lifecycle import Event, State
from edgesched.domain.task import AttemptId, Task, TaskId
from edgesched.errors import StaleEpoch, StorageFailed
from edgesched.images.segments import SegmentImageStore
from edgesched.ledger.group import RowCache
from edgesched.ledger.sqlite import SqliteLedger
from edgesched.ledger.transition import new_row
from tests.support.ledgers import (
    LINE,
    RECEIVER,
    SetClock,
    about,
    accepted,
    applied,
    done,
    finished,
    labels,
    new_task,
    sent_out,
)

ROOT = Path(__file__).parents[2]
WITHIN_S = 30.0


class CountingClock(SetClock):
    """The ledger reads the clock once per group."""

    readings = 0

    def now_ms(self) -> int:
        self.readings += 1
        return self.wall_ms


@pytest.fixture
def clock() -> CountingClock:
    return CountingClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite3"


@pytest.fixture
async def ledger(path: Path, clock: CountingClock) -> AsyncIterator[SqliteLedger]:
    async with SqliteLedger.opened(path, now_ms=clock.now_ms, durability="process") as opened:
        yield opened


def behind_its_back(path: Path, sql: str) -> None:
    """Another program changes the file."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(sql)
        connection.commit()


async def test_callers_at_the_same_time_share_a_commit(ledger: SqliteLedger, clock: CountingClock) -> None:
    await asyncio.gather(*(accepted(ledger) for _ in range(200)))
    assert clock.readings <= 2


async def test_more_callers_than_the_queue_holds_are_all_answered(ledger: SqliteLedger) -> None:
    await asyncio.gather(*(accepted(ledger) for _ in range(2_500)))
    assert (await ledger.totals()).live[State.QUEUED] == 2_500


async def test_a_cancelled_caller_disturbs_nobody(ledger: SqliteLedger) -> None:
    new = new_task()
    calls = [asyncio.create_task(ledger.accept_many([task])) for task in (new_task(), new, new_task())]
    await asyncio.sleep(0)  # each has put its command into the queue
    calls[1].cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [list, asyncio.CancelledError, list]
    assert len(await ledger.get_many([new.task_id])) == 1, "its command was on its way already"


async def test_closing_commits_what_waits(path: Path, clock: CountingClock) -> None:
    new = new_task()
    async with SqliteLedger.opened(path, now_ms=clock.now_ms, durability="process") as ledger:
        call = asyncio.create_task(ledger.accept_many([new]))
        await asyncio.sleep(0)
    (answer,) = await call
    with pytest.raises(StorageFailed, match="closed"):
        await ledger.accept_many([new_task()])
    async with SqliteLedger.opened(path, now_ms=clock.now_ms, durability="process") as ledger:
        assert await ledger.get_many([new.task_id]) == [answer.task]


async def test_a_call_that_returned_can_be_read(ledger: SqliteLedger) -> None:
    for _ in range(50):
        task = await accepted(ledger)
        assert await ledger.get_many([task.task_id]) == [task]
        assert await ledger.newest_revision() == task.revision


async def test_an_older_owner_can_read_and_not_write(ledger: SqliteLedger, path: Path, clock: CountingClock) -> None:
    task = await accepted(ledger)
    async with SqliteLedger.opened(path, now_ms=clock.now_ms, durability="process") as newer:
        for refused in (
            accepted(ledger),
            ledger.apply_many([sent_out(task.task_id, "a")]),
            ledger.claim(LINE, limit=1),
        ):
            with pytest.raises(StaleEpoch):
                await refused
        with pytest.raises(StaleEpoch):
            await asyncio.wait_for(ledger.until_failed(), WITHIN_S)
        assert await newer.get_many([task.task_id]) == await ledger.get_many([task.task_id]) == [task]
        await accepted(newer)


async def test_attempts_that_were_open_at_a_restart_end_like_any_other(path: Path, clock: CountingClock) -> None:
    async with SqliteLedger.opened(path, now_ms=clock.now_ms, durability="process") as ledger:
        lost, overtaken, settled = [await accepted(ledger) for _ in range(3)]
        await ledger.apply_many([sent_out(task.task_id, f"{task.task_id}-a") for task in (lost, overtaken, settled)])
    async with SqliteLedger.opened(path, now_ms=clock.now_ms, durability="process") as ledger:
        await ledger.apply_many(
            [
                about(lost.task_id, Event.DEVICE_LOST, f"{lost.task_id}-a"),
                finished(overtaken.task_id, "unseen"),
                finished(settled.task_id, f"{settled.task_id}-a"),
            ]
        )
        assert await ledger.open_attempts() == []
        assert [a.failure is None for a in (await ledger.details(lost.task_id)).attempts] == [False]
        assert [a.failure is None for a in (await ledger.details(overtaken.task_id)).attempts] == [False, True]
        assert [a.failure is None for a in (await ledger.details(settled.task_id)).attempts] == [True]


async def test_an_epoch_that_was_taken_stays_taken(path: Path, clock: CountingClock) -> None:
    async with SqliteLedger.opened(path, now_ms=clock.now_ms, durability="process") as ledger:
        await ledger.outrank(41)
    async with SqliteLedger.opened(path, now_ms=clock.now_ms, durability="process") as ledger:
        assert ledger.ownership.epoch == 43


async def test_a_row_that_somebody_else_has_changed_is_not_overwritten(ledger: SqliteLedger, path: Path) -> None:
    task = await accepted(ledger)
    behind_its_back(path, "UPDATE task SET state = 'cancelled'")
    with pytest.raises(StorageFailed, match="somebody else"):
        await applied(ledger, sent_out(task.task_id, "a"))
    assert [t.state for t in await ledger.get_many([task.task_id])] == [State.CANCELLED]


async def test_a_group_that_cannot_be_written_fails_for_all_its_callers_and_for_good(
    ledger: SqliteLedger, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = await accepted(ledger)
    watch = asyncio.create_task(ledger.until_failed())
    behind_its_back(path, "DROP TABLE result")
    events = [sent_out(task.task_id, "a"), finished(task.task_id, "a")]
    answers = await asyncio.gather(ledger.apply_many(events), accepted(ledger), return_exceptions=True)
    assert [type(answer) for answer in answers] == [StorageFailed, StorageFailed]
    with pytest.raises(StorageFailed):
        await asyncio.wait_for(watch, WITHIN_S)
    with pytest.raises(StorageFailed):
        await accepted(ledger)
    assert [record.getMessage() for record in caplog.records] == ["ledger.failed"]
    assert await ledger.changes_since(0, limit=9) == [task], "nothing of the group is there"


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE result SET detections = replace(detections, '0.75', '0.57')",
        "UPDATE result SET detections = 'no json'",
        "UPDATE result SET digest = 'other'",
    ],
)
async def test_labels_that_do_not_match_their_digest_are_not_handed_out(
    ledger: SqliteLedger, path: Path, damage: str
) -> None:
    task = await done(ledger)
    behind_its_back(path, damage)
    for asked in (ledger.result(task.task_id), ledger.details(task.task_id)):
        with pytest.raises(StorageFailed, match=task.task_id):
            await asked


async def test_labels_are_never_overwritten(ledger: SqliteLedger, path: Path) -> None:
    task = await done(ledger)
    with pytest.raises(sqlite3.IntegrityError):
        behind_its_back(path, f"INSERT INTO result SELECT * FROM result WHERE seq = {task.seq}")


async def test_a_retired_task_leaves_no_rows_behind(ledger: SqliteLedger, path: Path, clock: CountingClock) -> None:
    await done(ledger)
    clock.wall_ms += 1
    await ledger.retire_tasks(settled_before_ms=clock.wall_ms, keys_before_ms=0, limit=9)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for table, rows in (("task", 0), ("attempt", 0), ("result", 0), ("retired_submission", 1)):
            assert connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone() == (rows,), table


async def test_an_event_in_one_group_with_retention_sees_what_retention_did(
    ledger: SqliteLedger, clock: CountingClock
) -> None:
    kept, gone = await done(ledger, attempt="a"), await done(ledger, attempt="b")
    clock.wall_ms += 1
    pictures, (still_there,), rows, (not_there,) = await asyncio.gather(
        ledger.retire_images(settled_before_ms=clock.wall_ms, keep_bytes=0, limit=1),
        ledger.apply_many([finished(kept.task_id, "a")]),
        ledger.retire_tasks(settled_before_ms=clock.wall_ms, keys_before_ms=0, limit=9),
        ledger.apply_many([finished(gone.task_id, "b")]),
    )
    assert (pictures.images, rows.tasks) == ((kept.image,), 2)
    assert still_there.task is not None
    assert (still_there.task.state, still_there.task.image) == (State.DONE, None)
    assert not_there.task is None


async def test_a_task_can_live_its_whole_life_in_one_commit(ledger: SqliteLedger) -> None:
    new = new_task(receiver_url=RECEIVER)
    answers = await asyncio.gather(
        ledger.accept_many([new]),
        ledger.apply_many([sent_out(new.task_id, "a"), about(new.task_id, Event.DEVICE_LOST, "a")]),
        ledger.apply_many([sent_out(new.task_id, "b"), finished(new.task_id, "b")]),
        ledger.apply_many([about(new.task_id, Event.DELIVERED, "b")]),
    )
    assert answers[-1][0].task is not None
    details = await ledger.details(new.task_id)
    assert (details.task, details.result) == (answers[-1][0].task, labels())
    assert [(a.attempt_id, a.failure is None) for a in details.attempts] == [("a", False), ("b", True)]


def test_the_cache_forgets_what_has_come_to_its_end_and_the_oldest() -> None:
    cache = RowCache(max_tasks=2)
    tasks: list[Task] = [new_row(new_task(), seq=i, revision=i, now_ms=0) for i in range(4)]
    cache.tasks = {task.task_id: task for task in tasks}
    cache.trim([tasks[0].task_id, TaskId("never there")], [AttemptId("never there")])
    assert list(cache.tasks) == [task.task_id for task in tasks[2:]]


async def start_writer(directory: Path, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.acknowledging_writer",
        str(directory),
        *arguments,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )


async def check_acknowledged(directory: Path, acknowledged: list[str]) -> None:
    clock = SetClock()
    async with (
        SegmentImageStore.opened(
            directory / "images", durability="process", min_free_disk_bytes=1, now_ms=clock.now_ms
        ) as images,
        SqliteLedger.opened(directory / "ledger.sqlite3", now_ms=clock.now_ms, durability="process") as ledger,
    ):
        await images.recover(await ledger.live_images())
        tasks = {task.task_id: task for task in await ledger.get_many([TaskId(line) for line in acknowledged])}
        assert tasks.keys() == set(acknowledged)
        for task in tasks.values():
            assert task.image is not None
            assert await images.read(task.image) == task.task_id.encode()
        totals = await ledger.totals()
        assert totals.accepted == sum(totals.live.values())


@pytest.mark.parametrize("durability", ["power", "process"])
async def test_a_killed_process_has_lost_nothing_that_it_acknowledged(tmp_path: Path, durability: str) -> None:
    process = await start_writer(tmp_path, durability)
    assert process.stdout is not None
    async with asyncio.timeout(WITHIN_S):
        acknowledged = [(await process.stdout.readline()).decode().strip() for _ in range(100)]
        process.kill()
        rest = (await process.stdout.read()).decode()
        assert await process.wait() == -signal.SIGKILL
    acknowledged += [line for line in rest.split("\n")[:-1]]  # the last line may be cut
    await check_acknowledged(tmp_path, acknowledged)


async def test_a_disk_that_refuses_to_grow_costs_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    process = await start_writer(tmp_path, "process", str(512 * 1024))
    async with asyncio.timeout(WITHIN_S):
        output, _ = await process.communicate()
    *acknowledged, last = output.decode().split()
    assert (last, process.returncode) == ("REFUSED", 0)
    assert acknowledged
    await check_acknowledged(tmp_path, acknowledged)
