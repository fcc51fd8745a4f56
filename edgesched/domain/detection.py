"""What a model found in a picture, and the one way to write it down."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence

from edgesched.domain.fact import fact
from edgesched.errors import InvalidInput

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


@fact
class Detection:
    """One object. Corners are absolute pixels of the original picture, x to the right, y down.

    A classification is a detection whose box is the whole picture.
    """

    class_id: int
    label: str
    confidence: float  # 0..1
    x1: float
    y1: float
    x2: float
    y2: float

    def __post_init__(self) -> None:
        if self.class_id < 0:
            raise InvalidInput(f"class_id must not be negative, got {self.class_id}")
        if not 0.0 <= self.confidence <= 1.0:
            raise InvalidInput(f"confidence must be 0..1, got {self.confidence}")
        if not all(map(math.isfinite, (self.x1, self.y1, self.x2, self.y2))):
            raise InvalidInput("a box corner is not a finite number")
        if self.x2 < self.x1 or self.y2 < self.y1:
            raise InvalidInput(f"box corners are swapped: {self.x1, self.y1, self.x2, self.y2}")


def as_json(detection: Detection) -> dict[str, int | str | float]:
    return {
        "class_id": detection.class_id,
        "label": detection.label,
        "confidence": detection.confidence,
        "x1": detection.x1,
        "y1": detection.y1,
        "x2": detection.x2,
        "y2": detection.y2,
    }


def canonical(detections: Sequence[Detection]) -> str:
    """JSON, the same for the same labels."""
    return _encode([as_json(d) for d in detections])


def digest(detections: Sequence[Detection]) -> str:
    """SHA-256 (hex) of the canonical JSON: the same labels always give the same digest."""
    return digest_of_canonical(canonical(detections))


def digest_of_canonical(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def text_lines(detections: Sequence[Detection]) -> str:
    """The label file: one `class_id x1 y1 x2 y2 confidence` line per detection; empty when nothing was found.

    Numbers are written as %g with enough digits for 8K pictures, which is the predecessor's form.
    """
    return "".join(f"{d.class_id} {d.x1:.7g} {d.y1:.7g} {d.x2:.7g} {d.y2:.7g} {d.confidence:.4g}\n" for d in detections)
