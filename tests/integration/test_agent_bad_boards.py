"""Boards on which something is missing, as their users meet them: the agent registers, and says in one sentence what
to install or which permission to give, instead of ending again and again."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration.test_agent_process import started, write_model
from tests.support.agent_parts import FakeGateway, listening
from tests.support.graphs import SIZE, bright_box_graph
from tests.support.vendor_files import write_om, write_plan, write_rknn

ROOT = Path(__file__).parents[2]
SIZES = [f"input_width = {SIZE}", f"input_height = {SIZE}"]
GRAPH = "model.onnx"

# A vendor's library of files, for an interpreter that has none: its first import puts the fake in its place.
NPU = (
    "import sys\nfrom tests.support.fake_rknnlite import FakeNpu\n"
    "npu = FakeNpu()\n{}\nsys.modules.update(npu.modules())"
)
CHIPS = (
    "import sys\nfrom tests.support.fake_acl import FakeChips\n"
    "chips = FakeChips()\n{}\nsys.modules['acl'] = chips.module()"
)
GPU = (
    "import sys\nfrom tests.support.fake_cuda import FakeGpu\nfrom tests.support.fake_tensorrt import FakeTensorrt\n"
    "gpu = FakeGpu('Orin')\nsys.modules.update(gpu.modules())\nsys.modules.update(FakeTensorrt(gpu).modules())"
)


@dataclass(frozen=True, kw_only=True)
class Bad:
    """file: what the model's build names; make: how it is made from the graph. library: what python_path holds."""

    board: str
    told: str
    file: str = GRAPH
    make: Callable[[Path, Path], object] = lambda file, graph: None
    library: Mapping[str, str] = field(default_factory=dict)
    decoder: str = "yolov8"


CASES = {
    "no driver of the NPU": Bad(
        board="rk3588",
        file="model.rknn",
        make=write_rknn,
        library={"rknnlite/__init__.py": NPU.format("npu.trouble = 'E RKNN: failed to open rknpu module'")},
        told="read and write access to /dev/dri (or /dev/rknpu), and the kernel needs Rockchip's rknpu driver",
    ),
    "no runtime": Bad(
        board="rk3588",
        file="model.rknn",
        make=write_rknn,
        library={"rknnlite/__init__.py": NPU.format("npu.trouble = 'can not find /usr/lib/librknnrt.so, get it'")},
        told="install librknnrt.so (from the rknn-toolkit2 repository) into /usr/lib",
    ),
    "a runtime that is too old": Bad(
        board="rk3588",
        file="model.rknn",
        make=lambda file, graph: write_rknn(file, graph, version=7),
        library={"rknnlite/__init__.py": NPU.format("")},
        told="the librknnrt.so of this board is older than the toolkit",
    ),
    "a model for another SoC": Bad(
        board="rk3588",
        file="model.rknn",
        make=lambda file, graph: write_rknn(file, graph, soc="rk3568"),
        library={"rknnlite/__init__.py": NPU.format("")},
        told="was converted for another SoC: convert it for this one",
    ),
    "no Ascend driver": Bad(
        board="atlas",
        file="model.om",
        make=write_om,
        library={"acl.py": CHIPS.format("chips.init_code = 500004")},
        told="HwHiAiUser",
    ),
    "a model for another chip": Bad(
        board="atlas",
        file="model.om",
        make=lambda file, graph: write_om(file, graph, soc="Ascend310P3"),
        library={"acl.py": CHIPS.format("")},
        told="--soc_version=Ascend310B4",
    ),
    "an engine from another GPU": Bad(
        board="orin",
        file="model.engine",
        make=lambda file, graph: write_plan(file, graph, version="10.3.0", gpu="NVIDIA H200"),
        library={"tensorrt.py": GPU, "cuda/__init__.py": "import tensorrt"},
        told="is an engine of another GPU or another TensorRT than 10.3.0",
    ),
    "no vendor's package": Bad(
        board="rk3588",
        file="model.rknn",
        make=write_rknn,
        library={"rknnlite/__init__.py": "import rknnlite.of_the_vendor"},
        told="needs rknnlite (the package rknn-toolkit-lite2)",
    ),
    "outputs that do not fit the decoder": Bad(
        board="generic", decoder="yolov5", told="correct the decoder or the labels in model.toml"
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
async def test_the_agent_registers_and_says_what_to_mend(
    tmp_path: Path, case: Bad, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Named like the built-in model it hides that one, which would run anywhere.
    model = write_model(tmp_path, "shapes", [f'file = "{case.file}"', *SIZES], decoder=case.decoder)
    graph = bright_box_graph(model / GRAPH, "yolov8")
    case.make(model / case.file, graph)
    for path, content in case.library.items():
        (tmp_path / "library" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "library" / path).write_text(content)
    monkeypatch.setenv("EDGESCHED_PYTHON_PATH", f"{tmp_path / 'library'}:{ROOT}")
    reason = await reason_of(tmp_path, "--device", case.board)
    assert case.told in reason
    assert reason.count("\n") == 0


async def test_an_interpreter_without_numpy_is_named_with_what_to_install(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    reason = await reason_of(tmp_path, "--python-bin", str(bare))
    assert "cannot be imported by" in reason
    assert "install opencv-python-headless for that interpreter" in reason


async def test_an_npu_smi_that_hangs_leaves_its_readings_unknown_and_the_board_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin" / "npu-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\nexec sleep 3600\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    gateway = FakeGateway()
    flags = ("--device", "atlas", "--backend", "echo")
    async with listening(gateway.app()) as url, started(tmp_path, url, *flags) as agent:
        await agent.ready()
        beat = await gateway.beat()
        assert beat["unhealthy_reason"] is None
        assert beat["telemetry"]["xpu_used_fraction"] is None
        assert beat["telemetry"]["temperature_c"] is None


async def reason_of(workspace: Path, *flags: str) -> str:
    """Why the board can do no work, as the gateway hears it from an agent that goes on."""
    gateway = FakeGateway()
    async with listening(gateway.app()) as url, started(workspace, url, *flags) as agent:
        beat = await gateway.beat()
        while beat["unhealthy_reason"] is None or "still loading" in beat["unhealthy_reason"]:
            beat = await gateway.beat()
        await gateway.beat()
        assert agent.process.returncode is None
        assert gateway.registrations
        return str(beat["unhealthy_reason"])
