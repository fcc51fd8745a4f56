"""Huawei Atlas 200I and its relatives (Ascend 310 family)."""

from __future__ import annotations

from pathlib import Path

from agents.boards.base import CpuMeter, memory_used_fraction
from edgesched.domain.device import BoardType, DeviceProfile, Telemetry

DRIVER_FILE = Path("dev/davinci_manager")


class AtlasBoard:
    """Profile: vendor figures for yolov5s-class models on a 310B1 (20 TOPS); gigabit Ethernet."""

    board_type = BoardType.ATLAS
    profile = DeviceProfile(slots=2, service_ms=34.0, link_mbps=800.0, round_trip_ms=1.0)

    def __init__(self) -> None:
        self._cpu = CpuMeter()

    def telemetry(self) -> Telemetry:
        """The NPU's readings need the vendor's npu-smi, which nobody asks here: they are unknown."""
        return Telemetry(cpu_used_fraction=self._cpu.used_fraction(), memory_used_fraction=memory_used_fraction())
