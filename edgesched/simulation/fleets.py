"""Fleets as files: which boards there are, and how fast each one and its link is.

What a file does not say of an atlas, orin or rk3588 is as in `edgesched.domain.profiles`.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from edgesched.domain.device import BoardType, DeviceId, DeviceProfile
from edgesched.domain.profiles import USUAL_PROFILES
from edgesched.errors import InvalidInput

MODEL = "simulated"
WINDOW_BYTES = 64 * 1024 * 1024
MAX_BOARDS = 10_000

BOARD_KEYS = {"board", "count", "slots", "service_ms", "link_mbps", "round_trip_ms", "window_tasks"}
SIZE_KEYS = {"distribution", "smallest_bytes", "largest_bytes"}
FLEET_KEYS = {"description", "sizes", "device"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeLaw:
    """How large pictures are: "fixed" (the largest), "log-uniform", or "bimodal" (80 % smallest, 20 % largest)."""

    distribution: str = "log-uniform"
    smallest_bytes: int = 50_000
    largest_bytes: int = 500_000

    def __post_init__(self) -> None:
        if self.distribution not in ("fixed", "log-uniform", "bimodal"):
            raise InvalidInput(f"sizes: no distribution {self.distribution!r}; use fixed, log-uniform or bimodal")
        if not 0 < self.smallest_bytes <= self.largest_bytes:
            raise InvalidInput("sizes: smallest_bytes must be above 0 and at most largest_bytes")

    def at(self, quantile: float) -> int:
        """The size that this part (0..1) of the pictures does not exceed."""
        match self.distribution:
            case "fixed":
                return self.largest_bytes
            case "bimodal":
                return self.smallest_bytes if quantile < 0.8 else self.largest_bytes
        spread: float = (self.largest_bytes / self.smallest_bytes) ** quantile
        return round(self.smallest_bytes * spread)


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One device of a fleet, as it really is; what it is thought to be is the scheduler's business."""

    device_id: DeviceId
    board_type: BoardType
    profile: DeviceProfile
    window_tasks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    name: str
    description: str
    boards: tuple[Board, ...]
    sizes: SizeLaw


def built_in() -> Sequence[str]:
    """Names of the fleets that come with the program."""
    folder = resources.files("edgesched.simulation") / "fleets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load(name_or_path: str) -> Fleet:
    """A built-in fleet by its name, or a fleet file by its path. Raises: InvalidInput."""
    if name_or_path in built_in():
        text = (resources.files("edgesched.simulation") / "fleets" / f"{name_or_path}.toml").read_text("utf-8")
        return parse(text, name=name_or_path)
    path = Path(name_or_path)
    try:
        return parse(path.read_text("utf-8"), name=path.stem)
    except (OSError, UnicodeDecodeError) as error:
        names = ", ".join(built_in())
        raise InvalidInput(f"fleet {name_or_path!r}: no such file, and no built-in fleet ({names}): {error}") from error


def parse(text: str, *, name: str) -> Fleet:
    """Raises: InvalidInput naming the entry and the key that is wrong."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"fleet {name}: {error}") from error
    _only(table, FLEET_KEYS, f"fleet {name}")
    sizes = table.get("sizes", {})
    _only(sizes, SIZE_KEYS, f"fleet {name}, sizes")
    boards: list[Board] = []
    entries = table.get("device", [])
    if not isinstance(entries, list):
        raise InvalidInput(f"fleet {name}: write [[device]], once for each kind of board")
    for i, entry in enumerate(entries):
        where = f"fleet {name}, device {i + 1}"
        _only(entry, BOARD_KEYS, where)
        boards += _boards(entry, where, len(boards))
    if not 0 < len(boards) <= MAX_BOARDS:
        raise InvalidInput(f"fleet {name}: it must have 1 to {MAX_BOARDS} devices, got {len(boards)}")
    figures = {key: value for key, value in sizes.items() if key != "distribution"}
    wrong = [key for key, value in figures.items() if isinstance(value, bool) or not isinstance(value, (int, float))]
    if wrong:
        raise InvalidInput(f"fleet {name}, sizes: {wrong[0]} must be a number, got {sizes[wrong[0]]!r}")
    return Fleet(name=name, description=str(table.get("description", "")), boards=tuple(boards), sizes=SizeLaw(**sizes))


def _boards(entry: Mapping[str, Any], where: str, before: int) -> list[Board]:
    try:
        kind = BoardType(entry["board"])
        usual = asdict(USUAL_PROFILES[kind]) if kind in USUAL_PROFILES else {}
        known = {**usual, **entry}
        profile = DeviceProfile(
            slots=_whole("slots", known["slots"]),
            service_ms=_positive(known["service_ms"]),
            link_mbps=_positive(known["link_mbps"]),
            round_trip_ms=float(known["round_trip_ms"]),
        )
        count = _whole("count", entry.get("count", 1))
        window_tasks = _whole("window_tasks", entry.get("window_tasks", 2 * profile.slots + 2))
    except KeyError as error:
        raise InvalidInput(f"{where}: {error} is missing") from None
    except (TypeError, ValueError, InvalidInput) as error:
        raise InvalidInput(f"{where}: {error}") from error
    if count > MAX_BOARDS:
        raise InvalidInput(f"{where}: count must be 1 to {MAX_BOARDS}, got {count}")
    return [
        Board(
            device_id=DeviceId(f"{kind}-{before + i + 1}"),
            board_type=kind,
            profile=profile,
            window_tasks=window_tasks,
        )
        for i in range(count)
    ]


def _whole(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidInput(f"{name} must be a whole number, 1 or more, got {value!r}")
    return value


def _positive(value: object) -> float:
    number = float(value)  # type: ignore[arg-type]
    if not math.isfinite(number) or number <= 0:
        raise InvalidInput(f"{value!r} must be a finite number above 0")
    return number


def _only(table: object, known: set[str], where: str) -> None:
    if not isinstance(table, Mapping):
        raise InvalidInput(f"{where}: it must be a table of {', '.join(sorted(known))}, got {table!r}")
    unknown = sorted(set(table) - known)
    if unknown:
        raise InvalidInput(f"{where}: unknown key {unknown[0]!r}; it may have {', '.join(sorted(known))}")
