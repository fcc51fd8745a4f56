"""What Huawei's `npu-smi` prints, read without a picture of its columns: their widths and number change per release.

Unknown stays None: `NA`, `-`, a power of 0.0 (310B boards without a power sensor), and whatever is cut off.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agents.boards.kernel import COLDEST_C, HOTTEST_C

HEAD = re.compile(r"([0-9]{1,9})\s+(\S.*)", re.ASCII)
PLACE = re.compile(r"([0-9]{1,9})(?:\s+([0-9]{1,9}))?", re.ASCII)
HEALTH = re.compile(r"(?!NA$)[A-Za-z]+", re.ASCII)
BUS_ID = re.compile(r"NA|-|[0-9A-Fa-f]+:[0-9A-Fa-f:.]+", re.ASCII)
USED_OF_TOTAL = re.compile(r"([0-9]{1,9})\s*/\s*([0-9]{1,9})", re.ASCII)
WHOLE = re.compile(r"[0-9]{1,9}", re.ASCII)
NUMBER = re.compile(r"-?[0-9]{1,9}(?:\.[0-9]{1,9})?", re.ASCII)
VERSION = re.compile(r"Version:\s*([0-9][0-9A-Za-z.]*)", re.ASCII)
RETURN_CODE = re.compile(r"ret is (-?[0-9]{1,9})", re.ASCII)
MOST_WATTS = 10_000.0

CHIP_COLUMNS = 3
"""The table of processes below that of the chips has four."""

ADVICE: Mapping[int, str] = {
    -8005: (
        "there is no device here, or no right to use it: run the agent as root or in the group HwHiAiUser; in a "
        "container, pass /dev/davinci0, /dev/davinci_manager, /dev/devmm_svm and /dev/hisi_hdc, which one container "
        "alone can have"
    ),
    -8020: "another container uses the device: stop it, or do not pass it the device",
}
"""dcmi's return codes -> what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """Two lines of the table of `npu-smi info`. The NPU's id is not an index; the device id is ACL's."""

    npu_id: int
    name: str | None  # 310B4, 310P3, ...
    health: str | None  # Alarm is the everyday state of many 310B boards, and no reason to think them broken
    power_w: float | None = None
    temperature_c: float | None = None
    chip_id: int | None = None
    device_id: int | None = None
    aicore_used_fraction: float | None = None
    memory_used_mb: int | None = None
    memory_total_mb: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What `npu-smi info -t usages | common | memory | temp | power` says of a chip, whichever of them was asked."""

    aicore_used_fraction: float | None
    memory_used_fraction: float | None
    memory_total_mb: int | None
    temperature_c: float | None
    power_w: float | None


def chips(text: str) -> tuple[Chip, ...]:
    """The chips of `npu-smi info`, in its order; empty if it holds no such table."""
    found: list[Chip] = []
    is_open = False  # the last chip waits for its second line
    for line in map(str.strip, text.splitlines()):
        cells = [cell.strip() for cell in line[1:-1].split("|")]
        if len(line) < 2 or line[0] != "|" or line[-1] != "|":  # a rule, a remark, or a line that was cut off
            is_open = False
        elif len(cells) != CHIP_COLUMNS:
            continue
        elif (head := _first_line(cells)) is not None:
            found.append(head)
            is_open = True
        elif is_open and BUS_ID.fullmatch(cells[1]):
            found[-1] = _with_second_line(found[-1], cells)
            is_open = False
    return tuple(found)


def _first_line(cells: Sequence[str]) -> Chip | None:
    """`0 310B4 | Alarm | 0.0 65 15 / 15`; None for a chip's second line, and for those that head the columns."""
    match, words = HEAD.fullmatch(cells[0]), cells[2].split()
    if match is None or not HEALTH.fullmatch(cells[1]) or len(words) < 2:
        return None
    return Chip(
        npu_id=int(match[1]),
        name=match[2],
        health=cells[1],
        power_w=watts(words[0]),
        temperature_c=celsius(words[1]),
    )


