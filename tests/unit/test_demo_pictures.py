from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pytest

from edgesched.demo import pictures
from edgesched.demo.pictures import (
    LABELS,
    MAX_SHAPES,
    SIDE_RANGE_PX,
    Picture,
    Scene,
    draw_picture,
    draw_pictures,
    draw_scene,
)
from edgesched.demo.quality import box_ious
from edgesched.demo.render import class_colour, draw_boxes
from edgesched.errors import InvalidInput


@pytest.fixture(scope="module")
def series() -> list[Picture]:
    return list(draw_pictures(40, seed=11))


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """The same as `series`, before JPEG."""
    return [draw_scene(np.random.default_rng((11, index))) for index in range(40)]


def decoded(jpeg: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return pixels


def test_the_same_seed_and_index_give_the_same_picture(series: Sequence[Picture]) -> None:
    assert draw_picture(11, 7) == series[7]
    assert draw_picture(11, 3) == series[3]


def test_other_seeds_and_indexes_give_other_pictures(series: Sequence[Picture]) -> None:
    others = [draw_picture(seed, index) for seed in (12, 13) for index in range(5)]
    everything = [*series, *others]
    assert len({picture.jpeg for picture in everything}) == len(everything)
    assert len({picture.file_name for picture in everything}) == len(everything)


def test_pictures_are_drawn_only_when_asked_for() -> None:
    endless = draw_pictures(10**12, seed=11)
    assert next(endless).file_name == "shapes-11-00000.jpg"


def test_the_jpeg_has_the_size_that_the_picture_says(series: Sequence[Picture]) -> None:
    for picture in series:
        assert decoded(picture.jpeg).shape == (picture.height, picture.width, 3)
        assert SIDE_RANGE_PX[0] <= min(picture.width, picture.height)
        assert max(picture.width, picture.height) <= SIDE_RANGE_PX[1]


def test_every_shape_lies_inside_its_picture_and_has_its_class_name(series: Sequence[Picture]) -> None:
    for picture in series:
        assert 1 <= len(picture.truth) <= MAX_SHAPES
        for box in picture.truth:
            assert 0 < box.x1 < box.x2 < picture.width
            assert 0 < box.y1 < box.y2 < picture.height
            assert box.label == LABELS[box.class_id]


def test_a_series_holds_every_class_and_many_sizes(series: Sequence[Picture]) -> None:
    assert len(set(LABELS)) == len(LABELS) >= 6
    assert {box.label for picture in series for box in picture.truth} == set(LABELS)
    assert len({(picture.width, picture.height) for picture in series}) > 30
    assert {picture.width > picture.height for picture in series} == {True, False}
    assert len({len(picture.truth) for picture in series}) >= 5


def test_no_two_boxes_of_a_picture_nearly_coincide(series: Sequence[Picture]) -> None:
    for picture in series:
        ious = box_ious(picture.truth, picture.truth) - np.eye(len(picture.truth))
        assert ious.max() <= pictures.MAX_BOX_IOU


def test_each_box_fits_its_shape_tightly(scenes: Sequence[Scene]) -> None:
    """The box and the mask's first and last rows and columns agree, up to a pixel that is hardly covered."""
    for shape in (shape for scene in scenes for shape in scene.shapes):
        rows, columns = (
            window.start + np.flatnonzero(shape.mask.max(axis=1 - axis) > 0.1)
            for axis, window in enumerate(shape.window)
        )
        seen = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert seen == pytest.approx((shape.box.x1, shape.box.y1, shape.box.x2, shape.box.y2), abs=1.3)


def test_each_shape_is_painted_where_its_box_says(scenes: Sequence[Scene]) -> None:
    for scene in scenes:
        topmost = scene.shapes[-1]  # nothing covers it
        inside = scene.canvas[topmost.window][topmost.mask == 1.0]
        assert np.abs(inside - topmost.colour).max() < 32  # the light across a shape changes it a little
        left_of_it = scene.canvas[topmost.window][topmost.mask == 0.0]
        assert np.linalg.norm(left_of_it - topmost.colour, axis=1).mean() > 50


def test_the_decoded_picture_shows_something_inside_each_box(series: Sequence[Picture]) -> None:
    """A shape differs from the ground around the picture's shapes by more than JPEG noise or texture."""
    for picture in series:
        pixels = decoded(picture.jpeg).astype(np.float32)
        ground = np.ones(pixels.shape[:2], bool)
        for box in picture.truth:
            ground[int(box.y1) - 2 : int(box.y2) + 3, int(box.x1) - 2 : int(box.x2) + 3] = False
        usual = np.median(pixels[ground], axis=0)
        for box in picture.truth:
            inside = pixels[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)]
            unlike = np.linalg.norm(inside - usual, axis=2) > 45
            assert unlike.mean() > 0.15, (picture.file_name, box)


