"""Everything that can be found out about this board, for people who set it up: `edgesched agent --probe`."""

from __future__ import annotations

import json
import os
import platform
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from agents.boards.detect import evidence, real_board
from agents.boards.readings import Reading, Readings, known, unknown
from agents.boards.sampler import Sample, Sampler
from edgesched.domain.device import DeviceProfile

CPU_SPAN_S = 0.3
"""Use of the CPU is counted over a time."""

TOOL_WAIT_S = 10.0
DETAILS_WAIT_S = 20.0
WIDTH = 110
UNITS: Mapping[str, str] = {
    "_c": "C",
    "_w": "W",
    "_mhz": "MHz",
    "_mib": "MiB",
    "_volt": "V",
    "_ms": "ms",
    "_mbps": "Mbit/s",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    board_type: str
    because: str
    labels: Mapping[str, str]
    profile: DeviceProfile
    readings: Readings
    """What heartbeats carry."""

    details: Readings

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def as_text(self) -> str:
        """A table per part; what is unknown with the reason below it."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"board  {self.board_type}: {self.because}"
        for name, value in self.labels.items():
            yield f"{name:<6} {value}"
        yield from ("", "before it has done any work, it is taken to have")
        for name, number in asdict(self.profile).items():
            yield f"  {name:<28} {_shown(name, number)}"
        yield from ("", "heartbeats carry")
        yield from _table(self.readings)
        yield from ("", "beside that")
        yield from _table(self.details)


def probe(name: str | None, root: Path = Path("/")) -> ProbeReport:
    """Look at this machine as a board of this type, or of the type that it shows.

    Takes some seconds, but never without end. Raises: StartupError if there is no such type.
    """
    board = real_board(name, root)
    because = evidence(root)[1] if name is None else "as --device or the settings say"
    details = Sampler("the kernel, or the vendor's tool,", board.details, every_s=float("inf")).latest(DETAILS_WAIT_S)
    labels = board.labels()
    time.sleep(CPU_SPAN_S)
    return ProbeReport(
        board_type=board.board_type,
        because=because,
        labels=labels,
        profile=board.profile,
        readings=board.readings(tool_wait_s=TOOL_WAIT_S),
        details={**_machine(), **_more(details)},
    )


def _machine() -> Readings:
    return {
        "cpu_cores": known(len(os.sched_getaffinity(0)), "the cores that this process may use"),
        "memory_total_mib": known(psutil.virtual_memory().total // 2**20, "/proc/meminfo"),
        "architecture": known(platform.machine(), "uname"),
        "kernel": known(platform.release(), "uname"),
    }


def _more(sample: Sample[Readings]) -> Readings:
    if sample.value is not None:
        return sample.value
    return {"more": unknown(sample.trouble or "it was not asked", "-")}


def _table(readings: Readings) -> Iterator[str]:
    for name, reading in readings.items():
        yield f"  {name:<28} {_value(name, reading):<28} {reading.source}".rstrip()
        if reading.reason is not None:
            yield from textwrap.wrap(reading.reason, WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)


def _value(name: str, reading: Reading) -> str:
    if reading.value is None:
        return "unknown"
    aged = f" ({reading.age_s:.0f} s ago)" if reading.age_s >= 1.0 else ""
    return _shown(name, reading.value) + aged


def _shown(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return value
    if name.endswith("_fraction"):
        return f"{value:.1%}"
    unit = next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), "")
    return f"{round(value, 3):,g} {unit}".rstrip()
