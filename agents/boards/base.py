"""What the daemon asks of a board, and the readings that every Linux board has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import psutil

from edgesched.domain.device import DeviceProfile, Telemetry


class Board(Protocol):
    """One kind of board. `profile` is what is known before it has done any work."""

    @property
    def board_type(self) -> str: ...

    @property
    def profile(self) -> DeviceProfile: ...

    def telemetry(self) -> Telemetry:
        """What the sensors say now. Blocks for some milliseconds, never for long; what cannot be read is None."""
        ...

    def labels(self) -> Mapping[str, str]:
        """What it is, for people and for tasks that ask for it: `model`, `chip`, `driver`; only what was found.

        May block for some seconds the first time.
        """
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
    """Of the board's DRAM, which its accelerator may share."""
    memory = psutil.virtual_memory()
    return float(min(1.0, max(0.0, 1.0 - memory.available / memory.total)))
