"""Huawei Atlas: Ascend 310, 310P and 310B, on boards of their own and on PCIe cards."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agents.boards import npu_smi
from agents.boards.kernel import board_model, quoted
from agents.boards.npu_smi import Chip, Details
from agents.boards.readings import POWER, TEMPERATURE, XPU, Reading, Readings, SensorSilent, known, unknown
from agents.boards.sensed import SensedBoard
from agents.boards.tool import Tool
from edgesched.domain.device import BoardType, DeviceProfile

PLACES = ("usr/local/sbin", "usr/local/bin")
NO_TOOL = "install the Ascend driver; in a container, mount the host's npu-smi and its driver libraries"
INFO, USAGES, COMMON = "npu-smi info", "npu-smi info -t usages", "npu-smi info -t common"

PRODUCTS: Mapping[str, str] = {"IT22DMDB02": "Atlas 200I DK A2"}
"""Names in Huawei's stock list -> names that people know."""

RATED_POWER = ("310",)
"""These chips answer with what they may take at most where others answer with what they take (npu-smi's own `-t` tables
call it "Rated Power Dissipation")."""


class AtlasBoard(SensedBoard):
    """Profile: vendor figures for yolov5s-class models on a 310B1 (20 TOPS); gigabit Ethernet.

    Several chips are one device here: the mean of their use, the highest temperature, the sum of their power.
    """

    board_type = BoardType.ATLAS
    profile = DeviceProfile(slots=2, service_ms=34.0, link_mbps=800.0, round_trip_ms=1.0)
    tool_name = "npu-smi"
    tool_tells = (XPU, TEMPERATURE, POWER)

    def __init__(self, root: Path = Path("/"), *, tool: Tool | None = None) -> None:
        super().__init__(root)
        self._npu_smi = tool or Tool("npu-smi", root=root, places=PLACES, advice=NO_TOOL)
        self._mute: set[tuple[str, ...]] = set()

    def from_tool(self) -> Readings:
        chips = self._chips()
        readers = {XPU: self._use, TEMPERATURE: self._temperature, POWER: self._power}
        return {name: _unless_silent(read, chips) for name, read in readers.items()}

    def read_labels(self) -> Mapping[str, str]:
        table = self._told("info")
        chips = npu_smi.chips(table)
        board = self._told("info", "-t", "board", "-i", str(chips[0].npu_id)) if chips else ""
        product = npu_smi.first(npu_smi.fields(board), "Product Name")
        found = {
            "model": PRODUCTS.get(product, product) if product not in ("", "NA") else board_model(self._root),
            "chip": chips[0].name if chips else None,
            "chips": str(len(chips)) if len(chips) > 1 else None,
            "driver": npu_smi.version(table),
        }
        return {name: value for name, value in found.items() if value}

    def read_details(self) -> Readings:
        found: dict[str, Reading] = {}
        try:
            chips = self._chips()
            for chip in chips:
                found[f"npu_{chip.npu_id}_chip_{chip.chip_id or 0}"] = known(_in_words(chip), INFO)
            for what in ("board", "memory", "cpu-num-cfg"):
                place = ("-i", str(chips[0].npu_id), *(("-c", "0") if what == "cpu-num-cfg" else ()))
                for key, value in npu_smi.fields(self._ask("info", "-t", what, *place)):
                    if key not in ("NPU ID", "Chip ID", "Chip Count"):
                        found.setdefault(f"npu_{_snake(key)}", known(value, f"npu-smi info -t {what}"))
        except SensorSilent as silent:
            found["npu"] = unknown(str(silent), INFO)
        return found

    # --- readings ---

    def _use(self, chips: Sequence[Chip]) -> Reading:
        use = [self._use_of(chip) for chip in chips]
        told = [fraction for fraction in use if fraction is not None]
        if len(told) < len(use):  # a mean of some of them says nothing about the board
            return unknown(f"{len(use) - len(told)} of {len(use)} chips do not tell their AICore use", INFO)
        return known(math.fsum(told) / len(told), INFO)

    def _use_of(self, chip: Chip) -> float | None:
        if chip.aicore_used_fraction is not None:
            return chip.aicore_used_fraction
        usages = self._details("usages", chip.npu_id, chip.chip_id)
        return usages.aicore_used_fraction if usages else None

    def _temperature(self, chips: Sequence[Chip]) -> Reading:
        told = [chip.temperature_c for chip in chips if chip.temperature_c is not None]
        if told:
            return known(max(told), INFO)
        common = self._details("common", chips[0].npu_id)
        if common and common.temperature_c is not None:
            return known(common.temperature_c, COMMON)
        return unknown("no chip tells its temperature", INFO)

    def _power(self, chips: Sequence[Chip]) -> Reading:
        """Per NPU what its chips take, else what its controller says that the card takes."""
        total, source = 0.0, INFO
        for npu_id, of_npu in itertools.groupby(chips, key=lambda chip: chip.npu_id):
            told = [chip.power_w for chip in of_npu if chip.power_w is not None and chip.name not in RATED_POWER]
            if not told:
                common, source = self._details("common", npu_id), COMMON
                told = [common.power_w] if common and common.power_w is not None else []
            if not told:
                return unknown(
                    f"NPU {npu_id} does not tell what it takes, as boards without a power sensor do not", INFO
                )
            total += math.fsum(told)
        return known(total, source)

    # --- questions ---

    def _chips(self) -> Sequence[Chip]:
        """Raises: SensorSilent if there is none."""
        text = self._ask("info")
        chips = npu_smi.chips(text)
        if not chips:  # a table of a release that is not known yet: what names each line is surer
            chips = tuple(self._chip(npu_id) for npu_id in npu_smi.npu_ids(self._ask("info", "-l")))
        if not chips:
            raise SensorSilent(f"npu-smi shows no chip; it says {quoted(text)}")
        return chips

    def _chip(self, npu_id: int) -> Chip:
        common = self._details("common", npu_id)
        return Chip(
            npu_id=npu_id,
            name=None,
            health=None,
            temperature_c=common.temperature_c if common else None,
            power_w=common.power_w if common else None,
            aicore_used_fraction=common.aicore_used_fraction if common else None,
        )

    def _details(self, what: str, npu_id: int, chip_id: int | None = None) -> Details | None:
        """What `-t` tells. Where it tells nothing (`usages`, in containers on 310B boards) it is asked only once."""
        question = ("info", "-t", what, "-i", str(npu_id), *(("-c", str(chip_id)) if chip_id is not None else ()))
        if question in self._mute:
            return None
        details = npu_smi.details(self._ask(*question))
        if {details.aicore_used_fraction, details.temperature_c, details.power_w} == {None}:
            self._mute.add(question)
        return details

    def _told(self, *question: str) -> str:
        """Nothing where npu-smi does not answer."""
        try:
            return self._ask(*question)
        except SensorSilent:
            return ""

    def _ask(self, *question: str) -> str:
        """Raises: SensorSilent if npu-smi is missing or slow, or if its driver refuses."""
        text = self._npu_smi.run(*question)
        if (reason := npu_smi.trouble(text)) is not None:
            raise SensorSilent(reason)
        return text


def _unless_silent(read: Callable[[Sequence[Chip]], Reading], chips: Sequence[Chip]) -> Reading:
    """One reading may need a question that npu-smi does not answer; the others stay."""
    try:
        return read(chips)
    except SensorSilent as silent:
        return unknown(str(silent), INFO)


def _in_words(chip: Chip) -> str:
    words = [chip.name or "unknown", f"health {chip.health or 'unknown'}"]
    if chip.device_id is not None:
        words.append(f"acl device {chip.device_id}")
    if chip.memory_used_mb is not None:
        words.append(f"memory {chip.memory_used_mb} of {chip.memory_total_mb} MB")
    return ", ".join(words)


def _snake(key: str) -> str:
    """`Total Capacity(MB)` -> `total_capacity_mb`."""
    return re.sub(r"[^a-z0-9]+", "_", key.lower()).strip("_")
