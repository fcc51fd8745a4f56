"""The kernel's small files: /proc, /sys and the device tree, as text that may be missing, forbidden or garbage."""

from __future__ import annotations

import errno
import glob
from collections.abc import Callable, Iterable
from pathlib import Path

from agents.boards.readings import Reading, SensorSilent, first_known, known, unknown

DEVICE_TREE = Path("proc/device-tree")
TEGRA_RELEASE = Path("etc/nv_tegra_release")
DAVINCI_MANAGER = Path("dev/davinci_manager")
"""What NVIDIA's and Huawei's drivers leave for all to see."""

MOST_BYTES = 64 * 1024
LONGEST_QUOTE = 40
COLDEST_C, HOTTEST_C = -100.0, 200.0
"""Beyond them a number is no temperature: a sensor that is off says -256."""


def text_of(root: Path, path: Path, *, missing: str = "", denied: str = "") -> str:
    """A small file's text. missing, denied: advice for these cases.

    Raises: SensorSilent saying why there is none.
    """
    try:
        with (root / path).open("rb") as file:
            return file.read(MOST_BYTES).decode(errors="replace")
    except FileNotFoundError:
        reason = _advised("there is no such file", missing)
    except PermissionError:
        reason = _advised("permission denied", denied)
    except OSError as error:
        # Sensors of blocks that are powered down, and channels that are switched off, answer with these.
        is_off = error.errno in (errno.EAGAIN, errno.ENODATA, errno.ENXIO)
        reason = f"{'the sensor is off' if is_off else 'it cannot be read'} ({error.strerror})"
    raise SensorSilent(reason)


def file_reading(
    root: Path, path: Path, parse: Callable[[str], float | str | None], *, missing: str = "", denied: str = ""
) -> Reading:
    """What `parse` finds in a file; it gives None for what it does not understand."""
    source = f"/{path}"
    try:
        text = text_of(root, path, missing=missing, denied=denied)
    except SensorSilent as silent:
        return unknown(str(silent), source)
    value = parse(text)
    return known(value, source) if value is not None else unknown(f"it says {quoted(text)}", source)


def nodes(root: Path, pattern: str) -> list[Path]:
    """The paths below `root` that fit, relative to it. What may not be looked into has none (Path.glob would raise)."""
    return [Path(name) for name in sorted(glob.glob(pattern, root_dir=root))]


def whole_number(text: str) -> int | None:
    """-2147483648..2147483647, which is what such files hold, and nothing beside it."""
    text = text.strip()
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
        return None
    return int(text)


def quoted(text: str) -> str:
    """What a sensor said instead of a reading, short enough for a message."""
    line = " ".join(text.replace("\0", " ").split())
    return repr(line if len(line) <= LONGEST_QUOTE else f"{line[:LONGEST_QUOTE]}...")


def tree_strings(root: Path, path: Path) -> tuple[str, ...]:
    """A device tree property: strings that each end with a NUL. Empty where there is none."""
    try:
        text = text_of(root, path)
    except SensorSilent:
        return ()
    return tuple(filter(None, (part.strip() for part in text.split("\0"))))


def compatible_with(root: Path) -> tuple[str, ...]:
    """The device tree's names for this machine, most exact first."""
    return tree_strings(root, DEVICE_TREE / "compatible")


def board_model(root: Path) -> str | None:
    """The board's name, as its device tree or its firmware (on a PC) has it."""
    names = tree_strings(root, DEVICE_TREE / "model") or tree_strings(root, Path("sys/class/dmi/id/product_name"))
    return names[0] if names else None


def zones(root: Path) -> dict[str, Reading]:
    """Degrees Celsius of every thermal zone, by its type, in lower case with hyphens; numbers of zones differ."""
    found: dict[str, Reading] = {}
    for path in nodes(root, "sys/class/thermal/thermal_zone*"):
        try:
            kind = text_of(root, path / "type").strip().lower().replace("_", "-")
        except SensorSilent:
            continue
        if kind and (kind not in found or found[kind].value is None):
            found[kind] = file_reading(root, path / "temp", degrees)
    return found


def degrees(text: str) -> float | None:
    """From thousandths of a degree."""
    number = whole_number(text)
    if number is None or not COLDEST_C < number / 1000.0 < HOTTEST_C:
        return None
    return number / 1000.0


def zone_temperature(root: Path, kinds: Iterable[str]) -> Reading:
    """The first thermal zone of these types that answers, in the order of `kinds`."""
    found, kinds = zones(root), tuple(kinds)
    there = [found[kind] for kind in kinds if kind in found]
    if not there:
        others = f"only {', '.join(sorted(found))}" if found else "none at all"
        return unknown(f"no thermal zone of type {', '.join(kinds)}: {others}", "/sys/class/thermal")
    return first_known(there)


def _advised(reason: str, advice: str) -> str:
    return f"{reason}: {advice}" if advice else reason
