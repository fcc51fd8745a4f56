"""The ledger's file: made once, taken over at each start, refused when it is not right, and never replaced."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from pathlib import Path

import pytest

from edgesched.domain.lifecycle import State
from edgesched.errors import StartupError, StorageFailed
from edgesched.ledger import sqlite, writer
from edgesched.ledger.database import SCHEMA_VERSION, Durability, LogFile
from edgesched.ledger.sqlite import SqliteLedger
from tests.support.ledgers import LINE, RECEIVER, SetClock, accepted, applied, done, failed, new_task, sent_out

CLOCK = SetClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite3"


async def refusal(path: Path) -> str:
    """Why the file is refused; it is not touched."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StartupError) as refused:
        async with SqliteLedger.opened(path, now_ms=CLOCK.now_ms, durability="process"):
            pass
    assert str(path) in str(refused.value)
    assert (path.read_bytes() if path.is_file() else None) == before
    return str(refused.value)


async def test_each_start_takes_the_ledger_over(tmp_path: Path) -> None:
    path = tmp_path / "made" / "on" / "demand" / "ledger.sqlite3"
    owners = []
    for _ in range(3):
        async with SqliteLedger.opened(path, now_ms=CLOCK.now_ms, durability="process") as ledger:
            owners.append(ledger.ownership)
    assert [owner.epoch for owner in owners] == [1, 2, 3]
    assert len({owner.ledger_id for owner in owners}) == 1
    assert len({owner.owner_id for owner in owners}) == 3


async def test_a_new_start_finds_everything_as_it_was(path: Path) -> None:
    async with SqliteLedger.opened(path, now_ms=CLOCK.now_ms, durability="process") as ledger:
        await accepted(ledger, new_task(size_bytes=7))
        await applied(ledger, sent_out((await accepted(ledger)).task_id, "a"))
        undelivered = await done(ledger, new_task(receiver_url=RECEIVER))
        await failed(ledger)
        tasks, attempts = await ledger.changes_since(0, limit=99), await ledger.open_attempts()
        counts, size_bytes = await ledger.counts(), await ledger.open_bytes()
    async with SqliteLedger.opened(path, now_ms=CLOCK.now_ms, durability="process") as ledger:
        assert await ledger.changes_since(0, limit=99) == tasks
        assert await ledger.open_attempts() == attempts
        assert (await ledger.counts(), await ledger.open_bytes()) == (counts, size_bytes)
        assert await ledger.newest_revision() == tasks[-1].revision
        assert await ledger.undelivered(limit=9) == [undelivered]
        new = await accepted(ledger)
        assert new.seq > max(task.seq for task in tasks)
        assert new.revision > tasks[-1].revision


async def test_claiming_makes_tasks_of_an_earlier_owner_ours(path: Path) -> None:
    async with SqliteLedger.opened(path, now_ms=CLOCK.now_ms, durability="process") as ledger:
        for _ in range(3):
            await accepted(ledger)
    async with SqliteLedger.opened(path, now_ms=CLOCK.now_ms, durability="process") as ledger:
        assert len(await ledger.claim(LINE, limit=2)) == 2
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT owner_epoch FROM task ORDER BY seq").fetchall()
    assert rows == [(2,), (2,), (1,)]


@pytest.mark.parametrize("content", [b"", b"not a database at all, " * 100], ids=["empty", "text"])
async def test_a_file_that_is_no_database_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    await refusal(path)


async def test_a_database_of_something_else_is_refused(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE meta (name TEXT)")
    connection.close()
    assert "not a ledger" in await refusal(path)


@pytest.mark.parametrize(
    ("version", "advice"), [(SCHEMA_VERSION + 1, "use a newer one"), (SCHEMA_VERSION - 1, "edgesched ledger migrate")]
)
async def test_a_schema_of_another_version_is_refused(path: Path, version: int, advice: str) -> None:
    async with SqliteLedger.opened(path, now_ms=CLOCK.now_ms, durability="process"):
        pass
    connection = sqlite3.connect(path)
    connection.execute("UPDATE meta SET schema_version = ?", (version,))
    connection.commit()
    connection.close()
    why = await refusal(path)
    assert f"schema version {version}" in why
    assert advice in why


async def test_a_damaged_file_is_refused(path: Path) -> None:
    async with SqliteLedger.opened(path, now_ms=CLOCK.now_ms, durability="process") as ledger:
        await ledger.accept_many([new_task() for _ in range(200)])
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xa5" * 8_192)
    assert "damaged" in await refusal(path)


async def test_a_database_that_went_missing_beside_its_log_is_not_made_anew(path: Path) -> None:
    path.with_name(path.name + "-wal").write_bytes(b"the newest commits")
    assert "missing" in await refusal(path)


async def test_an_empty_log_that_a_reader_left_is_no_hindrance(path: Path) -> None:
    path.with_name(path.name + "-wal").write_bytes(b"")
    async with SqliteLedger.opened(path, now_ms=CLOCK.now_ms, durability="process") as ledger:
        await accepted(ledger)


async def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    await refusal(tmp_path / "file" / "ledger.sqlite3")


async def test_a_half_made_file_of_a_crashed_start_is_no_hindrance(path: Path) -> None:
    path.with_name(path.name + ".new").write_bytes(b"half")
    async with SqliteLedger.opened(path, now_ms=CLOCK.now_ms, durability="process") as ledger:
        assert (await accepted(ledger)).state is State.QUEUED
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


class CountingLogFile(LogFile):
    syncs = 0

    def sync(self) -> None:
        super().sync()
        type(self).syncs += 1


@pytest.mark.parametrize("durability", ["power", "process"])
async def test_only_power_syncs_before_it_answers(
    path: Path, durability: Durability, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LogFile", CountingLogFile)
    CountingLogFile.syncs = 0
    async with SqliteLedger.opened(path, now_ms=CLOCK.now_ms, durability=durability) as ledger:
        at_start = CountingLogFile.syncs
        await accepted(ledger)
        await accepted(ledger)
    assert (at_start, CountingLogFile.syncs) == ((1, 3) if durability == "power" else (0, 0))


async def test_a_log_that_cannot_be_synced_ends_everything(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SqliteLedger.opened(path, now_ms=CLOCK.now_ms, durability="power") as ledger:
        await accepted(ledger)

        def refuse(_: LogFile) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(LogFile, "sync", refuse)
        with pytest.raises(StorageFailed, match="Input/output error"):
            await accepted(ledger)
        with pytest.raises(StorageFailed):
            await ledger.until_failed()


async def test_the_log_is_folded_into_the_file_once_it_is_long(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "FOLD_AFTER_ROWS", 50)
    async with SqliteLedger.opened(path, now_ms=CLOCK.now_ms, durability="process") as ledger:
        for _ in range(200):
            await accepted(ledger)
        log_bytes = path.with_name(path.name + "-wal").stat().st_size
        for _ in range(200):
            await accepted(ledger)
        assert path.with_name(path.name + "-wal").stat().st_size < 2 * log_bytes, "it has begun anew"
        assert (await ledger.totals()).accepted == 400
