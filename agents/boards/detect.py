"""Which board this is: told by flags, else found out, cheaply and without starting a program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agents.boards import atlas, orin
from agents.boards.base import Board, compatible_with
from agents.boards.emulated import EMULATED_PROFILES, EmulatedBoard
from agents.boards.generic import GenericBoard
from agents.boards.rk3588 import Rk3588Board
from edgesched.domain.device import BoardType
from edgesched.errors import StartupError

OLDER_NAMES: Mapping[str, BoardType] = {
    "atlas_i": BoardType.ATLAS,
    "atlas_l": BoardType.ATLAS,
    "atlas_h": BoardType.ATLAS,
}
"""Names that the predecessor had; its other ones differ from ours only in case."""

TEGRA = "nvidia,tegra"
RK3588 = "rockchip,rk3588"


def detect(root: Path = Path("/")) -> BoardType:
    """Find out by files alone. root: where the machine's file system is mounted."""
    names = compatible_with(root)
    if (root / orin.RELEASE_FILE).exists() or any(name.startswith(TEGRA) for name in names):
        return BoardType.ORIN
    if any(name.startswith(RK3588) for name in names):
        return BoardType.RK3588
    # Also on x86: Atlas cards for PCIe sit in ordinary hosts.
    if (root / atlas.DRIVER_FILE).exists():
        return BoardType.ATLAS
    return BoardType.GENERIC


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


def real_board(name: str | None, root: Path = Path("/")) -> Board:
    """The board with this type's name, or the one that is detected. Raises: StartupError for an unknown name."""
    match detect(root) if name is None else board_type(name):
        case BoardType.ATLAS:
            return atlas.AtlasBoard()
        case BoardType.RK3588:
            return Rk3588Board(root)
        case BoardType.ORIN:
            return orin.OrinBoard(root)
        case BoardType.GENERIC:
            return GenericBoard()


def emulated_board(name: str) -> EmulatedBoard:
    """Raises: StartupError listing the boards that can be emulated."""
    try:
        kind = BoardType(name.lower())
        return EmulatedBoard(kind, EMULATED_PROFILES[kind])
    except (ValueError, KeyError):
        known = ", ".join(EMULATED_PROFILES)
        raise StartupError(f"--emulate {name!r}: there is no such profile; use one of {known}") from None
