"""From a model's outputs to boxes. One row per decoder in DECODERS; a model may also bring its own.

A decoder of a user's own is named `module:function` in model.toml and lives in `module.py` in the model's
directory. Its signature is the one of every function here, and it stays so:

    def decode(outputs, model, geometry):
        '''Turn the outputs for one picture into boxes.

        outputs: list of numpy arrays, in the model's order. model: ModelInfo. geometry: Geometry.
        Returns: a list of (class_id, confidence, x1, y1, x2, y2), in pixels of the original picture
            (`geometry.to_original` maps them), confidence 0..1.
        '''

Nothing is suppressed afterwards; `model.nms(boxes, scores, classes)` is there to be used. Boxes are then clipped to
the picture, sorted, and cut to `max_detections`. The file need import nothing of ours, and is never on `sys.path`.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import sys
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from . import heads
from . import nms as suppression
from .errors import InvalidInput, ModelUnavailable
from .spec import ModelSpec
from .vision import Geometry

Row = Tuple[int, float, float, float, float, float]
Decoder = Callable[[List[np.ndarray], "ModelInfo", Geometry], Sequence[Row]]

CONFIDENCE_SLACK = 0.01  # float16 and 8-bit models end slightly above 1
SUM_SLACK = 0.01  # how far from 1 the probabilities of such a model may add up


@dataclass(frozen=True)
class ModelInfo:
    """What a decoder may know about its model. Thresholds are 0..1, the input's size is in pixels.

    anchors: of YOLOv5, one row per scale; empty for those it was published with.
    """

    name: str
    labels: Tuple[str, ...]
    confidence_threshold: float
    iou_threshold: float
    max_detections: int
    input_width: int
    input_height: int
    anchors: Tuple[Tuple[float, ...], ...] = ()

    def nms(
        self,
        boxes: np.ndarray,
        scores: np.ndarray,
        classes: np.ndarray,
        iou_threshold: Optional[float] = None,
    ) -> np.ndarray:
        """Indices of the boxes to keep, best first, at most `max_detections`; per class.

        boxes: (n, 4) x1 y1 x2 y2. scores: (n,). classes: int (n,). iou_threshold: the model's own unless given.
        """
        threshold = self.iou_threshold if iou_threshold is None else iou_threshold
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        return suppression.nms(boxes, np.asarray(scores), np.asarray(classes), threshold, self.max_detections)


def info_of(spec: ModelSpec) -> ModelInfo:
    """The part of a model's description that its decoder sees."""
    return ModelInfo(
        name=spec.name,
        labels=spec.labels,
        confidence_threshold=spec.confidence_threshold,
        iou_threshold=spec.iou_threshold,
        max_detections=spec.max_detections,
        input_width=spec.build.input_width,
        input_height=spec.build.input_height,
        anchors=spec.anchors,
    )


def yolov5(outputs: List[np.ndarray], model: ModelInfo, geometry: Geometry) -> List[Row]:
    """Decode (1, N, 5 + classes): centre x, centre y, width, height in input pixels, objectness, class scores.

    Confidence is objectness times the best class score. Further outputs (the raw heads) are ignored. A model that has
    nothing but its three raw heads is taken too (`heads.py`).
    Raises: ValueError if the shape does not fit the labels.
    """
    if heads.are_heads(outputs):
        least = model.confidence_threshold / (1 + CONFIDENCE_SLACK)
        with np.errstate(invalid="ignore", over="ignore"):
            boxes = heads.yolov5_candidates(outputs, len(model.labels), model.anchors, model.input_height, least)
            scores = boxes[:, 5:] * boxes[:, 4:5]
        return _best_boxes(boxes[:, :4], scores, model, geometry)
    output = _first(outputs)
    if output.ndim != 3 or output.shape[0] != 1 or output.shape[2] != 5 + len(model.labels):
        raise _misfit("yolov5", f"(1, N, {5 + len(model.labels)})", outputs, model)
    boxes = output[0]
    with np.errstate(invalid="ignore"):  # NaN and infinity are dropped with their boxes, further down
        boxes = boxes[~(boxes[:, 4] * (1 + CONFIDENCE_SLACK) < model.confidence_threshold)]
        scores = boxes[:, 5:] * boxes[:, 4:5]
    return _best_boxes(boxes[:, :4], scores, model, geometry)


