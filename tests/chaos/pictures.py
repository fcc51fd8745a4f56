"""The pictures of a run, and the labels that an undisturbed worker gives them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.worker.model import Model, open_model
from agents.worker.spec import parse_configure
from edgesched.catalogue import Catalogue
from edgesched.demo.known_pictures import MODEL
from edgesched.demo.pictures import draw_pictures

MOST_DRAWN = 40
"""Further pictures repeat these under other names: drawing and labelling cost more time than they teach."""

Labels = Sequence[Mapping[str, Any]]


class Prepared:
    """labels: by the name of a picture's file, what is right for it."""

    def __init__(self, labels: Mapping[str, Labels], mean_bytes: float) -> None:
        self.labels = labels
        self.mean_bytes = mean_bytes


def prepare(directory: Path, *, count: int, seed: int, models_dir: Path) -> Prepared:
    """Write the pictures as files and label each of them once, in this process."""
    directory.mkdir(parents=True, exist_ok=True)
    model = _model(models_dir)
    drawn = list(draw_pictures(min(count, MOST_DRAWN), seed))
    answers = [model.run(bytearray(picture.jpeg)).detections for picture in drawn]
    model.close()
    labels: dict[str, Labels] = {}
    for index in range(count):
        name = f"picture-{index:05d}.jpg"
        (directory / name).write_bytes(drawn[index % len(drawn)].jpeg)
        labels[name] = answers[index % len(drawn)]
    return Prepared(labels, statistics.fmean(len(picture.jpeg) for picture in drawn))


def _model(models_dir: Path) -> Model:
    build = (model := Catalogue.read(models_dir).get(MODEL)).build_for("default")
    assert build is not None
    spec = parse_configure({"models": [model.worker_spec(build)], "threads": 1}).models[0]
    return open_model(spec, lambda level, event, fields: None)
