"""Boards that are not there: a laptop shows a whole cluster.

The inference is real and runs on the CPU; then it waits until the profile's time has passed. The link is as slow as the
profile (`edgesched.domain.profiles`) says. An emulated board says that it is one everywhere it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping

from agents.boards.base import CpuMeter, memory_used_fraction
from edgesched.domain.device import BoardType, DeviceProfile, Telemetry


class EmulatedBoard:
    """CPU and memory are those of the machine that emulates; the daemon adds how busy the workers are as XPU use."""

    def __init__(self, board_type: BoardType, profile: DeviceProfile) -> None:
        self.board_type = board_type
        self.profile = profile
        self._cpu = CpuMeter()

    def telemetry(self) -> Telemetry:
        """The temperature of an emulated board cannot be known."""
        return Telemetry(cpu_used_fraction=self._cpu.used_fraction(), memory_used_fraction=memory_used_fraction())

    def labels(self) -> Mapping[str, str]:
        """None: it would be the machine that emulates, or a board that is not there."""
        return {}
