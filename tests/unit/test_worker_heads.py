"""The raw heads of YOLOv5 and YOLOv8, against the plain definition written out here with loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.worker.decoders import Row, info_of, yolov5, yolov8
from agents.worker.heads import DFL_BINS, PUBLISHED_ANCHORS
from agents.worker.spec import parse_model
from agents.worker.vision import Geometry, lay_out
from tests.support.graphs import spec_for

SIDE = 64  # of the input: maps of 8, 4 and 2 cells
CLASSES = 3


def prepared(**changes: Any) -> tuple[Any, Geometry]:
    changes = {"confidence_threshold": 0.3, "iou_threshold": 1.0, "max_detections": 10_000, "anchors": [], **changes}
    known = {key: value for key, value in changes.items() if key != "anchors"}
    spec = parse_model({**spec_for(Path("m.onnx"), "none", **known), "anchors": changes["anchors"]})
    return info_of(spec), lay_out(spec.build, SIDE, SIDE)[0]


def v5_heads(seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.random((1, 3 * (5 + CLASSES), SIDE // s, SIDE // s), np.float32) for s in (8, 16, 32)]


def v5_one_output(heads: list[np.ndarray], anchors: Any) -> np.ndarray:
    """What YOLOv5's own graph gives for these heads: (1, N, 5 + classes)."""
    rows = []
    for head, sides in zip(heads, anchors, strict=True):
        stride = SIDE / head.shape[2]
        for anchor in range(3):
            for row in range(head.shape[2]):
                for column in range(head.shape[3]):
                    x, y, w, h, *scores = head[0, anchor * (5 + CLASSES) : (anchor + 1) * (5 + CLASSES), row, column]
                    box = [(x * 2 - 0.5 + column) * stride, (y * 2 - 0.5 + row) * stride]
                    box += [(w * 2) ** 2 * sides[2 * anchor], (h * 2) ** 2 * sides[2 * anchor + 1]]
                    rows.append([*box, *scores])
    return np.array([rows], np.float32)


def v8_heads(seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    heads = []
    for stride in (8, 16, 32):
        cells = SIDE // stride
        scores = random.random((1, CLASSES, cells, cells), np.float32)
        distances = random.normal(0, 2, (1, 4 * DFL_BINS, cells, cells)).astype(np.float32)
        heads += [distances, scores, scores.sum(axis=1, keepdims=True).clip(0, 1)]
    return heads


def v8_one_output(heads: list[np.ndarray]) -> np.ndarray:
    """What YOLOv8's own graph gives for these heads: (1, 4 + classes, N)."""
    columns = []
    for distances, scores, _ in zip(heads[::3], heads[1::3], heads[2::3], strict=True):
        stride = SIDE / scores.shape[2]
        for row in range(scores.shape[2]):
            for column in range(scores.shape[3]):
                sides = []
                for side in range(4):
                    logits = distances[0, side * DFL_BINS : (side + 1) * DFL_BINS, row, column].astype(np.float64)
                    weights = np.exp(logits) / np.exp(logits).sum()
                    sides.append(float((weights * np.arange(DFL_BINS)).sum()))
                left, top, right, bottom = sides
                x1, y1, x2, y2 = column + 0.5 - left, row + 0.5 - top, column + 0.5 + right, row + 0.5 + bottom
                box = [(x1 + x2) / 2 * stride, (y1 + y2) / 2 * stride, (x2 - x1) * stride, (y2 - y1) * stride]
                columns.append([*box, *scores[0, :, row, column]])
    return np.array(columns, np.float32).T[np.newaxis]


def ordered(rows: Any) -> np.ndarray:
    return np.array(sorted(rows, key=lambda row: (-row[1], row[2])))


def same(found: list[Row], expected: list[Row]) -> None:
    assert len(found) == len(expected) > 0
    assert ordered(found) == pytest.approx(ordered(expected), abs=2e-3)


OWN_ANCHORS = [[5, 6, 7, 8, 9, 10], [20, 21, 22, 23, 24, 25], [40, 41, 42, 43, 44, 45]]


@pytest.mark.parametrize("anchors", [[], OWN_ANCHORS])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_three_heads_of_yolov5_give_what_its_graph_gives(anchors: Any, order: tuple[int, ...]) -> None:
    heads = v5_heads(1)
    expected = yolov5([v5_one_output(heads, anchors or PUBLISHED_ANCHORS)], *prepared(anchors=anchors))
    same(yolov5([heads[place] for place in order], *prepared(anchors=anchors)), expected)


@pytest.mark.parametrize("has_sum", [True, False])
def test_nine_or_six_heads_of_yolov8_give_what_its_graph_gives(has_sum: bool) -> None:
    heads = v8_heads(2)
    expected = yolov8([v8_one_output(heads)], *prepared())
    same(
        yolov8(heads if has_sum else [head for place, head in enumerate(heads) if place % 3 < 2], *prepared()), expected
    )


def test_a_rectangular_input_keeps_rows_and_columns_apart() -> None:
    model, _ = prepared(input_width=96, input_height=32)
    heads = [np.zeros((1, 24, 32 // s, 96 // s), np.float32) for s in (8, 16, 32)]
    heads[0][0, :8, 3, 11] = [0.5, 0.5, 0.5, 0.5, 1.0, 0, 0.9, 0]  # the first anchor, in the last cell
    (row,) = yolov5(
        heads,
        model,
        lay_out(parse_model(spec_for(Path("m"), "none", input_width=96, input_height=32)).build, 96, 32)[0],
    )
    assert row[:2] == pytest.approx((1, 0.9))
    assert row[2:] == pytest.approx((11.5 * 8 - 5, 3.5 * 8 - 6.5, 11.5 * 8 + 5, 3.5 * 8 + 6.5))


def test_weak_and_broken_candidates_are_left_out() -> None:
    assert yolov5([np.zeros_like(head) for head in v5_heads(1)], *prepared()) == []
    assert yolov8([np.zeros_like(head) for head in v8_heads(1)], *prepared()) == []
    broken = [np.full_like(head, np.nan) for head in v5_heads(1)]
    assert yolov5(broken, *prepared()) == []


def test_heads_without_a_sigmoid_are_refused() -> None:
    with pytest.raises(ValueError, match=r"not in 0\.\.1: export the model with its sigmoid"):
        yolov5([head * 8 - 4 for head in v5_heads(1)], *prepared())
    with pytest.raises(ValueError, match=r"not in 0\.\.1: export the model with its sigmoid"):
        yolov8([head * 8 - 4 for head in v8_heads(1)], *prepared())


def test_heads_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 3 outputs of shape \(1, 24, rows, columns\), got"):
        yolov5([head[:, :20] for head in v5_heads(1)], *prepared())
    with pytest.raises(ValueError, match=r"\(1, 64, rows, columns\), \(1, 3, rows, columns\) and perhaps"):
        yolov8(v5_heads(1), *prepared())
    with pytest.raises(ValueError, match="expected for each of 3 scales"):
        yolov8(v8_heads(1)[:5], *prepared())
    with pytest.raises(ValueError, match="expected 2 outputs"):
        yolov5(v5_heads(1), *prepared(anchors=OWN_ANCHORS[:2]))
