"""ONNX Runtime with a vendor's provider: it is used, or refused; never quietly replaced by the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.worker.errors import BackendUnavailable, InferenceFailed, InvalidInput, ModelUnavailable
from agents.worker.model import Model, open_model
from agents.worker.spec import parse_model
from tests.support.fake_ort import CANN, CPU, CUDA, TENSORRT, FakeOrt
from tests.support.graphs import channel_means_graph, encoded, spec_for
from tests.support.vendors import install

RED = encoded(np.full((20, 30, 3), (0, 0, 255), np.uint8))


def described(directory: Path, *providers: str, **provider_options: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"providers": list(providers)}
    if provider_options:
        options["provider_options"] = provider_options
    graph = channel_means_graph(directory / "means.onnx")
    return spec_for(graph, "classification", resize="stretch", options=options)


def opened(spec: dict[str, Any], cache: Path | None = None) -> Model:
    return open_model(parse_model(spec, cache_dir=str(cache or "")), lambda *record: None)


@pytest.mark.parametrize("provider", [CUDA, CANN])
def test_a_provider_that_starts_is_used_with_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    ort = FakeOrt(provider, starts=(provider,))
    install(monkeypatch, {"onnxruntime": ort.module()})
    model = opened(described(tmp_path, provider, CPU, **{provider: {"device_id": 1}}))
    assert [found["label"] for found in model.run(bytearray(RED)).detections] == ["circle"]
    assert [session[0] for session in ort.sessions] == [{provider: {"device_id": 1}, CPU: {}}]


@pytest.mark.parametrize(
    ("provider", "told"),
    [
        (CUDA, r"could not start CUDAExecutionProvider: it needs CUDA and cuDNN .*libcublasLt\.so\.13 is missing"),
        (TENSORRT, r"could not start TensorrtExecutionProvider: it needs TensorRT .*libnvinfer\.so\.10 is missing"),
        (CANN, r"could not start CANNExecutionProvider: it needs CANN's libraries .source its set_env\.sh"),
    ],
)
@pytest.mark.parametrize("others", [(), (CPU,)])
def test_a_provider_without_its_driver_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str, told: str, others: tuple[str, ...]
) -> None:
    install(monkeypatch, {"onnxruntime": FakeOrt(provider).module()})
    with pytest.raises(BackendUnavailable, match=told) as caught:
        opened(described(tmp_path, provider, *others), tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_without_the_cpu_on_the_list_no_operator_may_run_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {"onnxruntime": FakeOrt(CUDA, starts=(CUDA,), takes_all=False).module()})
    with pytest.raises(BackendUnavailable, match="add CPUExecutionProvider to providers to run those on the CPU"):
        opened(described(tmp_path, CUDA))
    opened(described(tmp_path, CUDA, CPU))


def test_tensorrt_s_engines_are_kept_between_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ort = FakeOrt(TENSORRT, CUDA, starts=(TENSORRT, CUDA))
    install(monkeypatch, {"onnxruntime": ort.module()})
    more = {TENSORRT: {"trt_fp16_enable": "0"}}
    opened(described(tmp_path, TENSORRT, CUDA, CPU, **more), tmp_path / "cache")
    options = ort.sessions[0][0][TENSORRT]
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    assert options["trt_engine_cache_path"] == str(tmp_path / "cache" / "onnxruntime-tensorrt")
    assert options["trt_fp16_enable"] == "0"


def test_a_bad_graph_is_not_blamed_on_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {"onnxruntime": FakeOrt(CANN, starts=(CANN,)).module()})
    spec = described(tmp_path, CANN)
    (tmp_path / "means.onnx").write_text("not a graph")
    with pytest.raises(ModelUnavailable, match=r"cannot load .*means\.onnx"):
        opened(spec)


def test_options_for_a_provider_that_is_not_asked_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidInput, match="provider_options speaks of CUDAExecutionProvider, which is not in providers"
    ):
        opened(described(tmp_path, CPU, **{CUDA: {"device_id": 0}}))
    with pytest.raises(InvalidInput, match="providers names none"):
        opened(described(tmp_path))


def test_a_run_that_fails_costs_one_picture(tmp_path: Path) -> None:
    model = opened(described(tmp_path, CPU))
    with pytest.raises(InferenceFailed, match="ONNX Runtime could not run the model"):
        model.backend.infer(np.zeros((1, 3, 2, 2), np.float32))
    assert model.run(bytearray(RED)).detections
