"""A plain computer: its CPU does the inference."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import psutil

from agents.boards.kernel import board_model, text_of
from agents.boards.readings import POWER, TEMPERATURE, XPU, Reading, Readings, SensorSilent, known, unknown
from agents.boards.sensed import SensedBoard
from edgesched.domain.device import BoardType, DeviceProfile

MOST_SLOTS = 4
"""Each slot is a process with its own copy of the models; more of them only by --workers."""

CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal", "acpitz")
CPU_INFO = Path("proc/cpuinfo")


class GenericBoard(SensedBoard):
    """Profile: an ordinary CPU core needs about 100 ms for a yolov5s-class model; gigabit Ethernet."""

    board_type = BoardType.GENERIC

    def __init__(self, root: Path = Path("/")) -> None:
        super().__init__(root)
        slots = min(MOST_SLOTS, len(os.sched_getaffinity(0)))
        self.profile = DeviceProfile(slots=slots, service_ms=100.0, link_mbps=940.0, round_trip_ms=1.0)

    def from_files(self) -> Readings:
        return {
            XPU: unknown("a plain computer has no accelerator beside its CPU", "-"),
            TEMPERATURE: _cpu_temperature(),
            POWER: unknown("no sensor tells what the whole computer takes", "-"),
        }

    def read_labels(self) -> Mapping[str, str]:
        found = {"model": board_model(self._root), "chip": self._cpu_name()}
        return {name: value for name, value in found.items() if value}

    def _cpu_name(self) -> str | None:
        try:
            lines = text_of(self._root, CPU_INFO).splitlines()
        except SensorSilent:
            return None
        pairs = (line.partition(":") for line in lines)
        return next((value.strip() for key, _, value in pairs if key.strip() == "model name"), None)


def _cpu_temperature() -> Reading:
    sensors = psutil.sensors_temperatures()
    for name in CPU_SENSORS:
        for reading in sensors.get(name, ()):
            if reading.current > 0:
                return known(float(reading.current), f"hwmon {name}")
    others = f"only {', '.join(sorted(sensors))}" if sensors else "none at all"
    return unknown(f"no temperature sensor of a CPU that is known: {others}", "psutil")
