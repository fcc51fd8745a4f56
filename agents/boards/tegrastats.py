"""One line of NVIDIA's `tegrastats`: its words come and go with releases, rights and boards, so each is looked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from agents.boards.kernel import COLDEST_C, HOTTEST_C

RAM = re.compile(r"(?<!\S)RAM ([0-9]{1,9})/([0-9]{1,9})MB(?!\S)", re.ASCII)
CPUS = re.compile(r"(?<!\S)CPU \[([^\]]*)\]", re.ASCII)
CPU = re.compile(r"([0-9]{1,3})%(?:@[0-9]+)?", re.ASCII)
# `0%`, `10%@1300`, `84%@[713]`; `@[1000,1000]` (Thor) tells clocks alone: its load is unknown, not 0.
GPU = re.compile(r"(?<!\S)GR3D_FREQ ([0-9]{1,3})%(?:@\S+)?(?!\S)", re.ASCII)
# `cpu@52.9C`, since JetPack 7 `cpu@52.9C/52.9C`.
ZONE = re.compile(r"(?<!\S)([A-Za-z]\w*)@(-?[0-9]{1,4}(?:\.[0-9]{1,6})?)C(?:/\S+)?(?!\S)", re.ASCII)
# `VDD_IN 5297/5297` (JetPack 4), `VDD_IN 4824mW/4824mW`, `VDD_IN 5mW/5mW/5mW` (7): now, average, and since 7 another.
RAIL = re.compile(r"(?<!\S)([A-Z][A-Z0-9_]*) ([0-9]{1,7})(?:mW(?:/[0-9]{1,7}mW){0,2}|/[0-9]{1,7})(?!\S)", re.ASCII)

CONSTANT_ZONES = ("pmic",)
"""PMIC@100C on every Xavier, always."""

UNUSED_RAIL = "NC"
MEMORIES = ("RAM", "SWAP", "IRAM")
"""A line that is cut off in them looks like JetPack 4's rails."""

ALL_IN_ONE = "VDD_IN"
INPUTS = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
"""The rails that together feed an AGX Orin, which has none for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TegraStats:
    """Zones by lower-case name, in degrees Celsius; rails in watts. A core that is off has no load."""

    gpu_used_fraction: float | None
    cores_used_fraction: tuple[float | None, ...]
    ram_used_mb: int | None
    ram_total_mb: int | None
    zones_c: Mapping[str, float]
    rails_w: Mapping[str, float]

    @property
    def power_w(self) -> float | None:
        return total_power(self.rails_w)


def parse(line: str) -> TegraStats:
    """Of one line; what is not in it, or cut off, is unknown."""
    gpu, ram, cpus = GPU.search(line), RAM.search(line), CPUS.search(line)
    zones = {name.lower(): float(degrees) for name, degrees in ZONE.findall(line)}
    rails: dict[str, float] = {}
    for name, milliwatts in RAIL.findall(line):
        if name != UNUSED_RAIL and name not in MEMORIES:
            rails.setdefault(name, int(milliwatts) / 1000.0)
    return TegraStats(
        gpu_used_fraction=_fraction(gpu[1]) if gpu else None,
        cores_used_fraction=tuple(_core(core) for core in cpus[1].split(",")) if cpus else (),
        ram_used_mb=int(ram[1]) if ram else None,
        ram_total_mb=int(ram[2]) if ram else None,
        zones_c={
            name: degrees
            for name, degrees in zones.items()
            if name not in CONSTANT_ZONES and COLDEST_C < degrees < HOTTEST_C
        },
        rails_w=rails,
    )


def total_power(rails_w: Mapping[str, float]) -> float | None:
    """Of the whole module; None where a rail is missing: part of a sum is another number."""
    if ALL_IN_ONE in rails_w:
        total = rails_w[ALL_IN_ONE]
    elif all(name in rails_w for name in INPUTS):
        total = sum(rails_w[name] for name in INPUTS)
    else:
        return None
    return total if total > 0 else None  # a board that runs takes power


def _core(text: str) -> float | None:
    match = CPU.fullmatch(text.strip())
    return _fraction(match[1]) if match else None


def _fraction(percent: str) -> float | None:
    return int(percent) / 100.0 if int(percent) <= 100 else None
