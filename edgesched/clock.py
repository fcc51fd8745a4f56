"""Time is passed in, never read in the middle of a rule, so that tests and the simulator can set it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def monotonic_ms(self) -> float:
        """Milliseconds since an arbitrary start; never goes back. For durations and timeouts."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970 UTC. For people and for the ledger; boards may boot with a wrong one."""
        ...


class SystemClock:
    def monotonic_ms(self) -> float:
        return time.monotonic() * 1000.0

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000
