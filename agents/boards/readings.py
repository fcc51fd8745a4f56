"""What a sensor says, or why it says nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgesched.domain.device import Telemetry

CPU = "cpu_used_fraction"
MEMORY = "memory_used_fraction"
XPU = "xpu_used_fraction"
TEMPERATURE = "temperature_c"
POWER = "power_w"

TELEMETRY = (CPU, MEMORY, XPU, TEMPERATURE, POWER)
"""The readings that every heartbeat carries, by the names of their fields."""


class SensorSilent(Exception):
    """Nothing can be read here now. The message says why, to people, and what to do if something can be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One sensor's value, or the reason why there is none. `source`: the file, command or library it comes from."""

    value: float | str | None
    source: str
    reason: str | None = None
    age_s: float = 0.0


Readings = Mapping[str, Reading]


def known(value: float | str, source: str) -> Reading:
    return Reading(value=value, source=source)


def unknown(reason: str, source: str) -> Reading:
    return Reading(value=None, source=source, reason=reason)


def first_known(readings: Iterable[Reading]) -> Reading:
    """The first one with a value; those behind it are not asked for. Else unknown, for the reasons of all of them."""
    silent: list[Reading] = []
    for reading in readings:
        if reading.value is not None:
            return reading
        silent.append(reading)
    if len(silent) == 1:
        return silent[0]
    reasons = "; ".join(f"{reading.source}: {reading.reason}" for reading in silent)
    return unknown(reasons or "there is no such sensor", ", ".join(reading.source for reading in silent))


def telemetry_of(readings: Readings) -> Telemetry:
    """What goes into a heartbeat: unknown is None."""
    values = {name: reading.value for name, reading in readings.items() if name in TELEMETRY}
    return Telemetry(**{name: value for name, value in values.items() if isinstance(value, float)})
