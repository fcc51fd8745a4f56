"""Boards that are not there: inference is real, and then time passes until the board would be done."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from .errors import InvalidInput


@dataclass(frozen=True)
class Emulation:
    """How fast a board is that is not there: one picture takes no less than `service_ms`.

    shared_fraction: of that time, so much is needed only once for a batch; 0..1.
    """

    service_ms: float
    shared_fraction: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.service_ms) and self.service_ms >= 0 and 0 <= self.shared_fraction <= 1):
            raise InvalidInput(f"an emulated board needs a time from 0 on and a fraction 0..1, got {self}")

    def wait(self, pictures: int, began: float) -> float:
        """Wait until so many pictures may be done that were begun together, at `began` of time.perf_counter().

        Returns: ms by which they took longer than the board that is emulated.
        """
        least_ms = self.service_ms * (self.shared_fraction + (1 - self.shared_fraction) * pictures)
        left_ms = least_ms - 1000 * (time.perf_counter() - began)
        time.sleep(max(0.0, left_ms) / 1000)
        return max(0.0, -left_ms)
