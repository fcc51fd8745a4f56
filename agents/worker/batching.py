"""How many pictures one inference takes: measured on the board, once per start."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, List, Mapping, Tuple

MIN_GAIN = 0.1
"""So much less time per picture has a batch to take than a single one. It has its price: the first picture of a batch
waits for the last one, and if one kills the worker all have to be tried again. A gain that repeated measurements of
the same size reach by chance, a few percent on a board that does other things too, is not worth that."""

RUNS = 4  # of each size; the best one counts, since what disturbs a run only makes it longer
MEASURE_S = 10.0
"""When so much time has passed no larger size is tried. So a start stays short, and no batch takes much longer than
half of this, far less than an attempt may take."""


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
    curve = {}
    began = clock()
    for size in sizes_up_to(most):
        if size > 1 and clock() - began > MEASURE_S:
            break
        spans = []
        for _ in range(RUNS):
            start = clock()
            infer(size)
            spans.append(clock() - start)
        curve[size] = 1000 * min(spans) / size
    return curve


def chosen(curve: Mapping[int, float]) -> Tuple[int, ...]:
    """The sizes to use, rising, up to the one with the least time per picture: the largest for which there are
    pictures. Each one beats all smaller ones, and a single picture by MIN_GAIN. (1,): batches are off."""
    sizes, least_ms = [1], (1 - MIN_GAIN) * curve[1]
    for size in sorted(curve)[1:]:
        if curve[size] < least_ms:
            sizes.append(size)
            least_ms = curve[size]
    return tuple(sizes)
