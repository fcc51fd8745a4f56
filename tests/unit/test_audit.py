"""The audit is clean on what a task manager leaves, and finds each of the ways in which we break it here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from edgesched.domain.task import ImageRef
from edgesched.errors import StartupError
from edgesched.images.records import HEADER, place_of, records, segment_path
from edgesched.images.segment_files import OWNER_FILE
from edgesched.upkeep.audit import MAX_LISTED, Report, audit
from tests.support.ledgers import SetClock, done, new_task
from tests.support.old_masters import OLD_MS, Workplace, fill, opened, stored

Breakage = Callable[[Workplace], None]


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("intact")
    asyncio.run(fill(Workplace.below(directory)))
    return directory


@pytest.fixture
def place(intact: Path, tmp_path: Path) -> Workplace:
    shutil.copytree(intact, tmp_path, dirs_exist_ok=True)
    return Workplace.below(tmp_path)


def look(place: Workplace, *, whole: bool = True) -> Report:
    return audit(place.ledger, place.upload, whole=whole, release_within_s=0.05)


def checks(report: Report) -> set[tuple[str, str | None]]:
    """What was found, and of which task."""
    return {(finding.check, finding.task_id) for finding in report.findings}


def sql(*statements: str) -> Breakage:
    def run(place: Workplace) -> None:
        with contextlib.closing(sqlite3.connect(place.ledger)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    return run


def picture_of(place: Workplace, task_id: str) -> ImageRef:
    with contextlib.closing(sqlite3.connect(place.ledger)) as connection:
        (ref,) = connection.execute("SELECT image FROM task WHERE task_id = ?", (task_id,)).fetchone()
    return ImageRef(ref)


def overwrite(task_id: str, at: int, content: bytes) -> Breakage:
    """Change a few bytes of a picture's record."""

    def run(place: Workplace) -> None:
        where = place_of(picture_of(place, task_id))
        with segment_path(place.upload, where.segment).open("r+b") as file:
            file.seek(where.offset + at)
            file.write(content)

    return run


def lose_file_of(task_id: str) -> Breakage:
    return lambda place: segment_path(place.upload, place_of(picture_of(place, task_id)).segment).unlink()


def add_picture(stored_at_ms: int) -> Breakage:
    def run(place: Workplace) -> None:
        segment_path(place.upload, 77).write_bytes(b"".join(records([b"nobody's"], stored_at_ms)))

    return run


def swap_index_page(place: Workplace) -> None:
    """A write that went to the wrong place: the page of one index lies where that of another should be."""
    with contextlib.closing(sqlite3.connect(place.ledger)) as connection:
        pages = dict(connection.execute("SELECT name, rootpage FROM sqlite_master WHERE type = 'index'").fetchall())
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    with place.ledger.open("r+b") as file:
        file.seek((pages["attempt_of_task"] - 1) * page_bytes)
        page = file.read(page_bytes)
        file.seek((pages["task_by_revision"] - 1) * page_bytes)
        file.write(page)


def test_what_a_task_manager_leaves_adds_up(place: Workplace) -> None:
    report = look(place)
    assert report.findings == []
    assert report.facts is not None
    assert report.facts.accepted == 12
    assert sum(report.facts.live.values()) == 11
    assert report.facts.retired["done"] == 1
    assert report.pictures == 10
    assert dict(report.not_audited) == {"rk3588-1": 2}


