"""One suite for every backend. Those that need a board run on fakes of the vendors' libraries, which keep the
vendors' rules and fail the test that breaks one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.worker.backends import BACKENDS, make_backend
from agents.worker.backends.base import Backend
from agents.worker.errors import BackendUnavailable, InvalidInput, ModelUnavailable
from agents.worker.model import Model, open_model
from agents.worker.spec import ModelSpec, parse_model
from edgesched.catalogue import ONE_PICTURE_AT_A_TIME, builtin_models_dir, read_model
from edgesched.demo.pictures import draw_pictures
from tests.support.fake_cuda import FakeGpu
from tests.support.fake_tensorrt import FakeTensorrt
from tests.support.graphs import channel_means_graph, echo_spec, encoded, spec_for
from tests.support.vendors import Bench, bench, install

NAMES = ("acl", "echo", "exec", "onnx", "rknn", "tensorrt")
FINDING = tuple(name for name in NAMES if name != "echo")
BATCHING = ("onnx", "tensorrt")


@pytest.fixture
def means(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """The backend that the test asks for, with a graph that answers the mean of each channel."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if request.param == "echo":
        yield Bench(echo_spec())
        return
    graph = channel_means_graph(tmp_path / "means.onnx")
    made = bench(
        request.param,
        graph,
        lambda path, **changes: spec_for(path, "classification", confidence_threshold=0.0, **changes),
        monkeypatch,
    )
    yield made
    made.check()


@pytest.fixture
def spec(means: Bench) -> ModelSpec:
    return parse_model(means.spec)


@pytest.fixture
def backend(spec: ModelSpec) -> Iterator[Backend]:
    made = make_backend(spec.build.backend)
    made.load(spec)
    yield made
    made.close()


every_backend = pytest.mark.parametrize("means", NAMES, indirect=True)


def batch_of(backend: Backend, spec: ModelSpec, grey: int) -> np.ndarray:
    """One grey picture as the backend takes it. As BMP every picture has the same number of bytes."""
    if backend.takes_files:
        return np.frombuffer(encoded(np.full((32, 32, 3), grey, np.uint8), ".bmp"), np.uint8).copy()
    value: float = grey if spec.build.dtype == "uint8" else grey / 255
    return np.full(spec.build.input_shape, value, spec.build.dtype)


def test_every_row_is_tested_here() -> None:
    assert set(NAMES) == set(BACKENDS)


@every_backend
def test_outputs_are_a_list_of_arrays(backend: Backend, spec: ModelSpec) -> None:
    outputs = backend.infer(batch_of(backend, spec, 100))
    assert isinstance(outputs, list)
    assert all(isinstance(output, np.ndarray) for output in outputs)


@every_backend
def test_the_same_batch_gives_the_same_outputs_and_another_one_others(backend: Backend, spec: ModelSpec) -> None:
    first, second, other = (backend.infer(batch_of(backend, spec, grey)) for grey in (100, 100, 200))
    assert [output.tolist() for output in first] == [output.tolist() for output in second]
    if backend.reads_pictures and not backend.takes_files:
        assert [output.tolist() for output in first] != [output.tolist() for output in other]


@every_backend
def test_outputs_stay_when_the_batch_is_used_again(backend: Backend, spec: ModelSpec) -> None:
    batch = batch_of(backend, spec, 60)
    outputs = backend.infer(batch)
    before = [output.copy() for output in outputs]
    batch[:] = batch_of(backend, spec, 180)
    backend.infer(batch)
    assert all(np.array_equal(then, now) for then, now in zip(before, outputs, strict=True))


@every_backend
def test_versions_are_words(backend: Backend) -> None:
    assert all(isinstance(word, str) for pair in backend.versions().items() for word in pair)


@every_backend
def test_closing_is_harmless_at_any_time(backend: Backend, spec: ModelSpec) -> None:
    backend.close()
    backend.close()
    make_backend(spec.build.backend).close()


@every_backend
def test_an_option_that_it_does_not_have_is_refused(means: Bench) -> None:
    spec = {**means.spec, "build": {**means.spec["build"], "options": {"speed": "ludicrous"}}}
    if spec["build"]["backend"] == "echo":
        return
    with pytest.raises(InvalidInput, match=r"has no option speed"):
        make_backend(spec["build"]["backend"]).load(parse_model(spec))


@every_backend
def test_a_file_that_is_missing_is_named(means: Bench) -> None:
    if means.spec["build"]["backend"] == "echo":
        return
    spec = {**means.spec, "build": {**means.spec["build"], "file": "gone.bin"}}
    with pytest.raises(Exception, match=r"there is no file .*gone\.bin: put it there, or correct `file`"):
        opened(spec)


# --- batches ---


