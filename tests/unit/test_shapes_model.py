"""The committed demo model does what its description and its README say, run here by onnxruntime alone."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest

from edgesched.demo.pictures import LABELS, Picture, draw_pictures
from edgesched.demo.quality import mean_average_precision, precision_and_recall

FOLDER = Path(__file__).parents[2] / "models" / "shapes"
HELD_OUT_SEED = 303  # as in train.py, which never shows this series to the network
PICTURES = 120
CONFIDENCE_FLOOR = 0.01  # average precision wants the unsure detections too

Build = Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    class_id: int
    confidence: float
    x1: float
    y1: float
    x2: float
    y2: float


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    return tomllib.loads((FOLDER / "model.toml").read_text())


@pytest.fixture(scope="module")
def session(description: dict[str, Any]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    file = FOLDER / description["builds"]["default"]["file"]
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def model_input(picture: Picture, build: Build) -> tuple[np.ndarray, float, int, int]:
    """Returns the input, the scale from picture to input pixels, and the padding at the left and at the top."""
    bgr = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    scale = min(build["input_width"] / picture.width, build["input_height"] / picture.height)
    width, height = round(picture.width * scale), round(picture.height * scale)
    left, top = (build["input_width"] - width) // 2, (build["input_height"] - height) // 2
    padded = np.full((build["input_height"], build["input_width"], 3), build["pad_value"], np.uint8)
    padded[top : top + height, left : left + width] = cv2.resize(bgr, (width, height))[:, :, ::-1]
    normal = (padded * build["scale"] - build["mean"]) / build["std"]
    return np.ascontiguousarray(normal.transpose(2, 0, 1)[np.newaxis], np.float32), scale, left, top


def detections(output: np.ndarray, scale: float, left: int, top: int, iou_threshold: float) -> list[Found]:
    output = output[:, output[4:].max(axis=0) >= CONFIDENCE_FLOOR]
    scores, class_ids = output[4:].max(axis=0), output[4:].argmax(axis=0)
    boxes = np.stack((output[0] - output[2] / 2 - left, output[1] - output[3] / 2 - top, output[2], output[3]))
    boxes = boxes.T / scale
    kept = cv2.dnn.NMSBoxesBatched(boxes.tolist(), scores.tolist(), class_ids.tolist(), CONFIDENCE_FLOOR, iou_threshold)
    found = []
    for index in np.asarray(kept, dtype=int).reshape(-1):
        x, y, width, height = boxes[index].tolist()
        found.append(Found(int(class_ids[index]), float(scores[index]), x, y, x + width, y + height))
    return found


def test_the_file_is_small_and_readable_by_old_runtimes() -> None:
    file = FOLDER / "shapes.onnx"
    assert file.stat().st_size < 1_500_000
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= 9
    assert 13 <= model.opset_import[0].version <= 17
    assert not any(weight.external_data for weight in model.graph.initializer)


def test_the_graph_keeps_to_operators_that_accelerators_run() -> None:
    allowed = {"Conv", "Relu", "MaxPool", "Concat", "Resize", "Sigmoid", "Add", "Mul", "Reshape", "Constant"}
    assert {node.op_type for node in onnx.load(FOLDER / "shapes.onnx").graph.node} <= allowed


def test_input_and_output_have_the_shapes_of_a_yolov8_export(session: onnxruntime.InferenceSession) -> None:
    (images,), (output,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.shape, images.type) == ("images", [1, 3, 320, 320], "tensor(float)")
    assert (output.name, output.type) == ("output0", "tensor(float)")
    assert output.shape == [1, 4 + len(LABELS), 40 * 40 + 20 * 20 + 10 * 10]


def test_the_description_fits_the_file(description: dict[str, Any]) -> None:
    assert (FOLDER / description["labels"]).read_text().split() == list(LABELS)
    assert description["decoder"] == "yolov8"
    build = description["builds"]["default"]
    assert (build["input_width"], build["input_height"], build["layout"]) == (320, 320, "nchw")
    assert (build["dtype"], build["colour_order"], build["resize"]) == ("float32", "rgb", "letterbox")


def test_it_finds_the_shapes_in_pictures_it_never_saw(
    session: onnxruntime.InferenceSession, description: dict[str, Any]
) -> None:
    found, truth = [], []
    for picture in draw_pictures(PICTURES, HELD_OUT_SEED):
        images, scale, left, top = model_input(picture, description["builds"]["default"])
        (output,) = session.run(None, {"images": images})
        found.append(detections(output[0], scale, left, top, description["iou_threshold"]))
        truth.append(picture.truth)
    assert mean_average_precision(found, truth) >= 0.95
    precision, recall = precision_and_recall(found, truth, description["confidence_threshold"])
    assert precision >= 0.9
    assert recall >= 0.9


def test_scores_are_probabilities_and_plain_grey_shows_nothing(
    session: onnxruntime.InferenceSession, description: dict[str, Any]
) -> None:
    grey = np.full((1, 3, 320, 320), 114 / 255, np.float32)
    (output,) = session.run(None, {"images": grey})
    assert np.isfinite(output).all()
    assert output[0, 4:].min() >= 0.0
    assert output[0, 4:].max() < description["confidence_threshold"]
