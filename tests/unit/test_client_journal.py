from __future__ import annotations

from pathlib import Path

import pytest

from client.journal import Entry, Journal
from edgesched.domain.task import TaskId
from edgesched.errors import StartupError
from tests.support.disks import no_file_longer_than


def entry(number: int) -> Entry:
    return Entry(task_id=TaskId(f"t{number}"), model="shapes", stem=f"bild-ä-{number}", digest="0" * 64)


def keep(journal: Journal, entries: list[Entry]) -> None:
    journal.write(entries)
    journal.remember(entries)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def test_entries_are_there_again_after_a_restart(path: Path) -> None:
    with Journal.opened(path) as journal:
        keep(journal, [entry(1), entry(2)])
        keep(journal, [entry(3)])
    with Journal.opened(path) as journal:
        assert len(journal) == 3
        assert journal.get(TaskId("t2")) == entry(2)
        assert journal.owner("shapes", "bild-ä-3") == "t3"
        assert journal.get(TaskId("t4")) is None
        assert journal.owner("other", "bild-ä-3") is None


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
            assert (len(journal), journal.get(TaskId("t3"))) == (2, entry(3))


@pytest.mark.parametrize("line", [b"\x00" * 40, b"{}", b"[]", b'{"task_id": 1, "model": "", "stem": "", "digest": ""}'])
def test_damage_before_whole_lines_is_reported_and_nothing_is_changed(path: Path, line: bytes) -> None:
    with Journal.opened(path) as journal:
        keep(journal, [entry(1), entry(2)])
    first, second = path.read_bytes().splitlines()
    damaged = b"\n".join([first, line, second, b""])
    path.write_bytes(damaged)
    with pytest.raises(StartupError, match=r"journal.jsonl: line 2 is damaged"), Journal.opened(path):
        pass
    assert path.read_bytes() == damaged


def test_only_one_at_a_time_may_use_it(path: Path) -> None:
    with Journal.opened(path):
        with pytest.raises(StartupError, match="another receiver already writes to"), Journal.opened(path):
            pass
    with Journal.opened(path):
        pass


def test_what_the_disk_refused_is_not_known_and_the_next_try_succeeds(path: Path) -> None:
    with Journal.opened(path) as journal:
        keep(journal, [entry(1)])
        size = path.stat().st_size
        with no_file_longer_than(size + 10), pytest.raises(OSError, match="File too large"):
            keep(journal, [entry(2), entry(3)])
        assert journal.get(TaskId("t2")) is None
        assert path.stat().st_size == size
        keep(journal, [entry(2)])
    with Journal.opened(path) as journal:
        assert [journal.get(TaskId(f"t{n}")) for n in (1, 2, 3)] == [entry(1), entry(2), None]
