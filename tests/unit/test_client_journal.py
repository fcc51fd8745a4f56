from __future__ import annotations

from pathlib import Path

import pytest

from client import journal as journal_module
from client.journal import Entry, Journal
from edgesched.domain.task import TaskId
from edgesched.errors import StartupError
from tests.support.disks import no_file_longer_than


def entry(number: int) -> Entry:
    return Entry(task_id=TaskId(f"t{number}"), name=f"shapes/bild-ä-{number}")


def keep(journal: Journal, entries: list[Entry]) -> None:
    for one in entries:
        journal.remember(*one)
    journal.write(entries)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def test_entries_are_there_again_after_a_restart(path: Path) -> None:
    with Journal.opened(path) as journal:
        keep(journal, [entry(1), entry(2)])
        keep(journal, [entry(3)])
    with Journal.opened(path) as journal:
        assert len(journal) == 3
        assert journal.name_of(TaskId("t2")) == "shapes/bild-ä-2"
        assert journal.owner("shapes/bild-ä-3") == "t3"
        assert journal.name_of(TaskId("t4")) is None
        assert journal.owner("other/bild-ä-3") is None


def test_it_keeps_the_newest_tasks_in_memory_and_on_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "KEPT_TASKS", 20)
    monkeypatch.setattr(journal_module, "MOST_TASKS", 30)
    with Journal.opened(path) as journal:
        for number in range(100):
            keep(journal, [entry(number)])
            assert len(journal) <= 30
            assert path.read_bytes().count(b"\n") <= 31
    with Journal.opened(path) as journal:
        kept = [number for number in range(100) if journal.name_of(TaskId(f"t{number}"))]
        assert kept == list(range(100 - len(journal), 100))
        assert len(journal) >= 20
        assert (journal.owner("shapes/bild-ä-79"), journal.owner("shapes/bild-ä-0")) == ("t79", None)


def test_names_that_were_found_on_the_disk_do_not_pile_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MOST_TASKS", 30)
    with Journal.opened(path) as journal:
        keep(journal, [entry(1)])
        for number in range(200):
            journal.note_owner(f"shapes/found-{number}", TaskId("somebody"))
        known = [number for number in range(200) if journal.owner(f"shapes/found-{number}")]
        assert 0 < len(known) <= 61
        assert known[-1] == 199
        assert journal.owner(entry(1).name) == "t1"


def test_a_journal_of_an_earlier_version_is_understood(path: Path) -> None:
    path.write_text('{"task_id": "t1", "model": "shapes", "stem": "a", "digest": "00"}\n')
    with Journal.opened(path) as journal:
        assert journal.name_of(TaskId("t1")) == "shapes/a"


def test_a_last_line_torn_at_any_byte_costs_only_itself(path: Path) -> None:
    with Journal.opened(path) as journal:
        keep(journal, [entry(1)])
        whole = path.stat().st_size
        keep(journal, [entry(2)])
    content = path.read_bytes()
    for cut in {*range(whole, len(content), 11), len(content) - 1}:
        path.write_bytes(content[:cut])
        with Journal.opened(path) as journal:
            assert len(journal) == 1
            keep(journal, [entry(3)])
        with Journal.opened(path) as journal:
            assert (len(journal), journal.name_of(TaskId("t3"))) == (2, entry(3).name)


@pytest.mark.parametrize("line", [b"\x00" * 40, b"{}", b"[]", b'{"task_id": 1, "model": "", "stem": ""}'])
def test_damage_before_whole_lines_is_reported_and_nothing_is_changed(path: Path, line: bytes) -> None:
    with Journal.opened(path) as journal:
        keep(journal, [entry(1), entry(2)])
    first, second = path.read_bytes().splitlines()
    damaged = b"\n".join([first, line, second, b""])
    path.write_bytes(damaged)
    with pytest.raises(StartupError, match=r"journal.jsonl: line 2 is damaged"), Journal.opened(path):
        pass
    assert path.read_bytes() == damaged


def test_what_the_disk_refused_is_not_on_it_and_the_next_try_succeeds(path: Path) -> None:
    with Journal.opened(path) as journal:
        keep(journal, [entry(1)])
        size = path.stat().st_size
        with no_file_longer_than(size + 10), pytest.raises(OSError, match="File too large"):
            journal.write([entry(2), entry(3)])
        assert path.stat().st_size == size
        keep(journal, [entry(2)])
    with Journal.opened(path) as journal:
        names = [journal.name_of(TaskId(f"t{number}")) for number in (1, 2, 3)]
        assert names == [entry(1).name, entry(2).name, None]
