"""Which board this is: told by flags, else found out, cheaply and without starting a program."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path

from agents.boards.emulated import EmulatedBoard
from agents.boards.kernel import DAVINCI_MANAGER, DEVICE_TREE, TEGRA_RELEASE, compatible_with
from agents.boards.sensed import SensedBoard
from edgesched.domain.device import BoardType
from edgesched.domain.profiles import USUAL_PROFILES
from edgesched.errors import StartupError

BOARDS: Mapping[BoardType, str] = {  # type -> module:class, imported only on such a board
    BoardType.ATLAS: "agents.boards.atlas:AtlasBoard",
    BoardType.RK3588: "agents.boards.rk3588:Rk3588Board",
    BoardType.ORIN: "agents.boards.orin:OrinBoard",
    BoardType.GENERIC: "agents.boards.generic:GenericBoard",
}

OLDER_NAMES: Mapping[str, BoardType] = {
    "atlas_i": BoardType.ATLAS,
    "atlas_l": BoardType.ATLAS,
    "atlas_h": BoardType.ATLAS,
}
"""Names that the predecessor had; its other ones differ from ours only in case."""

NPU_SMI = (Path("usr/local/sbin/npu-smi"), Path("usr/local/bin/npu-smi"))
TEGRA = "nvidia,tegra"
RK3588 = "rockchip,rk3588"


def detect(root: Path = Path("/")) -> BoardType:
    """Find out by files alone. root: where the machine's file system is mounted."""
    return evidence(root)[0]


def evidence(root: Path = Path("/")) -> tuple[BoardType, str]:
    """The type, and what gives it away."""
    # A name may have lost its NULs and stand inside another one.
    names = compatible_with(root)
    tegra = next((name for name in names if TEGRA in name), None)
    rk3588 = next((name for name in names if RK3588 in name), None)
    if os.path.exists(root / TEGRA_RELEASE):  # not Path.exists, which raises where it may not look
        return BoardType.ORIN, f"/{TEGRA_RELEASE} is there"
    if tegra is not None:  # in a container, the other file may be missing
        return BoardType.ORIN, f"/{DEVICE_TREE}/compatible names {tegra}"
    if rk3588 is not None:
        return BoardType.RK3588, f"/{DEVICE_TREE}/compatible names {rk3588}"
    # Also on x86: Atlas cards for PCIe sit in ordinary hosts.
    if os.path.exists(root / DAVINCI_MANAGER):
        return BoardType.ATLAS, f"/{DAVINCI_MANAGER} is there"
    if tools := [place for place in NPU_SMI if os.path.exists(root / place)]:
        advice = "load the Ascend driver, or pass the container the device"
        return BoardType.GENERIC, f"/{tools[0]} is there, but /{DAVINCI_MANAGER} is not: {advice}"
    return BoardType.GENERIC, "nothing tells of an accelerator"


def board_type(name: str) -> BoardType:
    """The type with this name, in any case. Raises: StartupError listing the names that there are."""
    lowered = name.lower()
    if lowered in OLDER_NAMES:
        return OLDER_NAMES[lowered]
    try:
        return BoardType(lowered)
    except ValueError:
        known = [*BoardType, *(older.upper() for older in OLDER_NAMES)]
        raise StartupError(f"--device {name!r} is not a board type; use one of {', '.join(known)}") from None


def real_board(name: str | None, root: Path = Path("/")) -> SensedBoard:
    """The board with this type's name, or the one that is detected. Raises: StartupError for an unknown name."""
    module, _, kind = BOARDS[detect(root) if name is None else board_type(name)].partition(":")
    board: SensedBoard = getattr(importlib.import_module(module), kind)(root)
    return board


def emulated_board(name: str) -> EmulatedBoard:
    """Raises: StartupError listing the boards that can be emulated."""
    try:
        kind = BoardType(name.lower())
        return EmulatedBoard(kind, USUAL_PROFILES[kind])
    except (ValueError, KeyError):
        known = ", ".join(USUAL_PROFILES)
        raise StartupError(f"--emulate {name!r}: there is no such profile; use one of {known}") from None
