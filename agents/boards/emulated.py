"""Boards that are not there: a laptop shows a whole cluster.

The inference is real and runs on the CPU; then it waits until the profile's time has passed. The link is as slow as the
profile says. An emulated board says that it is one everywhere it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping

from agents.boards.base import CpuMeter, memory_used_fraction
from edgesched.domain.device import BoardType, DeviceProfile, Telemetry

EMULATED_PROFILES: Mapping[BoardType, DeviceProfile] = {
    # Slots, service_ms: vendor figures for yolov5s-class models (640 x 640, batch of one) with the Python call around
    # them. Links: what iperf shows on such boards' usual wiring, and a switch or two of delay.
    BoardType.ATLAS: DeviceProfile(
        slots=2,  # parallel contexts that the 310B1 gains from
        service_ms=34.0,  # 310B1 (20 TOPS), fp16: 34..40 ms
        link_mbps=800.0,  # gigabit Ethernet
        round_trip_ms=1.0,
    ),
    BoardType.RK3588: DeviceProfile(
        slots=3,  # NPU cores, one session each
        service_ms=27.0,  # int8, one core: 20.7 ms of NPU, and the part of the pipeline that does not overlap
        link_mbps=100.0,  # fast Ethernet
        round_trip_ms=3.0,
    ),
    BoardType.ORIN: DeviceProfile(
        slots=2,  # time-sliced contexts
        service_ms=12.0,  # Orin Nano and NX, FP16: 8 ms of GPU, and the part of the pipeline that does not overlap
        link_mbps=320.0,  # Wi-Fi
        round_trip_ms=2.0,
    ),
}


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