def yolov8(outputs: List[np.ndarray], model: ModelInfo, geometry: Geometry) -> List[Row]:
    """Decode (1, 4 + classes, N), as YOLOv8 and YOLO11 give it: centre x, centre y, width, height, class scores.

    The transposed (1, N, 4 + classes) is taken too, when the number of labels tells the two apart, and so are the six
    or nine raw heads of Rockchip's export (`heads.py`).
    Raises: ValueError if the shape does not fit the labels.
    """
    if heads.are_heads(outputs):
        threshold = model.confidence_threshold
        with np.errstate(invalid="ignore", over="ignore"):
            boxes, scores = heads.yolov8_candidates(outputs, len(model.labels), model.input_height, threshold)
        return _best_boxes(boxes, scores, model, geometry)
    output, rows = _first(outputs), 4 + len(model.labels)
    if output.ndim != 3 or output.shape[0] != 1 or rows not in output.shape[1:]:
        raise _misfit("yolov8", f"(1, {rows}, N) or (1, N, {rows})", outputs, model)
    columns = output[0] if output.shape[1] == rows else output[0].T
    best = columns[4:].max(axis=0)
    with np.errstate(invalid="ignore"):
        likely = np.flatnonzero(~(best < model.confidence_threshold))
    chosen = columns[:, likely].T
    return _best_boxes(chosen[:, :4], chosen[:, 4:], model, geometry)


def classification(outputs: List[np.ndarray], model: ModelInfo, geometry: Geometry) -> List[Row]:
    """Decode (1, classes): probabilities, or logits, which get a softmax. Each box is the whole picture.

    Values within 0..1 that add up to 1 (within SUM_SLACK) are taken for probabilities.
    Raises: ValueError if the shape does not fit the labels.
    """
    output = _first(outputs)
    if output.shape != (1, len(model.labels)):
        raise _misfit("classification", f"(1, {len(model.labels)})", outputs, model)
    values = output[0].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        if values.min() < 0 or values.max() > 1 or abs(values.sum() - 1) > SUM_SLACK:
            values = np.exp(values - values.max())
            values /= values.sum()
        likely = np.flatnonzero(values >= model.confidence_threshold)
    order = likely[np.argsort(-values[likely], kind="stable")][: model.max_detections]
    width, height = float(geometry.original_width), float(geometry.original_height)
    return [(int(i), float(values[i]), 0.0, 0.0, width, height) for i in order]


def none(outputs: List[np.ndarray], model: ModelInfo, geometry: Geometry) -> List[Row]:
    """Find nothing, whatever the outputs are: for backends and benches that make no labels."""
    return []


DECODERS: Mapping[str, Decoder] = {
    "yolov5": yolov5,
    "yolov8": yolov8,  # YOLO11 too
    "classification": classification,
    "none": none,
}


def make_decoder(spec: ModelSpec) -> Decoder:
    """The decoder that a model names: a row of the table, or `module:function` from the model's directory.

    Raises: InvalidInput for a name that is neither, or without labels; ModelUnavailable if the user's file does not
        give the function.
    """
    if spec.decoder != "none" and not spec.labels:
        raise InvalidInput(f"decoder {spec.decoder!r} needs labels: add them to model.toml")
    if spec.decoder in DECODERS:
        return DECODERS[spec.decoder]
    match = re.match(r"^([A-Za-z_]\w*):([A-Za-z_]\w*)$", spec.decoder)
    if match is None:
        names = ", ".join(sorted(DECODERS))
        raise InvalidInput(f"decoder {spec.decoder!r} is unknown: use one of {names}, or module:function")
    return _users_decoder(spec, *match.groups())


