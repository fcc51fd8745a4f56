"""Decoders on outputs that are written down here; `test_worker_models.py` runs them on graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.worker.decoders import DECODERS, Row, classification, info_of, labels_from, make_decoder, yolov5, yolov8
from agents.worker.errors import InvalidInput, ModelUnavailable
from agents.worker.spec import parse_model
from agents.worker.vision import Geometry, lay_out
from tests.support.graphs import LABELS, SIZE, spec_for


def prepared(width: int = SIZE, height: int = SIZE, **changes: Any) -> tuple[Any, Geometry]:
    """What a decoder is told: a model of three labels, and a picture of this size."""
    spec = parse_model(spec_for(Path("m.onnx"), "none", **changes))
    return info_of(spec), lay_out(spec.build, width, height)[0]


def columns(*candidates: list[float]) -> np.ndarray:
    """Candidates (cx, cy, w, h, scores...) as YOLOv8 gives them: float32 (1, 4 + classes, N)."""
    return np.array(candidates, np.float32).T[np.newaxis]


def test_yolov8_maps_a_letterboxed_box_back() -> None:
    # 128 x 64 in 64 x 64: half the size, bars of 16 above and below
    rows = yolov8([columns([32, 32, 20, 10, 0.1, 0.2, 0.9])], *prepared(128, 64))
    assert [row[0] for row in rows] == [2]
    assert rows[0][1:] == pytest.approx((0.9, 44, 22, 84, 42))


def test_yolov5_multiplies_objectness() -> None:
    sure = [32, 32, 20, 20, 0.8, 0.5, 0.9, 0.1]
    unlikely = [10, 10, 4, 4, 0.3, 1.0, 0.0, 0.0]
    rows = yolov5([np.array([[sure, unlikely]], np.float32)], *prepared())
    assert [row[0] for row in rows] == [1]
    assert rows[0][1:] == pytest.approx((0.72, 22, 22, 42, 42))


def test_boxes_of_other_classes_survive_and_of_the_same_do_not() -> None:
    output = columns([32, 32, 20, 20, 0.9, 0, 0], [33, 32, 20, 20, 0.8, 0, 0], [32, 32, 20, 20, 0, 0.7, 0])
    assert [(row[0], round(row[1], 2)) for row in yolov8([output], *prepared())] == [(0, 0.9), (1, 0.7)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", range(7))
def test_what_is_not_finite_never_comes_out(bad: float, place: int) -> None:
    broken = [32, 32, 20, 20, 0.9, 0.1, 0.1]
    broken[place] = bad
    good = [10, 10, 8, 8, 0.1, 0.8, 0.1]
    rows = yolov8([columns(broken, good)], *prepared())
    assert np.isfinite(np.array(rows)).all()
    assert [row[2:] for row in rows if row[0] == 1] == [(6, 6, 14, 14)]
    five = np.array([[[*broken[:4], 1.0, *broken[4:]], [*good[:4], 1.0, *good[4:]]]], np.float32)
    assert [tuple(row) for row in yolov5([five], *prepared())] == [tuple(row) for row in rows]


@pytest.mark.parametrize("decoder", [yolov5, yolov8, classification])
def test_nothing_but_nan_is_no_detection(decoder: Any) -> None:
    shape = {yolov5: (1, 5, 8), yolov8: (1, 7, 5), classification: (1, 3)}[decoder]
    assert decoder([np.full(shape, np.nan, np.float32)], *prepared()) == []


@pytest.mark.parametrize(("decoder", "shape"), [(yolov5, (1, 0, 8)), (yolov8, (1, 7, 0))])
def test_no_candidates_are_no_detections(decoder: Any, shape: tuple[int, ...]) -> None:
    assert decoder([np.zeros(shape, np.float32)], *prepared()) == []


def test_yolov8_takes_the_transposed_form() -> None:
    output = columns([32, 32, 20, 20, 0.9, 0, 0], [10, 10, 8, 8, 0, 0.8, 0])
    turned = np.ascontiguousarray(output.transpose(0, 2, 1))
    assert yolov8([turned], *prepared()) == yolov8([output], *prepared())


def test_yolov8_reads_a_square_output_as_columns() -> None:
    output = np.zeros((1, 7, 7), np.float32)
    output[0, :, 3] = [32, 32, 20, 20, 0.9, 0, 0]
    assert [row[0] for row in yolov8([output], *prepared())] == [0]


def test_half_precision_outputs_are_read() -> None:
    assert len(yolov8([columns([32, 32, 20, 20, 0.9, 0, 0]).astype(np.float16)], *prepared())) == 1


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("yolov5", (1, 10, 7), r"\(1, N, 8\) for 3 labels, got \(1, 10, 7\)"),
        ("yolov8", (1, 84, 100), r"\(1, 7, N\) or \(1, N, 7\) for 3 labels, got \(1, 84, 100\)"),
        ("yolov8", (2, 7, 100), r"got \(2, 7, 100\)"),
        ("classification", (1, 1000), r"\(1, 3\) for 3 labels, got \(1, 1000\)"),
    ],
)
def test_a_shape_that_does_not_fit_names_both_shapes(name: str, shape: tuple[int, ...], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        DECODERS[name]([np.zeros(shape, np.float32)], *prepared())


def test_probabilities_are_taken_as_they_are() -> None:
    rows = classification([np.array([[0.1, 0.5, 0.4]], np.float32)], *prepared(30, 20))
    assert rows == [(1, 0.5, 0, 0, 30, 20), (2, pytest.approx(0.4), 0, 0, 30, 20)]


@pytest.mark.parametrize("logits", [[-1.0, 2.0, 0.5], [0.5, 0.9, 0.9], [1000.0, 0.0, -1000.0]])
def test_logits_get_a_softmax(logits: list[float]) -> None:
    info, geometry = prepared(confidence_threshold=0.0)
    rows = classification([np.array([logits], np.float32)], info, geometry)
    wanted = np.exp(np.array(logits) - max(logits)) / np.exp(np.array(logits) - max(logits)).sum()
    assert {row[0]: row[1] for row in rows} == pytest.approx(dict(enumerate(wanted)))
    assert [row[1] for row in rows] == sorted((row[1] for row in rows), reverse=True)


def test_nothing_is_classified_below_the_threshold() -> None:
    assert classification([np.array([[0.34, 0.33, 0.33]], np.float32)], *prepared()) == []


def made(rows: list[Any], width: int = 100, height: int = 50, **changes: Any) -> list[tuple[Any, ...]]:
    """The labels of these rows, as tuples of their values."""
    return [tuple(label.values()) for label in labels_from(rows, prepared(**changes)[0], width, height)]


def test_labels_are_clipped_rounded_and_sorted() -> None:
    rows = [
        (2, 0.5, 10.004, 10.006, 20, 20),
        (1, 0.90004, -5, -5, 200, 200),
        (0, 0.5, 30, 1, 40, 2),
        (0, 0.5, 3, 1, 40, 2),
    ]
    assert made(rows) == [
        (1, "square", 0.9, 0.0, 0.0, 100.0, 50.0),
        (0, "circle", 0.5, 3.0, 1.0, 40.0, 2.0),
        (0, "circle", 0.5, 30.0, 1.0, 40.0, 2.0),
        (2, "star", 0.5, 10.0, 10.01, 20.0, 20.0),
    ]
    assert made(rows[::-1]) == made(rows), "the order of the rows changes nothing"
    assert "-0.0" not in repr(made([(1, 0.9, -0.0, -3.0, 5, 5)]))


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (9, 5, 5, 9), (101, 1, 110, 9), (5, -9, 9, -1), (5, 5, 5.001, 9)])
def test_a_box_without_area_in_the_picture_is_dropped(box: tuple[float, ...]) -> None:
    assert made([(1, 0.9, *box)]) == []


def test_labels_are_cut_to_the_best() -> None:
    rows = [(0, confidence, 0, 0, 5, 5) for confidence in (0.4, 0.6, 0.5)]
    assert [label[2] for label in made(rows, max_detections=2)] == [0.6, 0.5]


def test_a_confidence_slightly_over_1_is_1() -> None:
    assert made([(0, 1.004, 0, 0, 5, 5)])[0][2] == 1.0


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([(3, 0.5, 0, 0, 5, 5)], "class 3, but the model has 3 labels"),
        ([(-1, 0.5, 0, 0, 5, 5)], "class -1"),
        ([(0.5, 0.5, 0, 0, 5, 5)], "class 0.5"),
        ([(0, 5.2, 0, 0, 5, 5)], "5.2, which is outside 0..1"),
        ([(0, -0.1, 0, 0, 5, 5)], "outside 0..1"),
        ([(0, float("nan"), 0, 0, 5, 5)], "six finite numbers"),
        ([(0, 0.5, 0, 0, float("inf"), 5)], "six finite numbers"),
        ([(0, 0.5, 0, 0, 5)], "six finite numbers"),
        ([("circle", 0.5, 0, 0, 5, 5)], "six finite numbers"),
        ([7], "six finite numbers"),
        (None, "returned NoneType"),
    ],
)
def test_what_a_decoder_may_not_return_is_told(rows: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        made(rows)


OWN_DECODER = """
from dataclasses import dataclass

