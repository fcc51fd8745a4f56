"""The small file about a board's workers."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest

from agents.worker_state import EXIT_CODES_KEPT, WorkerStates
from edgesched.errors import StartupError


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    states = WorkerStates.read(tmp_path / "workers.json")
    record = states.of("board-0")
    record.pid, record.state, record.restarts, record.is_stopped = 7, "ready", 3, True
    record.ended(-11)
    states.write()
    again = WorkerStates.read(tmp_path / "workers.json").of("board-0")
    assert (again.pid, again.restarts, again.exit_codes, again.is_stopped) == (None, 3, [-11], True)
    assert json.loads((tmp_path / "workers.json").read_text())["board-0"]["state"] == "ready"
    assert states.warnings == ()


def test_only_the_last_exit_codes_are_kept(tmp_path: Path) -> None:
    record = WorkerStates.read(tmp_path / "workers.json").of("board-0")
    for code in range(50):
        record.ended(code)
    assert record.exit_codes == list(range(50 - EXIT_CODES_KEPT, 50))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"board-0": {"restarts": "many"}}', "\xff\xfe"])
def test_a_damaged_file_is_set_aside_and_reported(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "workers.json"
    path.write_bytes(content.encode("latin-1"))
    states = WorkerStates.read(path)
    assert states.of("board-0").restarts == 0
    assert (tmp_path / "workers.json.damaged").read_bytes() == content.encode("latin-1")
    assert "workers.json.damaged" in states.warnings[0]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    states.write()
    assert states.warnings, "it stays visible"


def test_a_file_that_cannot_be_read_ends_the_start_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "workers.json").mkdir()
    with pytest.raises(StartupError, match=r"workers\.json.*permissions"):
        WorkerStates.read(tmp_path / "workers.json")


def test_a_disk_that_refuses_is_a_warning_until_it_takes_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = tmp_path / "gone"
    states = WorkerStates.read(directory / "workers.json")
    for _ in range(2):
        states.write()
    assert "cannot be written" in states.warnings[0]
    assert len(caplog.records) == 1
    directory.mkdir()
    states.write()
    assert states.warnings == ()


async def test_changes_are_written_without_anybody_waiting(tmp_path: Path) -> None:
    path, written, loop = tmp_path / "workers.json", asyncio.Event(), asyncio.get_running_loop()

    class Telling(WorkerStates):
        def write(self) -> None:
            super().write()
            loop.call_soon_threadsafe(written.set)

    states = Telling(path)
    writing = asyncio.create_task(states.run())
    states.of("board-0").restarts = 4
    states.changed()
    async with asyncio.timeout(10):
        await written.wait()
    writing.cancel()
    await asyncio.wait({writing})
    assert json.loads(path.read_text())["board-0"]["restarts"] == 4
