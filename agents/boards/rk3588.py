"""Rockchip RK3588 and RK3588S."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from agents.boards.kernel import (
    board_model,
    compatible_with,
    file_reading,
    nodes,
    text_of,
    whole_number,
    zone_temperature,
)
from agents.boards.readings import (
    POWER,
    TEMPERATURE,
    XPU,
    Reading,
    Readings,
    SensorSilent,
    first_known,
    known,
    unknown,
)
from agents.boards.sensed import SensedBoard
from agents.boards.tool import Tool
from edgesched.domain.device import BoardType, DeviceProfile

DEBUG = Path("sys/kernel/debug")
LOAD_FILE = DEBUG / "rknpu/load"
PROC_LOAD_FILE = Path("proc/rknpu/load")  # only of kernels with CONFIG_ROCKCHIP_RKNPU_PROC_FS
DEVFREQ = "sys/class/devfreq/*.npu"
DENIED = "debugfs is for root alone: run the agent as root, or give its user read access to /sys/kernel/debug"
MISSING = "it needs the vendor's rknpu driver (0.7.2 or newer) and a mounted debugfs"
TEMPERATURE_ZONES = ("npu-thermal", "soc-thermal", "package-thermal", "center-thermal")

CORE = re.compile(r"Core[0-9]+:\s*([0-9]{1,9})%", re.ASCII)
CORE_LABEL = re.compile(r"Core[0-9]+:", re.ASCII)
ONLY_CORE = re.compile(r"NPU load:\s*([0-9]{1,9})%", re.ASCII)
DEVFREQ_LOAD = re.compile(r"([0-9]{1,3})@[0-9]+Hz", re.ASCII)
DRIVER = re.compile(r"(?:RKNPU driver:|Initialized rknpu) v?([0-9]+(?:\.[0-9]+)+)", re.ASCII)
CHIP = re.compile(r"rockchip,(rk3588[a-z]?)", re.ASCII)
SRAM_ROW = re.compile(r"^\[[0-9]+\] \[([*.]+)\]$", re.MULTILINE | re.ASCII)
RGA_LOAD = re.compile(r"load = ([0-9]{1,3})%", re.ASCII)


class Rk3588Board(SensedBoard):
    """Profile: three NPU cores, each with a worker; vendor figures for yolov5s-class models, Python pipeline included;
    fast Ethernet, which is what the cheaper boards of this family have."""

    board_type = BoardType.RK3588
    profile = DeviceProfile(slots=3, service_ms=27.0, link_mbps=100.0, round_trip_ms=3.0)

    def __init__(self, root: Path = Path("/")) -> None:
        super().__init__(root)
        self._dmesg = Tool("dmesg", root=root, places=("usr/bin", "bin"), advice="it comes with util-linux")

    def from_files(self) -> Readings:
        return {
            XPU: first_known(self._loads()),
            TEMPERATURE: zone_temperature(self._root, TEMPERATURE_ZONES),
            POWER: unknown("boards with this chip have no power sensor", "-"),
        }

    def read_labels(self) -> Mapping[str, str]:
        chips = [match[1] for name in compatible_with(self._root) for match in CHIP.finditer(name)]
        driver = self._driver().value
        found = {
            "model": board_model(self._root),
            "chip": max(chips, key=len).upper() if chips else None,
            "driver": driver if isinstance(driver, str) else None,
        }
        return {name: value for name, value in found.items() if value}

    def read_details(self) -> Readings:
        found = {
            "npu_driver": self._driver(),
            "npu_cores_used": self._debug("rknpu/load", cores_in_words),
            "npu_volt": self._debug("rknpu/volt", scaled(1e-6)),
            "npu_sram_used_fraction": self._debug("rknpu/mm", sram_used),
            "rga_used_fraction": self._debug("rkrga/load", rga_load),
        }
        for node in nodes(self._root, DEVFREQ):
            for name in ("cur_freq", "min_freq", "max_freq"):
                found[f"npu_{name}_mhz"] = file_reading(self._root, node / name, scaled(1e-6))
        if "npu_cur_freq_mhz" not in found:
            found["npu_cur_freq_mhz"] = self._debug("rknpu/freq", scaled(1e-6))
        return found

    def _loads(self) -> Iterator[Reading]:
        yield self._debug("rknpu/load", npu_load)
        yield file_reading(self._root, PROC_LOAD_FILE, npu_load)
        for node in nodes(self._root, DEVFREQ):
            yield self._devfreq_load(node)

    def _devfreq_load(self, node: Path) -> Reading:
        """World-readable, but not to be trusted: on many boards it says 100% whenever the NPU has power."""
        power = node / "device/power/runtime_status"
        try:
            if text_of(self._root, power).strip() == "suspended":
                return known(0.0, f"/{power}")
        except SensorSilent:
            pass
        load = file_reading(self._root, node / "load", devfreq_load)
        if load.value == 1.0:
            return unknown("it says 100%, as it does whenever the NPU has power, busy or idle", load.source)
        return load

    def _driver(self) -> Reading:
        return first_known(self._drivers())

    def _drivers(self) -> Iterator[Reading]:
        """Not every kernel keeps its log from users, as it does debugfs."""
        yield self._debug("rknpu/version", driver_version)
        try:
            version = driver_version(self._dmesg.run())
            yield known(version, "dmesg") if version else unknown("the kernel's log names no rknpu driver", "dmesg")
        except SensorSilent as silent:
            yield unknown(str(silent), "dmesg")

    def _debug(self, path: str, parse: Callable[[str], float | str | None]) -> Reading:
        return file_reading(self._root, DEBUG / path, parse, missing=MISSING, denied=DENIED)


def core_loads(text: str) -> tuple[float, ...]:
    """Use of each NPU core, from `NPU load:  Core0:  4%, Core1:  0%, Core2:  0%,` or, with one core, `NPU load:  48%`.

    Empty if a core's figure is missing: a mean of the others would be another number. The driver now and then prints
    429496% (an overflow): each core counts 100% at most.
    """
    percents = CORE.findall(text)
    if len(percents) != len(CORE_LABEL.findall(text)):
        return ()
    return tuple(min(100, int(percent)) / 100.0 for percent in percents or ONLY_CORE.findall(text)[:1])


def npu_load(text: str) -> float | None:
    """Mean use of the NPU's cores."""
    cores = core_loads(text)
    return sum(cores) / len(cores) if cores else None


def cores_in_words(text: str) -> str | None:
    return ", ".join(f"{load:.0%}" for load in core_loads(text)) or None


def devfreq_load(text: str) -> float | None:
    """`100@1000000000Hz`: percent of the time, at that clock."""
    match = DEVFREQ_LOAD.fullmatch(text.strip())
    return min(100, int(match[1])) / 100.0 if match else None


def driver_version(text: str) -> str | None:
    """From debugfs, or from the kernel's log."""
    match = DRIVER.search(text)
    return match[1] if match else None


def sram_used(text: str) -> float | None:
    """The share of `*` in the bitmap of the NPU's SRAM."""
    bits = "".join(SRAM_ROW.findall(text))
    return bits.count("*") / len(bits) if bits else None


def rga_load(text: str) -> float | None:
    """Mean use of the schedulers of RGA, the unit that scales and converts pictures."""
    loads = [min(100, int(percent)) for percent in RGA_LOAD.findall(text)]
    return sum(loads) / len(loads) / 100.0 if loads else None


def scaled(factor: float) -> Callable[[str], float | None]:
    """A file with one number, in another unit."""

    def parse(text: str) -> float | None:
        number = whole_number(text)
        return number * factor if number is not None else None

    return parse
