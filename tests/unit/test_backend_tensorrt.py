"""NVIDIA's backend, on fakes of TensorRT 8, 10 and 11 and of the CUDA runtime."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.worker.errors import BackendUnavailable, InferenceFailed, ModelUnavailable
from agents.worker.model import Model, open_model
from agents.worker.spec import parse_model
from tests.support.fake_cuda import FakeGpu
from tests.support.fake_tensorrt import FakeTensorrt
from tests.support.graphs import channel_means_graph, constant_graph, encoded, spec_for
from tests.support.vendor_files import write_plan
from tests.support.vendors import install

RED = encoded(np.full((20, 30, 3), (0, 0, 255), np.uint8))
VERSIONS = ("8.6.1", "10.3.0", "11.4.0")


class Board:
    """A Jetson: its GPU, its TensorRT, and the directory where it keeps engines."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        self._monkeypatch = monkeypatch
        self.cache = cache
        self.gpu = FakeGpu("Orin")
        self.trt = FakeTensorrt(self.gpu)
        self.use()

    def use(self, *, version: str = "10.3.0", gpu: str = "Orin", has_new_cuda_python: bool = True) -> None:
        self.check()
        self.gpu = FakeGpu(gpu)
        self.trt = FakeTensorrt(self.gpu, version)
        install(self._monkeypatch, {**self.trt.modules(), **self.gpu.modules(is_new=has_new_cuda_python)})

    def opened(self, spec: dict[str, Any]) -> Model:
        return open_model(parse_model(spec, cache_dir=str(self.cache)), lambda *record: None)

    def engines(self) -> list[Path]:
        return sorted(self.cache.glob("*.engine"))

    def check(self) -> None:
        self.gpu.check()
        self.trt.check()


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Board]:
    made = Board(monkeypatch, tmp_path / "cache")
    yield made
    made.check()


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return channel_means_graph(tmp_path / "means.onnx")


def described(file: Path, **changes: Any) -> dict[str, Any]:
    return spec_for(file, "classification", **{"backend": "tensorrt", "resize": "stretch", **changes})


def labels(model: Model) -> list[str]:
    return [found["label"] for found in model.run(bytearray(RED)).detections]


@pytest.mark.parametrize("version", VERSIONS)
def test_one_code_path_serves_every_version(board: Board, graph: Path, version: str) -> None:
    board.use(version=version)
    model = board.opened(described(graph))
    assert labels(model) == ["circle"]
    assert model.backend.versions() == {"tensorrt": version}
    model.close()
    (built,) = board.trt.builds
    assert built["flags"] == ([] if version.startswith("11") else ["FP16"])
    assert built["workspace"] == 1 << 30


def test_the_older_cuda_python_will_do(board: Board, graph: Path) -> None:
    board.use(has_new_cuda_python=False)
    model = board.opened(described(graph))
    assert labels(model) == ["circle"]
    model.close()


def test_full_precision_can_be_asked_for_and_is_another_engine(board: Board, graph: Path) -> None:
    for options in ({}, {"fp16": False}):
        board.opened(described(graph, options=options)).close()
    assert [built["flags"] for built in board.trt.builds] == [["FP16"], []]
    assert len(board.engines()) == 2


def test_an_engine_is_built_once(board: Board, graph: Path) -> None:
    for _ in range(2):
        model = board.opened(described(graph))
        assert labels(model) == ["circle"]
        model.close()
    assert len(board.trt.builds) == 1
    (engine,) = board.engines()
    assert engine.name.endswith("-trt10.3.0-Orin-fp16-1x3x64x64.engine")


