"""The rknn backend against ONNX Runtime, with the numbers of the vendor's simulator: `make test-rknn`.

It converts the demo model with `edgesched model convert`, so that is tried for real too. The numbers are printed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rknn.api", reason="needs rknn-toolkit2: run `make test-rknn`")

import onnx

from agents.worker.model import Model, open_model
from agents.worker.spec import parse_model
from edgesched.demo.pictures import Picture, draw_pictures
from tests.rknn.simulated_rknnlite import Recipe, modules
from tests.support.vendors import install

ROOT = Path(__file__).parents[2]
PICTURES = 24
CALIBRATION_PICTURES = 20
SURE = 0.5  # detections that both have to see
SIDES = ("x1", "y1", "x2", "y2")

# Where the demo's graph still has boxes and scores apart: 8 bits hold each of them, but not both in one tensor.
HEADS = [f"/{kind}{scale}_output_0" for scale in ("", "_1", "_2") for kind in ("Add", "Sigmoid")]

JOIN_HEADS = '''
import numpy as np


def decode(outputs, model, geometry):
    """Per scale (1, 4, h, w) boxes as centre and size in input pixels, and (1, classes, h, w) scores."""
    boxes = np.concatenate([head.reshape(4, -1) for head in outputs[::2]], axis=1).T
    scores = np.concatenate([head.reshape(len(model.labels), -1) for head in outputs[1::2]], axis=1).T
    classes, best = scores.argmax(axis=1), scores.max(axis=1)
    sure = best >= model.confidence_threshold
    boxes, classes, best = boxes[sure], classes[sure], best[sure]
    corners = np.concatenate((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), axis=1)
    kept = model.nms(corners, best, classes)
    mapped = geometry.to_original(corners[kept])
    return [(int(classes[i]), min(1.0, float(best[i])), *map(float, mapped[place])) for place, i in enumerate(kept)]
'''


@dataclass(frozen=True)
class Likeness:
    """How two backends compare on the same pictures."""

    expected: int
    matched: int
    extra: int
    worst_iou: float
    mean_confidence_gap: float

    def __str__(self) -> str:
        return (
            f"{self.matched} of {self.expected} detections found again, {self.extra} others; worst IoU "
            f"{self.worst_iou:.4f}, mean difference of confidence {self.mean_confidence_gap:.4f}"
        )


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return list(draw_pictures(PICTURES, seed=41))


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    for picture in draw_pictures(CALIBRATION_PICTURES, seed=7):
        (folder / picture.file_name).write_bytes(picture.jpeg)
    return folder


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A copy of the demo model's directory."""
    folder = tmp_path / "shapes"
    folder.mkdir()
    for name in ("model.toml", "shapes.onnx", "labels.txt"):
        shutil.copy(ROOT / "models" / "shapes" / name, folder)
    return folder


def convert(folder: Path, *flags: str) -> None:
    command = [sys.executable, "-m", "edgesched", "model", "convert", str(folder), "--board", "rk3588", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def spec_of(folder: Path, build_name: str) -> dict[str, Any]:
    """A build of the directory's model.toml, as a worker is told of it."""
    content = tomllib.loads((folder / "model.toml").read_text())
    build = content.pop("builds")[build_name]
    content["labels"] = (folder / content["labels"]).read_text().split()
    plain = {"mean": [0.0] * 3, "std": [1.0] * 3, "options": {}}
    if build["backend"] == "rknn":
        plain |= {"layout": "nhwc", "dtype": "uint8", "scale": 1.0}
    return {**content, "directory": str(folder), "build": {**plain, **build}}


def opened(spec: dict[str, Any]) -> Model:
    return open_model(parse_model(spec), lambda *record: None)


def compare(reference: Model, other: Model, pictures: list[Picture]) -> Likeness:
    expected = matched = extra = 0
    ious, gaps = [], []
    for picture in pictures:
        theirs, mine = (model.run(bytearray(picture.jpeg)).detections for model in (reference, other))
        left = list(mine)
        for wanted in (found for found in theirs if found["confidence"] >= SURE):
            expected += 1
            best = max(
                (found for found in left if found["label"] == wanted["label"]),
                key=lambda f: iou(f, wanted),
                default=None,
            )
            if best is not None and iou(best, wanted) > 0.5:
                left.remove(best)
                matched += 1
                ious.append(iou(best, wanted))
                gaps.append(abs(best["confidence"] - wanted["confidence"]))
        extra += sum(found["confidence"] >= SURE for found in left)
    return Likeness(expected, matched, extra, min(ious, default=0.0), float(np.mean(gaps or [1.0])))


def iou(a: dict[str, Any], b: dict[str, Any]) -> float:
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = ([box[side] for side in SIDES] for box in (a, b))
    shared = max(0.0, min(ax2, bx2) - max(ax1, bx1)) * max(0.0, min(ay2, by2) - max(ay1, by1))
    return float(shared / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared))


