"""The circuit breaker of one model on one device: what fails fast leaves the board idle, and would swallow everything.

Kept per model, because most often it is the model that is broken, and the board's other models work.
"""

from __future__ import annotations

from dataclasses import dataclass

FAILURES_TO_OPEN = 3
FIRST_OPEN_MS = 1_000.0
LONGEST_OPEN_MS = 30_000.0


@dataclass(slots=True)
class Breaker:
    """Closed, open for 1, 2, 4 .. 30 s, then half open: one task tries, and its end decides.

    Source: M. Nygard, "Release It!" (the circuit breaker pattern), with exponential back-off.
    """

    failures: int = 0  # in a row
    open_until_ms: float = 0.0
    _open_ms: float = 0.0

    @property
    def is_on_trial(self) -> bool:
        """It has been open: until a task succeeds there may be one at a time."""
        return self.failures >= FAILURES_TO_OPEN

    def remaining_ms(self, now_ms: float) -> float:
        """Time for which it is open; 0 if it is not."""
        return max(0.0, self.open_until_ms - now_ms)

    def failed(self, now_ms: float) -> None:
        if self.remaining_ms(now_ms):
            return  # a task that was on its way when it opened
        self.failures += 1
        if self.failures >= FAILURES_TO_OPEN:
            self._open_ms = min(LONGEST_OPEN_MS, max(FIRST_OPEN_MS, 2 * self._open_ms))
            self.open_until_ms = now_ms + self._open_ms
