from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from agents.worker.nms import BLOCK, nms


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union, one pair at a time."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return float(shared / union) if union > 0 else 0.0


def plain_nms(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, threshold: float) -> list[int]:
    """The definition, without any trick."""
    kept: list[int] = []
    for index in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        rivals = [k for k in kept if classes[k] == classes[index]]
        if all(overlap(boxes[k], boxes[index]) <= threshold for k in rivals):
            kept.append(index)
    return kept


@st.composite
def candidates(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count = draw(st.integers(0, 12))
    corners = draw(nps.arrays(np.float32, (count, 4), elements=st.integers(0, 12).map(float)))
    boxes = np.concatenate((np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])), 1)
    scores = draw(nps.arrays(np.float32, count, elements=st.integers(0, 4).map(lambda n: n / 4)))
    return boxes, scores, draw(nps.arrays(np.int64, count, elements=st.integers(0, 2)))


@given(candidates(), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_it_keeps_what_the_definition_keeps(found: tuple[np.ndarray, np.ndarray, np.ndarray], threshold: float) -> None:
    assert nms(*found, threshold).tolist() == plain_nms(*found, threshold)


@given(candidates(), st.integers(1, 5))
def test_a_limit_cuts_the_worst(found: tuple[np.ndarray, np.ndarray, np.ndarray], limit: int) -> None:
    assert nms(*found, 0.45, limit).tolist() == nms(*found, 0.45).tolist()[:limit]


@pytest.mark.parametrize("limit", [0, 1, 60])
def test_more_candidates_than_fit_one_block(limit: int) -> None:
    random = np.random.default_rng(3)
    corners = random.integers(0, 60, (3 * BLOCK + 5, 2))
    boxes = np.concatenate((corners, corners + random.integers(4, 12, corners.shape)), axis=1).astype(np.float32)
    scores, classes = random.integers(0, 50, len(boxes)) / 50, random.integers(0, 2, len(boxes))
    wanted = plain_nms(boxes, scores, classes, 0.25)
    assert len(wanted) > 100
    assert nms(boxes, scores, classes, 0.25, limit).tolist() == wanted[: limit or None]


def test_boxes_turned_inside_out_suppress_nothing() -> None:
    boxes = np.array([[10, 10, 0, 0], [0, 0, 10, 10], [5, 0, 5, 10]], np.float32)
    assert nms(boxes, np.array([0.9, 0.8, 0.7]), np.zeros(3, np.int64), 0.0).tolist() == [0, 1, 2]


def test_classes_do_not_suppress_each_other() -> None:
    boxes = np.array([[0, 0, 10, 10]] * 4, np.float32)
    kept = nms(boxes, np.array([0.5, 0.9, 0.8, 0.7]), np.array([0, 0, 1, 1]), 0.45)
    assert kept.tolist() == [1, 2]
