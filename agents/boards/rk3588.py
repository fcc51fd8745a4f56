"""Rockchip RK3588 and RK3588S."""

from __future__ import annotations

import re
from pathlib import Path

from agents.boards.base import CpuMeter, memory_used_fraction, read_text, zone_temperature
from edgesched.domain.device import BoardType, DeviceProfile, Telemetry

LOAD_FILE = Path("sys/kernel/debug/rknpu/load")
PERCENT = re.compile(r"(\d+)\s*%")
TEMPERATURE_ZONES = ("npu-thermal", "soc-thermal", "center-thermal")


class Rk3588Board:
    """Profile: three NPU cores, each with a worker; vendor figures for yolov5s-class models, Python pipeline included;
    fast Ethernet, which is what the cheaper boards of this family have."""

    board_type = BoardType.RK3588
    profile = DeviceProfile(slots=3, service_ms=27.0, link_mbps=100.0, round_trip_ms=3.0)

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._cpu = CpuMeter()

    def telemetry(self) -> Telemetry:
        """The NPU's load is in debugfs, which only root may read: else it is unknown."""
        load = read_text(self._root / LOAD_FILE)
        return Telemetry(
            cpu_used_fraction=self._cpu.used_fraction(),
            memory_used_fraction=memory_used_fraction(),
            xpu_used_fraction=npu_load(load) if load is not None else None,
            temperature_c=zone_temperature(self._root, TEMPERATURE_ZONES),
        )


def npu_load(text: str) -> float | None:
    """Mean use of the NPU's cores from `NPU load:  Core0:  4%, Core1:  0%, Core2:  0%,` or `NPU load:  48%`.

    The driver now and then prints 429496% for a core (an overflow): each core counts 100% at most.
    """
    cores = [min(100, int(percent)) for percent in PERCENT.findall(text)]
    return sum(cores) / len(cores) / 100.0 if cores else None