def labels_from(rows: Sequence[Row], model: ModelInfo, width: int, height: int) -> List[Dict[str, Any]]:
    """Check a decoder's rows and make the detections that leave the worker.

    rows: boxes in pixels of the original picture. width, height: of that picture.
    Returns: dicts (class_id, label, confidence, x1, y1, x2, y2), clipped to the picture, coordinates rounded to 2
        decimals and confidence to 4, without boxes that have no area, best first, at most `max_detections`.
    Raises: ValueError naming the row that is not six finite numbers, has no such class, or no such confidence.
    """
    if not isinstance(rows, (list, tuple, np.ndarray)):
        raise ValueError(f"the decoder returned {type(rows).__name__}: it must return a list of rows")
    found = []
    for row in rows:
        class_id, confidence, box = _checked(row, model)
        x1, x2 = (round(min(max(0.0, x), float(width)), 2) for x in (box[0], box[2]))
        y1, y2 = (round(min(max(0.0, y), float(height)), 2) for y in (box[1], box[3]))
        if x2 > x1 and y2 > y1:
            found.append((-round(confidence, 4), class_id, x1, y1, x2, y2))
    return [
        {
            "class_id": class_id,
            "label": model.labels[class_id],
            "confidence": -minus_confidence,
            "x1": x1,
            "y1": y1,
            "x2": x2,
            "y2": y2,
        }
        for minus_confidence, class_id, x1, y1, x2, y2 in sorted(found)[: model.max_detections]
    ]


def _first(outputs: List[np.ndarray]) -> np.ndarray:
    if not outputs:
        raise ValueError("the model gave no output")
    return np.asarray(outputs[0], np.float32)


def _best_boxes(boxes: np.ndarray, scores: np.ndarray, model: ModelInfo, geometry: Geometry) -> List[Row]:
    """Threshold, suppress and map back; boxes (n, 4) as centre and size, scores (n, classes)."""
    classes = scores.argmax(axis=1)
    best = scores[np.arange(len(scores)), classes]
    with np.errstate(invalid="ignore", over="ignore"):
        half = boxes[:, 2:] / 2
        corners = np.concatenate((boxes[:, :2] - half, boxes[:, :2] + half), axis=1)
        good = np.isfinite(corners).all(axis=1) & np.isfinite(best) & (best >= model.confidence_threshold)
    corners, best, classes = corners[good], best[good], classes[good]
    kept = model.nms(corners, best, classes)
    mapped = geometry.to_original(corners[kept]).tolist()
    return [(int(classes[index]), float(best[index]), *mapped[place]) for place, index in enumerate(kept)]


def _misfit(name: str, expected: str, outputs: List[np.ndarray], model: ModelInfo) -> ValueError:
    return ValueError(
        f"decoder {name} expects an output of shape {expected} for {len(model.labels)} labels, "
        f"got {tuple(np.shape(outputs[0]))}: correct the decoder or the labels in model.toml"
    )


def _checked(row: Row, model: ModelInfo) -> Tuple[int, float, List[float]]:
    """One row as plain numbers, its confidence at most 1; ValueError if a decoder could not mean it."""
    try:
        class_id, *numbers = (float(value) for value in row)
    except (TypeError, ValueError):
        class_id, numbers = math.nan, []
    if len(numbers) != 5 or not all(map(math.isfinite, (class_id, *numbers))):
        raise ValueError(
            f"the decoder returned {row!r}: each row must be six finite numbers, class_id, confidence, x1, y1, x2, y2"
        )
    if class_id != int(class_id) or not 0 <= class_id < len(model.labels):
        raise ValueError(f"the decoder returned class {class_id:g}, but the model has {len(model.labels)} labels")
    if not 0 <= numbers[0] <= 1 + CONFIDENCE_SLACK:
        raise ValueError(
            f"the decoder returned a confidence of {numbers[0]:g}, which is outside 0..1: "
            "does the model end without its sigmoid, or is another decoder meant?"
        )
    return int(class_id), min(numbers[0], 1.0), numbers[1:]


def _users_decoder(spec: ModelSpec, module_name: str, function_name: str) -> Decoder:
    path = os.path.join(spec.directory, module_name + ".py")
    if not os.path.isfile(path):
        raise ModelUnavailable(f"decoder {spec.decoder!r} needs the file {path}, which does not exist")
    name = "_decoder_of_" + re.sub(r"\W", "_", f"{spec.name}_{module_name}")  # two models may have a decoder.py each
    location = importlib.util.spec_from_file_location(name, path)
    assert location is not None  # it is None only for an ending that is not .py
    assert location.loader is not None
    module = importlib.util.module_from_spec(location)
    sys.modules[name] = module  # dataclasses and pickle look a module up there
    try:
        location.loader.exec_module(module)
    except Exception as error:  # noqa: BLE001 - a user's file may fail in any way
        raise ModelUnavailable(f"{path} fails when it is imported: {type(error).__name__}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ModelUnavailable(f"{path} has no function {function_name!r}")
    decoder: Decoder = function
    return decoder
