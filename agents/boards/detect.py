"""Which board this is: told by flags, else found out, cheaply and without starting a program."""

from __future__ import annotations

import importlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from agents import plugins
from agents.boards.emulated import EmulatedBoard
from agents.boards.kernel import DAVINCI_MANAGER, DEVICE_TREE, TEGRA_RELEASE, compatible_with
from agents.boards.sensed import SensedBoard
from edgesched.domain.device import BoardType
from edgesched.domain.profiles import USUAL_PROFILES
from edgesched.errors import StartupError
from edgesched.rest import BOARD_TYPE_PATTERN

BOARDS: Mapping[str, str] = {  # type -> module:class, imported only on such a board
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

log = logging.getLogger(__name__)


def detect(root: Path = Path("/")) -> str:
    """The type, found out by files alone. root: where the machine's file system is mounted."""
    return evidence(root)[0]


def evidence(root: Path = Path("/")) -> tuple[str, str]:
    """The type, and what gives it away. Other packages' boards come first: somebody installed them for this one."""
    return _evidence_of_others(root) or _evidence(root)


def _evidence_of_others(root: Path) -> tuple[str, str] | None:
    for name, point in plugins.brought(plugins.BOARDS_GROUP, BOARDS).items():
        because: str | None = None
        try:
            with plugins.blamed_on(point):
                because = point.load().evidence(root)
        except StartupError as error:
            log.error("board.not_loaded", extra={"reason": str(error)})
            continue
        if because is not None:
            return name, f"{because} (says {plugins.describe(point)})"
    return None


def _evidence(root: Path) -> tuple[str, str]:
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


def known_types() -> tuple[str, ...]:
    """The built-in types, then those of other packages."""
    return *BOARDS, *plugins.brought(plugins.BOARDS_GROUP, BOARDS)


def board_type(name: str) -> str:
    """The type with this name, in any case. Raises: StartupError listing the names that there are."""
    lowered = name.lower()
    if lowered in OLDER_NAMES:
        return OLDER_NAMES[lowered]
    types = known_types()
    if lowered not in types:
        known = [*types, *(older.upper() for older in OLDER_NAMES)]
        raise StartupError(f"--device {name!r} is not a board type; use one of {', '.join(known)}")
    return lowered


def real_board(name: str | None, root: Path = Path("/")) -> SensedBoard:
    """The board with this type's name, or the one that is detected.

    Raises: StartupError for an unknown name, or if the package that brings this board cannot be loaded.
    """
    kind = detect(root) if name is None else board_type(name)
    board: SensedBoard = _class_of(kind)(root)
    return board


def _class_of(kind: str) -> type[SensedBoard]:
    if kind in BOARDS:
        module, _, name = BOARDS[kind].partition(":")
        found: type[SensedBoard] = getattr(importlib.import_module(module), name)
        return found
    point = plugins.brought(plugins.BOARDS_GROUP, BOARDS)[kind]
    with plugins.blamed_on(point):
        loaded = point.load()
    if not re.fullmatch(BOARD_TYPE_PATTERN, kind):
        raise StartupError(
            f"{plugins.describe(point)}: a board's name has lower-case letters, digits, '-' and '_' alone"
        )
    if not (isinstance(loaded, type) and issubclass(loaded, SensedBoard) and loaded.board_type == kind):
        raise StartupError(
            f"{plugins.describe(point)}: {point.value} must be a class derived from agents.boards.sensed.SensedBoard "
            f"with board_type = {kind!r}"
        )
    return loaded


def emulated_board(name: str) -> EmulatedBoard:
    """Raises: StartupError listing the boards that can be emulated."""
    try:
        kind = BoardType(name.lower())
        return EmulatedBoard(kind, USUAL_PROFILES[kind])
    except (ValueError, KeyError):
        known = ", ".join(USUAL_PROFILES)
        raise StartupError(f"--emulate {name!r}: there is no such profile; use one of {known}") from None
