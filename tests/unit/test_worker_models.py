"""Whole models: an encoded picture in, labels out, through ONNX Runtime on graphs whose boxes are known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.worker import batching
from agents.worker.emulation import Emulation
from agents.worker.errors import BackendUnavailable, InferenceFailed, InvalidInput, ModelUnavailable
from agents.worker.model import Answer, Model, open_model, versions_of
from agents.worker.spec import parse_model
from tests.support.graphs import (
    LABELS,
    bright_box_graph,
    bright_box_picture,
    channel_means_graph,
    constant_graph,
    echo_spec,
    encoded,
    spec_for,
)

PICTURE = encoded(np.zeros((48, 96, 3), np.uint8))  # twice as wide as high: in 64 x 64 it is 64 x 32, bars of 16
LOGGED = list[tuple[str, str, Mapping[str, object]]]


def opened(spec: dict[str, Any], logged: LOGGED | None = None) -> Model:
    records: LOGGED = [] if logged is None else logged
    return open_model(parse_model(spec), lambda *record: records.append(record))


def boxes(model: Model, picture: bytes = PICTURE) -> list[tuple[Any, ...]]:
    answer = model.run(bytearray(picture))
    return [
        (found["label"], found["confidence"], *(found[side] for side in ("x1", "y1", "x2", "y2")))
        for found in answer.detections
    ]


TWO_SHAPES = [[32, 32, 16, 8, 0.2, 0.9, 0.1], [16, 24, 8, 8, 0.6, 0.1, 0.1], [33, 32, 16, 8, 0.2, 0.7, 0.1]]
THEIR_LABELS = [("square", 0.9, 36.0, 18.0, 60.0, 30.0), ("circle", 0.6, 18.0, 6.0, 30.0, 18.0)]


def test_yolov8_graph(tmp_path: Path) -> None:
    output = np.array(TWO_SHAPES, np.float32).T[np.newaxis]
    assert boxes(opened(spec_for(constant_graph(tmp_path / "m.onnx", output), "yolov8"))) == THEIR_LABELS


def test_transposed_yolov8_graph(tmp_path: Path) -> None:
    output = np.array(TWO_SHAPES, np.float32)[np.newaxis]
    assert boxes(opened(spec_for(constant_graph(tmp_path / "m.onnx", output), "yolov8"))) == THEIR_LABELS


def test_yolov5_graph(tmp_path: Path) -> None:
    output = np.array([[[*row[:4], 0.5, *row[4:]] for row in TWO_SHAPES]], np.float32)
    model = opened(spec_for(constant_graph(tmp_path / "m.onnx", output, output), "yolov5", confidence_threshold=0.2))
    assert boxes(model) == [(label, confidence / 2, *box) for label, confidence, *box in THEIR_LABELS]


def test_stretched_yolov8_graph(tmp_path: Path) -> None:
    output = np.array(TWO_SHAPES[:1], np.float32).T[np.newaxis]
    path = constant_graph(tmp_path / "m.onnx", output)
    assert boxes(opened(spec_for(path, "yolov8", resize="stretch"))) == [("square", 0.9, 36.0, 21.0, 60.0, 27.0)]


def test_classification_graph(tmp_path: Path) -> None:
    path = constant_graph(tmp_path / "m.onnx", np.array([[0.0, 1.0, 3.0]], np.float32))
    assert boxes(opened(spec_for(path, "classification"))) == [("star", 0.8438, 0.0, 0.0, 96.0, 48.0)]


def test_a_decoder_of_ones_own_on_a_graph_of_two_outputs(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def decode(outputs, model, geometry):\n"
        "    boxes, classes = outputs\n"
        "    return [(c, model.confidence_threshold, *b) for c, b in zip(classes, geometry.to_original(boxes))]\n"
    )
    graph = constant_graph(tmp_path / "m.onnx", np.array([[0, 16, 64, 48]], np.float32), np.array([2], np.int64))
    assert boxes(opened(spec_for(graph, "mine:decode"))) == [("star", 0.35, 0.0, 0.0, 96.0, 48.0)]


@pytest.mark.parametrize("decoder", ["yolov5", "yolov8"])
@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize(("width", "height"), [(64, 64), (640, 480), (480, 640), (501, 333), (40, 30), (1000, 90)])
def test_a_drawn_box_is_found_where_it_was_drawn(
    tmp_path: Path, decoder: str, resize: str, width: int, height: int
) -> None:
    model = opened(spec_for(bright_box_graph(tmp_path / "m.onnx", decoder), decoder, resize=resize))
    box = (width // 5, height // 4, width * 3 // 4, height * 4 // 5)
    ((label, confidence, *found),) = boxes(model, encoded(bright_box_picture(width, height, box)))
    assert (label, confidence) == ("square", 1.0)
    across, down = (max(width, height),) * 2 if resize == "letterbox" else (width, height)
    tolerance = [1.01 * max(1.0, side / 64) for side in (across, down)] * 2  # one pixel of the input, in the picture
    assert (np.abs(np.array(found) - box) <= tolerance).all()


def test_a_dark_picture_holds_nothing(tmp_path: Path) -> None:
    assert boxes(opened(spec_for(bright_box_graph(tmp_path / "m.onnx", "yolov8"), "yolov8"))) == []


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize(("colour_order", "blue_is"), [("rgb", 2), ("bgr", 0)])
def test_channels_come_in_the_order_and_type_of_the_build(
    tmp_path: Path, layout: str, dtype: str, colour_order: str, blue_is: int
) -> None:
    path = channel_means_graph(tmp_path / "m.onnx", layout, dtype)
    scale = 1.0 if dtype == "uint8" else 1 / 255
    changes: dict[str, Any] = {
        "layout": layout,
        "dtype": dtype,
        "colour_order": colour_order,
        "scale": scale,
        "resize": "stretch",
    }
    blue = np.zeros((30, 50, 3), np.uint8)
    blue[:, :, 0] = 255
    (found,) = boxes(opened(spec_for(path, "classification", **changes)), encoded(blue))
    assert found[0] == LABELS[blue_is]
    assert found[2:] == (0.0, 0.0, 50.0, 30.0)


def test_the_answer_tells_size_and_times(tmp_path: Path) -> None:
    answer = opened(spec_for(bright_box_graph(tmp_path / "m.onnx", "yolov8"), "yolov8")).run(bytearray(PICTURE))
    assert (answer.width, answer.height) == (96, 48)
    assert min(answer.decode_ms, answer.preprocess_ms, answer.infer_ms, answer.postprocess_ms) > 0


def test_outputs_that_are_not_finite_are_logged_once(tmp_path: Path) -> None:
    logged: LOGGED = []
    output = np.array([[[np.nan, 32, 20, 20, 0.9, 0, 0], [32, 32, 16, 8, 0.2, 0.9, 0.1]]], np.float32)
    model = opened(spec_for(constant_graph(tmp_path / "m.onnx", output), "yolov8"), logged)
    assert [boxes(model), boxes(model)] == [THEIR_LABELS[:1]] * 2
    assert [record[:2] for record in logged] == [("warning", "boxes.dropped")]


def test_no_picture_is_invalid_input(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        opened(spec_for(bright_box_graph(tmp_path / "m.onnx", "yolov8"), "yolov8")).run(bytearray(b"no picture"))


def test_echo_looks_at_nothing() -> None:
    answer = opened(echo_spec()).run(bytearray(b"no picture"))
    assert (answer.detections, answer.width, answer.height) == ([], None, None)


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"backend": "cuda"}, InvalidInput, "backend 'cuda' is unknown: use one of acl, echo, exec, onnx"),
        ({"file": "gone.onnx"}, ModelUnavailable, r"there is no file .*gone\.onnx"),
        ({"file": "text.onnx"}, ModelUnavailable, r"cannot load .*text\.onnx"),
        ({"input_width": 32}, ModelUnavailable, r"takes tensor\(float\) of shape \(1, 3, 64, 64\), but model.toml"),
        ({"layout": "nhwc"}, ModelUnavailable, "correct input_width, input_height, layout or dtype"),
        ({"dtype": "float16"}, ModelUnavailable, r"describes tensor\(float16\)"),
        ({"options": {"provider": "x"}}, InvalidInput, "no option provider"),
        ({"options": {"providers": ["TarotExecutionProvider"]}}, BackendUnavailable, "no TarotExecutionProvider, only"),
        ({"decoder": "yolov5"}, ModelUnavailable, r"expects an output of shape \(1, N, 8\) for 3 labels"),
        ({"labels": ["one"]}, ModelUnavailable, r"\(1, 5, N\) or \(1, N, 5\) for 1 labels, got \(1, 7, 1\)"),
        ({"backend": "echo"}, ModelUnavailable, "decoder must be 'none'"),
    ],
)
def test_a_model_that_cannot_run_here_says_why(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], told: str
) -> None:
    path = bright_box_graph(tmp_path / "m.onnx", "yolov8")
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(error, match="model 'shapes'.*" + told):
        opened({**spec_for(path, "yolov8"), **spec_for(path, **{"decoder": "yolov8", **changes})})


def test_a_crash_at_warm_up_is_one_sentence_and_a_log_record(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def decode(outputs, model, geometry): return outputs[7]")
    logged: LOGGED = []
    with pytest.raises(ModelUnavailable, match="model 'shapes' cannot run on backend 'onnx': IndexError: list index"):
        opened(spec_for(bright_box_graph(tmp_path / "m.onnx", "yolov8"), "mine:decode"), logged)
    assert [record[:2] for record in logged] == [("error", "model.crashed")]


def test_an_open_batch_dimension_fits(tmp_path: Path) -> None:
    output = np.array(TWO_SHAPES, np.float32).T[np.newaxis]
    path = constant_graph(tmp_path / "m.onnx", output, input_shape=("batch", 3, None, None))
    assert boxes(opened(spec_for(path, "yolov8"))) == THEIR_LABELS


COLOURS = {"circle": (0, 0, 255), "square": (0, 255, 0), "star": (255, 0, 0)}  # BGR, by the label of their channel


def plain(label: str, width: int = 40) -> bytearray:
    return bytearray(encoded(np.full((30, width, 3), COLOURS[label], np.uint8)))


def opened_for_batches(directory: Path, **changes: Any) -> Model:
    """With a curve that makes batches of two and four worth while, whatever this machine does."""
    path = channel_means_graph(directory / "m.onnx", batch="pictures")
    given = {"decoder": "classification", "resize": "stretch", "max_batch": 4, **changes}
    return open_model(parse_model(spec_for(path, **given)), lambda *record: None, Emulation(5.0, 0.9))


def told(outcomes: list[Any]) -> list[str]:
    """The labels, or what went wrong."""
    return [
        repr(outcome)
        if isinstance(outcome, Exception)
        else " ".join(found["label"] for found in outcome.detections) + f" {outcome.width}"
        for outcome in outcomes
    ]


def test_each_picture_of_a_batch_has_its_own_labels_size_and_times(tmp_path: Path) -> None:
    model = opened_for_batches(tmp_path)
    assert model.batch_sizes == (1, 2, 4)
    assert list(model.batch_curve) == [1, 2, 4]
    outcomes = model.run_batch([plain("star", 10), plain("circle", 20), plain("square", 30), plain("star", 40)])
    assert told(outcomes) == ["star 10", "circle 20", "square 30", "star 40"]
    answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
    assert len({answer.infer_ms for answer in answers}) == 1
    assert all(min(a.decode_ms, a.preprocess_ms, a.infer_ms, a.postprocess_ms) > 0 for a in answers)


def test_a_bad_picture_fails_alone_in_its_batch(tmp_path: Path) -> None:
    model = opened_for_batches(tmp_path)
    sizes: list[int] = []
    infer = model.backend.infer

    def counted(batch: np.ndarray) -> list[np.ndarray]:
        sizes.append(len(batch))
        return infer(batch)

    model.backend.infer = counted  # type: ignore[method-assign]
    outcomes = model.run_batch([plain("star"), bytearray(b"no picture"), plain("circle"), plain("square")])
    assert isinstance(outcomes[1], InvalidInput)
    assert told(outcomes[:1] + outcomes[2:]) == ["star 40", "circle 40", "square 40"]
    assert sizes == [4]  # no size that was not measured
    assert all(isinstance(outcome, InvalidInput) for outcome in model.run_batch([bytearray(b"no"), bytearray(b"none")]))
    assert sizes == [4]


def test_a_decoder_that_fails_for_one_picture_fails_it_alone(tmp_path: Path) -> None:
    (tmp_path / "moody.py").write_text(
        "def decode(outputs, model, geometry):\n"
        "    if geometry.original_width == 20:\n"
        "        raise KeyError('narrow')\n"
        "    return [(int(outputs[0][0].argmax()), 0.5, 0, 0, 9, 9)]\n"
    )
    model = opened_for_batches(tmp_path, decoder="moody:decode")
    outcomes = model.run_batch([plain("star", 40), plain("star", 20)])
    assert told(outcomes) == ["star 40", "KeyError('narrow')"]


def test_a_batch_that_fails_is_run_one_by_one_and_the_guilty_picture_fails_alone(tmp_path: Path) -> None:
    model = opened_for_batches(tmp_path)
    infer = model.backend.infer

    def fails_for_green(batch: np.ndarray) -> list[np.ndarray]:
        if batch[:, 1].max() > 0:
            raise InferenceFailed("no green, please")
        return infer(batch)

    model.backend.infer = fails_for_green  # type: ignore[method-assign]
    outcomes = model.run_batch([plain("star"), plain("square"), plain("circle"), plain("star")])
    assert told(outcomes) == ["star 40", "InferenceFailed('no green, please')", "circle 40", "star 40"]


def test_want_of_memory_is_nobodys_own_failure(tmp_path: Path) -> None:
    (tmp_path / "hungry.py").write_text(
        "def decode(outputs, model, geometry):\n"
        "    if geometry.original_width == 20:\n"
        "        raise MemoryError\n"
        "    return []\n"
    )
    model = opened_for_batches(tmp_path, decoder="hungry:decode")
    with pytest.raises(MemoryError):
        model.run_batch([plain("star", 40), plain("star", 20)])


def test_batches_stay_off_where_they_gain_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curve = {1: 6.9, 2: 7.1, 4: 7.2}
    monkeypatch.setattr(batching, "measured", lambda infer, most: curve)
    model = opened_for_batches(tmp_path)
    assert (model.batch_sizes, model.batch_curve) == ((1,), curve)


def test_a_graph_whose_outputs_are_not_one_row_per_picture_is_refused_for_batches(tmp_path: Path) -> None:
    output = np.array(TWO_SHAPES, np.float32).T[np.newaxis]
    path = constant_graph(tmp_path / "m.onnx", output, input_shape=("batch", 3, 64, 64))
    reason = r"a batch of 2 pictures gives an output of shape \(1, 7, 3\): correct the graph, or lower max_batch"
    with pytest.raises(ModelUnavailable, match=reason):
        opened(spec_for(path, "yolov8", max_batch=2))


def test_versions_name_the_libraries(tmp_path: Path) -> None:
    model = opened(spec_for(bright_box_graph(tmp_path / "m.onnx", "yolov8"), "yolov8"))
    assert set(versions_of([model])) == {"numpy", "cv2", "onnxruntime"}
