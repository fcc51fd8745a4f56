"""What is known of one device: its service time per model, its link, and who else uses it.

Everything here can be lost: it starts from the board's profile and is learned again from finished attempts. A device's
own *service* time is averaged, never the round trip, which would count our own queue twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeGuard

from edgesched.domain.device import LARGEST, Device, Telemetry
from edgesched.placement.breaker import Breaker
from edgesched.ports import FinishedSample

ALPHA = 0.1
"""Weight of the newest sample, once there are some."""

TRUSTED_SAMPLES = 10
SURPRISE = 4.0
"""A trusted average takes no single sample for more than so many times itself: one frozen second is not the new speed,
while a board that really became slower is believed within a few pictures."""

HALF_LIFE_MS = 30_000.0
"""Without news an average goes back towards the profile: a board once seen as slow gets no work that could clear it."""

MIN_LINK_SAMPLE_BYTES = 32 * 1024
"""A smaller body measures the round trip more than the link."""

MIN_LINK_MBPS = 0.01
"""A link that is reported slower than this counts as this fast, so that every score stays a finite number."""

REPORT_TAU_MS = 4_000.0
REPORT_VALID_MS = 6_000.0
"""Two and three of the usual heartbeat intervals: how fast a report loses its weight, and when it counts no more."""

MAX_OTHERS = 0.9
OTHERS_NOISE = 0.1
"""Use that our own work does not explain counts as somebody else's from here on; below it is measurement noise."""

LATE_WEIGHT = 0.05
"""Of the newest answer in the average of how late answers come: what no other estimate explains, slowly."""


@dataclass(slots=True)
class Average:
    """An exponentially weighted average. The guess that it starts from counts as one sample only."""

    value: float
    at_ms: float
    samples: int = 0

    def add(self, sample: float, now_ms: float) -> None:
        if self.samples >= TRUSTED_SAMPLES:
            sample = min(sample, SURPRISE * self.value)
        self.value += max(ALPHA, 1.0 / (self.samples + 2)) * (sample - self.value)
        self.samples += 1
        self.at_ms = now_ms

    def read(self, guess: float, now_ms: float) -> float:
        """The average, the nearer to the guess the longer nothing was heard."""
        age_ms = now_ms - self.at_ms
        return self.value if age_ms <= 0 else guess + (self.value - guess) * 0.5 ** (age_ms / HALF_LIFE_MS)


@dataclass(slots=True, kw_only=True)
class DeviceMemory:
    """What was learned about one device since this start of its agent."""

    boot_id: str
    service: dict[str, Average] = field(default_factory=dict)  # model -> ms, as if nobody else used the board
    link: Average | None = None  # ms per byte; None: nothing was measured yet
    completed: int = 0  # since it came: for the slow start of its window
    breakers: dict[str, Breaker] = field(default_factory=dict)  # of the models that failed and did not succeed since
    late_ms: float = 0.0  # how much later than promised its answers came, on average
    last_turn: int = 0  # when it was chosen last; 0: never
    heard: Telemetry | None = None  # the newest report that said something new
    heard_at_ms: float = 0.0
    busy_ms: float = 0.0  # service time of our own pictures since then
    others: float = 0.0  # fraction of the board that somebody else used then

    def report_weight(self, now_ms: float) -> float:
        """How much the newest report still counts, 1..0: an old report is a bad report."""
        age_ms = max(0.0, now_ms - self.heard_at_ms)
        return 0.0 if age_ms > REPORT_VALID_MS else math.exp(-age_ms / REPORT_TAU_MS)

    def others_now(self, now_ms: float) -> float:
        return self.others * self.report_weight(now_ms) if self.others else 0.0

    def is_on_trial(self, model: str) -> bool:
        """Whether the device may have one task of the model at a time: it failed there too often."""
        return bool(self.breakers) and model in self.breakers and self.breakers[model].is_on_trial

    def learn(self, sample: FinishedSample, device: Device, now_ms: float) -> None:
        """Take in one finished attempt. A failure teaches the model's breaker only: failing fast is not being fast."""
        if not sample.succeeded:
            if sample.blames_device:
                self.breakers.setdefault(sample.model, Breaker()).failed(now_ms)
            return
        breaker = self.breakers.get(sample.model)
        if breaker is not None and not breaker.remaining_ms(now_ms):  # else it is a straggler, and proves nothing
            del self.breakers[sample.model]
        self.completed += 1
        if _is_duration(sample.service_ms) and sample.model in device.models:
            self.busy_ms += sample.service_ms
            average = self.service.setdefault(sample.model, Average(device.profile.service_ms, now_ms))
            average.add(sample.service_ms * (1.0 - self.others_now(now_ms)), now_ms)
        if _is_duration(sample.transfer_ms) and sample.size_bytes > MIN_LINK_SAMPLE_BYTES:
            # Averaged as time per byte, which is what is predicted: one impossibly fast reading then does no harm.
            if self.link is None:
                self.link = Average(_ms_per_byte(device.profile.link_mbps), now_ms)
            self.link.add(sample.transfer_ms / sample.size_bytes, now_ms)
        if _is_duration(sample.predicted_ms) and _is_duration(sample.total_ms):
            self.late_ms += LATE_WEIGHT * (sample.total_ms - sample.predicted_ms - self.late_ms)

    def hear(self, device: Device, now_ms: float) -> bool:
        """Look at the newest report: what of the board's use is not ours? The same report again is no news.

        Returns: whether it said something new.
        """
        telemetry = device.telemetry
        if telemetry is self.heard or telemetry == self.heard:
            return False
        span_ms = now_ms - self.heard_at_ms
        used = telemetry.xpu_used_fraction if telemetry.xpu_used_fraction is not None else telemetry.cpu_used_fraction
        if self.heard is not None and span_ms > 0 and used is not None:
            ours = self.busy_ms / (span_ms * device.profile.slots)
            others = min(MAX_OTHERS, used - ours)
            self.others += 0.5 * ((others if others >= OTHERS_NOISE else 0.0) - self.others)
        self.heard, self.heard_at_ms, self.busy_ms = telemetry, now_ms, 0.0
        return True


def service_ms(device: Device, memory: DeviceMemory, model: str, now_ms: float) -> float:
    """Time that one picture holds a slot of the device, longer if somebody else uses the board as well."""
    guess = device.profile.service_ms
    known = memory.service.get(model)
    alone = guess if known is None else known.read(guess, now_ms)
    return alone / (1.0 - memory.others_now(now_ms))


def link_ms_per_byte(device: Device, memory: DeviceMemory, now_ms: float) -> float:
    """Transfer time of one byte: what was learned (at first the profile), never faster than a fresh report says."""
    guess = _ms_per_byte(device.profile.link_mbps)
    learned = guess if memory.link is None else memory.link.read(guess, now_ms)
    reported = device.telemetry.link_bandwidth_mbps
    is_fresh = reported is not None and memory.report_weight(now_ms) > 0
    return max(learned, _ms_per_byte(reported)) if reported is not None and is_fresh else learned


def round_trip_ms(device: Device) -> float:
    reported = device.telemetry.link_latency_ms
    return device.profile.round_trip_ms if reported is None else reported


def _ms_per_byte(mbps: float) -> float:
    return 8 / (1000 * max(mbps, MIN_LINK_MBPS))


def _is_duration(value: float | None) -> TypeGuard[float]:
    """Samples come from boards: one that is not a number must not poison an average for ever."""
    return value is not None and 0 <= value <= LARGEST
