"""NVIDIA Jetson Orin and other Jetsons."""

from __future__ import annotations

from pathlib import Path

from agents.boards.base import CpuMeter, memory_used_fraction, read_text, zone_temperature
from edgesched.domain.device import BoardType, DeviceProfile, Telemetry

RELEASE_FILE = Path("etc/nv_tegra_release")
LOAD_FILES = (  # the kernel of JetPack 6, of JetPack 5, of JetPack 4; all world-readable
    Path("sys/devices/platform/bus@0/17000000.gpu/load"),
    Path("sys/devices/platform/gpu.0/load"),
    Path("sys/devices/gpu.0/load"),
)
TEMPERATURE_ZONES = ("gpu-thermal", "gpu-therm", "tj-thermal", "cpu-thermal", "cpu-therm")


class OrinBoard:
    """Profile: vendor figures for yolov5s-class models in FP16, with the pipeline around them; gigabit Ethernet as such
    boards use it in practice."""

    board_type = BoardType.ORIN
    profile = DeviceProfile(slots=2, service_ms=12.0, link_mbps=320.0, round_trip_ms=2.0)

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._cpu = CpuMeter()

    def telemetry(self) -> Telemetry:
        """The GPU's load is a file that every user may read."""
        texts = (read_text(self._root / path) for path in LOAD_FILES)
        loads = (gpu_load(text) for text in texts if text is not None)
        return Telemetry(
            cpu_used_fraction=self._cpu.used_fraction(),
            memory_used_fraction=memory_used_fraction(),
            xpu_used_fraction=next((load for load in loads if load is not None), None),
            temperature_c=zone_temperature(self._root, TEMPERATURE_ZONES),
        )


def gpu_load(text: str) -> float | None:
    """The load file holds tenths of a percent, 0..1000."""
    try:
        tenths = int(text)
    except ValueError:
        return None
    return tenths / 1000.0 if 0 <= tenths <= 1000 else None
