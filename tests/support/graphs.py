"""Small ONNX graphs whose outputs are known, and the model descriptions that go with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 13
IR_VERSION = 9  # the newest that ONNX Runtime of every supported board reads
ELEMENT_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}

SIZE = 64  # pixels, both sides of the input
LABELS = ("circle", "square", "star")


def constant_graph(path: Path, *outputs: np.ndarray, input_shape: tuple[Any, ...] = (1, 3, SIZE, SIZE)) -> Path:
    """A graph that answers every picture with the same outputs."""
    nodes = [_constant(f"out{i}", output) for i, output in enumerate(outputs)]
    infos = [
        helper.make_tensor_value_info(f"out{i}", helper.np_dtype_to_tensor_dtype(output.dtype), output.shape)
        for i, output in enumerate(outputs)
    ]
    return _saved(path, nodes, infos, input_shape)


def bright_box_graph(path: Path, decoder: str, class_id: int = 1, class_count: int = len(LABELS)) -> Path:
    """A graph that finds the bounding box of the pixels above 0.5, with confidence 1; none if all are dark.

    It answers in the form of one candidate of `decoder`: "yolov5" (1, 1, 5 + classes) or "yolov8" (1, 4 + classes, 1).
    """
    scores = np.zeros(class_count, np.float32)
    scores[class_id] = 1.0
    objectness = ["certainty"] if decoder == "yolov5" else []
    width = 4 + len(objectness) + class_count
    shape = (1, 1, width) if decoder == "yolov5" else (1, width, 1)
    nodes = [
        _constant("half", np.float32(0.5)),
        _constant("scores", scores),
        _constant("first", np.array([0], np.int64)),
        _constant("shape", np.array(shape, np.int64)),
        helper.make_node("ReduceMin", ["image"], ["darkest"], axes=[0, 1], keepdims=0),
        helper.make_node("Greater", ["darkest", "half"], ["mask"]),
        helper.make_node("Cast", ["mask"], ["bright"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["bright"], ["any"], axes=[0, 1], keepdims=0),
        helper.make_node("Unsqueeze", ["any", "first"], ["certainty"]),
        *_extent("x", across=0),
        *_extent("y", across=1),
        helper.make_node("Mul", ["scores", "certainty"], ["sure"]),
        helper.make_node("Concat", ["cx", "cy", "dx", "dy", *objectness, "sure"], ["flat"], axis=0),
        helper.make_node("Reshape", ["flat", "shape"], ["out0"]),
    ]
    infos = [helper.make_tensor_value_info("out0", TensorProto.FLOAT, shape)]
    return _saved(path, nodes, infos, (1, 3, SIZE, SIZE))


def channel_means_graph(path: Path, layout: str = "nchw", dtype: str = "float32", batch: int | str = 1) -> Path:
    """A classifier of three classes: the mean of each channel of the input, shape (batch, 3); a name is any batch."""
    shape = (batch, 3, SIZE, SIZE) if layout == "nchw" else (batch, SIZE, SIZE, 3)
    axes = [2, 3] if layout == "nchw" else [1, 2]
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers"], ["out0"], axes=axes, keepdims=0),
    ]
    return _saved(path, nodes, [helper.make_tensor_value_info("out0", TensorProto.FLOAT, (batch, 3))], shape, dtype)


def spec_for(path: Path, decoder: str, labels: tuple[str, ...] = LABELS, **changes: Any) -> dict[str, Any]:
    """The daemon's description of a graph saved at `path`; `changes` replace keys of the model or of its build."""
    build: dict[str, Any] = {
        "backend": "onnx",
        "file": path.name,
        "input_width": SIZE,
        "input_height": SIZE,
        "layout": "nchw",
        "dtype": "float32",
        "colour_order": "rgb",
        "scale": 1 / 255,
        "mean": [0.0, 0.0, 0.0],
        "std": [1.0, 1.0, 1.0],
        "resize": "letterbox",
        "pad_value": 114,
        "max_batch": 1,
        "options": {},
    }
    model: dict[str, Any] = {
        "name": "shapes",
        "version": "1",
        "directory": str(path.parent),
        "labels": list(labels),
        "decoder": decoder,
        "confidence_threshold": 0.35,
        "iou_threshold": 0.45,
        "max_detections": 100,
    }
    for key, value in changes.items():
        (build if key in build else model)[key] = value
    return {**model, "build": build}


def echo_spec(name: str = "nothing", **changes: Any) -> dict[str, Any]:
    """The description of a model for the echo backend."""
    return spec_for(Path("/nonexistent/none"), "none", labels=(), backend="echo", name=name, **changes)


def encoded(picture: np.ndarray, ending: str = ".png") -> bytes:
    """A picture, uint8 (height, width, 3) BGR, as a file's bytes."""
    done, buffer = cv2.imencode(ending, picture)
    assert done
    return buffer.tobytes()


def bright_box_picture(width: int, height: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """A black picture with a white rectangle, x1 y1 x2 y2 in pixels."""
    picture = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = box
    picture[y1:y2, x1:x2] = 255
    return picture


def _constant(name: str, value: Any) -> Any:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value), name))


def _extent(name: str, across: int) -> list[Any]:
    """Nodes that turn "bright", 0 or 1 (rows, columns), into the centre and the length of its extent on one axis."""
    places = np.arange(SIZE, dtype=np.float32)
    return [
        _constant(name + "low", places),
        _constant(name + "high", places + 1),
        _constant(name + "far", np.full(SIZE, 1e4, np.float32)),
        helper.make_node("ReduceMax", ["bright"], [name + "line"], axes=[across], keepdims=0),
        helper.make_node("Cast", [name + "line"], [name + "hit"], to=TensorProto.BOOL),
        helper.make_node("Where", [name + "hit", name + "low", name + "far"], [name + "lows"]),
        helper.make_node("ReduceMin", [name + "lows"], [name + "1"], axes=[0], keepdims=1),
        helper.make_node("Mul", [name + "line", name + "high"], [name + "highs"]),
        helper.make_node("ReduceMax", [name + "highs"], [name + "2"], axes=[0], keepdims=1),
        helper.make_node("Add", [name + "1", name + "2"], [name + "sum"]),
        helper.make_node("Mul", [name + "sum", "half"], ["c" + name]),
        helper.make_node("Sub", [name + "2", name + "1"], ["d" + name]),
    ]


def _saved(
    path: Path, nodes: list[Any], outputs: list[Any], input_shape: tuple[Any, ...], dtype: str = "float32"
) -> Path:
    image = helper.make_tensor_value_info("image", ELEMENT_TYPES[dtype], input_shape)
    graph = helper.make_graph(nodes, path.stem, [image], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path
