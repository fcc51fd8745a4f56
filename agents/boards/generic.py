"""A plain computer: its CPU does the inference."""

from __future__ import annotations

import os

import psutil

from agents.boards.base import CpuMeter, memory_used_fraction
from edgesched.domain.device import BoardType, DeviceProfile, Telemetry

MOST_SLOTS = 4
"""Each slot is a process with its own copy of the models; more of them only by --workers."""

CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal", "acpitz")


class GenericBoard:
    """Profile: an ordinary CPU core needs about 100 ms for a yolov5s-class model; gigabit Ethernet."""

    board_type = BoardType.GENERIC

    def __init__(self) -> None:
        self._cpu = CpuMeter()
        slots = min(MOST_SLOTS, len(os.sched_getaffinity(0)))
        self.profile = DeviceProfile(slots=slots, service_ms=100.0, link_mbps=940.0, round_trip_ms=1.0)

    def telemetry(self) -> Telemetry:
        """A CPU has no XPU beside it."""
        return Telemetry(
            cpu_used_fraction=self._cpu.used_fraction(),
            memory_used_fraction=memory_used_fraction(),
            temperature_c=_cpu_temperature(),
        )


def _cpu_temperature() -> float | None:
    sensors = psutil.sensors_temperatures()
    for name in CPU_SENSORS:
        for reading in sensors.get(name, ()):
            if reading.current > 0:
                return float(reading.current)
    return None
