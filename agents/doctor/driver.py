"""The kernel's side of an accelerator: is its driver there, and may this user use it?"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from agents.boards.kernel import nodes
from agents.boards.readings import POWER, TEMPERATURE, XPU, Readings
from agents.doctor.findings import Finding, note, ok, problem, warning
from edgesched.domain.device import BoardType

RKNN_RUNTIME = ("usr/lib/librknnrt.so", "usr/lib/aarch64-linux-gnu/librknnrt.so", "usr/lib64/librknnrt.so")


def look_at_driver(board: str, root: Path = Path("/")) -> list[Finding]:
    """Nothing for boards that have no driver of their own."""
    return list(DRIVERS[board](root)) if board in DRIVERS else []


def look_at_sensors(board: str, readings: Readings) -> list[Finding]:
    """Each sensor with its value, or the reason why there is none; the board works without them."""
    findings = []
    for name in (XPU, TEMPERATURE, POWER):
        reading = readings.get(name)
        if reading is None:
            continue
        if reading.value is not None:
            findings.append(ok(_short(name), f"{reading.value:g} from {reading.source}"))
        elif name == XPU and board != BoardType.GENERIC:
            text = f"how busy the accelerator is cannot be known: {reading.reason}"
            findings.append(warning(_short(name), text, "without it, work is shared out by what is in flight alone"))
        else:
            findings.append(note(_short(name), f"unknown: {reading.reason}"))
    return findings


def _short(name: str) -> str:
    return name.removesuffix("_used_fraction").removesuffix("_c").removesuffix("_w")


# --- one function per kind of board ---


def _atlas(root: Path) -> Iterator[Finding]:
    chips = nodes(root, "dev/davinci[0-9]*")
    if not chips:
        remedy = "install the Ascend driver and firmware for this chip; in a container, pass --device /dev/davinci0"
        yield problem("driver", "there is no /dev/davinci0: the Ascend driver shows no chip", remedy)
        return
    others = ("dev/davinci_manager", "dev/devmm_svm", "dev/hisi_hdc")
    missing = [f"/{path}" for path in others if not os.path.exists(root / path)]
    if missing:
        remedy = "load the Ascend driver, or pass the container these devices as well"
        yield problem("driver", f"{', '.join(missing)} is missing beside /{chips[0]}", remedy)
        return
    yield _may_use(root, (*chips, *map(Path, others)), "HwHiAiUser")


def _rk3588(root: Path) -> Iterator[Finding]:
    if not any(os.path.exists(root / path) for path in RKNN_RUNTIME):
        remedy = "copy librknnrt.so (aarch64, from the rknn-toolkit2 repository) to /usr/lib, and run sudo ldconfig"
        yield problem("runtime", "/usr/lib/librknnrt.so is missing", remedy)
    else:
        yield ok("runtime", "librknnrt.so is there")
    ways = _rknpu_nodes(root)
    if not ways:
        remedy = "boot a kernel with Rockchip's rknpu driver (a vendor's image has one)"
        if os.path.exists(root / "dev/accel"):
            remedy += "; the mainline kernel's driver in /dev/accel does not work with librknnrt"
        yield problem("driver", "no device of an rknpu driver: neither /dev/rknpu nor one in /dev/dri", remedy)
        return
    yield _may_use(root, ways, "render")


def _rknpu_nodes(root: Path) -> tuple[Path, ...]:
    """/dev/rknpu, or those in /dev/dri that belong to the driver, or, if nothing tells whose they are, all of them."""
    if os.path.exists(root / "dev/rknpu"):
        return (Path("dev/rknpu"),)
    rendering = nodes(root, "dev/dri/renderD*")
    drivers = {path: root / f"sys/class/drm/{path.name}/device/driver" for path in rendering}
    if any(os.path.exists(driver) for driver in drivers.values()):
        return tuple(path for path, at in drivers.items() if os.path.basename(os.path.realpath(at)).lower() == "rknpu")
    return tuple(rendering)


def _orin(root: Path) -> Iterator[Finding]:
    ways = [*nodes(root, "dev/nvmap"), *nodes(root, "dev/nvhost-gpu"), *nodes(root, "dev/nvhost-ctrl-gpu")]
    if not any("gpu" in path.name for path in ways):
        ways += nodes(root, "dev/nvgpu/igpu0/*")
    if not ways:
        remedy = "install JetPack (sudo apt-get install nvidia-jetpack); start a container with --runtime nvidia"
        yield problem("driver", "there is neither /dev/nvmap nor a device of the GPU", remedy)
        return
    yield _may_use(root, ways, "video")


DRIVERS: Mapping[str, Callable[[Path], Iterator[Finding]]] = {
    BoardType.ATLAS: _atlas,
    BoardType.RK3588: _rk3588,
    BoardType.ORIN: _orin,
}


# --- permissions ---


def _may_use(root: Path, paths: Sequence[Path], usual_group: str) -> Finding:
    closed = [path for path in paths if not os.access(root / path, os.R_OK | os.W_OK, effective_ids=True)]
    if not closed:
        return ok("driver", f"this user may use {', '.join(f'/{path}' for path in paths)}")
    group = _group_of(root / closed[0]) or usual_group
    text = f"user {_user()} may not read and write {', '.join(f'/{path}' for path in closed)}"
    if group == "root":
        remedy = f"they belong to root alone: write a udev rule that gives them to a group ({usual_group}), and join it"
    else:
        remedy = f"sudo usermod -aG {group} {_user()}, then log in again (or restart the service)"
    return problem("driver", text, remedy)


def _group_of(path: Path) -> str | None:
    try:
        return grp.getgrgid(path.stat().st_gid).gr_name
    except (OSError, KeyError):
        return None


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
