"""A model that a user would add: a small graph, a model.toml, and a decoder in a file of its own."""

from __future__ import annotations

from pathlib import Path

from edgesched.domain.detection import Detection
from tests.support.graphs import SIZE, bright_box_graph, bright_box_picture, encoded

BRIGHT_BOX = "bright-box"
SIDE = 2 * SIZE  # of the pictures; a power of two keeps every coordinate exact

MODEL_TOML = f"""
name = "{BRIGHT_BOX}"
description = "finds the one bright rectangle"
labels = ["circle", "square", "star"]
decoder = "boxes:decode"

[builds.default]
file = "bright.onnx"
input_width = {SIZE}
input_height = {SIZE}
"""

DECODER = '''
def decode(outputs, model, geometry):
    """One candidate, (1, 4 + classes, 1): centre x, centre y, width, height, class scores."""
    cx, cy, width, height, *scores = outputs[0][0, :, 0].tolist()
    best = max(range(len(scores)), key=scores.__getitem__)
    if scores[best] < model.confidence_threshold:
        return []
    corners = [[cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2]]
    return [(best, scores[best], *geometry.to_original(corners)[0])]
'''


def write_model(directory: Path) -> None:
    directory.mkdir(parents=True)
    bright_box_graph(directory / "bright.onnx", "yolov8")
    (directory / "model.toml").write_text(MODEL_TOML)
    (directory / "boxes.py").write_text(DECODER)


def write_pictures(directory: Path, count: int) -> dict[str, list[Detection]]:
    """Pictures with one bright rectangle, and one without. Returns: the labels that each one has to get."""
    directory.mkdir(parents=True)
    expected: dict[str, list[Detection]] = {"dark.png": []}
    (directory / "dark.png").write_bytes(encoded(bright_box_picture(SIDE, SIDE, (0, 0, 0, 0))))
    for index in range(count):
        box = (8 * index, 4 * index + 2, 8 * index + 40, 4 * index + 62)
        name = f"bright-{index}.png"
        (directory / name).write_bytes(encoded(bright_box_picture(SIDE, SIDE, box)))
        x1, y1, x2, y2 = map(float, box)
        expected[name] = [Detection(class_id=1, label="square", confidence=1.0, x1=x1, y1=y1, x2=x2, y2=y2)]
    return expected