def test_no_shape_is_hidden_more_than_allowed(scenes: Sequence[Scene]) -> None:
    partly_hidden = 0
    for scene in scenes:
        for place, shape in enumerate(scene.shapes):
            visible = np.zeros(scene.canvas.shape[:2], bool)
            visible[shape.window] = whole = shape.mask > 0.5
            for above in scene.shapes[place + 1 :]:
                visible[above.window] &= above.mask <= 0.5
            hidden = 1.0 - visible.sum() / whole.sum()
            assert hidden <= pictures.MAX_OCCLUDED_FRACTION + 1e-9
            partly_hidden += hidden > 0.05
    assert partly_hidden > 5  # else the limit was never put to the test


def test_outlines_stay_inside_the_unit_circle() -> None:
    rng = np.random.default_rng(0)
    for (label, outline), _ in itertools.product(pictures.OUTLINES.items(), range(20)):
        reach = max(float(np.hypot(c[:, 0], c[:, 1]).max()) for c in outline(rng))
        assert 0.9 < reach < 1.08, label


@dataclass(frozen=True)
class Found:
    class_id: int
    confidence: float
    x1: float
    y1: float
    x2: float
    y2: float


def test_draw_boxes_paints_frame_and_caption_and_leaves_the_rest() -> None:
    plain = cv2.imencode(".jpg", np.full((300, 400, 3), 128, np.uint8))[1].tobytes()
    drawn = decoded(draw_boxes(plain, [Found(2, 0.87, 100.0, 120.0, 220.0, 260.0)], LABELS)).astype(int)
    assert drawn.shape == (300, 400, 3)
    colour = np.array(class_colour(2))
    for row, column in ((200, 100), (200, 219), (259, 160)):  # on three sides of the frame
        assert np.abs(drawn[row, column] - colour).max() < 60, (row, column)
    chip = np.abs(drawn[104:117, 101:150] - colour).max(axis=2) < 60
    assert chip.mean() > 0.4  # the caption's ground, above the box
    assert np.abs(drawn[150:240, 120:200] - 128).max() < 12  # inside the frame
    assert np.abs(drawn[280:, :] - 128).max() < 12


def test_a_caption_without_room_outside_its_box_goes_inside() -> None:
    plain = cv2.imencode(".jpg", np.full((240, 240, 3), 128, np.uint8))[1].tobytes()
    drawn = decoded(draw_boxes(plain, [Found(2, 0.87, 0.0, 0.0, 240.0, 240.0)], LABELS)).astype(int)
    top_left = np.abs(drawn[3:14, 3:60] - np.array(class_colour(2))).max(axis=2) < 60
    assert top_left.mean() > 0.4


def test_draw_boxes_copes_with_boxes_at_and_beyond_the_edge_and_with_unknown_classes() -> None:
    plain = cv2.imencode(".jpg", np.full((240, 240, 3), 128, np.uint8))[1].tobytes()
    edge = [Found(0, 0.5, -20.0, -20.0, 300.0, 300.0), Found(99, 0.4, 200.0, 1.0, 239.0, 30.0)]
    assert decoded(draw_boxes(plain, edge, LABELS)).shape == (240, 240, 3)
    assert decoded(draw_boxes(plain, [], LABELS)).shape == (240, 240, 3)


@pytest.mark.parametrize("junk", [b"", b"not a picture"])
def test_draw_boxes_refuses_what_is_no_picture(junk: bytes) -> None:
    with pytest.raises(InvalidInput, match="not a picture"):
        draw_boxes(junk, [], LABELS)


def test_neighbouring_classes_have_unlike_colours() -> None:
    colours = [np.array(class_colour(class_id)) for class_id in range(len(LABELS))]
    for a, b in itertools.combinations(colours, 2):
        assert np.linalg.norm(a - b) > 60
