"""The numbers on the right were worked out by hand from the definitions."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from edgesched.demo.quality import (
    average_precision,
    average_precisions,
    box_ious,
    hits,
    mean_average_precision,
    precision_and_recall,
)


@dataclass(frozen=True)
class Box:
    class_id: int
    x1: float
    y1: float
    x2: float
    y2: float
    confidence: float = 1.0


def square(left: float, class_id: int = 0, confidence: float = 1.0) -> Box:
    """A box of 10 x 10 whose left edge is at `left`."""
    return Box(class_id, left, 0.0, left + 10.0, 10.0, confidence)


def test_iou_is_shared_area_over_joint_area() -> None:
    unit = Box(0, 0.0, 0.0, 2.0, 2.0)
    others = [unit, Box(0, 1.0, 1.0, 3.0, 3.0), Box(0, 0.0, 0.0, 1.0, 2.0), Box(0, 2.0, 0.0, 4.0, 2.0)]
    assert box_ious([unit], others)[0].tolist() == pytest.approx([1.0, 1 / 7, 1 / 2, 0.0])


def test_iou_of_boxes_apart_in_both_directions_is_zero() -> None:
    assert box_ious([Box(0, 0.0, 0.0, 1.0, 1.0)], [Box(0, 5.0, 5.0, 6.0, 6.0)]).tolist() == [[0.0]]


def test_an_empty_detection_overlaps_nothing() -> None:
    assert hits([Box(0, 3.0, 3.0, 3.0, 8.0)], [square(0.0)]) == [False]


@pytest.mark.parametrize(("moved_by", "expected"), [(3.0, True), (3.4, False)])
def test_a_hit_needs_an_iou_of_one_half(moved_by: float, expected: bool) -> None:
    # 10 x 10 boxes moved by d: (10 - d) / (10 + d) is 0.538 for d = 3, 0.493 for d = 3.4
    assert hits([square(moved_by)], [square(0.0)]) == [expected]


def test_an_iou_of_exactly_the_threshold_is_a_hit() -> None:
    half = Box(0, 0.0, 0.0, 5.0, 10.0)
    assert hits([half], [square(0.0)], iou_threshold=0.5) == [True]


def test_a_box_of_another_class_is_no_hit() -> None:
    assert hits([square(0.0, class_id=1)], [square(0.0, class_id=0)]) == [False]


def test_the_most_confident_detection_takes_the_box_and_the_second_one_misses() -> None:
    detections = [square(0.0, confidence=0.6), square(1.0, confidence=0.9)]
    assert hits(detections, [square(0.0)]) == [False, True]


def test_a_detection_takes_the_free_box_that_it_overlaps_most() -> None:
    truth = [square(0.0), square(3.0)]
    # The first takes the box at 3, so the second is left with the one at 0: (10 - 2) / (10 + 2) = 0.667.
    assert hits([square(2.0, confidence=0.9), square(2.0, confidence=0.8)], truth) == [True, True]
    assert hits([square(2.0, confidence=0.9), square(5.0, confidence=0.8)], truth) == [True, False]


def test_without_detections_nothing_is_found() -> None:
    assert hits([], [square(0.0)]) == []
    assert average_precision([], [], truth_count=3) == 0.0


@pytest.mark.parametrize(
    ("confidences", "found", "truth_count", "expected"),
    [
        ([0.9, 0.8], [True, True], 2, 1.0),
        ([0.9], [True], 2, 0.5),
        ([0.9, 0.8], [False, True], 1, 0.5),
        ([0.8, 0.9], [True, False], 1, 0.5),  # the order of confidence counts, not that of the list
        # recall 1/3 at precision 1, 2/3 at 2/3, 3/3 at 3/5
        ([0.9, 0.8, 0.7, 0.6, 0.5], [True, False, True, False, True], 3, (1 + 2 / 3 + 3 / 5) / 3),
        # the precision rises again, from 1/2 to 3/4: the better one counts for the whole stretch before it
        ([0.9, 0.8, 0.7, 0.6], [False, True, True, True], 3, 3 / 4),
        ([0.9, 0.8], [False, False], 4, 0.0),
    ],
)
def test_average_precision(confidences: list[float], found: list[bool], truth_count: int, expected: float) -> None:
    assert average_precision(confidences, found, truth_count) == pytest.approx(expected)


def test_average_precisions_rank_the_detections_of_all_pictures_together() -> None:
    truth = [[square(0.0)], [square(0.0)]]
    detections = [[square(0.0, confidence=0.5)], [square(50.0, confidence=0.9), square(0.0, confidence=0.8)]]
    # In order of confidence: miss, hit, hit; precision 2/3 at both recalls.
    assert average_precisions(detections, truth) == {0: pytest.approx(2 / 3)}


def test_a_box_is_not_found_in_another_picture() -> None:
    assert average_precisions([[], [square(0.0)]], [[square(0.0)], []]) == {0: 0.0}


def test_the_mean_is_over_the_classes_in_the_truth() -> None:
    truth = [[square(0.0, class_id=0), square(50.0, class_id=3)]]
    detections = [[square(0.0, class_id=0), square(90.0, class_id=7)]]
    assert average_precisions(detections, truth) == {0: 1.0, 3: 0.0}
    assert mean_average_precision(detections, truth) == 0.5


def test_a_stricter_iou_turns_hits_into_misses() -> None:
    truth, detections = [[square(0.0)]], [[square(2.0)]]  # IoU 0.667
    assert mean_average_precision(detections, truth, iou_threshold=0.65) == 1.0
    assert mean_average_precision(detections, truth, iou_threshold=0.70) == 0.0


def test_no_true_box_at_all_has_no_mean() -> None:
    with pytest.raises(ValueError, match="no picture holds a true box"):
        mean_average_precision([[]], [[]])


def test_precision_and_recall_count_only_sure_detections() -> None:
    truth = [[square(0.0), square(50.0)], [square(0.0), square(50.0)]]
    detections = [
        [square(0.0, confidence=0.9), square(50.0, confidence=0.2)],
        [square(0.0, confidence=0.35), square(90.0, confidence=0.5)],
    ]
    assert precision_and_recall(detections, truth, confidence_threshold=0.35) == pytest.approx((2 / 3, 2 / 4))
    assert precision_and_recall(detections, truth, confidence_threshold=0.0) == pytest.approx((3 / 4, 3 / 4))


def test_precision_counts_classes_that_the_truth_lacks() -> None:
    assert precision_and_recall([[square(0.0), square(0.0, class_id=5)]], [[square(0.0)]], 0.5) == (0.5, 1.0)


def test_precision_without_detections_and_recall_without_truth_are_one() -> None:
    assert precision_and_recall([[]], [[square(0.0)]], 0.5) == (1.0, 0.0)
    assert precision_and_recall([[square(0.0)]], [[]], 0.5) == (0.0, 1.0)


def test_detections_and_truth_must_have_as_many_pictures() -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        average_precisions([[]], [[], []])
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        precision_and_recall([[], []], [[]], 0.5)