BREAKAGES: dict[str, tuple[Breakage, set[tuple[str, str | None]]]] = {
    "a task is deleted behind its owner's back": (
        sql("DELETE FROM task WHERE task_id = 'queued-1'"),
        {("count", None), ("picture.orphan", None)},
    ),
    "the counter of accepted tasks is behind": (
        sql("UPDATE counter SET value = value - 1 WHERE name = 'accepted'"),
        {("count", None)},
    ),
    "the counter of retired tasks is gone": (
        sql("DELETE FROM counter WHERE name = 'retired_done'"),
        {("count", None)},
    ),
    "a state that nobody knows": (
        sql("UPDATE task SET state = 'finished' WHERE task_id = 'queued-1'"),
        {("task.state", "queued-1")},
    ),
    "a priority that nobody knows": (
        sql("UPDATE task SET priority = 'urgent' WHERE task_id = 'queued-1'"),
        {("task.priority", "queued-1")},
    ),
    "a queued task is marked as settled": (
        sql("UPDATE task SET settled_at_ms = 5 WHERE task_id = 'queued-1'"),
        {("task.settled", "queued-1")},
    ),
    "an undelivered task would be retired": (
        sql("UPDATE task SET settled_at_ms = 5 WHERE task_id = 'done-2'"),
        {("task.settled", "done-2")},
    ),
    "a settled task would never be retired": (
        sql("UPDATE task SET settled_at_ms = NULL WHERE task_id = 'delivered'"),
        {("task.settled", "delivered")},
    ),
    "a queued task has a current attempt": (
        sql("UPDATE task SET attempt_id = 'queued-2-a', device_id = 'rk3588-1' WHERE task_id = 'queued-2'"),
        {("task.attempt", "queued-2")},
    ),
    "a revision was never given out": (
        sql("UPDATE task SET revision = 9999 WHERE task_id = 'queued-1'"),
        {("task.revision", "queued-1")},
    ),
    "two tasks share a revision": (
        sql(
            "UPDATE task SET revision = (SELECT revision FROM task WHERE task_id = 'queued-1') "
            "WHERE task_id = 'queued-2'"
        ),
        {("task.revision", "queued-1")},
    ),
    "an owner that never was": (
        sql("UPDATE task SET owner_epoch = 99 WHERE task_id = 'queued-1'"),
        {("task.order", "queued-1")},
    ),
    "the current attempt of a task is gone": (
        sql("DELETE FROM attempt WHERE attempt_id = 'running-a'"),
        {("attempt.missing", "running")},
    ),
    "the current attempt of a task has ended": (
        sql(
            "UPDATE attempt SET ended_at_ms = 5, failure_kind = 'worker_error', failure_message = 'x' "
            "WHERE attempt_id = 'running-a'"
        ),
        {("attempt.missing", "running")},
    ),
    "an attempt of a queued task is open": (
        sql(
            "UPDATE attempt SET ended_at_ms = NULL, failure_kind = NULL, failure_message = NULL "
            "WHERE attempt_id = 'queued-2-a'"
        ),
        {("attempt.open", "queued-2")},
    ),
    "the open attempt is on another board than the task says": (
        sql("UPDATE attempt SET device_id = 'orin-1' WHERE attempt_id = 'running-a'"),
        {("attempt.open", "running")},
    ),
    "two attempts are open at once": (
        sql(
            "DROP INDEX attempt_open",
            "INSERT INTO attempt (attempt_id, seq, device_id, reason, started_at_ms) "
            "SELECT 'second', seq, 'orin-1', 'why', 5 FROM task WHERE task_id = 'running'",
        ),
        {("schema", None), ("attempt.open", "running"), ("attempt.several", "running")},
    ),
    "an attempt ended without labels and without a cause": (
        sql("UPDATE attempt SET failure_kind = NULL, failure_message = NULL WHERE attempt_id = 'queued-2-a'"),
        {("attempt.cause", "queued-2")},
    ),
    "an attempt failed for an unknown reason": (
        sql("UPDATE attempt SET failure_kind = 'bad_luck' WHERE attempt_id = 'queued-2-a'"),
        {("attempt.kind", "queued-2")},
    ),
    "an attempt of no task": (
        sql(
            "INSERT INTO attempt SELECT 99, 'lost', 4711, device_id, reason, 1, 2, 'refused', 'x', NULL "
            "FROM attempt LIMIT 1"
        ),
        {("attempt.task", None)},
    ),
    "a second winner": (
        sql(
            "INSERT INTO attempt (attempt_id, seq, device_id, reason, started_at_ms, ended_at_ms) "
            "SELECT 'second', seq, 'orin-1', 'why', 5, 6 FROM task WHERE task_id = 'done-2'"
        ),
        {("winner", "done-2"), ("attempt.cause", "done-2")},
    ),
    "the winning attempt is gone": (
        sql("DELETE FROM attempt WHERE attempt_id = 'done-2-a'"),
        {("winner", "done-2")},
    ),
    "the labels of a finished task are gone": (
        sql("DELETE FROM result WHERE attempt_id = 'done-1-a'"),
        {("labels.missing", "done-1")},
    ),
    "the labels are another attempt's": (
        sql("UPDATE result SET attempt_id = 'else' WHERE attempt_id = 'done-1-a'"),
        {("labels.missing", "done-1")},
    ),
    "labels changed": (
        sql("UPDATE result SET detections = replace(detections, '0.75', '0.57') WHERE attempt_id = 'delivered-a'"),
        {("labels.digest", "delivered")},
    ),
    "labels of a task that has none": (
        sql("INSERT INTO result SELECT seq, 'x', 'y', '[]', NULL, NULL FROM task WHERE task_id = 'failed'"),
        {("labels.unexpected", "failed"), ("labels.digest", "failed")},
    ),
    "labels of no task": (
        sql("INSERT INTO result VALUES (4711, 'x', 'y', '[]', NULL, NULL)"),
        {("labels.unexpected", None)},
    ),
    "an open task names no picture": (
        sql("UPDATE task SET image = NULL WHERE task_id = 'running'"),
        {("picture.unnamed", "running"), ("picture.orphan", None)},
    ),
    "a dead letter names no picture": (
        sql("UPDATE task SET image = NULL WHERE task_id = 'failed'"),
        {("picture.unnamed", "failed"), ("picture.orphan", None)},
    ),
    "two tasks share a picture": (
        sql("UPDATE task SET image = (SELECT image FROM task WHERE task_id = 'done-1') WHERE task_id = 'delivered'"),
        {("picture.shared", "delivered"), ("picture", "delivered"), ("picture.orphan", None)},
    ),
    "a picture reference that is none": (
        sql("UPDATE task SET image = '../etc/passwd' WHERE task_id = 'queued-1'"),
        {("picture", "queued-1"), ("picture.orphan", None)},
    ),
    "a picture's file is gone": (
        lose_file_of("failed"),
        {("picture", "failed"), ("picture", "delivered")},
    ),
    "a picture's bytes changed": (
        overwrite("queued-1", HEADER.size + 100, b"\xff"),
        {("picture", "queued-1")},
    ),
    "a picture's header changed": (
        overwrite("queued-1", 0, b"XXXX"),
        {("picture", "queued-1")},
    ),
    "a picture was released that a task needs": (
        overwrite("queued-1", 0, b"ESI0"),
        {("picture", "queued-1")},
    ),
    "a picture was taken for another": (
        sql("UPDATE task SET image_digest = 'other' WHERE task_id = 'queued-1'"),
        {("picture", "queued-1")},
    ),
    "a file of pictures was cut": (
        lambda place: os.truncate(segment_path(place.upload, place_of(picture_of(place, "failed")).segment), 30),
        {("picture", "failed"), ("picture", "delivered")},
    ),
    "a picture that no task names": (
        add_picture(OLD_MS),
        {("picture.orphan", None)},
    ),
    "the pictures are another ledger's": (
        lambda place: (place.upload / OWNER_FILE).write_text("somebody else") and None,
        {("picture.owner", None)},
    ),
    "a key is known twice": (
        sql(
            "INSERT INTO retired_submission SELECT client_id, submission_key, 'd', 5, '{}' FROM task "
            "WHERE task_id = 'done-1'",
            "DELETE FROM retired_submission WHERE submission_key = 'key of retired'",
        ),
        {("key.twice", "done-1")},
    ),
    "more keys are remembered than tasks were retired": (
        sql("INSERT INTO retired_submission VALUES ('c', 'k', 'd', 5, '{}')"),
        {("count", None)},
    ),
    "what is remembered of a key is unreadable": (
        sql("UPDATE retired_submission SET task = 'no json'"),
        {("key.memory", None)},
    ),
    "an index does not fit its table": (
        swap_index_page,
        {("file", None)},
    ),
    "a table has got another column": (
        sql("ALTER TABLE task ADD COLUMN colour INTEGER"),
        {("schema", None)},
    ),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_each_way_of_breaking_it_is_found(place: Workplace, name: str) -> None:
    break_it, expected = BREAKAGES[name]
    break_it(place)
    report = look(place)
    assert expected <= checks(report), report.findings
    if "index" not in name:  # a damaged file breaks more than one thing
        assert checks(report) == expected, report.findings
    for finding in report.findings:
        assert finding.what
        assert finding.advice


def test_a_page_of_the_file_that_was_overwritten_is_damage_and_not_a_crash(place: Workplace) -> None:
    size = place.ledger.stat().st_size
    for offset in range(4_096, size, 4_096):
        content = place.ledger.read_bytes()
        with place.ledger.open("r+b") as file:
            file.seek(offset)
            file.write(b"\xa5" * 4_096)
        report = look(place)
        assert "file" in {finding.check for finding in report.findings}, f"at {offset}"
        place.ledger.write_bytes(content)
    assert look(place).is_clean


def test_a_file_that_is_no_database_is_damage(place: Workplace) -> None:
    place.ledger.write_bytes(b"not a database at all, " * 100)
    (finding,) = look(place).findings
    assert finding.check == "file"


def test_what_cannot_be_audited_is_refused(place: Workplace, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="there is no ledger"):
        audit(tmp_path / "nowhere", place.upload, whole=True)
    assert not (tmp_path / "nowhere").exists()
    sql("UPDATE meta SET schema_version = 99")(place)
    with pytest.raises(StartupError, match="use a newer one"):
        look(place)


def test_a_quick_look_reads_no_pictures_and_no_labels(place: Workplace) -> None:
    for name in ("a picture's bytes changed", "labels changed"):
        BREAKAGES[name][0](place)
    assert look(place, whole=False).is_clean
    assert not look(place).is_clean
    BREAKAGES["a picture's header changed"][0](place)
    assert not look(place, whole=False).is_clean


def test_a_picture_that_was_just_stored_may_still_wait_for_its_row(place: Workplace) -> None:
    add_picture(stored_at_ms=2**62)(place)
    assert look(place).is_clean


def test_a_task_that_was_given_up_for_its_picture_is_told_of_and_no_fault(place: Workplace) -> None:
    sql("UPDATE task SET image = NULL, last_error = 'picture_lost: gone' WHERE task_id = 'failed'")(place)
    report = look(place)
    assert checks(report) == {("picture.orphan", None)}
    assert report.facts is not None
    assert report.facts.given_up == 1


def test_many_findings_are_counted_and_not_all_listed(place: Workplace) -> None:
    row = "SELECT NULL, 'lost-' || value, 4711, 'b', 'why', 1, 2, 'refused', 'x', NULL"
    sql(
        f"WITH RECURSIVE n (value) AS (VALUES (1) UNION ALL SELECT value + 1 FROM n WHERE value < {MAX_LISTED + 50}) "
        f"INSERT INTO attempt {row} FROM n"
    )(place)
    report = look(place)
    assert len(report.findings) == MAX_LISTED
    assert dict(report.omitted) == {"attempt.task": 50}


async def test_an_audit_beside_a_busy_owner_raises_no_false_alarm(place: Workplace) -> None:
    """Tasks come, go and lose their pictures while it looks; half of them are as old as an orphan must be."""
    clock = SetClock(OLD_MS + 1_000)
    stop = asyncio.Event()

    async def work() -> None:
        number = 0
        async with opened(place, clock) as (ledger, images):
            while not stop.is_set():
                for _ in range(4):
                    number += 1
                    await done(ledger, await stored(images, f"n-{number}"))
                clock.wall_ms += 1
                retired = await ledger.retire_images(settled_before_ms=clock.wall_ms, keep_bytes=0, limit=3)
                await images.release(retired.images)
                rows = await ledger.retire_tasks(settled_before_ms=clock.wall_ms, keys_before_ms=0, limit=5)
                await images.release(rows.images)

    owner = asyncio.create_task(work())
    try:
        for _ in range(12):
            report = await asyncio.to_thread(audit, place.ledger, place.upload, whole=True)
            assert report.findings == []
    finally:
        stop.set()
        await owner


async def test_a_picture_that_was_retired_while_the_audit_looked_for_it_is_not_missing(place: Workplace) -> None:
    clock = SetClock(OLD_MS + 1_000)
    loop = asyncio.get_running_loop()
    async with opened(place, clock) as (ledger, images):

        async def retire_all() -> None:
            retired = await ledger.retire_images(settled_before_ms=clock.wall_ms, keep_bytes=0, limit=99)
            await images.release(retired.images)
            assert len(retired.images) == 4

        def when_it_looks(what: str, done: int, total: int) -> None:
            if (what, done) == ("pictures", 1):
                asyncio.run_coroutine_threadsafe(retire_all(), loop).result(timeout=10)

        report = await asyncio.to_thread(audit, place.ledger, place.upload, whole=True, progress=when_it_looks)
    assert report.findings == []


def test_new_tasks_need_no_more_than_their_picture(tmp_path: Path) -> None:
    place = Workplace.below(tmp_path)

    async def one_task() -> None:
        async with opened(place, SetClock()) as (ledger, _):
            await ledger.accept_many([new_task()])

    asyncio.run(one_task())
    (finding,) = look(place).findings
    assert (finding.check, finding.what.startswith("it is queued, and of its picture")) == ("picture", True)
