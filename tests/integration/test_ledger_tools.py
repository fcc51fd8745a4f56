"""What an operator does with a ledger: audit, back up, restore, repair, migrate; with real commands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edgesched.domain.lifecycle import State
from edgesched.domain.task import TaskId
from edgesched.errors import StartupError, StorageFailed
from edgesched.images.records import place_of, segment_path
from edgesched.images.segment_files import OWNER_FILE
from edgesched.ledger.backup import back_up, restore
from edgesched.ledger.migrations import migrate
from edgesched.ledger.sqlite import SqliteLedger
from edgesched.process import sole_user
from edgesched.upkeep.audit import audit
from tests.support.ledgers import SetClock, accepted, new_task
from tests.support.old_masters import OLD_MS, Workplace, fill, opened, stored, task

ROOT = Path(__file__).parents[2]
VERSION_1 = ROOT / "tests" / "support" / "ledger_v1.sql"
WITHIN_S = 60.0


@pytest.fixture
async def place(tmp_path: Path) -> Workplace:
    place = Workplace.below(tmp_path / "master")
    place.ledger.parent.mkdir()
    await fill(place)
    return place


async def run(place: Workplace, *arguments: str | Path) -> tuple[int, str]:
    """`edgesched ARGUMENTS` on this ledger. Returns: exit code, what it said."""
    files = ["--ledger", str(place.ledger)]
    if arguments[:2] not in (("ledger", "backup"), ("ledger", "migrate")):
        files += ["--upload_path", str(place.upload)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edgesched", *map(str, arguments), *files),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(WITHIN_S):
        output, _ = await process.communicate()
    assert process.returncode is not None
    assert "Traceback" not in output.decode()
    return process.returncode, output.decode()


def files_of(path: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in path.parent.iterdir() if entry.name.startswith(path.name)}


def is_clean(place: Workplace) -> bool:
    return audit(place.ledger, place.upload, whole=True, release_within_s=0.05).is_clean


@asynccontextmanager
async def busy(path: Path) -> AsyncIterator[list[str]]:
    """A ledger that somebody writes to all the time. Yields: the ids that were acknowledged so far."""
    acknowledged: list[str] = []
    under_way, stop = asyncio.Event(), asyncio.Event()

    async def work(ledger: SqliteLedger) -> None:
        while not stop.is_set():
            acknowledged.append((await accepted(ledger)).task_id)
            if len(acknowledged) == 50:
                under_way.set()

    async with SqliteLedger.opened(path, now_ms=SetClock().now_ms, durability="process") as ledger:
        writing = asyncio.create_task(work(ledger))
        try:
            await under_way.wait()
            yield acknowledged
        finally:
            stop.set()
            await writing


# --- audit ---------------------------------------------------------------------------------------------------------


async def test_the_audit_tells_by_its_exit_code_and_in_words(place: Workplace, tmp_path: Path) -> None:
    code, said = await run(place, "audit")
    assert (code, "everything adds up" in said) == (0, True), said
    assert "12 accepted = 11 here + 1 retired" in said
    assert "not audited: board rk3588-1 (2 open attempts)" in said
    with contextlib.closing(sqlite3.connect(place.ledger)) as connection:
        connection.execute("UPDATE task SET state = 'lost' WHERE task_id = 'queued-1'")
        connection.commit()
    code, said = await run(place, "audit", "--json")
    report = json.loads(said)
    assert (code, report["clean"]) == (1, False)
    assert [(f["check"], f["task_id"]) for f in report["findings"]] == [("task.state", "queued-1")]
    assert report["boards_not_audited"] == {"rk3588-1": 2}
    code, said = await run(place, "audit")
    assert (code, "task queued-1" in said, "does NOT add up" in said) == (1, True, True)
    place.ledger.unlink()
    code, said = await run(place, "audit")
    assert (code, "there is no ledger" in said) == (2, True)


async def test_an_audit_sees_what_a_killed_owner_has_committed_and_not_folded_in(place: Workplace) -> None:
    """Its log is there, its shared memory is not."""
    crashed = Workplace.below(place.ledger.parent / "crashed")
    crashed.ledger.parent.mkdir()
    crashed.upload.mkdir()
    async with SqliteLedger.opened(place.ledger, now_ms=SetClock().now_ms, durability="process") as ledger:
        await accepted(ledger)
        for ending in ("", "-wal"):
            source = place.ledger.with_name(place.ledger.name + ending)
            crashed.ledger.with_name(crashed.ledger.name + ending).write_bytes(source.read_bytes())
    report = audit(crashed.ledger, crashed.upload, whole=False, release_within_s=0.05)
    assert report.facts is not None
    assert report.facts.accepted == 13


# --- backup --------------------------------------------------------------------------------------------------------


async def test_a_backup_of_a_busy_ledger_holds_all_that_was_acknowledged_before(place: Workplace) -> None:
    target = place.ledger.parent / "copies" / "monday.sqlite3"
    async with busy(place.ledger) as acknowledged:
        before = list(acknowledged)
        code, said = await run(place, "ledger", "backup", "--to", target)
        assert code == 0, said
        after = len(acknowledged)
    assert after > len(before), "it wrote on meanwhile"
    assert [entry.name for entry in target.parent.iterdir()] == [target.name], "one file is enough"
    async with SqliteLedger.opened(target, now_ms=SetClock().now_ms, durability="process") as copy:
        assert {t.task_id for t in await copy.get_many([TaskId(task_id) for task_id in before])} == set(before)
        totals = await copy.totals()
    assert totals.accepted == sum(totals.live.values()) + sum(totals.retired.values())


async def test_a_backup_never_replaces_a_file(place: Workplace, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    code, said = await run(place, "ledger", "backup", "--to", target)
    assert (code, "never replaces" in said, target.read_bytes()) == (2, True, b"precious")
    with pytest.raises(StartupError):
        back_up(place.ledger, place.ledger)


def test_a_damaged_ledger_is_not_backed_up(place: Workplace, tmp_path: Path) -> None:
    with place.ledger.open("r+b") as file:
        file.seek(place.ledger.stat().st_size // 2)
        file.write(b"\xa5" * 8_192)
    with pytest.raises(StartupError, match=r"damaged|malformed"):
        back_up(place.ledger, tmp_path / "copy")
    assert list(tmp_path.glob("copy*")) == []


# --- restore -------------------------------------------------------------------------------------------------------


async def test_a_restored_ledger_goes_on_where_the_backup_was_above_every_epoch(
    place: Workplace, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    back_up(place.ledger, backup)
    clock = SetClock(OLD_MS)
    for _ in range(3):
        async with opened(place, clock) as (ledger, images):
            (later,) = await ledger.accept_many([await stored(images, f"later-{ledger.ownership.epoch}")])
    assert ledger.ownership.epoch == 4
    before = files_of(place.ledger)
    code, said = await run(place, "ledger", "restore", "--from", backup)
    assert (code, "--replace" in said, files_of(place.ledger)) == (2, True, before)

    code, said = await run(place, "ledger", "restore", "--from", backup, "--replace")
    assert (code, "All pictures that it names are there" in said) == (0, True), said
    async with opened(place, clock) as (ledger, images):
        assert ledger.ownership.epoch > 4
        assert await ledger.get_many([later.task.task_id]) == []
        assert (await ledger.totals()).accepted == 12
    assert is_clean(place)
    aside = place.ledger.with_name(place.ledger.name + ".replaced-1")
    async with SqliteLedger.opened(aside, now_ms=clock.now_ms, durability="process") as old:
        assert len(await old.get_many([later.task.task_id])) == 1


async def test_what_was_replaced_keeps_the_commits_that_were_only_in_its_log(place: Workplace, tmp_path: Path) -> None:
    back_up(place.ledger, tmp_path / "backup")
    copy = tmp_path / "crashed" / "ledger.sqlite3"
    copy.parent.mkdir()
    async with SqliteLedger.opened(place.ledger, now_ms=SetClock().now_ms, durability="process") as ledger:
        new = await accepted(ledger)
        for ending in ("", "-wal"):
            source = place.ledger.with_name(place.ledger.name + ending)
            copy.with_name(copy.name + ending).write_bytes(source.read_bytes())
    aside = restore(tmp_path / "backup", copy, replace=True)
    assert aside is not None
    async with SqliteLedger.opened(aside, now_ms=SetClock().now_ms, durability="process") as old:
        assert len(await old.get_many([new.task_id])) == 1
    async with SqliteLedger.opened(copy, now_ms=SetClock().now_ms, durability="process") as restored:
        assert await restored.get_many([new.task_id]) == []


async def test_a_ledger_too_damaged_to_be_read_is_moved_aside_as_it_is(place: Workplace, tmp_path: Path) -> None:
    back_up(place.ledger, tmp_path / "backup")
    damage = b"no database" * 1_000
    place.ledger.write_bytes(damage)
    place.ledger.with_name(place.ledger.name + "-wal").write_bytes(b"its log")
    aside = restore(tmp_path / "backup", place.ledger, replace=True)
    assert aside is not None
    assert aside.read_bytes() == damage
    assert aside.with_name(aside.name + "-wal").read_bytes() == b"its log"
    assert is_clean(place)


async def test_nothing_is_restored_while_a_task_manager_runs(place: Workplace, tmp_path: Path) -> None:
    back_up(place.ledger, tmp_path / "backup")
    before = files_of(place.ledger)
    with sole_user(place.ledger.with_suffix(".lock"), "the ledger", ""):
        for command in (("restore", "--replace", "--from", str(tmp_path / "backup")), ("repair",), ("migrate",)):
            code, said = await run(place, "ledger", *command)
            assert (code, "stop the task manager first" in said) == (2, True)
    assert files_of(place.ledger) == before


@pytest.mark.parametrize("content", [None, b"", b"no database" * 1_000])
def test_what_is_no_backup_replaces_nothing(place: Workplace, tmp_path: Path, content: bytes | None) -> None:
    backup = tmp_path / "backup"
    if content is not None:
        backup.write_bytes(content)
    before = files_of(place.ledger)
    with pytest.raises(StartupError):
        restore(backup, place.ledger, replace=True)
    assert files_of(place.ledger) == before


async def test_a_restore_without_the_pictures_fails_the_tasks_that_need_them(place: Workplace, tmp_path: Path) -> None:
    back_up(place.ledger, tmp_path / "backup")
    new = Workplace.below(tmp_path / "another-machine")
    code, said = await run(new, "ledger", "restore", "--from", tmp_path / "backup")
    assert (code, "there is no picture directory" in said) == (2, True), "a mistyped path must not cost every picture"
    assert not new.ledger.exists()
    new.upload.mkdir()
    code, said = await run(new, "ledger", "restore", "--from", tmp_path / "backup")
    assert (code, "10 pictures are gone; 5 tasks needed theirs" in said) == (0, True), said
    for task_id in ("queued-1", "queued-2", "dispatched", "running", "failed"):
        found = await task(new, task_id)
        assert (found.state, found.image) == (State.FAILED, None)
        assert (found.last_error or "").startswith("picture_lost: there is no file")
    assert (await task(new, "done-2")).state is State.DONE
    async with opened(new, SetClock(OLD_MS)):
        pass
    assert is_clean(new)


# --- repair --------------------------------------------------------------------------------------------------------


async def test_a_lost_file_of_pictures_stops_the_start_until_it_is_given_up(place: Workplace) -> None:
    lost = await task(place, "failed")
    assert lost.image is not None
    segment_path(place.upload, place_of(lost.image).segment).unlink()
    with pytest.raises(StorageFailed, match="edgesched ledger repair"):
        async with opened(place, SetClock(OLD_MS)):
            pass
    code, said = await run(place, "ledger", "repair")
    assert (code, "2 pictures are gone; 1 tasks needed theirs" in said, "failed" in said) == (0, True, True), said
    async with opened(place, SetClock(OLD_MS)) as (ledger, _):
        assert (await ledger.details(TaskId("queued-1"))).task.state is State.QUEUED
    assert is_clean(place)
    code, said = await run(place, "ledger", "repair")
    assert (code, "All pictures that it names are there" in said) == (0, True)


async def test_the_pictures_of_another_ledger_are_never_taken_for_the_own(place: Workplace) -> None:
    (place.upload / OWNER_FILE).write_text("another")
    code, said = await run(place, "ledger", "repair")
    assert (code, "belong together" in said) == (2, True)
    with pytest.raises(StartupError, match="belong to ledger another"):
        async with opened(place, SetClock(OLD_MS)):
            pass
    assert (await task(place, "queued-1")).image is not None


# --- migrate -------------------------------------------------------------------------------------------------------


def make_version_1(path: Path) -> None:
    """A small ledger as the first release left it: one task, one key of a task that was retired."""
    path.parent.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(VERSION_1.read_text(encoding="utf-8"))
        connection.execute("INSERT INTO meta VALUES (1, 1, 'the-ledger', 'somebody', 7, 2)")
        counters = {"accepted": 2, **{f"retired_{state}": int(state is State.DONE) for state in State}}
        connection.executemany("INSERT INTO counter VALUES (?, ?)", counters.items())
        connection.execute(
            "INSERT INTO task (seq, task_id, revision, state, client_id, submission_key, model, file_name, "
            "image_digest, size_bytes, created_at_ms, updated_at_ms, settled_at_ms, failed_attempts, last_error, "
            "owner_epoch) "
            "VALUES (2, 'old', 2, 'expired', 'camera-1', 'k', 'shapes', 'a.jpg', 'd', 10, 5, 6, 6, 0, 'late', 7)"
        )
        row = {
            **{
                "task_id": "older",
                "seq": 1,
                "revision": 1,
                "state": "done",
                "client_id": "camera-1",
                "model": "shapes",
            },
            **{"file_name": "b.jpg", "image": None, "size_bytes": 10, "receiver_url": None, "created_at_ms": 1},
            **{"updated_at_ms": 2, "expires_at_ms": None, "attempt_id": "a", "device_id": "b", "failed_attempts": 0},
            **{"last_error": None},
        }
        connection.execute(
            "INSERT INTO retired_submission VALUES ('camera-1', 'older key', ?, 2, ?)", ("d" * 64, json.dumps(row))
        )
        connection.commit()


def dump(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


async def test_a_ledger_of_the_first_release_is_brought_up_to_this_one(tmp_path: Path) -> None:
    place = Workplace.below(tmp_path / "master")
    make_version_1(place.ledger)
    place.upload.mkdir()
    old = dump(place.ledger)
    with pytest.raises(StartupError, match="edgesched ledger migrate"):
        async with opened(place, SetClock(OLD_MS)):
            pass
    code, said = await run(place, "audit")
    assert (code, "edgesched ledger migrate" in said) == (2, True)

    code, said = await run(place, "ledger", "migrate")
    assert code == 0, said
    backup = place.ledger.with_name(place.ledger.name + ".version-1-1")
    assert backup.name in said
    assert dump(backup) == old
    async with opened(place, SetClock(OLD_MS)) as (ledger, _):
        assert ledger.ownership.epoch == 8
        (again,) = await ledger.accept_many([new_task(key="older key")])
        assert (again.created, again.conflict, again.task.task_id) == (False, False, "older")
        await ledger.retire_tasks(settled_before_ms=0, keys_before_ms=OLD_MS, limit=9)
        (again,) = await ledger.accept_many([new_task(key="older key")])
        assert not again.created, "when its row went is not known: it counts from the migration"
    assert is_clean(place), "the schema is exactly that of a new ledger"
    code, said = await run(place, "ledger", "migrate")
    assert (code, "already" in said) == (0, True)


def test_a_migration_that_fails_half_way_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "master" / "ledger.sqlite3"
    make_version_1(path)
    before = path.read_bytes()
    steps = {1: ("ALTER TABLE task ADD COLUMN priority INTEGER",), 2: ("ALTER TABLE nothing RENAME TO something",)}
    for _ in range(2):  # a second try is not stopped by the first one's backup
        with pytest.raises(StartupError, match="was not changed"):
            migrate(path, steps=steps, wanted=3)
        assert path.read_bytes() == before
    assert migrate(path, steps={1: steps[1], 2: ("CREATE TABLE something (name TEXT)",)}, wanted=3) is not None
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT schema_version, priority FROM meta, task").fetchone() == (3, None)


def test_a_version_that_no_step_leads_away_from_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "master" / "ledger.sqlite3"
    make_version_1(path)
    with pytest.raises(StartupError, match="cannot bring it to 3"):
        migrate(path, steps={2: ()}, wanted=3)
    with pytest.raises(StartupError, match="cannot bring it to 0"):
        migrate(path, steps={}, wanted=0)
    assert list(path.parent.iterdir()) == [path]
