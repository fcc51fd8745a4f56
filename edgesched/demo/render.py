"""Draws detections onto a picture, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgesched.demo.quality import ScoredBox
from edgesched.errors import InvalidInput

Canvas = npt.NDArray[Any]  # uint8 (height, width, 3), BGR
Bgr = tuple[int, int, int]

FONT = cv2.FONT_HERSHEY_DUPLEX
BLACK: Bgr = (28, 22, 20)
WHITE: Bgr = (255, 255, 255)
CLASS_COLOURS: tuple[Bgr, ...] = (  # strong and unlike each other; after the last one they start again
    (232, 112, 37),
    (60, 76, 231),
    (83, 156, 26),
    (18, 156, 243),
    (173, 68, 142),
    (156, 140, 0),
    (122, 32, 214),
    (140, 84, 72),
    (44, 102, 162),
    (50, 190, 180),
)
JPEG_QUALITY = 90


@dataclass(frozen=True, slots=True)
class _Chip:
    """The filled rectangle behind a caption, in pixels."""

    left: int
    top: int
    width: int
    height: int

    def shared_area(self, other: _Chip) -> int:
        wide = min(self.left + self.width, other.left + other.width) - max(self.left, other.left)
        high = min(self.top + self.height, other.top + other.height) - max(self.top, other.top)
        return max(wide, 0) * max(high, 0)


def draw_boxes(jpeg: bytes, detections: Sequence[ScoredBox], labels: Sequence[str]) -> bytes:
    """Return the picture as a JPEG of the same size, with a frame and a caption for each detection.

    detections: boxes in pixels of this picture, drawn with the most confident on top. labels: the name of each class
    id; a class id without a name is shown as its number.
    Raises: InvalidInput if `jpeg` is not a picture.
    """
    canvas = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
    if canvas is None:
        raise InvalidInput("these bytes are not a picture")
    by_confidence = sorted(detections, key=lambda found: found.confidence)
    for detection in by_confidence:
        _draw_frame(canvas, detection)
    taken: list[_Chip] = []
    for detection in by_confidence:  # after all frames, so that no frame crosses a caption
        known = 0 <= detection.class_id < len(labels)
        name = labels[detection.class_id] if known else str(detection.class_id)
        taken.append(_draw_caption(canvas, detection, f"{name} {detection.confidence:.2f}", taken))
    _, encoded = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return encoded.tobytes()


def class_colour(class_id: int) -> Bgr:
    """Return the class's colour as blue, green, red, 0..255; the same one every time."""
    return CLASS_COLOURS[class_id % len(CLASS_COLOURS)]


def _line_px(canvas: Canvas) -> int:
    longer: int = max(canvas.shape[:2])
    return max(2, round(longer / 300))


def _draw_frame(canvas: Canvas, box: ScoredBox) -> None:
    height, width = canvas.shape[:2]
    corner = max(0, round(box.x1)), max(0, round(box.y1))
    opposite = min(width - 1, round(box.x2) - 1), min(height - 1, round(box.y2) - 1)
    line = _line_px(canvas)
    # The light rim keeps the frame visible on a ground of its own colour.
    cv2.rectangle(canvas, corner, opposite, WHITE, line + 2, cv2.LINE_AA)
    cv2.rectangle(canvas, corner, opposite, class_colour(box.class_id), line, cv2.LINE_AA)


def _draw_caption(canvas: Canvas, box: ScoredBox, caption: str, taken: Sequence[_Chip]) -> _Chip:
    """Draws the caption at a corner of its box, where it hides least of the captions that are there already."""
    height, width = canvas.shape[:2]
    size = max(0.42, max(width, height) / 1250)
    stroke = max(1, round(size * 1.6))
    (text_width, text_height), below_line = cv2.getTextSize(caption, FONT, size, stroke)
    pad = max(3, round(text_height * 0.35))
    chip_width, chip_height = text_width + 2 * pad, text_height + below_line // 2 + 2 * pad
    half_line = _line_px(canvas) // 2 + 1
    left, right = round(box.x1) - half_line, round(box.x2) + half_line - chip_width
    above, below = round(box.y1) - half_line - chip_height, round(box.y2) + half_line
    inside = round(box.y1) - half_line
    corners = ((left, above), (right, above), (left, below), (right, below), (left, inside))
    in_picture = [
        _Chip(max(0, min(x, width - chip_width)), max(0, y), chip_width, chip_height)
        for x, y in corners
        if 0 <= y <= height - chip_height or y == inside
    ]
    chip = min(in_picture, key=lambda place: sum(place.shared_area(other) for other in taken))
    opposite = chip.left + chip_width - 1, chip.top + chip_height - 1
    colour = class_colour(box.class_id)
    cv2.rectangle(canvas, (chip.left, chip.top), opposite, colour, cv2.FILLED)
    baseline = chip.left + pad, chip.top + pad + text_height
    cv2.putText(canvas, caption, baseline, FONT, size, _readable_on(colour), stroke, cv2.LINE_AA)
    return chip


def _readable_on(colour: Bgr) -> Bgr:
    """Returns black or white. Source of the weights: the luma of ITU-R BT.601."""
    blue, green, red = colour
    return BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else WHITE
