"""Rockchip's backend, on a fake RKNNLite that never raises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.worker.backends import make_backend
from agents.worker.errors import BackendUnavailable, InferenceFailed, InvalidInput, ModelUnavailable
from agents.worker.model import Model, open_model
from agents.worker.spec import parse_model
from tests.support.fake_rknnlite import FakeNpu
from tests.support.graphs import channel_means_graph, encoded, spec_for
from tests.support.vendor_files import write_rknn
from tests.support.vendors import PIXELS, install

RED = encoded(np.full((20, 30, 3), (0, 0, 255), np.uint8))


@pytest.fixture
def npu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNpu]:
    board = FakeNpu()
    install(monkeypatch, board.modules())
    yield board
    board.check()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_rknn(tmp_path / "means.rknn", channel_means_graph(tmp_path / "means.onnx"))


def described(file: Path, **changes: Any) -> dict[str, Any]:
    return spec_for(file, "classification", **{"backend": "rknn", **PIXELS, "resize": "stretch", **changes})


def opened(spec: dict[str, Any], slot: int = 0) -> Model:
    return open_model(parse_model(spec, slot=slot), lambda *record: None)


def test_each_worker_has_one_core_of_its_own(npu: FakeNpu, file: Path) -> None:
    models = [opened(described(file), slot) for slot in range(5)]
    assert npu.masks == [1, 2, 4, 1, 2]
    for model in models:
        model.close()


def test_pixels_go_in_as_they_are_and_rgb(npu: FakeNpu, file: Path) -> None:
    model = opened(described(file))
    assert [found["label"] for found in model.run(bytearray(RED)).detections] == ["circle"]  # the first channel
    assert model.backend.versions()["rknnlite"].startswith("=== RKNN VERSION: API: librknn_api 2.5.0 DRV: rknpu 0.9.8")
    model.close()


@pytest.mark.parametrize(
    ("printed", "error", "told"),
    [
        (
            "can not find /usr/lib/librknnrt.so, download it",
            BackendUnavailable,
            "install librknnrt.so .* into /usr/lib",
        ),
        (
            "E RKNN: failed to open rknpu module, need to insmod",
            BackendUnavailable,
            "access to /dev/dri .or /dev/rknpu",
        ),
        ("E RKNN: error code: RKNN_ERR_DEVICE_UNAVAILABLE", BackendUnavailable, "Rockchip's rknpu driver"),
        ("E RKNN: error code: RKNN_ERR_MALLOC_FAIL", ModelUnavailable, "too little memory .* run fewer workers"),
        (
            "E RKNN: something that nobody has seen\n\n",
            ModelUnavailable,
            "cannot start .*means.rknn: E RKNN: something",
        ),
    ],
)
def test_what_the_runtime_prints_becomes_one_sentence(
    npu: FakeNpu, file: Path, printed: str, error: type[Exception], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    npu.trouble = printed
    with pytest.raises(error, match=told) as caught:
        opened(described(file))
    assert str(caught.value).count("\n") == 0
    assert printed.strip() in capfd.readouterr().err  # and it still reaches the log


def test_a_model_for_another_soc_says_how_to_convert_it(npu: FakeNpu, file: Path) -> None:
    write_rknn(file, file.with_suffix(".onnx"), soc="rk3568")
    with pytest.raises(ModelUnavailable, match=r"means\.rknn was converted for another SoC.*--board rk3588"):
        opened(described(file))


def test_a_runtime_that_is_too_old_is_named(npu: FakeNpu, file: Path) -> None:
    write_rknn(file, file.with_suffix(".onnx"), version=7)
    with pytest.raises(BackendUnavailable, match=r"librknnrt\.so of this board is older than the toolkit that made"):
        opened(described(file))


def test_a_file_that_is_no_rknn_is_refused(npu: FakeNpu, file: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"means\.onnx is no RKNN file"):
        opened(described(file.with_suffix(".onnx")))


def test_a_damaged_file_is_named(npu: FakeNpu, file: Path) -> None:
    file.write_bytes(b"RKNN\0\0\0\0")
    with pytest.raises(ModelUnavailable, match=r"means\.rknn is damaged: convert it again"):
        opened(described(file))


@pytest.mark.parametrize("changes", [{"layout": "nchw"}, {"dtype": "float32", "scale": 1 / 255}])
def test_an_input_that_is_not_uint8_nhwc_is_refused(npu: FakeNpu, file: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ModelUnavailable, match='set layout to "nhwc" and dtype to "uint8"'):
        opened(described(file, **changes))


def test_another_input_size_shows_when_the_model_is_loaded(npu: FakeNpu, file: Path) -> None:
    with pytest.raises(
        ModelUnavailable, match=r"cannot run .*means\.rknn with an input of 32x64: .*Size of inputs\[0\] is invalid"
    ):
        opened(described(file, input_width=32))


def test_outputs_that_do_not_fit_the_decoder_are_told(npu: FakeNpu, file: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"decoder yolov8 expects .* for 3 labels, got \(1, 3\)"):
        opened({**described(file), "decoder": "yolov8"}).close()


def test_none_from_an_inference_fails_that_picture_alone(npu: FakeNpu, file: Path) -> None:
    npu.fails_at = 3  # one at load, one to warm up
    model = opened(described(file))
    with pytest.raises(InferenceFailed, match="RKNNLite could not run"):
        model.run(bytearray(RED))
    assert model.run(bytearray(RED)).detections
    model.close()


def test_it_has_no_options(npu: FakeNpu, file: Path) -> None:
    with pytest.raises(InvalidInput, match="backend 'rknn' has no option core: it has none"):
        make_backend("rknn").load(parse_model(described(file, options={"core": 1})))
