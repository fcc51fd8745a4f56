"""What arrives: instants, sizes, and how hard each picture is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from edgesched.errors import InvalidInput
from edgesched.simulation.fleets import SizeLaw


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One task of a simulation. Whoever gets it, its service time is the device's own times `effort` (mean 1)."""

    at_ms: float
    size_bytes: int
    effort: float


Pattern = Callable[[float, float, Random], Iterator[float]]
"""(rate per second, how long in seconds, generator) -> instants in ms, rising."""


def poisson(rate_per_s: float, duration_s: float, random: Random) -> Iterator[float]:
    at_ms = 0.0
    while (at_ms := at_ms + random.expovariate(rate_per_s) * 1000.0) < duration_s * 1000.0:
        yield at_ms


BURST_EVERY_S, BURST_S, BURST_FACTOR = 20.0, 2.0, 10.0


def bursty(rate_per_s: float, duration_s: float, random: Random) -> Iterator[float]:
    """Ten times the quiet rate for two seconds in every twenty; the mean is rate_per_s."""
    quiet = rate_per_s * BURST_EVERY_S / (BURST_EVERY_S - BURST_S + BURST_S * BURST_FACTOR)
    for at_ms in poisson(quiet * BURST_FACTOR, duration_s, random):  # thinned outside the bursts
        if (at_ms / 1000.0) % BURST_EVERY_S >= BURST_EVERY_S - BURST_S or random.random() < 1.0 / BURST_FACTOR:
            yield at_ms


CAMERA_FPS = 5.0


def cameras(rate_per_s: float, duration_s: float, random: Random) -> Iterator[float]:
    """Cameras of 5 pictures a second that all click at the same instants, within 5 ms."""
    count = max(1, round(rate_per_s / CAMERA_FPS))
    for frame in range(int(duration_s * CAMERA_FPS)):
        yield from sorted(frame * 1000.0 / CAMERA_FPS + random.uniform(0.0, 5.0) for _ in range(count))


PATTERNS: Mapping[str, Pattern] = {"poisson": poisson, "bursty": bursty, "cameras": cameras}


def effort(cv: float, random: Random) -> float:
    """Lognormal with mean 1 and this coefficient of variation."""
    if cv <= 0:
        return 1.0
    variance = math.log1p(cv * cv)
    return random.lognormvariate(-variance / 2, math.sqrt(variance))


def stream(
    pattern: str, sizes: SizeLaw, *, rate_per_s: float, duration_s: float, service_cv: float, random: Random
) -> Sequence[Picture]:
    """Raises: InvalidInput if there is no such pattern."""
    if pattern not in PATTERNS:
        raise InvalidInput(f"there is no arrival pattern {pattern!r}; use {', '.join(PATTERNS)}")
    return [
        Picture(at_ms=at_ms, size_bytes=sizes.at(random.random()), effort=effort(service_cv, random))
        for at_ms in PATTERNS[pattern](rate_per_s, duration_s, random)
    ]


def burst(count: int, sizes: SizeLaw, *, at_ms: float, service_cv: float, random: Random) -> Sequence[Picture]:
    """All at one instant."""
    return [
        Picture(at_ms=at_ms, size_bytes=sizes.at(random.random()), effort=effort(service_cv, random))
        for _ in range(count)
    ]
