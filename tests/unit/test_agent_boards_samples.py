"""What boards, manuals and other projects' tests have printed, and what is read from it. Origins: tests/data/boards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from agents.boards import npu_smi, rk3588, tegrastats
from agents.boards.detect import detect, real_board
from agents.boards.npu_smi import Chip, Details
from agents.boards.orin import gpu_load
from edgesched.domain.device import BoardType

DATA = Path(__file__).parents[1] / "data" / "boards"


def sample(name: str) -> str:
    return (DATA / name).read_bytes().decode()


# (npu, name, health, watts, degrees, chip, device, AICore, used, total)
TABLES: Mapping[str, tuple[tuple[object, ...], ...]] = {
    "info-310-v21.0.3.1": ((0, "310", "OK", 12.8, 58.0, 0, 0, 0.0, 5324, 8192),),  # no column of hugepages
    "info-310-v22.0.4-annotated": ((0, "310", "OK", 12.8, 51.0, 0, 0, 0.0, 5745, 7757),),
    "info-310-v23.0.0-pcie-idle-noproc": ((0, "310", "OK", 12.8, 61.0, 0, 0, 0.0, 577, 7759),),
    "info-310B-v24.1.rc3-doc": ((0, "310B", "OK", 7.6, 42.0, 0, 0, 0.0, 1003, 10810),),
    "info-310B1-v23.0.rc3-doc": ((0, "310B1", "OK", 10.4, 66.0, 0, 0, 0.0, 957, 10810),),
    "info-310B1-v23.0.5-6cards-collapsed": (
        (0, "310B1", "Alarm", None, 49.0, 0, 0, 0.0, 600, 7578),
        (1, "310B1", "Alarm", None, 54.0, 0, 1, 0.0, 597, 7578),
        (2, "310B1", "Alarm", None, 54.0, 0, 2, 0.0, 570, 7578),
        (3, "310B1", "Alarm", None, 52.0, 0, 3, 0.0, 570, 7578),
    ),
    "info-310B4-v23.0.0-alarm-trailing-space": ((0, "310B4", "Alarm", None, 65.0, 0, 0, 0.0, 3628, 15609),),
    "info-310B4-rows-aicore2": ((0, "310B4", "Alarm", None, 80.0, 0, 0, 0.02, 14541, 15610),),
    "info-310B4-v23.0.0-pipe-less-header": (),  # retyped by hand; no release prints this
    "info-200I-v25.5.0-doc": ((0, "xxx", "OK", 10.4, 66.0, 0, 0, 0.0, 957, 10810),),
    "info-310P3-v24.1.0.1-idle-noproc": ((1, "310P3", "OK", None, 47.0, 0, 0, 0.0, 1894, 44215),),
    "info-310P3-v25.2.0-duo-two-chips": (
        (2, "310P3", "OK", None, 45.0, 0, 0, 0.0, 1529, 44280),
        (2, "310P3", "OK", None, 43.0, 1, 1, 0.0, 1412, 43693),
    ),
    "info-310P3-v25.2.0-large-npu-ids": (
        (0, "310P3", "OK", None, 48.0, 0, 0, 0.0, 1851, 21527),
        (32, "310P3", "OK", None, 50.0, 0, 1, 0.0, 1852, 21527),
        (96, "310P3", "OK", None, 52.0, 0, 2, 0.0, 1851, 21527),
    ),
    "info-310P3-v25.5.1-odd-rule": (
        (4, "310P3", "OK", None, 37.0, 0, 0, 0.0, 1848, 21525),
        (5, "310P3", "OK", None, 40.0, 0, 1, 0.0, 1849, 21525),
    ),
    "info-910B2C-v23.0.2.1-hbm-process": (  # the processes below are no chips
        (0, "910B2C", "OK", 88.6, 51.0, 0, None, 0.0, 20701, 65536),
        (1, "910B2C", "OK", 99.6, 50.0, 0, None, 0.0, 20687, 65536),
    ),
}

VERSIONS: Mapping[str, str | None] = {
    "info-310-v21.0.3.1": "21.0.3.1",
    "info-310-v22.0.4-annotated": "22.0.4",
    "info-310-v23.0.0-pcie-idle-noproc": "23.0.0",
    "info-310B-v24.1.rc3-doc": "24.1.rc3",
    "info-310B1-v23.0.rc3-doc": "23.0.rc3",
    "info-310B1-v23.0.5-6cards-collapsed": "23.0.5",
    "info-310B4-v23.0.0-alarm-trailing-space": "23.0.0",
    "info-310B4-rows-aicore2": None,
    "info-310B4-v23.0.0-pipe-less-header": "23.0.0",
    "info-200I-v25.5.0-doc": "25.5.0",
    "info-310P3-v24.1.0.1-idle-noproc": "24.1.0.1",
    "info-310P3-v25.2.0-duo-two-chips": "25.2.0",
    "info-310P3-v25.2.0-large-npu-ids": "25.2.0",
    "info-310P3-v25.5.1-odd-rule": "25.5.1",
    "info-910B2C-v23.0.2.1-hbm-process": "23.0.2.1",
}


def chip(row: tuple[object, ...]) -> Chip:
    names = [*("npu_id", "name", "health", "power_w", "temperature_c", "chip_id", "device_id")]
    names += ["aicore_used_fraction", "memory_used_mb", "memory_total_mb"]
    values: dict[str, object] = dict(zip(names, row, strict=True))
    return Chip(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TABLES)
def test_the_chips_of_npu_smi_info(name: str) -> None:
    text = sample(f"atlas/npu-smi-{name}.txt")
    assert npu_smi.chips(text) == tuple(map(chip, TABLES[name]))
    assert npu_smi.version(text) == VERSIONS[name]


NOTHING = Details(
    aicore_used_fraction=None, memory_used_fraction=None, memory_total_mb=None, temperature_c=None, power_w=None
)

DETAILS: Mapping[str, Details] = {
    "usages-200I-idle-doc": Details(
        aicore_used_fraction=0.0, memory_used_fraction=0.35, memory_total_mb=10810, temperature_c=None, power_w=None
    ),
    "usages-200I-chip-doc": Details(
        aicore_used_fraction=0.0, memory_used_fraction=0.46, memory_total_mb=10810, temperature_c=None, power_w=None
    ),
    "usages-910B-hbm": Details(  # its DDR of 0 MB is not the memory
        aicore_used_fraction=0.0, memory_used_fraction=0.03, memory_total_mb=65536, temperature_c=None, power_w=None
    ),
    "usages-keys-newer": Details(
        aicore_used_fraction=0.57, memory_used_fraction=0.86, memory_total_mb=65536, temperature_c=None, power_w=161.2
    ),
    "common-200I-doc": Details(  # the chip's 38 degrees, not its controller's 36; 13.3 W taken, not 4.0 W rated
        aicore_used_fraction=0.0, memory_used_fraction=0.44, memory_total_mb=None, temperature_c=38.0, power_w=13.3
    ),
    "memory-200I-doc": Details(
        aicore_used_fraction=None, memory_used_fraction=None, memory_total_mb=10810, temperature_c=None, power_w=None
    ),
    "board-200IDKA2-doc": NOTHING,
    "cpu-num-cfg-310B4": NOTHING,
    "list-310-v22.0.4": NOTHING,
    "list-v25-16npus-head": NOTHING,
}

FIELDS: Mapping[str, Mapping[str, str]] = {
    "board-200IDKA2-doc": {"Product Name": "IT22DMDB02", "Model": "NA", "Software Version": "25.5.0"},
    "cpu-num-cfg-310B4": {"Current AI CPU number": "1", "Current control CPU number": "3"},
    "memory-200I-doc": {"Total Capacity(MB)": "12288", "Clock Speed(MHz)": "2131"},
    "list-310-v22.0.4": {"Card Count": "1", "Serial Number": "033GWL10LB000840"},
}

NPU_IDS: Mapping[str, tuple[int, ...]] = {"list-310-v22.0.4": (0,), "list-v25-16npus-head": (0, 1, 2)}


@pytest.mark.parametrize("name", DETAILS)
def test_the_figures_of_npu_smi_info_t(name: str) -> None:
    assert npu_smi.details(sample(f"atlas/npu-smi-{name}.txt")) == DETAILS[name]


@pytest.mark.parametrize("name", FIELDS)
def test_the_fields_of_npu_smi_info_t(name: str) -> None:
    fields = dict(npu_smi.fields(sample(f"atlas/npu-smi-{name}.txt")))
    assert {key: fields[key] for key in FIELDS[name]} == FIELDS[name]


@pytest.mark.parametrize("name", NPU_IDS)
def test_the_ids_of_npu_smi_info_l(name: str) -> None:
    assert npu_smi.npu_ids(sample(f"atlas/npu-smi-{name}.txt")) == NPU_IDS[name]


@pytest.mark.parametrize(("code", "advice"), [("8005", "HwHiAiUser"), ("8020", "another container")])
def test_a_refusal_of_the_driver_says_what_to_do(code: str, advice: str) -> None:
    trouble = npu_smi.trouble(sample(f"atlas/npu-smi-error-{code}.txt"))
    assert trouble is not None
    assert f"-{code}: " in trouble
    assert advice in trouble


CORES: Mapping[str, tuple[float, ...]] = {
    "load-balanced": (0.63, 0.65, 0.64),
    "load-busy": (0.86, 0.84, 0.61),
    "load-glances-testdata": (0.45, 0.32, 0.0),
    "load-idleish": (0.04, 0.0, 0.0),
    "load-overflow": (0.99, 0.99, 1.0),
    "load-partial": (0.21, 0.11, 0.0),
    "load-singlecore-busy": (0.48,),
    "load-singlecore-idle": (0.0,),
}


@pytest.mark.parametrize("name", CORES)
def test_the_load_of_each_npu_core_and_their_mean(name: str) -> None:
    text = sample(f"rk3588/rknpu-{name}.txt")
    assert rk3588.core_loads(text) == CORES[name]
    assert rk3588.npu_load(text) == pytest.approx(sum(CORES[name]) / len(CORES[name]))


Parse = Callable[[str], float | str | None]

VALUES: Mapping[str, tuple[Parse, float | str]] = {
    "rk3588/devfreq-npu-load-stuck100.txt": (rk3588.devfreq_load, 1.0),  # which the board does not believe
    "rk3588/devfreq-npu-cur_freq.txt": (rk3588.scaled(1e-6), 600.0),
    "rk3588/devfreq-npu-min_freq.txt": (rk3588.scaled(1e-6), 300.0),
    "rk3588/devfreq-npu-max_freq.txt": (rk3588.scaled(1e-6), 1000.0),
    "rk3588/rknpu-freq.txt": (rk3588.scaled(1e-6), 1000.0),
    "rk3588/rknpu-volt.txt": (rk3588.scaled(1e-6), 0.8),
    "rk3588/rknpu-version.txt": (rk3588.driver_version, "0.9.3"),
    "rk3588/dmesg-rknpu-0.9.5.txt": (rk3588.driver_version, "0.9.5"),
    "rk3588/rknpu-mm.txt": (rk3588.sram_used, 128 / 239),
    "rk3588/rkrga-load.txt": (rk3588.rga_load, 0.59 / 3),
    "orin/gpu-load-busy.txt": (gpu_load, 0.845),
}


@pytest.mark.parametrize("name", VALUES)
def test_the_value_of_a_file_of_the_kernel(name: str) -> None:
    parse, expected = VALUES[name]
    value = parse(sample(name))
    assert value == (pytest.approx(expected) if isinstance(expected, float) else expected)


# GPU, cores, RAM, a few zones, power of the module
LINES: Mapping[str, tuple[float | None, list[int | None], tuple[int, int], dict[str, float], float | None]] = {
    "agxorin-jetpack7.2": (
        0.12,
        [23, 10, 4, 14, 30, 18, 10, 10, 33, 7, 5, 27],
        (20642, 62817),
        {"cpu": 52.968, "soc2": 48.406, "soc0": 49.531, "gpu": 47.625},
        5.139 + 3.268 + 5.5,
    ),
    "agxorin64-idle-sudo": (  # the GPU's zone is off with its GPU; rails named NC lead nowhere
        0.0,
        [0] * 12,
        (4321, 62801),
        {
            **{"cpu": 44.562, "tboard": 32.0, "soc2": 40.093, "tdiode": 33.0},
            **{"soc0": 41.093, "tj": 44.343, "soc1": 41.25},
        },
        2.34 + 0.39 + 4.025,
    ),
    "agxxavier-idle": (  # PMIC@100C is no temperature; which of its rails feed it all is not known
        0.0,
        [1, 1, 2, 0, 0, 0, 0, 0],
        (1903, 15692),
        {"ao": 32.5, "gpu": 32.0, "tboard": 32.0, "tdiode": 34.75, "aux": 31.5, "cpu": 33.5, "thermal": 32.9},
        None,
    ),
    "minimal-no-power-avg": (0.45, [], (4300, 30698), {"tj": 52.468}, None),
    "nano-cores-off": (0.99, [10, None, None, None], (1234, 3964), {"pll": 31.5, "cpu": 47.0, "gpu": 46.5}, None),
    "orinnano-busy-sudo": (
        0.84,
        [97, 95, 95, 91, 88, 93],
        (6982, 7620),
        {
            **{"cv0": 63.031, "cpu": 65.562, "soc2": 64.156, "soc0": 63.031, "cv1": 62.937},
            **{"gpu": 63.5, "tj": 65.562, "soc1": 64.718, "cv2": 60.875},
        },
        17.946,
    ),
    "orinnano-gpu99-nosudo": (
        0.99,
        [0],
        (3308, 7607),
        {"cpu": 61.5, "soc2": 60.2, "soc0": 58.0, "gpu": 62.3, "tj": 62.4, "soc1": 59.9},
        12.517,
    ),
    "orinnano-idle-nosudo": (
        0.0,
        [1, 2, 0, 2, 2, 1],
        (3452, 7620),
        {"cpu": 50.031, "soc2": 49.031, "soc0": 50.0, "gpu": 49.031, "tj": 50.25, "soc1": 50.25},
        4.824,
    ),
    "orinnano-mid-sudo": (
        0.63,
        [15, 11, 14, 13, 11, 8],
        (6185, 7620),
        {"cpu": 53.968, "soc2": 52.437, "soc0": 50.75, "gpu": 53.343, "tj": 53.968, "soc1": 51.656},
        12.479,
    ),
    "thor-clock-only": (None, [], (4722, 7844), {}, None),  # clocks without a load: unknown, not 0
    "tx2-sudo": (
        0.0,
        [44, 49, 67, 17, 25, 8],
        (3276, 7859),
        {
            **{"pll": 42.5, "mcpu": 42.5, "tboard": 38.0, "gpu": 39.5},
            **{"bcpu": 42.5, "thermal": 41.3, "tdiode": 39.25},
        },
        5.297,
    ),
}

RAILS: Mapping[str, Mapping[str, float]] = {
    "agxxavier-idle": {"GPU": 0.0, "CPU": 0.216, "SOC": 0.864, "CV": 0.0, "VDDRQ": 0.144, "SYS5V": 1.889},
    "agxorin64-idle-sudo": {
        **{"VDD_GPU_SOC": 2.34, "VDD_CPU_CV": 0.39, "VIN_SYS_5V0": 4.025},
        "VDDQ_VDD2_1V8AO": 0.301,
    },
    "minimal-no-power-avg": {"VDD_GPU_SOC": 2.171},
    "orinnano-busy-sudo": {"VDD_IN": 17.946, "VDD_CPU_GPU_CV": 8.896, "VDD_SOC": 3.923},
    "thor-clock-only": {},
    "nano-cores-off": {},
}


@pytest.mark.parametrize("name", LINES)
def test_a_line_of_tegrastats(name: str) -> None:
    gpu, cores, ram, zones, power = LINES[name]
    stats = tegrastats.parse(sample(f"orin/tegrastats-{name}.txt"))
    assert stats.gpu_used_fraction == gpu
    assert stats.cores_used_fraction == tuple(None if core is None else core / 100 for core in cores)
    assert (stats.ram_used_mb, stats.ram_total_mb) == ram
    assert stats.zones_c == zones
    assert stats.power_w == (None if power is None else pytest.approx(power))
    if name in RAILS:
        assert stats.rails_w == RAILS[name]


# sample -> where it lies on the board, the type it gives away, the labels that follow from it
IDENTITIES: Mapping[str, tuple[str, BoardType, dict[str, str]]] = {
    "orin/nv_tegra_release-r35.4.1.txt": ("etc/nv_tegra_release", BoardType.ORIN, {"driver": "L4T 35.4.1"}),
    "orin/nv_tegra_release-r36.4.3.txt": ("etc/nv_tegra_release", BoardType.ORIN, {"driver": "L4T 36.4.3"}),
    "orin/nv_tegra_release-r36.4.7.txt": ("etc/nv_tegra_release", BoardType.ORIN, {"driver": "L4T 36.4.7"}),
    "orin/devicetree-model-agxorin-early.txt": (
        "proc/device-tree/model",
        BoardType.GENERIC,  # the text varies too much to tell a type by it
        {"model": "NVIDIA Orin Jetson-Small Developer Kit"},
    ),
    "orin/devicetree-model-orinnano-super.bin": (
        "proc/device-tree/model",
        BoardType.GENERIC,
        {"model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"},
    ),
    "orin/devicetree-model-orinnx.bin": (
        "proc/device-tree/model",
        BoardType.GENERIC,
        {"model": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"},
    ),
    "rk3588/devicetree-model-orangepi5plus.txt": (
        "proc/device-tree/model",
        BoardType.GENERIC,
        {"model": "Orange Pi 5 Plus"},
    ),
    "rk3588/devicetree-compatible-orangepi5plus.bin": (
        "proc/device-tree/compatible",
        BoardType.RK3588,
        {"chip": "RK3588"},
    ),
    "rk3588/devicetree-compatible-rk3568-nul-stripped.txt": ("proc/device-tree/compatible", BoardType.GENERIC, {}),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_who_a_board_is(tmp_path: Path, name: str) -> None:
    place, kind, labels = IDENTITIES[name]
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_bytes((DATA / name).read_bytes())
    assert detect(tmp_path) is kind
    assert real_board(None, tmp_path).labels() == labels


FOREIGN = (  # of other parts, for the backends; no sensor's parser may find a reading in them
    *("atlas/ais_bench-summary-310B.txt", "atlas/atc-run-310B4.txt", "atlas/ort-cann-ep-missing-runtime.txt"),
    *("orin/jtop-stats-agxxavier.txt", "orin/ort-cuda-ep-missing-runtime.txt"),
    *("orin/ort-tensorrt-ep-missing-runtime.txt", "rk3588/rknn-error-submit.txt"),
    *("rk3588/rknn-simulator-errors-x86-2.5.0.txt", "rk3588/rknn-simulator-run-x86-2.5.0.txt"),
    *("rk3588/rknnlite-error-no-driver.txt", "rk3588/rknnlite-error-no-driver-traceback.txt"),
    "rk3588/rknnlite-error-runtime-too-old.txt",
)


@pytest.mark.parametrize("name", [*FOREIGN, "atlas/npu-smi-error-8005.txt", "atlas/npu-smi-error-8020.txt"])
def test_no_reading_is_found_where_there_is_none(name: str) -> None:
    text = sample(name)
    assert npu_smi.chips(text) == ()
    assert npu_smi.npu_ids(text) == ()
    assert npu_smi.version(text) is None
    assert npu_smi.details(text) == NOTHING
    assert tegrastats.parse(text) == tegrastats.parse("")
    files = (rk3588.npu_load, rk3588.devfreq_load, rk3588.driver_version, rk3588.sram_used, rk3588.rga_load, gpu_load)
    assert [parse(text) for parse in files] == [None] * len(files)
    assert (npu_smi.trouble(text) is None) == (name in FOREIGN)


def test_every_sample_is_a_case() -> None:
    covered = {
        *(f"atlas/npu-smi-{name}.txt" for name in (*TABLES, *DETAILS, "error-8005", "error-8020")),
        *(f"rk3588/rknpu-{name}.txt" for name in CORES),
        *(f"orin/tegrastats-{name}.txt" for name in LINES),
        *VALUES,
        *IDENTITIES,
        *FOREIGN,
    }
    there = {str(path.relative_to(DATA)) for path in DATA.glob("*/*") if path.name != "SOURCES.md"}
    assert covered == there