def test_two_workers_build_it_once_between_them(board: Board, graph: Path) -> None:
    models: list[Model] = []
    threads = [threading.Thread(target=lambda: models.append(board.opened(described(graph)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [labels(model) for model in models] == [["circle"]] * 2
    assert len(board.trt.builds) == 1
    for model in models:
        model.close()


def test_another_version_gpu_or_model_gets_an_engine_of_its_own(board: Board, graph: Path) -> None:
    board.opened(described(graph)).close()
    board.use(version="10.7.0")
    board.opened(described(graph)).close()
    board.use(gpu="Xavier")
    board.opened(described(graph)).close()
    constant_graph(graph, np.array([[0.9, 0.1, 0]], np.float32))  # the same name, another content
    board.opened(described(graph)).close()
    assert len(board.engines()) == 4


def test_a_damaged_engine_is_built_again(board: Board, graph: Path) -> None:
    board.opened(described(graph)).close()
    (engine,) = board.engines()
    engine.write_bytes(engine.read_bytes()[:40])
    model = board.opened(described(graph))
    assert labels(model) == ["circle"]
    model.close()
    assert len(board.trt.builds) == 2


def test_a_cache_that_cannot_be_written_is_named(board: Board, graph: Path) -> None:
    board.cache.write_text("a file where the directory should be")
    with pytest.raises(ModelUnavailable, match=r"engines are kept in .*cache, which cannot be written"):
        board.opened(described(graph))


def test_an_open_batch_is_built_for_one_picture(board: Board, tmp_path: Path) -> None:
    answer = np.array([[0.1, 0.7, 0.2]], np.float32)
    graph = constant_graph(tmp_path / "m.onnx", answer, input_shape=("batch", 3, "height", "width"))
    model = board.opened(described(graph))
    assert labels(model) == ["square"]
    model.close()
    assert board.trt.builds[0]["shapes"] == {"image": (1, 3, 64, 64)}


@pytest.mark.parametrize("has_header", [False, True])
def test_an_engine_that_was_built_here_by_hand_is_taken(board: Board, graph: Path, has_header: bool) -> None:
    plan = write_plan(graph.with_suffix(".engine"), graph, version="10.3.0", gpu="Orin")
    if has_header:  # as Ultralytics writes it
        header = json.dumps({"task": "detect"}).encode()
        plan.write_bytes(len(header).to_bytes(4, "little") + header + plan.read_bytes())
    model = board.opened(described(plan))
    assert labels(model) == ["circle"]
    model.close()
    assert not board.trt.builds


@pytest.mark.parametrize(("version", "gpu"), [("8.6.1", "Orin"), ("10.3.0", "NVIDIA H200")])
def test_an_engine_from_elsewhere_says_what_to_name_instead(
    board: Board, graph: Path, version: str, gpu: str, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = write_plan(graph.with_suffix(".engine"), graph, version=version, gpu=gpu)
    told = r"means\.engine is an engine of another GPU or another TensorRT than 10\.3\.0 .*name the \.onnx file instead"
    with pytest.raises(ModelUnavailable, match=told):
        board.opened(described(plan))
    assert "TensorRT: The engine plan file is not compatible" in capfd.readouterr().err


def test_no_gpu_names_the_driver(board: Board, graph: Path) -> None:
    board.gpu.has_driver = False
    with pytest.raises(
        BackendUnavailable, match=r"no NVIDIA GPU answers .cudaSetDevice gave cudaErrorNoDevice.*driver"
    ):
        board.opened(described(graph))


def test_a_numpy_that_is_too_new_for_it_is_named(board: Board, graph: Path) -> None:
    board.trt.nptype_is_broken = True
    with pytest.raises(BackendUnavailable, match=r"install 'numpy<1\.24'"):
        board.opened(described(graph))


def test_a_graph_that_it_cannot_read_or_build_gives_its_reason(board: Board, graph: Path) -> None:
    board.trt.builder_fails = "Error Code 10: could not find any implementation for node Foo"
    with pytest.raises(ModelUnavailable, match=r"10\.3\.0 cannot build .*means\.onnx: Error Code 10: could not find"):
        board.opened(described(graph))
    graph.write_text("not a graph")
    with pytest.raises(ModelUnavailable, match=r"cannot read .*means\.onnx: Failed to parse ONNX model"):
        board.opened(described(graph))
    assert board.engines() == []


@pytest.mark.parametrize("changes", [{"layout": "nhwc"}, {"dtype": "float16"}, {"input_height": 32}])
def test_another_input_than_the_engine_s_is_refused(board: Board, graph: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ModelUnavailable, match=r"takes float32 of shape \(1, 3, 64, 64\), but model.toml describes"):
        board.opened(described(graph, **changes))


def test_a_full_gpu_is_one_sentence(board: Board, graph: Path) -> None:
    board.gpu.memory_bytes = 1000
    with pytest.raises(ModelUnavailable, match=r"means\.onnx cannot be run: cudaMalloc gave cudaErrorMemoryAllocation"):
        board.opened(described(graph))


def test_a_failed_run_costs_one_picture(board: Board, graph: Path) -> None:
    model = board.opened(described(graph))
    board.trt.execute_fails = True
    with pytest.raises(InferenceFailed, match=r"could not run the engine: IExecutionContext::enqueueV3"):
        model.run(bytearray(RED))
    board.trt.execute_fails = False
    assert labels(model) == ["circle"]
    model.close()
