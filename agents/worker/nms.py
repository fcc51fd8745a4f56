"""Non-maximum suppression: of several boxes around one object, keep the surest."""

from __future__ import annotations

from typing import List

import numpy as np

BLOCK = 256  # candidates that are compared all with all at once: a table of 64 thousand


def nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    iou_threshold: float,
    limit: int = 0,
) -> np.ndarray:
    """Choose the boxes to keep; boxes of different classes never suppress each other.

    boxes: float (n, 4), x1 y1 x2 y2 in any one unit. scores: float (n,), higher is better. classes: int (n,).
    iou_threshold: a box that overlaps a better one of its class by more than this is dropped.
    limit: stop after this many (0: no limit).
    Returns: int64 indices of the kept boxes, best first; of equal scores the lower index first.
    Source: greedy suppression, from the best on, a block at a time. OpenCV's NMSBoxesBatched does the same from 4.7
        on, but JetPack 5 brings 4.5 and Debian 12 brings 4.6. One way for every board means the same labels from
        every board, so it is ours.
    """
    left = np.argsort(-scores, kind="stable")
    boxes = boxes.astype(np.float64)
    kept: List[int] = []
    while left.size:
        block, left = left[:BLOCK], left[BLOCK:]
        best = block[_best_of(_rivals(boxes[block], boxes[block], classes[block], classes[block], iou_threshold))]
        kept.extend(best.tolist())
        if limit and len(kept) >= limit:
            break
        beaten = _rivals(boxes[best], boxes[left], classes[best], classes[left], iou_threshold).any(axis=0)
        left = left[~beaten]
    return np.array(kept[: limit or None], dtype=np.int64)


def _best_of(rivals: np.ndarray) -> List[int]:
    """The places that greedy suppression keeps. rivals: bool (n, n), best first, who would suppress whom."""
    kept = []
    alive = np.ones(len(rivals), bool)
    for place in range(len(rivals)):
        if alive[place]:
            kept.append(place)
            alive &= ~rivals[place]
    return kept


def _rivals(
    boxes: np.ndarray, others: np.ndarray, classes: np.ndarray, other_classes: np.ndarray, iou_threshold: float
) -> np.ndarray:
    """Which of n boxes overlap which of m others of their class by more than the threshold: bool (n, m)."""
    x1, y1, x2, y2 = (side[:, np.newaxis] for side in boxes.T)
    u1, v1, u2, v2 = others.T
    shared = np.maximum(np.minimum(x2, u2) - np.maximum(x1, u1), 0.0)
    shared *= np.maximum(np.minimum(y2, v2) - np.maximum(y1, v1), 0.0)
    area = np.maximum(x2 - x1, 0.0) * np.maximum(y2 - y1, 0.0)
    other_area = np.maximum(u2 - u1, 0.0) * np.maximum(v2 - v1, 0.0)
    overlaps = shared > iou_threshold * (area + other_area - shared)
    rivals: np.ndarray = overlaps & (classes[:, np.newaxis] == other_classes)
    return rivals