@dataclass
class Found:
    class_id: int

def decode(outputs, model, geometry):
    boxes = outputs[0][:, 2:6]
    kept = model.nms(boxes, outputs[0][:, 1], outputs[0][:, 0])
    mapped = geometry.to_original(boxes[kept])
    return [(Found(int(outputs[0][i, 0])).class_id, outputs[0][i, 1], *box) for i, box in zip(kept, mapped)]
"""


def own_decoder(folder: Path, source: str = OWN_DECODER, decoder: str = "corners:decode", **changes: Any) -> Any:
    (folder / "corners.py").write_text(source)
    return make_decoder(parse_model(spec_for(folder / "m.onnx", decoder, **changes)))


def test_a_decoder_of_ones_own_comes_from_the_models_directory(tmp_path: Path) -> None:
    decode = own_decoder(tmp_path)
    output = np.array([[1, 0.9, 10, 20, 30, 40], [1, 0.8, 10, 20, 30, 41], [2, 0.7, 10, 20, 30, 40]], np.float32)
    info, geometry = prepared(128, 64)
    rows: list[Row] = decode([output], info, geometry)
    assert [tuple(label.values()) for label in labels_from(rows, info, 128, 64)] == [
        (1, "square", 0.9, 20.0, 8.0, 60.0, 48.0),
        (2, "star", 0.7, 20.0, 8.0, 60.0, 48.0),
    ]


def test_two_models_may_have_files_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = own_decoder(tmp_path / "a", "def decode(o, m, g): return ['a']", name="first")
    second = own_decoder(tmp_path / "b", "def decode(o, m, g): return ['b']", name="second")
    assert (first([], None, None), second([], None, None)) == (["a"], ["b"])


@pytest.mark.parametrize(
    ("source", "decoder", "told"),
    [
        (OWN_DECODER, "circles:decode", r"needs the file .*circles\.py"),
        (OWN_DECODER, "corners:decoed", r"corners\.py has no function 'decoed'"),
        ("def decode(", "corners:decode", r"corners\.py fails when it is imported: SyntaxError"),
        ("import no_such_package_here", "corners:decode", "ModuleNotFoundError: No module named"),
    ],
)
def test_a_decoder_that_cannot_be_loaded_is_told(tmp_path: Path, source: str, decoder: str, told: str) -> None:
    with pytest.raises(ModelUnavailable, match=told):
        own_decoder(tmp_path, source, decoder)


@pytest.mark.parametrize("decoder", ["yolov9", "", "../evil:decode", "a.b:decode", "corners:", "corners:decode:more"])
def test_an_unknown_decoder_lists_the_known_ones(tmp_path: Path, decoder: str) -> None:
    with pytest.raises(InvalidInput, match="classification, none, yolov5, yolov8, or module:function"):
        own_decoder(tmp_path, decoder=decoder)


def test_a_decoder_needs_labels() -> None:
    with pytest.raises(InvalidInput, match="needs labels"):
        make_decoder(parse_model(spec_for(Path("m.onnx"), "yolov8", labels=())))
    assert len(LABELS) == 3