def cosine(reference: Model, other: Model, pixels: np.ndarray) -> float:
    """Of the outputs for the same picture. pixels: uint8 NHWC RGB."""
    normal = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / 255
    a, b = (
        np.concatenate([out.ravel() for out in outputs]).astype(np.float64)
        for outputs in (reference.backend.infer(normal), other.backend.infer(pixels))
    )
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_16_bit_floats_give_the_same_labels(
    demo: Path, pictures: list[Picture], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    convert(demo)
    assert (demo / "shapes.rknn").read_bytes().startswith(b"RKNN")
    reference = opened(spec_of(demo, "default"))
    install(monkeypatch, modules({demo / "shapes.rknn": Recipe(demo / "shapes.onnx")}))
    simulated = opened(spec_of(demo, "rk3588"))
    likeness = compare(reference, simulated, pictures)
    pixels = np.random.default_rng(3).integers(0, 256, (1, 320, 320, 3), np.uint8)
    alike = cosine(reference, simulated, pixels)
    with capfd.disabled():
        print(f"\nfp16, {PICTURES} pictures: {likeness}; cosine of the outputs for noise {alike:.6f}")
    simulated.close()
    assert likeness.expected >= 2 * PICTURES
    assert likeness.matched == likeness.expected
    assert likeness.extra <= likeness.expected * 0.02  # those that lie at the threshold
    assert likeness.worst_iou > 0.95
    assert likeness.mean_confidence_gap < 0.01
    assert alike > 0.9999


def test_8_bits_give_nearly_the_same_labels_when_the_graph_ends_in_its_heads(
    demo: Path,
    pictures: list[Picture],
    calibration: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    reference = opened(spec_of(demo, "default"))
    whole = demo / "whole.onnx"
    (demo / "shapes.onnx").rename(whole)
    onnx.utils.extract_model(str(whole), str(demo / "shapes.onnx"), ["images"], HEADS)
    (demo / "join.py").write_text(JOIN_HEADS)
    toml = (demo / "model.toml").read_text()
    (demo / "model.toml").write_text(toml.replace('decoder = "yolov8" ', 'decoder = "join:decode" '))
    convert(demo, "--pictures", str(calibration))
    size = (demo / "shapes.rknn").stat().st_size
    dataset = demo / "dataset.txt"
    dataset.write_text("".join(f"{path}\n" for path in sorted(calibration.iterdir())))
    install(monkeypatch, modules({demo / "shapes.rknn": Recipe(demo / "shapes.onnx", dataset)}))
    simulated = opened(spec_of(demo, "rk3588"))
    likeness = compare(reference, simulated, pictures)
    with capfd.disabled():
        print(f"\nint8, {CALIBRATION_PICTURES} calibration pictures, {PICTURES} pictures: {likeness}; {size} bytes")
    simulated.close()
    assert likeness.matched >= 0.95 * likeness.expected
    assert likeness.extra <= 0.05 * likeness.expected
    assert likeness.mean_confidence_gap < 0.05


def test_a_wrong_input_size_is_none_and_becomes_one_sentence(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(demo)
    install(monkeypatch, modules({demo / "shapes.rknn": Recipe(demo / "shapes.onnx")}))
    spec = spec_of(demo, "rk3588")
    spec["build"]["input_width"] = 160
    with pytest.raises(Exception, match=r"RKNNLite cannot run .*shapes\.rknn with an input of 160x320"):
        opened(spec)
