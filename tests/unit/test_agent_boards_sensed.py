"""When a board's files and tools are asked, how long is waited for them, and what is told while they are silent."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

import pytest

from agents.boards.readings import POWER, TEMPERATURE, XPU, Readings, SensorSilent, known, unknown
from agents.boards.sensed import OLDEST_S, TOOL_EVERY_S, SensedBoard
from edgesched.domain.device import BoardType, DeviceProfile

WITHIN_S = 20.0


class FakeBoard(SensedBoard):
    """Its clock and what its files and its tool say are the test's."""

    board_type = BoardType.GENERIC
    profile = DeviceProfile(slots=1, service_ms=1.0, link_mbps=1.0, round_trip_ms=1.0)
    tool_name = "slow-tool"
    tool_tells: tuple[str, ...] = (XPU, POWER)

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(clock=lambda: self.now)
        self.tool: Mapping[str, float] | str = {}  # or why it says nothing
        self.released = threading.Event()
        self.released.set()
        self.calls = 0

    def from_files(self) -> Readings:
        return {TEMPERATURE: known(40.0, "/files"), XPU: unknown("not here", "/files")}

    def from_tool(self) -> Readings:
        self.calls += 1
        assert self.released.wait(WITHIN_S)
        if isinstance(self.tool, str):
            raise SensorSilent(self.tool)
        return {name: known(value, "slow-tool") for name, value in self.tool.items()}


def test_a_slow_tool_keeps_nobody_waiting() -> None:
    board = FakeBoard()
    board.tool = {XPU: 0.5}
    board.released.clear()
    try:
        for _ in range(3):
            telemetry = board.telemetry()  # returns, although the tool does not
            assert (telemetry.xpu_used_fraction, telemetry.temperature_c) == (None, 40.0)
        assert board.calls == 1  # and it is not asked again meanwhile
    finally:
        board.released.set()
    assert board.readings(tool_wait_s=WITHIN_S)[XPU].value == 0.5


def test_a_tool_is_asked_rarely_and_its_answers_have_an_age() -> None:
    board = FakeBoard()
    board.tool = {XPU: 0.5}
    assert board.readings(tool_wait_s=WITHIN_S)[XPU].age_s == 0.0
    board.now += TOOL_EVERY_S - 1.0
    reading = board.readings(tool_wait_s=WITHIN_S)[XPU]
    assert (reading.value, reading.age_s, board.calls) == (0.5, TOOL_EVERY_S - 1.0, 1)
    board.now += 1.0
    assert board.readings(tool_wait_s=WITHIN_S)[XPU].age_s == 0.0
    assert board.calls == 2


def test_what_a_tool_said_stays_while_it_is_young_and_is_unknown_when_it_is_old() -> None:
    board = FakeBoard()
    board.tool = {XPU: 0.5}
    board.readings(tool_wait_s=WITHIN_S)
    board.tool = "it was killed"
    board.now += TOOL_EVERY_S
    assert board.readings(tool_wait_s=WITHIN_S)[XPU].value == 0.5
    board.now += OLDEST_S
    reading = board.readings(tool_wait_s=WITHIN_S)[XPU]
    assert reading.value is None
    assert "it was killed" in str(reading.reason)
    assert board.telemetry().xpu_used_fraction is None


def test_a_tool_is_not_asked_for_what_files_tell() -> None:
    board = FakeBoard()
    board.tool_tells = (TEMPERATURE,)
    assert board.telemetry().temperature_c == 40.0
    assert board.calls == 0


def test_a_sensor_that_falls_silent_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    board = FakeBoard()
    board.tool = {XPU: 0.5, POWER: 7.0}
    board.readings(tool_wait_s=WITHIN_S)
    board.telemetry()
    caplog.set_level(logging.INFO)
    caplog.clear()
    board.tool = "it hangs"
    board.now += OLDEST_S + 1.0
    board.readings(tool_wait_s=WITHIN_S)
    for _ in range(3):
        board.telemetry()
    told = [(record.message, getattr(record, "reading")) for record in caplog.records]  # noqa: B009
    assert told == [("sensor.silent", POWER), ("sensor.silent", XPU)]
    assert "it hangs" in getattr(caplog.records[0], "reason")  # noqa: B009
