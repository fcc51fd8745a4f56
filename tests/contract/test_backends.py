"""One suite for every backend that can run where the tests run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from agents.worker.backends import BACKENDS, make_backend
from agents.worker.backends.base import Backend
from agents.worker.errors import BackendUnavailable, InvalidInput
from agents.worker.spec import ModelSpec, parse_model
from tests.support.graphs import channel_means_graph, echo_spec, spec_for

SPECS: dict[str, Callable[[Path], dict[str, object]]] = {
    "echo": lambda folder: echo_spec(),
    "onnx": lambda folder: spec_for(channel_means_graph(folder / "means.onnx"), "classification"),
}


@pytest.fixture(params=sorted(SPECS))
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> ModelSpec:
    return parse_model(SPECS[request.param](tmp_path))


@pytest.fixture
def backend(spec: ModelSpec) -> Iterator[Backend]:
    made = make_backend(spec.build.backend)
    made.load(spec)
    yield made
    made.close()


def batch_of(spec: ModelSpec, value: float) -> np.ndarray:
    return np.full(spec.build.input_shape, value, spec.build.dtype)


def test_every_row_is_tested_here() -> None:
    assert set(SPECS) == set(BACKENDS)


def test_outputs_are_a_list_of_arrays(backend: Backend, spec: ModelSpec) -> None:
    outputs = backend.infer(batch_of(spec, 0.5))
    assert isinstance(outputs, list)
    assert all(isinstance(output, np.ndarray) for output in outputs)


def test_the_same_batch_gives_the_same_outputs(backend: Backend, spec: ModelSpec) -> None:
    first, second = backend.infer(batch_of(spec, 0.5)), backend.infer(batch_of(spec, 0.5))
    assert [output.tolist() for output in first] == [output.tolist() for output in second]


def test_outputs_stay_when_the_batch_is_used_again(backend: Backend, spec: ModelSpec) -> None:
    batch = batch_of(spec, 0.25)
    outputs = backend.infer(batch)
    before = [output.copy() for output in outputs]
    batch[:] = 0.75
    backend.infer(batch)
    assert all(np.array_equal(then, now) for then, now in zip(before, outputs, strict=True))


def test_versions_are_words(backend: Backend) -> None:
    assert all(isinstance(word, str) for pair in backend.versions().items() for word in pair)


def test_closing_is_harmless_at_any_time(backend: Backend, spec: ModelSpec) -> None:
    backend.close()
    backend.close()
    make_backend(spec.build.backend).close()


def test_an_unknown_backend_lists_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match="'cuda' is unknown: use one of echo, onnx"):
        make_backend("cuda")


def test_a_missing_package_is_named_and_breaks_no_other_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "agents.worker.backends.onnx", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailable, match=r"backend 'onnx' needs onnxruntime.*python_path") as caught:
        make_backend("onnx")
    assert isinstance(caught.value.__cause__, ImportError)
    make_backend("echo")
