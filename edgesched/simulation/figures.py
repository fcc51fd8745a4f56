"""Numbers about many latencies, and about many seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Two-sided 95 % quantiles of Student's t for 1..30 degrees of freedom (standard tables); beyond, the normal one.
_T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
_T95_MORE = (2.12, 2.11, 2.10, 2.09, 2.09, 2.08, 2.07, 2.07, 2.06, 2.06, 2.06, 2.05, 2.05, 2.05, 2.04)


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear between neighbours. Raises: ValueError if there are no values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100.0
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """Over seeds. half_width: of the 95 % interval; None for a single seed."""

    value: float
    half_width: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        count = len(values)
        mean = math.fsum(values) / count
        if count < 2:
            return cls(value=mean, half_width=None)
        deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (count - 1))
        quantiles = (*_T95, *_T95_MORE)
        t = quantiles[count - 2] if count - 2 < len(quantiles) else 1.96
        return cls(value=mean, half_width=t * deviation / math.sqrt(count))
