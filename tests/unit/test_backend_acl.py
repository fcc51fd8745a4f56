"""Huawei's backend, on a fake pyACL that knows contexts, memory and return codes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.worker.errors import BackendUnavailable, InferenceFailed, ModelUnavailable
from agents.worker.model import Model, open_model
from agents.worker.spec import parse_model
from tests.support.fake_acl import CARD, DRIVER_FAILURE, ON_CHIP, FakeChips
from tests.support.graphs import channel_means_graph, constant_graph, encoded, spec_for
from tests.support.vendor_files import write_om
from tests.support.vendors import install

RED = encoded(np.full((20, 30, 3), (0, 0, 255), np.uint8))


@pytest.fixture
def chips(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeChips]:
    made = FakeChips()
    install(monkeypatch, {"acl": made.module()})
    yield made
    made.check()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_om(tmp_path / "means.om", channel_means_graph(tmp_path / "means.onnx"))


def described(file: Path, **changes: Any) -> dict[str, Any]:
    return spec_for(file, "classification", **{"backend": "acl", "resize": "stretch", **changes})


def opened(spec: dict[str, Any], slot: int = 0) -> Model:
    return open_model(parse_model(spec, slot=slot), lambda *record: None)


def labels(model: Model) -> list[str]:
    return [found["label"] for found in model.run(bytearray(RED)).detections]


@pytest.mark.parametrize("run_mode", [CARD, ON_CHIP])
def test_it_works_on_a_card_and_on_the_chip_itself(chips: FakeChips, file: Path, run_mode: int) -> None:
    chips.run_mode = run_mode
    model = opened(described(file))
    assert labels(model) == ["circle"]
    assert model.backend.versions() == {"ascend_chip": "Ascend310B4"}
    model.close()


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_the_input_has_the_type_of_the_build(chips: FakeChips, tmp_path: Path, dtype: str) -> None:
    graph = channel_means_graph(tmp_path / "means.onnx", dtype=dtype)
    scale = 1.0 if dtype == "uint8" else 1 / 255
    model = opened(described(write_om(tmp_path / "means.om", graph), dtype=dtype, scale=scale))
    assert labels(model) == ["circle"]
    model.close()


def test_models_of_one_worker_share_the_chip_and_the_last_one_closes_it(chips: FakeChips, file: Path) -> None:
    first, second = opened(described(file)), opened(described(file, name="other"))
    assert len(chips.open["context"]) == 1
    first.close()
    assert labels(second) == ["circle"]
    second.close()
    assert not chips.open["init"]
    again = opened(described(file))  # and it can be opened anew
    assert labels(again) == ["circle"]
    again.close()


def test_another_thread_finds_its_context(chips: FakeChips, file: Path) -> None:
    model, found = opened(described(file)), []
    thread = threading.Thread(target=lambda: found.append(labels(model)))
    thread.start()
    thread.join(30)
    assert found == [["circle"]]
    model.close()


def test_workers_spread_over_the_chips_of_a_card(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    devices = []
    for slot in range(3):  # each worker is a process of its own, so each gets a fresh driver here
        chips = FakeChips(count=2)
        install(monkeypatch, {"acl": chips.module()})
        opened(described(file), slot).close()
        devices += chips.devices
        chips.check()
    assert devices == [0, 1, 0]


def test_a_model_for_another_chip_names_the_right_one(chips: FakeChips, file: Path) -> None:
    write_om(file, file.with_suffix(".onnx"), soc="Ascend310P3")
    with pytest.raises(ModelUnavailable, match=r"cannot load .*means\.om .*500002.*--soc_version=Ascend310B4"):
        opened(described(file))


def test_a_driver_that_does_not_answer_names_the_group(chips: FakeChips, file: Path) -> None:
    chips.init_code = DRIVER_FAILURE
    with pytest.raises(BackendUnavailable, match=r"acl\.init: error 500004, driver failure.*npu-smi.*HwHiAiUser"):
        opened(described(file))


def test_no_chip_at_all_is_told_and_nothing_stays_open(chips: FakeChips, file: Path) -> None:
    chips.count = 0
    with pytest.raises(BackendUnavailable, match="no Ascend chip answers"):
        opened(described(file))


@pytest.mark.parametrize(
    "changes", [{"layout": "nhwc"}, {"dtype": "float16"}, {"input_width": 32}, {"dtype": "uint8", "scale": 1.0}]
)
def test_another_input_than_the_model_s_is_refused(chips: FakeChips, file: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ModelUnavailable, match=r"takes float32 of shape \(1, 3, 64, 64\), 49152 bytes, but model.toml"):
        opened(described(file, **changes))


def test_a_model_without_fixed_shapes_is_refused(chips: FakeChips, tmp_path: Path) -> None:
    graph = constant_graph(tmp_path / "m.onnx", np.zeros((1, 3), np.float32), input_shape=("batch", 3, 64, 64))
    with pytest.raises(ModelUnavailable, match=r"input 0 .* is float32 of shape \(-1, 3, 64, 64\), 0 bytes: .*fixed"):
        opened(described(write_om(tmp_path / "m.om", graph)))


def test_a_full_chip_is_one_sentence(chips: FakeChips, file: Path) -> None:
    chips.memory_bytes = 1000
    with pytest.raises(ModelUnavailable, match=r"could not allocate 49152 bytes for input 0 .*200000, out of memory"):
        opened(described(file))


def test_a_failed_run_costs_one_picture(chips: FakeChips, file: Path) -> None:
    model = opened(described(file))
    chips.execute_code = 507018
    with pytest.raises(InferenceFailed, match="could not run the model: error 507018"):
        model.run(bytearray(RED))
    chips.execute_code = 0
    assert labels(model) == ["circle"]
    model.close()


def test_a_batch_of_another_size_never_reaches_the_chip(chips: FakeChips, file: Path) -> None:
    model = opened(described(file))
    with pytest.raises(InferenceFailed, match="the input has 12 bytes, the model takes 49152"):
        model.backend.infer(np.zeros(3, np.float32))
    model.close()


def test_outputs_that_do_not_fit_the_decoder_are_told(chips: FakeChips, file: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"decoder yolov5 expects .* for 3 labels, got \(1, 3\)"):
        opened({**described(file), "decoder": "yolov5"})
