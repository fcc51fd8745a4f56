"""Vendors' output that is cut off, shuffled or no such output at all: a reading is right, or it is unknown."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.boards import kernel, npu_smi, orin, rk3588, tegrastats
from agents.boards.detect import evidence, real_board
from agents.boards.kernel import COLDEST_C, HOTTEST_C
from agents.boards.npu_smi import MOST_WATTS, Chip, Details

DATA = Path(__file__).parents[1] / "data" / "boards"
SAMPLES = {str(path.relative_to(DATA)): path.read_bytes().decode() for path in sorted(DATA.glob("*/*"))}


def like(pattern: str) -> list[str]:
    texts = [text for name, text in SAMPLES.items() if pattern in name]
    assert texts
    return texts


TABLES, DETAILS, LINES = like("npu-smi-info"), like("npu-smi-usages") + like("npu-smi-common"), like("tegrastats")


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A sample after cuts, repetitions and swaps of its lines and words; or any text."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.text())
    text = draw(st.sampled_from(sorted(SAMPLES.values())))
    for _ in range(draw(st.integers(0, 4))):
        separator = draw(st.sampled_from(["\n", "|", " ", "%", "@", ":"]))
        parts = text.split(separator)
        first, second = draw(st.integers(0, len(parts) - 1)), draw(st.integers(0, len(parts) - 1))
        match draw(st.sampled_from(["swap", "drop", "repeat", "cut", "garbage"])):
            case "swap":
                parts[first], parts[second] = parts[second], parts[first]
            case "drop":
                del parts[first]
            case "repeat":
                parts.insert(first, parts[second])
            case "cut":
                parts = parts[:first]
            case _:
                parts[first] = draw(st.one_of(st.text(), st.integers().map(str), st.floats().map(str)))
        text = separator.join(parts)
    return text


def is_fraction(value: float | None) -> bool:
    return value is None or 0.0 <= value <= 1.0


def is_temperature(value: float | None) -> bool:
    return value is None or COLDEST_C < value < HOTTEST_C


def is_power(value: float | None) -> bool:
    return value is None or 0.0 < value < MOST_WATTS


@given(damaged())
@settings(max_examples=300, deadline=None)
def test_npu_smi_tells_possible_values_or_none(text: str) -> None:
    for chip in npu_smi.chips(text):
        assert is_fraction(chip.aicore_used_fraction)
        assert is_temperature(chip.temperature_c)
        assert is_power(chip.power_w)
        assert chip.memory_total_mb is None or chip.memory_total_mb > 0
        assert (chip.memory_used_mb is None) == (chip.memory_total_mb is None)
    details = npu_smi.details(text)
    assert is_fraction(details.aicore_used_fraction)
    assert is_fraction(details.memory_used_fraction)
    assert is_temperature(details.temperature_c)
    assert is_power(details.power_w)
    assert all(number >= 0 for number in npu_smi.npu_ids(text))
    npu_smi.version(text)
    npu_smi.trouble(text)


@given(damaged())
@settings(max_examples=300, deadline=None)
def test_tegrastats_tells_possible_values_or_none(text: str) -> None:
    stats = tegrastats.parse(text)
    assert is_fraction(stats.gpu_used_fraction)
    assert all(map(is_fraction, stats.cores_used_fraction))
    assert all(map(is_temperature, stats.zones_c.values()))
    assert all(watts >= 0 for watts in stats.rails_w.values())
    assert stats.power_w is None or stats.power_w > 0


@given(damaged())
@settings(max_examples=300, deadline=None)
def test_files_of_the_kernel_tell_possible_values_or_none(text: str) -> None:
    fractions = (rk3588.npu_load, rk3588.devfreq_load, rk3588.sram_used, rk3588.rga_load, orin.gpu_load)
    for parse in fractions:
        assert is_fraction(parse(text)), parse
    assert is_temperature(kernel.degrees(text))
    assert (orin.milli(text) or 0.0) >= 0.0
    rk3588.driver_version(text)
    rk3588.cores_in_words(text)


def is_part_of(part: object, whole: object) -> bool:
    """Every field is as in the whole, or unknown."""
    assert dataclasses.is_dataclass(part)
    names = [field.name for field in dataclasses.fields(part)]
    return all(getattr(part, name) in (None, getattr(whole, name)) for name in names)


@pytest.mark.parametrize("text", TABLES, ids=range(len(TABLES)))
def test_a_table_that_is_cut_off_anywhere_tells_no_wrong_number(text: str) -> None:
    chips = npu_smi.chips(text)
    for end in range(len(text)):
        part = npu_smi.chips(text[:end])
        assert all(is_part_of(*pair) for pair in zip(part, chips, strict=False))


@pytest.mark.parametrize("text", DETAILS, ids=range(len(DETAILS)))
def test_fields_that_are_cut_off_anywhere_tell_no_wrong_number(text: str) -> None:
    whole = npu_smi.details(text)
    assert all(is_part_of(npu_smi.details(text[:end]), whole) for end in range(len(text)))


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_a_line_of_tegrastats_that_is_cut_off_anywhere_tells_no_wrong_number(line: str) -> None:
    whole = tegrastats.parse(line)
    for end in range(len(line)):
        part = tegrastats.parse(line[:end])
        assert part.gpu_used_fraction in (None, whole.gpu_used_fraction)
        assert part.power_w in (None, whole.power_w)
        assert part.cores_used_fraction in ((), whole.cores_used_fraction)
        assert part.zones_c.items() <= whole.zones_c.items()
        assert part.rails_w.items() <= whole.rails_w.items()
        assert part.ram_used_mb in (None, whole.ram_used_mb)


@given(st.sampled_from(like("npu-smi-usages-200I")), st.randoms(use_true_random=False))
def test_the_order_of_fields_changes_nothing(text: str, random: object) -> None:
    lines = text.splitlines(keepends=True)
    random.shuffle(lines)  # type: ignore[attr-defined]
    assert npu_smi.details("".join(lines)) == npu_smi.details(text)


@given(st.permutations(range(4)))
def test_the_order_of_chips_changes_nothing_but_their_order(order: list[int]) -> None:
    """Six lines of head, then three per chip: its two and a rule."""
    lines = SAMPLES["atlas/npu-smi-info-310B1-v23.0.5-6cards-collapsed.txt"].splitlines(keepends=True)
    blocks = [lines[start : start + 3] for start in range(6, 18, 3)]
    text = "".join(lines[:6]) + "".join(line for index in order for line in blocks[index])
    assert [chip.npu_id for chip in npu_smi.chips(text)] == order
    assert set(npu_smi.chips(text)) == set(npu_smi.chips("".join(lines)))


@given(st.lists(st.sampled_from([f"Core{core}:  {load}%," for core in range(3) for load in (0, 50, 99, 429496)])))
def test_an_npu_load_is_the_mean_of_the_cores_that_count_100_percent_at_most(cores: list[str]) -> None:
    loads = [min(100, int(core.split()[1].rstrip("%,"))) for core in cores]
    expected = pytest.approx(sum(loads) / len(loads) / 100) if loads else None
    assert rk3588.npu_load("NPU load:  " + " ".join(cores)) == expected


@given(st.text(alphabet="NPU load:Core0123456789%, \n-", max_size=60))
def test_an_npu_load_with_a_core_that_has_no_figure_is_unknown(rest: str) -> None:
    assert rk3588.npu_load(f"NPU load:  Core0:  4%, Core1: x{rest.replace('%', '')}") is None


FILES = {
    "rk3588": ("sys/kernel/debug/rknpu/load", "proc/rknpu/load", "sys/class/devfreq/fdab0000.npu/load"),
    "orin": (
        "sys/devices/platform/gpu.0/load",
        "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/in1_input",
        "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/curr1_input",
        "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/in1_label",
        "etc/nv_tegra_release",
    ),
}
ANYWHERE = (
    "sys/class/thermal/thermal_zone0/type",
    "sys/class/thermal/thermal_zone0/temp",
    "proc/device-tree/compatible",
    "proc/device-tree/model",
)
CONTENT = st.one_of(
    st.binary(max_size=64),
    st.sampled_from([text.encode() for text in SAMPLES.values()]),
    st.sampled_from([b"VDD_IN\n", b"5000\n", b"-1\n", b"npu-thermal\n", b"gpu-thermal\n", b"100@1Hz", b"\0\0"]),
)


@pytest.mark.parametrize("name", FILES)
@given(st.data())
@settings(max_examples=30, deadline=None)
def test_a_board_with_anything_in_its_files_tells_possible_values_or_none(name: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for path in (*FILES[name], *ANYWHERE):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data.draw(CONTENT))
        board = real_board(name, root)
        telemetry = board.telemetry()  # whose own checks would raise
        assert is_temperature(telemetry.temperature_c)
        assert all(board.labels().values())
        board.details()
        evidence(root)


def test_nothing_in_is_nothing_out() -> None:
    assert npu_smi.chips("") == ()
    unknown = [None] * len(dataclasses.fields(Details))
    assert [getattr(npu_smi.details(""), field.name) for field in dataclasses.fields(Details)] == unknown
    parsers: tuple[Callable[[str], object], ...] = (rk3588.npu_load, rk3588.devfreq_load, orin.gpu_load, kernel.degrees)
    assert [parse("") for parse in parsers] == [None] * len(parsers)
    assert Chip(npu_id=0, name=None, health=None).power_w is None
