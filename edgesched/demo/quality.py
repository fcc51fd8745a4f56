"""How good detections are, measured against the true boxes: average precision, precision and recall.

Everything here takes one sequence of boxes per picture, detections and truth in the same order of pictures. All
coordinates of one picture share a unit, whichever it is. A detection may be empty (x1 == x2), a true box may not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

MATCHING_IOU = 0.5


class LabelledBox(Protocol):
    """A true box."""

    @property
    def class_id(self) -> int: ...
    @property
    def x1(self) -> float: ...
    @property
    def y1(self) -> float: ...
    @property
    def x2(self) -> float: ...
    @property
    def y2(self) -> float: ...


class ScoredBox(LabelledBox, Protocol):
    """A detection."""

    @property
    def confidence(self) -> float: ...


def box_ious(first: Sequence[LabelledBox], second: Sequence[LabelledBox]) -> npt.NDArray[np.float64]:
    """Return the intersection over union of every box of `first` with every one of `second`: 0..1, (m, n)."""
    a, b = _corners(first)[:, np.newaxis], _corners(second)[np.newaxis]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.clip(sides, 0.0, None).prod(axis=-1)
    areas = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1)
    ious: npt.NDArray[np.float64] = shared / (areas - shared)
    return ious


def hits(
    detections: Sequence[ScoredBox], truth: Sequence[LabelledBox], iou_threshold: float = MATCHING_IOU
) -> list[bool]:
    """Say for each detection of one picture, in the order given, whether it finds a true box.

    The most confident detection chooses first (of equals, the earlier one). It takes the true box of its class that
    it overlaps most among those not yet taken, if their IoU is at least `iou_threshold`. So a true box is found once,
    and a second detection of it is a miss. Source: the greedy matching of COCO's evaluation.
    """
    found = [False] * len(detections)
    free = set(range(len(truth)))
    ious = box_ious(detections, truth)
    for index in sorted(range(len(detections)), key=lambda i: -detections[i].confidence):
        rivals = [t for t in sorted(free) if truth[t].class_id == detections[index].class_id]
        best = max(rivals, key=lambda t: float(ious[index, t]), default=None)
        if best is not None and ious[index, best] >= iou_threshold:
            found[index] = True
            free.remove(best)
    return found


def average_precision(confidences: Sequence[float], found: Sequence[bool], truth_count: int) -> float:
    """Return the area under the precision-recall curve, 0..1, of one class over all pictures.

    confidences: one per detection; equal ones count in the order given. found: whether each is a hit. truth_count:
    how many true boxes there are, at least 1.
    Source: PASCAL VOC since 2010, "all-point interpolation": the precision at a recall is the best precision at that
    recall or any higher one.
    """
    order = np.argsort(-np.asarray(confidences, dtype=np.float64), kind="stable")
    correct = np.cumsum(np.asarray(found, dtype=np.float64)[order])
    precision = correct / np.arange(1, len(correct) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    recall_steps = np.diff(correct / truth_count, prepend=0.0)
    return float(np.sum(best_from_here * recall_steps))


def average_precisions(
    detections: Sequence[Sequence[ScoredBox]],
    truth: Sequence[Sequence[LabelledBox]],
    iou_threshold: float = MATCHING_IOU,
) -> Mapping[int, float]:
    """Return the average precision (0..1) of each class that occurs in the truth, in the order of class ids.

    Detections of other classes count for nothing here; `precision_and_recall` does count them.
    Raises: ValueError if the two sequences differ in length.
    """
    truth_counts: dict[int, int] = {}
    for boxes in truth:
        for box in boxes:
            truth_counts[box.class_id] = truth_counts.get(box.class_id, 0) + 1
    confidences: dict[int, list[float]] = {class_id: [] for class_id in truth_counts}
    found: dict[int, list[bool]] = {class_id: [] for class_id in truth_counts}
    for seen, boxes in zip(detections, truth, strict=True):
        for detection, hit in zip(seen, hits(seen, boxes, iou_threshold), strict=True):
            if detection.class_id in truth_counts:
                confidences[detection.class_id].append(detection.confidence)
                found[detection.class_id].append(hit)
    return {
        class_id: average_precision(confidences[class_id], found[class_id], truth_counts[class_id])
        for class_id in sorted(truth_counts)
    }


def mean_average_precision(
    detections: Sequence[Sequence[ScoredBox]],
    truth: Sequence[Sequence[LabelledBox]],
    iou_threshold: float = MATCHING_IOU,
) -> float:
    """Return the mean of `average_precisions`, 0..1. With the default threshold this is mAP@0.5.

    Raises: ValueError if the two sequences differ in length, or if there is no true box at all.
    """
    per_class = average_precisions(detections, truth, iou_threshold)
    if not per_class:
        raise ValueError("no picture holds a true box, so there is no mean average precision")
    return sum(per_class.values()) / len(per_class)


def precision_and_recall(
    detections: Sequence[Sequence[ScoredBox]],
    truth: Sequence[Sequence[LabelledBox]],
    confidence_threshold: float,
    iou_threshold: float = MATCHING_IOU,
) -> tuple[float, float]:
    """Return what share of the detections is right, and what share of the true boxes is found, both 0..1.

    Only detections with at least `confidence_threshold` count. All classes are taken together. Without a detection
    the precision is 1.0, and without a true box the recall is 1.0: nothing was wrong, nothing was missed.
    Raises: ValueError if the two sequences differ in length.
    """
    hit_count, detection_count = 0, 0
    for seen, boxes in zip(detections, truth, strict=True):
        sure = [detection for detection in seen if detection.confidence >= confidence_threshold]
        hit_count += sum(hits(sure, boxes, iou_threshold))
        detection_count += len(sure)
    truth_count = sum(len(boxes) for boxes in truth)
    precision = hit_count / detection_count if detection_count else 1.0
    return precision, hit_count / truth_count if truth_count else 1.0


def _corners(boxes: Sequence[LabelledBox]) -> npt.NDArray[np.float64]:
    corners = [(box.x1, box.y1, box.x2, box.y2) for box in boxes]
    return np.array(corners, dtype=np.float64).reshape(-1, 4)
