"""The raw heads of YOLO, decoded into what the whole graph would give.

Rockchip's exports, and others that quantise to 8 bits, end at the last convolutions of each scale: box sides and
scores have such different ranges that one 8-bit scale cannot hold both. So the arithmetic after them is done here.
"""

from __future__ import annotations

from typing import List, Sequence, Tuple

import numpy as np

SCALES = 3
ANCHORS_PER_SCALE = 3
DFL_BINS = 16  # YOLOv8 and YOLO11 tell the distance to each side as a distribution over so many cells
SCORE_SLACK = 0.01  # 8-bit scores end slightly outside 0..1

PUBLISHED_ANCHORS = (  # of YOLOv5, ultralytics/yolov5 models/yolov5s.yaml; strides 8, 16, 32
    (10.0, 13.0, 16.0, 30.0, 33.0, 23.0),
    (30.0, 61.0, 62.0, 45.0, 59.0, 119.0),
    (116.0, 90.0, 156.0, 198.0, 373.0, 326.0),
)

Anchors = Sequence[Sequence[float]]


def are_heads(outputs: Sequence[np.ndarray]) -> bool:
    """Whether a model ends in one map or more per scale, each (1, channels, rows, columns)."""
    return len(outputs) > 1 and all(np.ndim(output) == 4 for output in outputs)


def yolov5_candidates(
    heads: Sequence[np.ndarray], classes: int, anchors: Anchors, input_height: int, threshold: float
) -> np.ndarray:
    """Decode one map per scale, (1, 3 * (5 + classes), rows, columns), after its sigmoid.

    threshold: candidates with a lower objectness are left out.
    Returns: float32 (n, 5 + classes): centre x, centre y, width, height in input pixels, objectness, class scores.
    Raises: ValueError if the shapes do not fit, or the maps hold no probabilities.
    Source: ultralytics/yolov5 models/yolo.py, Detect.forward.
    """
    rows = anchors or PUBLISHED_ANCHORS
    channels = ANCHORS_PER_SCALE * (5 + classes)
    shapes = [tuple(head.shape) for head in heads]
    if len(heads) != len(rows) or any(shape[:2] != (1, channels) for shape in shapes):
        raise ValueError(f"expected {len(rows)} outputs of shape (1, {channels}, rows, columns), got {shapes}")
    found = []
    for scale, head in enumerate(sorted(heads, key=_columns, reverse=True)):
        stride = input_height / head.shape[2]
        maps = np.asarray(head, np.float32).reshape(ANCHORS_PER_SCALE, 5 + classes, *head.shape[2:])
        _check_probabilities(maps[:, 4])
        anchor, row, column = np.nonzero(maps[:, 4] >= threshold)
        chosen = maps[anchor, :, row, column]
        cells = np.stack((column, row), axis=1).astype(np.float32)
        sizes = np.asarray(rows[scale], np.float32).reshape(-1, 2)[anchor]
        chosen[:, :2] = (chosen[:, :2] * 2 - 0.5 + cells) * stride
        chosen[:, 2:4] = (chosen[:, 2:4] * 2) ** 2 * sizes
        found.append(chosen)
    return np.concatenate(found)


def yolov8_candidates(
    heads: Sequence[np.ndarray], classes: int, input_height: int, threshold: float
) -> Tuple[np.ndarray, np.ndarray]:
    """Decode two or three maps per scale: distances (1, 64, rows, columns), class scores after their sigmoid
    (1, classes, rows, columns), and perhaps their sum (1, 1, rows, columns), which is not needed here.

    threshold: candidates whose best class scores less are left out.
    Returns: float32 (n, 4) centre x, centre y, width, height in input pixels, and (n, classes) scores.
    Raises: ValueError if the shapes do not fit, or the class maps hold no probabilities.
    Source: ultralytics nn/modules/block.py, DFL, and utils/tal.py, dist2bbox.
    """
    shapes = [tuple(head.shape) for head in heads]
    per_scale = len(heads) // SCALES
    wanted = ((1, 4 * DFL_BINS), (1, classes), (1, 1))[:per_scale]
    is_counted = len(heads) in (2 * SCALES, 3 * SCALES)
    if not is_counted or any(shape[:2] != wanted[place % per_scale] for place, shape in enumerate(shapes)):
        raise ValueError(
            f"expected for each of {SCALES} scales outputs of (1, {4 * DFL_BINS}, rows, columns), (1, {classes}, rows, "
            f"columns) and perhaps (1, 1, rows, columns), got {shapes}"
        )
    boxes: List[np.ndarray] = []
    scores: List[np.ndarray] = []
    for place in range(0, len(heads), per_scale):
        distances, likely = (np.asarray(head, np.float32)[0] for head in heads[place : place + 2])
        _check_probabilities(likely)
        row, column = np.nonzero(likely.max(axis=0) >= threshold)
        boxes.append(_from_distances(distances[:, row, column], row, column) * (input_height / likely.shape[1]))
        scores.append(likely[:, row, column].T)
    return np.concatenate(boxes), np.concatenate(scores)


def _from_distances(distances: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Boxes (n, 4), centre and size in cells, of distributions (64, n) over the distance to each side."""
    bins = distances.reshape(4, DFL_BINS, -1)
    weights = np.exp(bins - bins.max(axis=1, keepdims=True))
    expected = (weights * np.arange(DFL_BINS, dtype=np.float32)[:, np.newaxis]).sum(axis=1) / weights.sum(axis=1)
    left, top, right, bottom = expected
    x, y = column + np.float32(0.5), row + np.float32(0.5)
    boxes: np.ndarray = np.stack(
        (x + (right - left) / 2, y + (bottom - top) / 2, left + right, top + bottom), axis=1
    ).astype(np.float32)
    return boxes


def _columns(head: np.ndarray) -> int:
    return int(head.shape[3])


def _check_probabilities(scores: np.ndarray) -> None:
    """Values far outside 0..1 are logits; taken for probabilities most of them would silently be no detection."""
    lowest, highest = float(scores.min()), float(scores.max())
    if lowest < -SCORE_SLACK or highest > 1 + SCORE_SLACK:
        raise ValueError(
            f"the scores of a head lie in {lowest:.3g}..{highest:.3g}, not in 0..1: export the model with its sigmoid"
        )
