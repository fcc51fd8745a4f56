"""What no scheduler can beat: the fluid bound of a fleet, as a linear programme."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgesched.simulation.fleets import Fleet

SIZE_CLASSES = 24
MAX_PIVOTS = 5_000


def capacity_per_s(fleet: Fleet, sizes: Sequence[int]) -> float:
    """The highest rate of pictures of these sizes that every link and every slot of the fleet can bear.

    Pictures flow like water: parts of each class of size go to each kind of board, which is busy at most all the time,
    its link and its slots alike. Nothing that really happens (whole pictures, chance, delay) makes it higher.
    Source: the fluid relaxation of scheduling on unrelated machines (Lenstra, Shmoys and Tardos, 1990).
    """
    parts = min(SIZE_CLASSES, len(sizes))
    classes = [float(np.mean(part)) for part in np.array_split(np.sort(np.asarray(sizes, dtype=float)), parts)]
    kinds: dict[tuple[float, float], int] = {}  # (bytes per ms, ms of all slots per picture) -> boards
    for board in fleet.boards:
        key = (board.profile.link_mbps * 125.0, board.profile.service_ms / board.profile.slots)
        kinds[key] = kinds.get(key, 0) + 1
    count, width = len(classes), len(kinds) * len(classes) + 1
    rows: list[NDArray[np.float64]] = []
    limits: list[float] = []
    for g, ((bytes_per_ms, slot_ms), boards) in enumerate(kinds.items()):
        for cost in ([size / bytes_per_ms for size in classes], [slot_ms] * count):
            row = np.zeros(width)
            row[g * count : (g + 1) * count] = cost
            rows.append(row)
            limits.append(float(boards))
    for k in range(count):  # the rate times this class's share is at most what the boards take of it
        row = np.zeros(width)
        row[k : width - 1 : count] = -1.0
        row[-1] = 1.0 / count
        rows.append(row)
        limits.append(0.0)
    goal = np.zeros(width)
    goal[-1] = 1.0
    return 1000.0 * maximum(goal, np.array(rows), np.array(limits))


def maximum(goal: NDArray[np.float64], rows: NDArray[np.float64], limits: NDArray[np.float64]) -> float:
    """The highest goal @ x with rows @ x <= limits and x >= 0, where no limit is negative.

    Source: the simplex method with Bland's rule, which cannot cycle.
    """
    constraints, width = rows.shape
    table = np.zeros((constraints + 1, width + constraints + 1))
    table[:-1, :width] = rows
    table[:-1, width:-1] = np.eye(constraints)
    table[:-1, -1] = limits
    table[-1, :width] = -goal
    basis = list(range(width, width + constraints))
    for _ in range(MAX_PIVOTS):
        falling = np.flatnonzero(table[-1, :-1] < -1e-10)
        if not len(falling):
            return float(table[-1, -1])
        enters = falling[0]
        column = table[:-1, enters]
        can = np.flatnonzero(column > 1e-10)
        ratios = table[can, -1] / column[can]
        ties = can[ratios <= ratios.min() + 1e-12]
        leaves = min(ties, key=lambda i: basis[i])
        table[leaves] /= table[leaves, enters]
        others = np.arange(constraints + 1) != leaves
        table[others] -= np.outer(table[others, enters], table[leaves])
        basis[leaves] = int(enters)
    raise RuntimeError("the linear programme did not come to an end")
