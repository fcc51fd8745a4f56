"""Which board this is, and what its sensors say; file systems are made of a few files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agents.boards.base import CpuMeter, memory_used_fraction
from agents.boards.detect import board_type, detect, emulated_board, evidence, real_board
from agents.boards.generic import GenericBoard
from agents.boards.kernel import zone_temperature, zones
from agents.boards.orin import LOAD_FILES, OrinBoard
from agents.boards.readings import POWER, TELEMETRY, XPU
from agents.boards.rk3588 import LOAD_FILE, PROC_LOAD_FILE, Rk3588Board
from edgesched.domain.device import BoardType
from edgesched.domain.profiles import USUAL_PROFILES
from edgesched.errors import StartupError

DEVFREQ = "sys/class/devfreq/fdab0000.npu"
POWER_SENSOR = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
WITHIN_S = 20.0
NOBODY = 65534


def put(root: Path, path: str | Path, content: bytes = b"") -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def put_zone(root: Path, number: int, kind: bytes, value: bytes) -> None:
    put(root, f"sys/class/thermal/thermal_zone{number}/type", kind)
    put(root, f"sys/class/thermal/thermal_zone{number}/temp", value)


def put_channel(root: Path, number: int, label: bytes, millivolts: bytes, milliamperes: bytes) -> None:
    put(root, f"{POWER_SENSOR}/in{number}_label", label)
    put(root, f"{POWER_SENSOR}/in{number}_input", millivolts)
    put(root, f"{POWER_SENSOR}/curr{number}_input", milliamperes)


@contextmanager
def forbidden(path: Path) -> Iterator[None]:
    """Nobody but root may look into it, and this process is not root meanwhile."""
    is_root = os.geteuid() == 0
    path.chmod(0o700 if is_root else 0)
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        path.chmod(0o700)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, BoardType.GENERIC),
        ({"etc/nv_tegra_release": b"# R36 (release), REVISION: 4.3"}, BoardType.ORIN),
        ({"proc/device-tree/compatible": b"nvidia,p3767-0005\0nvidia,tegra234\0"}, BoardType.ORIN),
        ({"proc/device-tree/compatible": b"xunlong,orangepi-5-plus\0rockchip,rk3588\0"}, BoardType.RK3588),
        ({"proc/device-tree/compatible": b"radxa,rock-5a\0rockchip,rk3588s\0"}, BoardType.RK3588),
        ({"proc/device-tree/compatible": b"rockchip,rk3568-evb1\0rockchip,rk3568\0"}, BoardType.GENERIC),
        ({"dev/davinci_manager": b""}, BoardType.ATLAS),
        ({"proc/device-tree/compatible": b"\xff\xfe"}, BoardType.GENERIC),
    ],
)
def test_a_board_is_known_by_its_files(tmp_path: Path, files: dict[str, bytes], expected: BoardType) -> None:
    for path, content in files.items():
        put(tmp_path, path, content)
    assert detect(tmp_path) is expected
    assert real_board(None, tmp_path).board_type is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("atlas", BoardType.ATLAS),
        ("ATLAS_I", BoardType.ATLAS),
        ("atlas_l", BoardType.ATLAS),
        ("ATLAS_H", BoardType.ATLAS),
        ("RK3588", BoardType.RK3588),
        ("Orin", BoardType.ORIN),
        ("generic", BoardType.GENERIC),
    ],
)
def test_a_type_is_named_in_any_case_and_by_its_older_names(name: str, expected: BoardType) -> None:
    assert board_type(name) == expected
    assert real_board(name).board_type == expected


@pytest.mark.parametrize("name", ["", "rk3566", "atlas_x", "raspberry"])
def test_an_unknown_type_is_refused_and_never_mapped_to_another(name: str) -> None:
    with pytest.raises(StartupError, match=r"atlas.*rk3588.*orin.*generic"):
        real_board(name)


def test_every_profile_can_be_emulated_and_nothing_else() -> None:
    for kind, profile in USUAL_PROFILES.items():
        board = emulated_board(kind.upper())
        assert (board.board_type, board.profile) == (kind, profile)
    for name in ("generic", "toaster"):
        with pytest.raises(StartupError, match="atlas, rk3588, orin"):
            emulated_board(name)


def test_a_pc_with_the_vendors_tool_but_no_driver_is_told_what_is_missing(tmp_path: Path) -> None:
    put(tmp_path, "usr/local/sbin/npu-smi")
    kind, because = evidence(tmp_path)
    assert kind is BoardType.GENERIC
    assert "/dev/davinci_manager is not: load the Ascend driver" in because


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"compatible": b"xunlong,orangepi-5-plus\0rockchip,rk3588\0", "model": b"Orange Pi 5 Plus\0"},
            {"model": "Orange Pi 5 Plus", "chip": "RK3588"},
        ),
        ({"compatible": b"radxa,rock-5a\0rockchip,rk3588s\0rockchip,rk3588\0"}, {"chip": "RK3588S"}),
        ({"compatible": b"xunlong,orangepi-5-plusrockchip,rk3588"}, {"chip": "RK3588"}),  # printed, the NULs lost
        (
            {
                "compatible": b"nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
                "model": b"NVIDIA Jetson Orin Nano\0",
            },
            {"model": "NVIDIA Jetson Orin Nano", "chip": "tegra234", "module": "Orin Nano 8GB (developer kit)"},
        ),
        ({"compatible": b"nvidia,p9999-0000\0nvidia,tegra194\0"}, {"chip": "tegra194"}),
    ],
)
def test_labels_say_which_board_it_is(tmp_path: Path, files: dict[str, bytes], expected: dict[str, str]) -> None:
    for name, content in files.items():
        put(tmp_path, f"proc/device-tree/{name}", content)
    assert real_board(None, tmp_path).labels() == expected


def test_a_pc_is_labelled_with_what_its_firmware_and_kernel_say(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/dmi/id/product_name", b"NUC10i7\n")
    put(tmp_path, "proc/cpuinfo", b"processor\t: 0\nmodel name\t: Some CPU @ 3.00GHz\n")
    assert GenericBoard(tmp_path).labels() == {"model": "NUC10i7", "chip": "Some CPU @ 3.00GHz"}


def test_an_emulated_board_has_no_labels_of_a_board_that_is_not_there() -> None:
    assert emulated_board("orin").labels() == {}


# --- RK3588 ---


def test_an_rk3588_reads_its_npu_and_its_temperature(tmp_path: Path) -> None:
    put(tmp_path, LOAD_FILE, b"NPU load:  Core0: 50%, Core1: 0%, Core2: 100%,")
    put_zone(tmp_path, 0, b"soc-thermal\n", b"40000\n")
    put_zone(tmp_path, 1, b"npu-thermal\n", b"51500\n")
    telemetry = Rk3588Board(tmp_path).telemetry()
    assert telemetry.xpu_used_fraction == pytest.approx(0.5)
    assert telemetry.temperature_c == 51.5
    assert telemetry.power_w is None


def test_the_npu_load_is_also_looked_for_where_debugfs_is_not_needed(tmp_path: Path) -> None:
    put(tmp_path, PROC_LOAD_FILE, b"NPU load:  Core0: 30%, Core1: 30%, Core2: 30%,")
    reading = Rk3588Board(tmp_path).readings(tool_wait_s=0.0)[XPU]
    assert reading.value == pytest.approx(0.3)
    assert reading.source == f"/{PROC_LOAD_FILE}"


def test_without_root_the_npu_load_is_unknown_and_says_what_to_do(tmp_path: Path) -> None:
    put(tmp_path, LOAD_FILE, b"NPU load:  Core0: 50%, Core1: 0%, Core2: 100%,")
    with forbidden(tmp_path / "sys/kernel/debug"):
        board = Rk3588Board(tmp_path)
        reading = board.readings(tool_wait_s=0.0)[XPU]
        assert board.telemetry().xpu_used_fraction is None
    assert reading.value is None
    assert f"/{LOAD_FILE}: permission denied: debugfs is for root alone" in str(reading.reason)


@pytest.mark.parametrize(
    ("load", "power", "expected"),
    [
        (b"100@1000000000Hz\n", b"active\n", None),  # it says so whenever the NPU has power
        (b"100@1000000000Hz\n", b"suspended\n", 0.0),
        (b"37@1000000000Hz\n", b"active\n", 0.37),
        (b"0@300000000Hz\n", None, 0.0),
        (b"100@1000000000Hz\n", None, None),
        (b"garbage", b"active\n", None),
    ],
)
def test_the_load_of_devfreq_is_believed_only_where_it_can_be_true(
    tmp_path: Path, load: bytes, power: bytes | None, expected: float | None
) -> None:
    put(tmp_path, f"{DEVFREQ}/load", load)
    if power is not None:
        put(tmp_path, f"{DEVFREQ}/device/power/runtime_status", power)
    reading = Rk3588Board(tmp_path).readings(tool_wait_s=0.0)[XPU]
    assert reading.value == expected
    assert (reading.reason is None) == (expected is not None)


def test_an_rk3588_tells_more_to_those_who_ask(tmp_path: Path) -> None:
    put(tmp_path, "sys/kernel/debug/rknpu/version", b"RKNPU driver: v0.9.8\n")
    put(tmp_path, LOAD_FILE, b"NPU load:  Core0: 50%, Core1: 0%, Core2: 100%,")
    put(tmp_path, f"{DEVFREQ}/cur_freq", b"600000000\n")
    put_zone(tmp_path, 3, b"bigcore0-thermal", b"47000")
    board = Rk3588Board(tmp_path)
    details = board.details()
    assert board.labels() == {"driver": "0.9.8"}
    assert details["npu_cores_used"].value == "50%, 0%, 100%"
    assert details["npu_cur_freq_mhz"].value == 600.0
    assert details["npu_max_freq_mhz"].value is None
    assert details["bigcore0_temperature_c"].value == 47.0


# --- Orin ---


@pytest.mark.parametrize("path", LOAD_FILES)
def test_an_orin_finds_its_load_file_of_any_release(tmp_path: Path, path: Path) -> None:
    put(tmp_path, path, b"845\n")
    assert OrinBoard(tmp_path).telemetry().xpu_used_fraction == 0.845


@pytest.mark.parametrize("name", [b"gpu\0", b"ga10b\0", b"gb10b\0"])
def test_an_orin_finds_its_gpu_by_its_name_in_the_device_tree(tmp_path: Path, name: bytes) -> None:
    for node, kind, load in (("13e10000.vic", b"vic\0", b"999"), ("99000000.gpu", name, b"120")):
        put(tmp_path, f"sys/class/devfreq/{node}/device/of_node/name", kind)
        put(tmp_path, f"sys/class/devfreq/{node}/device/load", load)
    put(tmp_path, "sys/class/devfreq/99000000.gpu/cur_freq", b"1020000000")
    board = OrinBoard(tmp_path)
    assert board.telemetry().xpu_used_fraction == 0.12
    assert board.details()["gpu_cur_freq_mhz"].value == 1020.0


def test_a_gpu_that_appears_late_after_boot_is_found_then(tmp_path: Path) -> None:
    board = OrinBoard(tmp_path)
    assert board.telemetry().xpu_used_fraction is None
    put(tmp_path, LOAD_FILES[0], b"500")
    assert board.telemetry().xpu_used_fraction == 0.5


@pytest.mark.parametrize("load", [b"1001", b"-1", b"busy", b""])
def test_a_gpu_load_beyond_its_range_is_unknown(tmp_path: Path, load: bytes) -> None:
    put(tmp_path, LOAD_FILES[0], load)
    assert OrinBoard(tmp_path).telemetry().xpu_used_fraction is None


def test_an_orins_power_is_that_of_the_rail_for_all(tmp_path: Path) -> None:
    put_channel(tmp_path, 1, b"VDD_IN\n", b"5000\n", b"1200\n")
    put_channel(tmp_path, 2, b"VDD_SOC\n", b"5000\n", b"300\n")
    board = OrinBoard(tmp_path)
    assert board.telemetry().power_w == pytest.approx(6.0)
    assert board.details()["vdd_soc_w"].value == pytest.approx(1.5)


def test_an_agx_orins_power_is_the_sum_of_its_inputs(tmp_path: Path) -> None:
    rails = (b"VDD_GPU_SOC", b"VDD_CPU_CV", b"VIN_SYS_5V0")
    for number, label in enumerate(rails, start=1):
        put_channel(tmp_path, number, label, b"20000", b"100")
    assert OrinBoard(tmp_path).telemetry().power_w == pytest.approx(6.0)


@pytest.mark.parametrize("current", [b"garbage", b"-5", b""])
def test_a_sum_of_some_rails_is_no_power(tmp_path: Path, current: bytes) -> None:
    put_channel(tmp_path, 1, b"VDD_GPU_SOC", b"20000", b"100")
    put_channel(tmp_path, 2, b"VDD_CPU_CV", b"20000", current)
    put_channel(tmp_path, 3, b"VIN_SYS_5V0", b"20000", b"100")
    reading = OrinBoard(tmp_path).readings(tool_wait_s=WITHIN_S)[POWER]
    assert reading.value is None
    assert "only VDD_GPU_SOC, VIN_SYS_5V0" in str(reading.reason)


# --- thermal zones ---


@pytest.mark.parametrize("content", [b"-256000\n", b"garbage", b"", b"999999999"])
def test_a_sensor_that_is_off_has_no_temperature(tmp_path: Path, content: bytes) -> None:
    put_zone(tmp_path, 0, b"gpu-thermal\n", content)
    assert zone_temperature(tmp_path, ("gpu-thermal",)).value is None


def test_the_next_zone_answers_for_one_that_is_off(tmp_path: Path) -> None:
    put_zone(tmp_path, 0, b"GPU-therm\n", b"-256000\n")
    put_zone(tmp_path, 1, b"tj_thermal\n", b"44343\n")
    assert OrinBoard(tmp_path).telemetry().temperature_c == 44.343


def test_zones_are_told_apart_by_type_and_not_by_number(tmp_path: Path) -> None:
    for number, (kind, value) in enumerate({b"gpu-thermal": b"41000", b"npu-thermal": b"42000"}.items()):
        put_zone(tmp_path, 9 - number, kind, value)
    assert Rk3588Board(tmp_path).telemetry().temperature_c == 42.0
    assert {kind: reading.value for kind, reading in zones(tmp_path).items()} == {
        "gpu-thermal": 41.0,
        "npu-thermal": 42.0,
    }


def test_a_board_without_the_right_zone_says_which_it_has(tmp_path: Path) -> None:
    put_zone(tmp_path, 0, b"battery", b"30000")
    assert "only battery" in str(zone_temperature(tmp_path, ("npu-thermal",)).reason)


# --- any board ---


def test_the_readings_of_this_machine_are_fractions() -> None:
    assert 0.0 < memory_used_fraction() <= 1.0
    cpu = CpuMeter()
    used = cpu.used_fraction()
    assert used is None or 0.0 <= used <= 1.0
    assert GenericBoard().telemetry().xpu_used_fraction is None


@pytest.mark.parametrize("name", ["atlas", "rk3588", "orin", "generic"])
def test_whatever_is_unknown_has_a_reason(tmp_path: Path, name: str) -> None:
    """On a machine that has none of the files and tools, and is called one of these boards."""
    readings = real_board(name, tmp_path).readings(tool_wait_s=WITHIN_S)
    assert tuple(readings) == TELEMETRY
    for reading in readings.values():
        assert (reading.reason is None) == (reading.value is not None)
        assert reading.reason != ""