def _with_second_line(chip: Chip, cells: Sequence[str]) -> Chip:
    """`0 0 | NA | 2 14541/ 15610`. Parts with HBM have a pair more behind it: the last is the device's memory."""
    place, words = PLACE.fullmatch(cells[0]), cells[2].split()
    pairs = USED_OF_TOTAL.findall(cells[2])
    used, total = map(int, pairs[-1]) if pairs else (0, 0)
    return replace(
        chip,
        chip_id=int(place[1]) if place else None,
        device_id=int(place[2]) if place and place[2] else None,
        aicore_used_fraction=percent(words[0]) if words else None,
        memory_used_mb=used if total else None,
        memory_total_mb=total or None,
    )


def fields(text: str) -> tuple[tuple[str, str], ...]:
    """The `key : value` lines, in their order: keys come again, for each chip and for the board's controller."""
    whole = (line for line in text.splitlines(keepends=True) if line.endswith("\n"))  # what is cut off may say 5 for 57
    pairs = (line.split(" :", 1) for line in whole if " :" in line)
    return tuple((" ".join(key.split()), value.strip()) for key, value in pairs)


def first(pairs: Sequence[tuple[str, str]], *keys: str) -> str:
    """What the first line with the first of these keys says, or "". Not the last line: that is another part's."""
    return next((value for key in keys for name, value in pairs if name == key), "")


def details(text: str) -> Details:
    """The first chip's figures. `Rated Power Dissipation(W)` is a rating, not a reading."""
    pairs = fields(text)
    of_chip = tuple(itertools.takewhile(lambda pair: pair[0] != "Chip Name", pairs))  # then its controller's
    used, total = None, None
    for kind in ("HBM ", "Memory ", "DDR ", ""):
        rate, capacity = first(of_chip, f"{kind}Usage Rate(%)"), first(of_chip, f"{kind}Capacity(MB)")
        if (rate or capacity) and capacity != "0":  # parts with HBM have a DDR of 0 MB
            used, total = percent(rate), whole(capacity)
            break
    return Details(
        aicore_used_fraction=percent(first(of_chip, "Aicore Usage Rate(%)", "NPU Utilization(%)")),
        memory_used_fraction=used,
        memory_total_mb=total,
        temperature_c=celsius(first(of_chip, "Temperature(C)", "NPU Temperature(C)", "NPU Temperature (C)")),
        power_w=watts(first(pairs, "NPU Real-time Power(W)", "Power Dissipation(W)")),
    )


def npu_ids(text: str) -> tuple[int, ...]:
    """The ids in `npu-smi info -l`."""
    ids = (whole(value) for key, value in fields(text) if key == "NPU ID")
    return tuple(dict.fromkeys(number for number in ids if number is not None))


def version(text: str) -> str | None:
    """The driver's version, in the first line of `npu-smi info`."""
    match = VERSION.search(text)
    return match[1] if match else None


def trouble(text: str) -> str | None:
    """Why the driver refused, and what to do; None if it did not."""
    match = RETURN_CODE.search(text)
    if match is None:
        return None
    advice = ADVICE.get(int(match[1]), "look the code up in the manual of dcmi")
    return f"the driver answers {match[1]}: {advice}"


def percent(text: str) -> float | None:
    """A fraction, from 0..100."""
    number = _number(text)
    return number / 100.0 if number is not None and 0.0 <= number <= 100.0 else None


def watts(text: str) -> float | None:
    """No chip that answers takes no power: 0.0 means that there is no sensor."""
    number = _number(text)
    return number if number is not None and 0.0 < number < MOST_WATTS else None


def celsius(text: str) -> float | None:
    number = _number(text)
    return number if number is not None and COLDEST_C < number < HOTTEST_C else None


def _number(text: str) -> float | None:
    return float(text) if NUMBER.fullmatch(text) else None


def whole(text: str) -> int | None:
    return int(text) if WHOLE.fullmatch(text) else None
