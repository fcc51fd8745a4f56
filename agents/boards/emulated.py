"""Boards that are not there: a laptop shows a whole cluster.

The inference is real and runs on the CPU; then it waits until the profile's time has passed. The link is as slow as the
profile (`edgesched.domain.profiles`) says. An emulated board says that it is one everywhere it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping

from agents.boards.base import CpuMeter, memory_used_fraction
from edgesched.domain.device import BoardType, DeviceProfile, Telemetry

SHARED_FRACTION: Mapping[BoardType, float] = {
    BoardType.ATLAS: 0.3,
    BoardType.RK3588: 0.0,
    BoardType.ORIN: 0.5,
}
"""Of the time of one picture, so much is needed only once for a batch: launching, and reading the weights. Guesses, to
show each kind of chip: a GPU that one picture leaves half idle, AI cores that gain a little, and an NPU core that works
through a batch one by one."""


class EmulatedBoard:
    """CPU and memory are those of the machine that emulates; the daemon adds how busy the workers are as XPU use."""

    def __init__(self, board_type: BoardType, profile: DeviceProfile) -> None:
        self.board_type = board_type
        self.profile = profile
        self._shared_fraction = SHARED_FRACTION[board_type]
        self._cpu = CpuMeter()

    @property
    def emulation(self) -> Mapping[str, float]:
        """What its workers are told."""
        return {"service_ms": self.profile.service_ms, "shared_fraction": self._shared_fraction}

    def telemetry(self) -> Telemetry:
        """The temperature of an emulated board cannot be known."""
        return Telemetry(cpu_used_fraction=self._cpu.used_fraction(), memory_used_fraction=memory_used_fraction())

    def labels(self) -> Mapping[str, str]:
        """None: it would be the machine that emulates, or a board that is not there."""
        return {}
