from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.worker.errors import InvalidInput, ModelUnavailable
from agents.worker.spec import parse_configure, parse_model
from tests.support.graphs import spec_for

SPEC = spec_for(Path("/models/shapes/shapes.onnx"), "yolov8")


def test_configure_carries_threads_and_slot_to_every_model() -> None:
    configure = parse_configure(
        {
            "type": "configure",
            "models": [SPEC, {**SPEC, "name": "other"}],
            "threads": 2,
            "slot": 1,
            "python_path": ["/x"],
        }
    )
    assert [(model.name, model.threads, model.slot) for model in configure.models] == [
        ("shapes", 2, 1),
        ("other", 2, 1),
    ]
    assert configure.python_path == ("/x",)


def test_keys_that_are_unknown_here_are_left_alone() -> None:
    assert parse_model({**SPEC, "digest": "abc"}) == parse_model(SPEC)


def test_options_may_be_left_out() -> None:
    build = {key: value for key, value in SPEC["build"].items() if key != "options"}
    assert parse_model({**SPEC, "build": build}) == parse_model(SPEC)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_input_shape_follows_the_layout(layout: str) -> None:
    spec = parse_model(spec_for(Path("m.onnx"), "yolov8", layout=layout, input_width=32, input_height=16))
    assert spec.build.input_shape == ((1, 3, 16, 32) if layout == "nchw" else (1, 16, 32, 3))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"layout": "chw"}, "layout must be one of nchw, nhwc"),
        ({"dtype": "int4"}, "dtype must be one of"),
        ({"colour_order": "yuv"}, "colour_order"),
        ({"resize": "crop"}, "resize"),
        ({"input_width": 0}, "area"),
        ({"pad_value": 256}, "pad_value"),
        ({"mean": [0.0]}, "three numbers"),
        ({"std": [1.0, 0.0, 1.0]}, "std must not be 0"),
        ({"scale": float("inf")}, "finite"),
        ({"confidence_threshold": 1.5}, "confidence_threshold must be 0..1"),
        ({"max_detections": 0}, "at least 1"),
        ({"iou_threshold": "half"}, "wrong type"),
        ({"max_detections": "many"}, "wrong type"),
    ],
)
def test_a_wrong_value_is_named_with_its_model(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput, match="model 'shapes'.*" + told):
        parse_model(spec_for(Path("m.onnx"), "yolov8", **changes))


def test_a_missing_key_is_named() -> None:
    with pytest.raises(InvalidInput, match="'decoder' is missing"):
        parse_model({key: value for key, value in SPEC.items() if key != "decoder"})
    with pytest.raises(InvalidInput, match="'std' is missing"):
        parse_model({**SPEC, "build": {key: value for key, value in SPEC["build"].items() if key != "std"}})


def test_a_configure_without_models_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no model"):
        parse_configure({"type": "configure", "models": []})


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ModelUnavailable, match=r"/models/shapes/shapes.onnx"):
        parse_model(SPEC).existing_file()
