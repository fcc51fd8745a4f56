"""How many tasks a device may have at once: enough that its bottleneck never idles, and not many more."""

from __future__ import annotations

import math

from edgesched.placement.estimate import DeviceMemory

LATE_IN_WINDOW_MS = 20.0
"""Of how late a device's answers come, so much counts as part of the way to it: what task manager and agent themselves
take. With models of a few milliseconds that is the larger part of the delay. More would be a device in trouble."""

MOST_TASKS = 1e6
DEPTH = 2.0
"""Bandwidth-delay windows that a device may hold: one on its way, one in hand. More only queues on the board."""


def bandwidth_delay(*, service_ms: float, transfer_ms: float, round_trip_ms: float, slots: int) -> int:
    """Tasks that must be under way so that the narrower of link and slots always has one.

    Source: Little's law on an idle path, N = throughput x delay, with throughput 1 / max(transfer, service / slots).
    """
    bottleneck_ms = max(transfer_ms, service_ms / slots)
    if bottleneck_ms <= 0:
        return slots
    tasks = (round_trip_ms + transfer_ms + service_ms) / bottleneck_ms  # endless, if a device claims to take no time
    return max(1, math.ceil(min(tasks, MOST_TASKS) - 1e-9))


def window_tasks(memory: DeviceMemory, *, declared: int, bandwidth_delay_tasks: int) -> int:
    """The window of a device now.

    A new device starts with one task and gets one more with each that it completes (slow start): what is known of it
    is a guess, and an idle device must not be flooded on a guess.
    declared: what its agent says that it can hold; never exceeded.
    """
    return max(1, min(declared, math.ceil(DEPTH * bandwidth_delay_tasks), 1 + memory.completed))


TYPICAL_BYTES = 160_000.0
"""What a picture is thought to weigh before the first one was seen."""

QUANTILE = 0.75
STEP = 0.02


def next_typical_bytes(typical_bytes: float, size_bytes: int) -> float:
    """A running 75 % quantile: windows should fit all but the largest pictures.

    Source: H. Robbins and S. Monro, "A stochastic approximation method", 1951.
    """
    return typical_bytes * (1.0 + STEP * (QUANTILE if size_bytes > typical_bytes else QUANTILE - 1.0))
