"""A real board: files that are read at each heartbeat, and a vendor's tool that is asked rarely."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from agents.boards.base import CpuMeter, memory_used_fraction
from agents.boards.kernel import zones
from agents.boards.readings import (
    CPU,
    MEMORY,
    POWER,
    TEMPERATURE,
    XPU,
    Reading,
    Readings,
    first_known,
    known,
    telemetry_of,
    unknown,
)
from agents.boards.sampler import Sample, Sampler
from edgesched.domain.device import DeviceProfile, Telemetry

FILES_WAIT_S = 0.5
"""For files of the kernel, which answer within microseconds, unless their driver is stuck."""

LABELS_WAIT_S = 10.0
"""For three questions to a vendor's tool, each of which may take until its timeout."""

TOOL_EVERY_S = 5.0
"""A tool costs a small board up to a second of CPU time."""

OLDEST_S = 15.0
"""An older reading says nothing about now."""

SENSED = (XPU, TEMPERATURE, POWER)

log = logging.getLogger(__name__)


class SensedBoard:
    """What the kinds of real boards have in common; each says in `from_files`, `from_tool`, `read_labels` and
    `read_details` what its vendor's kernel and tools tell."""

    board_type: str
    profile: DeviceProfile
    tool_name: str | None = None
    """Where `from_tool` gets its readings."""

    tool_tells: tuple[str, ...] = ()
    """The names of these readings; the tool is asked only for what files do not tell."""

    def __init__(self, root: Path = Path("/"), *, clock: Callable[[], float] = time.monotonic) -> None:
        """root: where the machine's file system is mounted."""
        self._root = root
        self._cpu = CpuMeter()
        self._files = Sampler[Readings]("the kernel", self.from_files, every_s=0.0, clock=clock)
        self._tool = Sampler[Readings](self.tool_name or "no tool", self.from_tool, every_s=TOOL_EVERY_S, clock=clock)
        self._labels = Sampler[Mapping[str, str]]("labels", self.read_labels, every_s=float("inf"), clock=clock)
        self._unknown_before: frozenset[str] | None = None

    @classmethod
    def evidence(cls, root: Path) -> str | None:
        """What gives away that this machine is such a board; None: it is another one. Looks at files only.

        Asked of other packages' boards; the built-in ones are told apart in `detect.py`.
        """
        return None

    # --- what a kind of board says; called in threads that may block ---

    def from_files(self) -> Readings:
        return {}

    def from_tool(self) -> Readings:
        """Raises: SensorSilent if the tool does not answer; the last readings then stay until they are too old."""
        return {}

    def read_labels(self) -> Mapping[str, str]:
        return {}

    def read_details(self) -> Readings:
        """More than a heartbeat carries: for `--probe`."""
        return {}

    # --- what the daemon asks ---

    def telemetry(self) -> Telemetry:
        readings = self.readings(tool_wait_s=0.0)
        self._tell_changes(readings)
        return telemetry_of(readings)

    def labels(self) -> Mapping[str, str]:
        return self._labels.latest(LABELS_WAIT_S).value or {}

    def readings(self, *, tool_wait_s: float) -> Readings:
        """All that a heartbeat carries, each with its source, or with the reason why it is unknown."""
        cpu = self._cpu.used_fraction()
        readings = {
            CPU: known(cpu, "/proc/stat") if cpu is not None else unknown("no time has passed yet", "/proc/stat"),
            MEMORY: known(memory_used_fraction(), "/proc/meminfo"),
        }
        files = self._files.latest(FILES_WAIT_S)
        for name in SENSED:
            readings[name] = first_known(self._asked(name, files, tool_wait_s))
        return readings

    def details(self) -> Readings:
        temperatures = {
            f"{kind.removesuffix('-thermal')}_temperature_c": zone for kind, zone in zones(self._root).items()
        }
        return {**temperatures, **self.read_details()}

    def _asked(self, name: str, files: Sample[Readings], tool_wait_s: float) -> Iterator[Reading]:
        if files.value is None or name in files.value:
            yield _aged(files, name, "the kernel")
        if self.tool_name is not None and name in self.tool_tells:
            yield _aged(self._tool.latest(tool_wait_s), name, self.tool_name)

    def _tell_changes(self, readings: Readings) -> None:
        """In the log, once: what cannot be read, and why; what can be read again."""
        if self._tool.is_on_first_call:
            return
        silent = frozenset(name for name in SENSED if readings[name].value is None)
        before, self._unknown_before = self._unknown_before, silent
        for name in sorted(silent - (before or frozenset())):
            tell = log.info if before is None else log.warning
            tell("sensor.silent", extra={"reading": name, "reason": readings[name].reason})
        for name in sorted((before or frozenset()) - silent):
            log.info("sensor.heard", extra={"reading": name, "source": readings[name].source})


def _aged(sample: Sample[Readings], name: str, source: str) -> Reading:
    """A reading of a sample, unless it is too old."""
    if sample.value is None:
        return unknown(sample.trouble or "it was not asked", source)
    reading = sample.value.get(name) or unknown("there is no such sensor", source)
    if sample.age_s > OLDEST_S:
        return unknown(f"the last reading is {sample.age_s:.0f} s old: {sample.trouble}", reading.source)
    return dataclasses.replace(reading, age_s=sample.age_s)
