"""How many pictures one inference takes: measured on the board, once per start."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, List, Mapping, Tuple

MIN_GAIN = 0.15
"""So much less time per picture has a batch to take than a single one. It has its price: the first picture of a batch
waits for the last one, and if one kills the worker all have to be tried again. And on a CPU that others use as well,
where no size gains anything, one measurement in thirty still shows a gain of more than this, one in ten of a tenth."""

RUNS = 8
"""Of each size; the best one counts, since what disturbs a run only makes it longer. They take turns, so that what
lasts for a while disturbs all sizes alike: one size after the other was wrong twice as often."""

LONGEST_BATCH_S = 1.0
"""A larger batch is not used, or even tried: that is long for whoever waits for its first picture. So measuring stays
short as well, also for a slow model."""


def sizes_up_to(most: int) -> List[int]:
    """1, 2, 4, .. and `most` itself. Other sizes never run: some libraries look for their best kernels anew for each
    size, in the middle of the work."""
    sizes = []
    size = 1
    while size < most:
        sizes.append(size)
        size *= 2
    return [*sizes, most]


def measured(
    infer: Callable[[int], Any], most: int, clock: Callable[[], float] = time.perf_counter
) -> Dict[int, float]:
    """The batch curve: size -> ms per picture, rising sizes, 1 among them. infer: runs a batch of this size."""

    def span(size: int) -> float:
        start = clock()
        infer(size)
        return clock() - start

    spans: Dict[int, List[float]] = {}
    for size in sizes_up_to(most):
        infer(size)  # the first run of a size may compile something
        first = span(size)
        if size > 1 and first > LONGEST_BATCH_S:
            break
        spans[size] = [first]
    for _ in range(RUNS - 1):
        for size, of_size in spans.items():
            of_size.append(span(size))
    return {size: 1000 * min(of_size) / size for size, of_size in spans.items()}


def chosen(curve: Mapping[int, float]) -> Tuple[int, ...]:
    """The sizes to use, rising, up to the one with the least time per picture: the largest for which there are
    pictures. Each one beats all smaller ones, and a single picture by MIN_GAIN. (1,): batches are off."""
    sizes, least_ms = [1], (1 - MIN_GAIN) * curve[1]
    for size in sorted(curve)[1:]:
        if curve[size] < least_ms:
            sizes.append(size)
            least_ms = curve[size]
    return tuple(sizes)