@pytest.mark.parametrize("name", BATCHING)
def test_each_picture_of_a_batch_gives_what_it_gives_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    graph = channel_means_graph(tmp_path / "means.onnx", batch="pictures")
    made = bench(
        name, graph, lambda path, **changes: spec_for(path, "classification", max_batch=5, **changes), monkeypatch
    )
    spec = parse_model(made.spec)
    backend = make_backend(name)
    backend.load(spec)
    rows = [batch_of(backend, spec, grey) for grey in (10, 60, 120, 180, 240)]
    alone = [backend.infer(row)[0] for row in rows]
    for size in (1, 4, 2, 5):
        (together,) = backend.infer(np.concatenate(rows[:size]))
        assert together.shape == (size, 3)
        assert np.array_equal(together, np.concatenate(alone[:size]))
    backend.close()
    made.check()


@pytest.mark.parametrize("name", BATCHING)
def test_a_graph_for_one_picture_is_refused_for_batches(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    graph = channel_means_graph(tmp_path / "means.onnx")
    made = bench(
        name, graph, lambda path, **changes: spec_for(path, "classification", max_batch=2, **changes), monkeypatch
    )
    told = r"model 'shapes': .*means\.onnx takes one picture at a time: export .* open batch .*, or leave out max_batch"
    with pytest.raises(ModelUnavailable, match=told):
        opened(made.spec)
    made.check()


@pytest.mark.parametrize("name", sorted({*NAMES} - {*BATCHING, "echo"}))
def test_a_backend_without_batches_refuses_them(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = channel_means_graph(tmp_path / "means.onnx")
    made = bench(
        name, graph, lambda path, **changes: spec_for(path, "classification", max_batch=2, **changes), monkeypatch
    )
    with pytest.raises(InvalidInput, match=f"backend '{name}' takes one picture at a time: leave out max_batch"):
        opened(made.spec)
    assert name in ONE_PICTURE_AT_A_TIME


# --- the same picture in, the same detections out ---


def opened(spec: dict[str, Any]) -> Model:
    return open_model(parse_model(spec), lambda *record: None)


def shapes_spec(path: Path, **changes: Any) -> dict[str, Any]:
    """The demo model, with another file and other facts of its build."""
    model = read_model(builtin_models_dir() / "shapes")
    spec = model.worker_spec(model.builds["default"])
    return {**spec, "directory": str(path.parent), "build": {**spec["build"], "file": path.name, **changes}}


@pytest.mark.parametrize("name", FINDING)
def test_the_same_picture_gives_the_same_detections(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    graph = tmp_path / "shapes.onnx"
    graph.write_bytes((builtin_models_dir() / "shapes" / "shapes.onnx").read_bytes())
    reference, made = opened(shapes_spec(graph)), bench(name, graph, shapes_spec, monkeypatch)
    model = opened(made.spec)
    compared = 0
    for picture in draw_pictures(4, seed=17):
        expected, found = (one.run(bytearray(picture.jpeg)).detections for one in (reference, model))
        assert [item["label"] for item in found] == [item["label"] for item in expected]
        for mine, theirs in zip(found, expected, strict=True):
            assert mine["confidence"] == pytest.approx(theirs["confidence"], abs=2e-4)
            assert [mine[side] for side in ("x1", "y1", "x2", "y2")] == pytest.approx(
                [theirs[side] for side in ("x1", "y1", "x2", "y2")], abs=0.02
            )
            compared += 1
    model.close()
    made.check()
    assert compared >= 8


@pytest.mark.parametrize("name", FINDING)
def test_what_is_no_picture_is_invalid_input_on_every_backend(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    graph = channel_means_graph(tmp_path / "means.onnx")
    made = bench(name, graph, lambda path, **changes: spec_for(path, "classification", **changes), monkeypatch)
    model = opened(made.spec)
    with pytest.raises(InvalidInput):
        model.run(bytearray(b"no picture"))
    model.close()
    made.check()


# --- the table ---


def test_an_unknown_backend_lists_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match="'cuda' is unknown: use one of acl, echo, exec, onnx, rknn, tensorrt"):
        make_backend("cuda")


@pytest.mark.parametrize(
    ("name", "package", "told"),
    [
        ("onnx", "onnxruntime", "needs onnxruntime"),
        ("rknn", "rknnlite", "needs rknnlite .the package rknn-toolkit-lite2"),
        ("acl", "acl", r"needs acl .pyACL, a part of Huawei's CANN.*set_env\.sh"),
        ("tensorrt", "tensorrt", "needs tensorrt .*python3-libnvinfer"),
        ("tensorrt", "cuda", "needs cuda .the package cuda-python"),
    ],
)
def test_a_missing_package_is_named_and_breaks_no_other_backend(
    name: str, package: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, {**FakeTensorrt(FakeGpu()).modules(), package: None})
    with pytest.raises(BackendUnavailable, match=rf"backend '{name}' {told}.*{sys.executable}.*python_path") as caught:
        make_backend(name)
    assert isinstance(caught.value.__cause__, ImportError)
    make_backend("echo")
