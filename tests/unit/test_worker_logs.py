"""The workers' log files: numbered, bounded, readable by others and after a restart."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from agents.worker_logs import MAX_LINE_CHARS, WorkerLine, WorkerLogs


def logs(directory: Path, *, file_bytes: int = 2_000) -> WorkerLogs:
    return WorkerLogs(directory, file_bytes=file_bytes, old_files=2, wall_ms=lambda: 1_700_000_000_000)


def texts(lines: tuple[WorkerLine, ...]) -> list[str]:
    return [line.text for line in lines]


def numbers(lines: tuple[WorkerLine, ...]) -> list[int]:
    return [line.number for line in lines]


def test_the_newest_lines_come_oldest_first_with_their_numbers_and_sources(tmp_path: Path) -> None:
    kept = logs(tmp_path)
    kept.append("board-0", "agent", "started as process 7")
    kept.append("board-0", "output", "one\ntwo\n")
    kept.append("board-1", "error", "a neighbour's")
    assert texts(kept.tail("board-0", 2)) == ["one", "two"]
    assert kept.tail("board-0", 10)[0] == WorkerLine(
        number=1, at_ms=1_700_000_000_000, source="agent", text="started as process 7"
    )
    assert numbers(kept.tail("board-1", 10)) == [1]
    assert kept.tail("board-2", 10) == ()


def test_a_reader_that_says_what_it_has_gets_the_rest_in_bounded_steps_without_a_hole(tmp_path: Path) -> None:
    kept = logs(tmp_path)
    for i in range(1, 31):
        kept.append("board-0", "output", f"line {i}")
    read: list[int] = []
    while step := numbers(kept.tail("board-0", 7, since=read[-1] if read else 0)):
        assert len(step) <= 7
        read += step
    assert read == list(range(1, 31))
    kept.append("board-0", "output", "line 31")
    assert texts(kept.tail("board-0", 7, since=30)) == ["line 31"]


def test_the_files_are_bounded_and_the_newest_lines_stay(tmp_path: Path) -> None:
    kept = logs(tmp_path)
    for i in range(1, 501):
        kept.append("board-0", "output", f"line {i} " + "x" * 40)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["board-0.log", "board-0.log.1", "board-0.log.2"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3 * 2_200
    assert numbers(kept.tail("board-0", 30)) == list(range(471, 501)), "over the edge of a file, too"
    oldest = kept.tail("board-0", 1, since=0)[0].number
    assert oldest > 1, "the gap says that lines were rotated away"
    assert numbers(kept.tail("board-0", 3, since=oldest)) == [oldest + 1, oldest + 2, oldest + 3]


def test_numbers_go_on_after_a_restart_even_if_half_a_line_was_left(tmp_path: Path) -> None:
    first = logs(tmp_path)
    for i in range(1, 4):
        first.append("board-0", "output", f"line {i}")
    with (tmp_path / "board-0.log").open("ab") as file:
        file.write(b"4 17000")
    second = logs(tmp_path)
    assert numbers(second.tail("board-0", 10)) == [1, 2, 3]
    second.append("board-0", "output", "after the restart")
    assert numbers(second.tail("board-0", 10)) == [1, 2, 3, 4]
    assert texts(second.tail("board-0", 10, since=3)) == ["after the restart"]


def test_numbers_go_on_after_a_restart_right_after_a_rotation(tmp_path: Path) -> None:
    first = logs(tmp_path, file_bytes=1)
    for i in range(1, 4):
        first.append("board-0", "output", f"line {i}")
    assert not (tmp_path / "board-0.log").exists()
    second = logs(tmp_path)
    second.append("board-0", "output", "next")
    assert numbers(second.tail("board-0", 1)) == [4]


@pytest.mark.parametrize("damage", [b"\0" * 300 + b"\n", b"\xff\xfe no number\n", b"-\n", b"\n\n"])
def test_damaged_lines_are_passed_over(tmp_path: Path, damage: bytes) -> None:
    tmp_path.joinpath("board-0.log").write_bytes(b"1 5 output good\n" + damage)
    kept = logs(tmp_path)
    kept.append("board-0", "output", "next")
    assert texts(kept.tail("board-0", 10)) == ["good", "next"]
    assert kept.tail("board-0", 10)[-1].number == 2


def test_a_line_is_bounded_and_can_hold_no_line_of_its_own(tmp_path: Path) -> None:
    kept = logs(tmp_path, file_bytes=100_000)
    kept.append("board-0", "output", "x" * 5_000 + "\r99 5 agent a lie\0\n")
    lines = kept.tail("board-0", 10)
    assert numbers(lines) == [1, 2]
    assert len(lines[0].text) == MAX_LINE_CHARS
    assert lines[1].text == "99 5 agent a lie"


def test_a_disk_that_refuses_costs_the_lines_and_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "logs"
    blocked.write_text("a file where a directory should be")
    kept = logs(blocked)
    for _ in range(3):
        kept.append("board-0", "output", "lost")
    assert [record.getMessage() for record in caplog.records] == ["worker_logs.failed"]
    assert caplog.records[0].levelno == logging.ERROR
    blocked.unlink()
    kept.append("board-0", "output", "kept")
    assert texts(kept.tail("board-0", 10)) == ["kept"]


def test_readers_see_whole_lines_in_order_while_files_are_rotated(tmp_path: Path) -> None:
    kept = logs(tmp_path, file_bytes=500)
    wrong: list[list[int]] = []
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            seen = numbers(kept.tail("board-0", 20))
            if seen != list(range(seen[0], seen[0] + len(seen)) if seen else []):
                wrong.append(seen)

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(600):
        kept.append("board-0", "output", f"line {i}")
    is_over.set()
    reader.join(timeout=20)
    assert not reader.is_alive()
    assert wrong == []
