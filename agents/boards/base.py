"""What the daemon asks of a board, and the readings that every Linux board has."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Protocol

import psutil

from edgesched.domain.device import BoardType, DeviceProfile, Telemetry

DEVICE_TREE_COMPATIBLE = Path("proc/device-tree/compatible")


class Board(Protocol):
    """One kind of board. `profile` is what is known before it has done any work."""

    @property
    def board_type(self) -> BoardType: ...

    @property
    def profile(self) -> DeviceProfile: ...

    def telemetry(self) -> Telemetry:
        """Read the sensors now. May block for some milliseconds; what cannot be read is None."""
        ...


class CpuMeter:
    """Use of all CPU cores since the last call, at first since it was made.

    Not psutil.cpu_percent: that remembers its last call per thread, and calls come from a pool of threads.
    """

    def __init__(self) -> None:
        self._last = _idle_and_total()

    def used_fraction(self) -> float | None:
        """None if no time has passed, as the kernel counts it."""
        last, self._last = self._last, _idle_and_total()
        idle, total = self._last[0] - last[0], self._last[1] - last[1]
        return min(1.0, max(0.0, 1.0 - idle / total)) if total > 0 else None


def _idle_and_total() -> tuple[float, float]:
    times = psutil.cpu_times()
    # Linux counts guests' time in user and nice as well.
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return times.idle + getattr(times, "iowait", 0.0), total


def memory_used_fraction() -> float:
    memory = psutil.virtual_memory()
    return float(min(1.0, max(0.0, 1.0 - memory.available / memory.total)))


def read_text(path: Path) -> str | None:
    """A small file of the kernel's; None if it is not there or may not be read (debugfs is for root alone)."""
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:  # also EAGAIN, from sensors of blocks that are powered down
        return None


def compatible_with(root: Path) -> tuple[str, ...]:
    """The device tree's names for this machine, most exact first; empty where there is no device tree."""
    text = read_text(root / DEVICE_TREE_COMPATIBLE)
    return tuple(filter(None, text.split("\0"))) if text else ()


def zone_temperature(root: Path, kinds: tuple[str, ...]) -> float | None:
    """Degrees Celsius of the first thermal zone of these kinds, in the order of `kinds`."""
    found: dict[str, float] = {}
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        kind, value = read_text(zone / "type"), read_text(zone / "temp")
        if kind is None or value is None:
            continue
        with contextlib.suppress(ValueError):
            degrees = int(value) / 1000.0
            if degrees > -100.0:  # -256: the sensor is off
                found.setdefault(kind.strip().lower(), degrees)
    return next((found[kind] for kind in kinds if kind in found), None)
