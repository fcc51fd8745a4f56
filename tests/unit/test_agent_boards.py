"""Which board this is, and what its sensors say; file systems are made of a few files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.boards.base import CpuMeter, memory_used_fraction, zone_temperature
from agents.boards.detect import board_type, detect, emulated_board, real_board
from agents.boards.emulated import EMULATED_PROFILES
from agents.boards.generic import GenericBoard
from agents.boards.orin import LOAD_FILES, OrinBoard, gpu_load
from agents.boards.rk3588 import LOAD_FILE, Rk3588Board, npu_load
from edgesched.domain.device import BoardType
from edgesched.errors import StartupError


def put(root: Path, path: str | Path, content: bytes = b"") -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


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
    assert board_type(name) is expected
    assert real_board(name).board_type is expected


@pytest.mark.parametrize("name", ["", "rk3566", "atlas_x", "raspberry"])
def test_an_unknown_type_is_refused_and_never_mapped_to_another(name: str) -> None:
    with pytest.raises(StartupError, match=r"atlas.*rk3588.*orin.*generic"):
        real_board(name)


def test_every_profile_can_be_emulated_and_nothing_else() -> None:
    for kind, profile in EMULATED_PROFILES.items():
        board = emulated_board(kind.upper())
        assert (board.board_type, board.profile) == (kind, profile)
    for name in ("generic", "toaster"):
        with pytest.raises(StartupError, match="atlas, rk3588, orin"):
            emulated_board(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NPU load:  Core0: 63%, Core1: 65%, Core2: 64%,\n", 0.64),
        ("NPU load: Core0: 99%, Core1: 99%, Core2: 429496%\n", (99 + 99 + 100) / 300),
        ("NPU load:  Core0:  4%, Core1:  0%, Core2:  0%,", 0.04 / 3),
        ("NPU load: 48%", 0.48),
        ("NPU load:  0%", 0.0),
        ("NPU load: Core0: 45%, Core1: 32", 0.45),
        ("", None),
        ("no such device", None),
    ],
)
def test_npu_load_is_the_mean_of_the_cores(text: str, expected: float | None) -> None:
    assert npu_load(text) == (None if expected is None else pytest.approx(expected))


@given(st.text(alphabet="NPU load:Core0123456789%, \n-"))
def test_npu_load_is_a_fraction_or_unknown_whatever_the_driver_prints(text: str) -> None:
    load = npu_load(text)
    assert load is None or 0.0 <= load <= 1.0


@pytest.mark.parametrize(
    ("text", "expected"), [("845\n", 0.845), ("0", 0.0), ("1000", 1.0), ("1001", None), ("-1", None), ("busy", None)]
)
def test_gpu_load_is_in_tenths_of_a_percent(text: str, expected: float | None) -> None:
    assert gpu_load(text) == expected


def test_a_load_that_cannot_be_read_is_unknown_and_not_zero(tmp_path: Path) -> None:
    (tmp_path / LOAD_FILE).mkdir(parents=True)  # reading it fails, as it does without root
    for board in (Rk3588Board(tmp_path), OrinBoard(tmp_path)):
        assert board.telemetry().xpu_used_fraction is None


def test_an_rk3588_reads_its_npu_and_its_temperature(tmp_path: Path) -> None:
    put(tmp_path, LOAD_FILE, b"NPU load:  Core0: 50%, Core1: 0%, Core2: 100%,")
    for number, kind, value in ((0, b"soc-thermal\n", b"40000\n"), (1, b"npu-thermal\n", b"51500\n")):
        put(tmp_path, f"sys/class/thermal/thermal_zone{number}/type", kind)
        put(tmp_path, f"sys/class/thermal/thermal_zone{number}/temp", value)
    telemetry = Rk3588Board(tmp_path).telemetry()
    assert telemetry.xpu_used_fraction == pytest.approx(0.5)
    assert telemetry.temperature_c == 51.5


@pytest.mark.parametrize("path", LOAD_FILES)
def test_an_orin_finds_its_load_file_of_any_release(tmp_path: Path, path: Path) -> None:
    put(tmp_path, path, b"845\n")
    assert OrinBoard(tmp_path).telemetry().xpu_used_fraction == 0.845


@pytest.mark.parametrize("content", [b"-256000\n", b"garbage", b""])
def test_a_sensor_that_is_off_has_no_temperature(tmp_path: Path, content: bytes) -> None:
    put(tmp_path, "sys/class/thermal/thermal_zone0/type", b"gpu-thermal\n")
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", content)
    assert zone_temperature(tmp_path, ("gpu-thermal",)) is None


def test_the_readings_of_this_machine_are_fractions() -> None:
    assert 0.0 < memory_used_fraction() <= 1.0
    cpu = CpuMeter()
    used = cpu.used_fraction()
    assert used is None or 0.0 <= used <= 1.0
    assert GenericBoard().telemetry().xpu_used_fraction is None
