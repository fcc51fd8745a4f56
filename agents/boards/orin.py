"""NVIDIA Jetson Orin and other Jetsons."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from agents.boards.kernel import (
    TEGRA_RELEASE,
    board_model,
    compatible_with,
    file_reading,
    nodes,
    quoted,
    text_of,
    tree_strings,
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
from agents.boards.tegrastats import UNUSED_RAIL, TegraStats, parse, total_power
from agents.boards.tool import Tool
from edgesched.domain.device import BoardType, DeviceProfile

RELEASE = re.compile(r"# R([0-9]+) \(release\), REVISION: ([0-9]+(?:\.[0-9]+)*)", re.ASCII)
LOAD_FILES = (  # the kernel of JetPack 6, of JetPack 5, of JetPack 4; all world-readable
    Path("sys/devices/platform/bus@0/17000000.gpu/load"),
    Path("sys/devices/platform/gpu.0/load"),
    Path("sys/devices/gpu.0/load"),
)
DEVFREQ = "sys/class/devfreq/*"
GPU_NAMES = ("gpu", "ga10b", "gb10b", "gv11b", "gp10b")
"""What the device tree calls the GPU, on one kernel or another."""

POWER_SENSORS = "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*"
CHANNELS = (1, 2, 3)  # of an INA3221; further numbers are its own sums
TEMPERATURE_ZONES = ("gpu-thermal", "gpu-therm", "tj-thermal", "tj-therm", "cpu-thermal", "cpu-therm")
TEGRASTATS_ZONES = ("gpu", "tj", "cpu")
INTERVAL_MS = "200"
"""Ten lines fill a pipe's buffer, and must come within the tool's timeout."""

POWER_MODE = re.compile(r"NV Power Mode:\s*(\S+)")

SOC = re.compile(r"nvidia,(tegra[0-9]{3})", re.ASCII)
MODULE = re.compile(r"p[0-9]{4}-[0-9]{4}", re.ASCII)
MODULES: Mapping[str, str] = {
    "p3767-0000": "Orin NX 16GB",
    "p3767-0001": "Orin NX 8GB",
    "p3767-0003": "Orin Nano 8GB",
    "p3767-0004": "Orin Nano 4GB",
    "p3767-0005": "Orin Nano 8GB (developer kit)",
    "p3701-0000": "AGX Orin",
    "p3701-0004": "AGX Orin 32GB",
    "p3701-0005": "AGX Orin 64GB",
    "p3834-0008": "AGX Thor",
}
"""Part numbers of modules, which the device tree names, -> what people call them."""


class OrinBoard(SensedBoard):
    """Profile: vendor figures for yolov5s-class models in FP16, with the pipeline around them; gigabit Ethernet as such
    boards use it in practice."""

    board_type = BoardType.ORIN
    profile = DeviceProfile(slots=2, service_ms=12.0, link_mbps=320.0, round_trip_ms=2.0)
    tool_name = "tegrastats"
    tool_tells = (XPU, TEMPERATURE, POWER)

    def __init__(self, root: Path = Path("/"), *, tool: Tool | None = None) -> None:
        super().__init__(root)
        advice = "it comes with JetPack; in a container, mount the host's"
        self._tegrastats = tool or Tool("tegrastats", root=root, places=("usr/bin",), advice=advice)
        self._nvpmodel = Tool("nvpmodel", root=root, places=("usr/sbin",), advice=advice)

    def from_files(self) -> Readings:
        """No rights are needed for any of them."""
        return {
            XPU: first_known(self._loads()),
            TEMPERATURE: zone_temperature(self._root, TEMPERATURE_ZONES),
            POWER: self._power(),
        }

    def from_tool(self) -> Readings:
        stats, source = self._stats(), "tegrastats"
        temperatures = (stats.zones_c[name] for name in TEGRASTATS_ZONES if name in stats.zones_c)
        values = {
            XPU: (stats.gpu_used_fraction, "its line tells no GPU load"),
            TEMPERATURE: (next(temperatures, None), "its line tells no temperature of the GPU"),
            POWER: (stats.power_w, "its line tells no rail, or not every rail, that feeds the module"),
        }
        return {
            name: known(value, source) if value is not None else unknown(reason, source)
            for name, (value, reason) in values.items()
        }

    def read_labels(self) -> Mapping[str, str]:
        names = " ".join(compatible_with(self._root))
        modules = [MODULES[part] for part in MODULE.findall(names) if part in MODULES]
        soc = SOC.search(names)
        found = {
            "model": board_model(self._root),
            "chip": soc[1] if soc else None,
            "module": modules[0] if modules else None,
            "driver": self._release(),
        }
        return {name: value for name, value in found.items() if value}

    def read_details(self) -> Readings:
        found = {f"{name.lower()}_w": rail for name, rail in self._rails().items()}
        for node in self._gpu_nodes():
            for name in ("cur_freq", "max_freq"):
                found[f"gpu_{name}_mhz"] = file_reading(self._root, node / name, megahertz)
        return {**found, "power_mode": self._power_mode()}

    def _loads(self) -> Iterator[Reading]:
        """Looked for each time: early after boot the GPU's node appears late."""
        for path in LOAD_FILES:
            yield file_reading(self._root, path, gpu_load)
        for node in self._gpu_nodes():
            yield file_reading(self._root, node / "device/load", gpu_load)

    def _gpu_nodes(self) -> Iterator[Path]:
        for path in nodes(self._root, DEVFREQ):
            if set(tree_strings(self._root, path / "device/of_node/name")) & set(GPU_NAMES):
                yield path

    def _power(self) -> Reading:
        rails = self._rails()
        watts = {name: rail.value for name, rail in rails.items() if isinstance(rail.value, float)}
        total = total_power(watts)
        if total is not None:
            return known(total, f"/{POWER_SENSORS}")
        missing = f"not every rail that feeds the module is known, only {', '.join(watts) or 'none'}"
        return unknown(missing if rails else "there is no INA3221 power sensor", f"/{POWER_SENSORS}")

    def _rails(self) -> dict[str, Reading]:
        """Watts by the rail's name."""
        found: dict[str, Reading] = {}
        for path in nodes(self._root, POWER_SENSORS):
            for channel in CHANNELS:
                try:
                    name = text_of(self._root, path / f"in{channel}_label").strip()
                except SensorSilent:
                    continue
                if name and name != UNUSED_RAIL:
                    found.setdefault(name, self._rail(path, channel))
        return found

    def _rail(self, path: Path, channel: int) -> Reading:
        volts = file_reading(self._root, path / f"in{channel}_input", milli)
        amperes = file_reading(self._root, path / f"curr{channel}_input", milli)
        if isinstance(volts.value, float) and isinstance(amperes.value, float):
            return known(volts.value * amperes.value, f"/{path}")
        return volts if volts.value is None else amperes

    def _power_mode(self) -> Reading:
        source = "nvpmodel -q"
        try:
            text = self._nvpmodel.run("-q")
        except SensorSilent as silent:
            return unknown(str(silent), source)
        match = POWER_MODE.search(text)
        return known(match[1], source) if match else unknown(f"it says {quoted(text)}", source)

    def _stats(self) -> TegraStats:
        """Of its last whole line: through a pipe it may keep its lines back and print several at once."""
        lines = self._tegrastats.run("--interval", INTERVAL_MS, lines=1).split("\n")[:-1]
        if not lines:
            raise SensorSilent("tegrastats printed nothing")
        return parse(lines[-1])

    def _release(self) -> str | None:
        """`L4T 36.4.3`. In a container the file may be missing."""
        try:
            match = RELEASE.match(text_of(self._root, TEGRA_RELEASE))
        except SensorSilent:
            return None
        return f"L4T {match[1]}.{match[2]}" if match else None


def gpu_load(text: str) -> float | None:
    """The load file holds tenths of a percent, 0..1000."""
    tenths = whole_number(text)
    return tenths / 1000.0 if tenths is not None and 0 <= tenths <= 1000 else None


def milli(text: str) -> float | None:
    """Volts of millivolts, amperes of milliamperes."""
    number = whole_number(text)
    return number / 1000.0 if number is not None and number >= 0 else None


def megahertz(text: str) -> float | None:
    number = whole_number(text)
    return number / 1e6 if number is not None else None
